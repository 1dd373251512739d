"""Methods that make a fine-tuned network smaller by closed forms and masks, each on its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edgebert import cost
from edgebert.compress.lowrank import FACTORS, lowrank
from edgebert.compress.mask_search import block_fisher, rearranged, rescale, search_masks
from edgebert.compress.moments import second_moments
from edgebert.compress.obs import CRITERION as OBS
from edgebert.compress.obs import operate
from edgebert.compress.stream import channels, most_important, narrow, stream_importance
from edgebert.compress.stream_refit import refit as stream_refit
from edgebert.compress.subnet import extract
from edgebert.cutting import STREAM_ROWS, narrowed
from edgebert.device import Budget
from edgebert.errors import UsageError
from edgebert.job import Compressed, Job, all_layers
from edgebert.plan import CompressionPlan
from edgebert.ranks import RANK_STEP
from edgebert.searching import search
from edgebert.spec import MATRICES, EncoderShape, LayerSpec
from edgebert.stages import IMPORTANCE_ROWS, calibration, tables_of
from edgebert.tables import ErrorTables
from edgebert.train.batches import in_order
from exporters.artifact import Precision


def _searched(job: Job, tables: ErrorTables) -> CompressionPlan:
    """The int8 plan of least error within `keep` of the whole int8 model's latency, all layers at hand."""
    whole = cost.estimate(job.teacher.shape, Precision.uniform("int8", len(job.teacher.layers)), job.profile, job.runtime,
                          1, job.length)
    return search(tables, job.profile, Budget(max_latency_ms=job.keep * whole.tail_ms), job.runtime, 1, job.length,
                  precisions=("int8",))


def structured(criterion: str) -> Callable[[Job], Compressed]:
    """Heads, neurons and layers by the error tables of one criterion, and nothing repaired."""
    def run(job: Job) -> Compressed:
        plan = _searched(job, tables_of(job.teacher, job.material.data, job.material.train, criterion, job.work))
        net = extract(job.teacher, plan.subnet, plan.kept_heads, plan.kept_neurons)
        return Compressed(net, {"predicted_error": plan.predicted_error}, plan.subnet.kept)

    return run


def kwon(job: Job) -> Compressed:
    """Fisher mask search under latency, rearrangement, rescale (Kwon et al. 2022). All layers stay."""
    batches, shape = calibration(job.material.train, job.work), job.teacher.shape
    whole, fixed, heads, neurons = _unit_costs(job, shape)
    least = (fixed + sum(heads) + sum(neurons)) / whole
    if job.keep < least:
        raise UsageError(f"--keep {job.keep:g}: masks keep every layer, which comes to {least:.2f} of the latency at "
                         "least; a method that drops layers goes further")
    with job.work.reporter.stage("Fisher blocks", sum(len(b.labels) for b in batches)) as tick:
        fisher = block_fisher(job.teacher, batches, job.objective, tick)
    units = rearranged(fisher, search_masks(fisher.diagonal, heads, neurons, job.keep * whole - fixed))
    cut = extract(job.teacher, units.subnet, units.heads, units.neurons)
    net = rescale(job.teacher, cut, units.subnet, batches)
    facts = {"heads": sum(map(len, units.heads)), "neurons": sum(map(len, units.neurons))}
    return Compressed(net, facts, all_layers(net))


def _unit_costs(job: Job, shape: EncoderShape) -> tuple[float, float, list[float], list[float]]:
    """Milliseconds of the whole int8 model, of what no mask removes, of one head and one neuron of each layer."""
    row = job.profile.row(job.runtime, "int8", 1)
    heads, neurons = [], []
    for index, layer in enumerate(shape.layers):
        last = index == len(shape.layers) - 1 and shape.head == "sequence"

        def price(count: Callable[..., cost.Block], spec: LayerSpec, last: bool = last) -> float:
            return cost.block_latency_ms(count(shape, spec, job.length, last), row)

        narrow_heads, narrow_ffn = replace(layer, heads=1), replace(layer, ffn=1)
        of_heads = price(cost.attention_block, layer) - price(cost.attention_block, narrow_heads)
        of_neurons = price(cost.ffn_block, layer) - price(cost.ffn_block, narrow_ffn)
        heads.append(of_heads / max(1, layer.heads - 1))
        neurons.append(of_neurons / max(1, layer.ffn - 1))
    whole = cost.estimate(shape, Precision.uniform("int8", len(shape.layers)), job.profile, job.runtime, 1,
                          job.length).latency_ms
    removable = sum(h * layer.heads + n * layer.ffn for h, n, layer in zip(heads, neurons, shape.layers))
    return whole, whole - removable, heads, neurons


def ziplm(job: Job) -> Compressed:
    """Heads and neurons by the inverse Hessian, the rest updated, by the exact search (Kurtic et al. 2023)."""
    plan = _searched(job, tables_of(job.teacher, job.material.data, job.material.train, OBS, job.work))
    moments = second_moments(job.teacher, calibration(job.material.train, job.work), ("output", "down"))
    net = operate(job.teacher, moments, plan.subnet, plan.kept_heads, plan.kept_neurons)
    return Compressed(net, {"predicted_error": plan.predicted_error}, plan.subnet.kept)


def factored(kind: str) -> Callable[[Job], Compressed]:
    """Every matrix as a product of two, by one of lowrank.FACTORS."""
    def run(job: Job) -> Compressed:
        shape = job.teacher.shape
        layers = [replace(layer, ranks=tuple((name, _rank(shape.matrix(layer, name), job.keep)) for name in MATRICES))
                  for layer in shape.layers]
        moments = second_moments(job.teacher, calibration(job.material.train, job.work))
        net = lowrank(job.teacher, layers, moments, FACTORS[kind])
        largest = max(rank for layer in layers for _, rank in layer.ranks)
        return Compressed(net, {"largest_rank": largest}, all_layers(net))

    return run


def _rank(sides: tuple[int, int], keep: float) -> int:
    """The rank, a multiple of RANK_STEP where it can be, at which a matrix keeps about that share of its weights."""
    exact = keep * sides[0] * sides[1] / sum(sides)
    return max(1, min(min(sides), round(exact / RANK_STEP) * RANK_STEP or round(exact)))


def stream_mask(job: Job) -> Compressed:
    """The units of the residual stream that matter least leave everywhere (as in CoFi, Xia et al. 2022), and least
    squares repairs what it can."""
    sample = job.material.train.sample(IMPORTANCE_ROWS, job.work.seed)
    kept = most_important(stream_importance(job.teacher, in_order(sample, 32), job.objective), _width(job))
    basis = channels(kept, job.teacher.shape.hidden)
    batches = calibration(job.material.train, job.work, STREAM_ROWS)
    net = stream_refit(narrow(job.teacher, kept), job.teacher, basis, batches)
    return Compressed(net, {"hidden": net.shape.hidden}, all_layers(net), basis)


def stream_rotation(job: Job) -> Compressed:
    """The residual stream in its principal components (as in SliceGPT, Ashkboos et al. 2024), then least squares."""
    net, basis = narrowed(job.teacher, _width(job), job.material.train, job.work)
    return Compressed(net, {"hidden": net.shape.hidden}, all_layers(net), basis)


def _width(job: Job) -> int:
    hidden = job.teacher.shape.hidden
    width = max(RANK_STEP, round(job.keep * hidden / RANK_STEP) * RANK_STEP)
    if width >= hidden or job.teacher.shape.projected:
        raise UsageError(f"--keep {job.keep:g}: a stream of {hidden} numbers, in steps of {RANK_STEP}, becomes no "
                         "narrower; give a smaller share, of a model without a projection")
    return width
