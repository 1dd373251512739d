"""Operating points: plans for smaller subnets inside a plan for a supernet, so that one file can hold all of them.

Each is the best subnet of the one before it (no layer, head or neuron that it lacks, the same precisions) that is fast
enough and that the shared file grows little by: a knapsack as in `edgebert.searching`, whose limit on bytes counts what
has to be stored again. Nothing is offered that is narrower or shallower than what the supernet was trained for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgebert import cost
from edgebert.device import DeviceProfile
from edgebert.errors import UsageError
from edgebert.knapsack import FRAME, Option, solve
from edgebert.plan import CompressionPlan
from edgebert.pricing import options_of
from edgebert.space import ElasticSpace
from edgebert.spec import EncoderShape, LayerSpec, SubnetSpec, kept_indices
from edgebert.tables import ErrorTables
from exporters.artifact import LayerPrecision, Precision

if TYPE_CHECKING:
    from edgebert.request import FitRequest

GROWTH = 0.15
"""What all further points together may add to the largest one's file, as a share of it."""
STEP = 0.6
"""Latency of a point over that of the one before it, at least: a smaller step down is made where the supernet ends
sooner."""
WORTH = 0.95
"""A point that takes more than this of the one before it is none."""
SCALE_BYTES = 12
"""Quantisation parameters of a channel in a TFLite file, which all lengths of a point share, and points as wide."""
LOOSER = 1.1
"""A latency that no subnet reaches is given up for one so many times as long."""


def require_points(request: FitRequest) -> None:
    """Raises UsageError where a request asks for points together with something that they cannot share."""
    if request.operating_points == 1:
        return
    if request.operating_points < 1:
        raise UsageError(f"--operating-points must be at least 1, got {request.operating_points}; 3 is usual")
    if request.supernet is None and request.effort != "full":
        raise UsageError("--operating-points are subnets of one supernet: give --supernet FOLDER (see `edgebert "
                         "train-elastic`), or --effort full, which trains one")
    if request.runtime not in ("auto", "both", "onnx", "tflite"):
        raise UsageError(f"--operating-points are for ONNX and TFLite files; it contradicts --runtime {request.runtime}")
    if own := [name for name in ("stream", "lowrank", "embeddings") if name in request.methods]:
        raise UsageError(f"--methods {','.join(own)} stores matrices that smaller points have no part of; leave it out "
                         "with --operating-points")
    if request.tflite_compat:
        raise UsageError("tflite-runtime 2.14.0 cannot read weights that several points share: leave --tflite-compat or "
                         "--operating-points out")
    if request.given is not None:
        raise UsageError("--operating-points searches plans inside the one that it found; a plan that is given is built "
                         "alone")
    if request.verify_on is not None:
        raise UsageError("--operating-points and --verify-on contradict: time the finished bundle's points on the device "
                         "with `edgebert bench BUNDLE --device DEVICE`")


def latencies(plan: CompressionPlan, count: int, space: ElasticSpace, profile: DeviceProfile) -> tuple[float, ...]:
    """Median milliseconds that each of `count` - 1 further points should take: the same step down each time, STEP or as
    far as the supernet's narrowest and shallowest subnet inside the plan reaches.

    Raises UsageError where there is no room below the plan."""
    kept = [index for index in space.kept(space.depths[-1]) if index in plan.subnet.kept] or [plan.subnet.kept[-1]]
    chosen = dict(zip(plan.subnet.kept, plan.precision.layers))
    small = SubnetSpec(tuple(kept), tuple(_least(space, index) for index in kept))
    precision = replace(plan.precision, layers=tuple(chosen[index] for index in kept))
    fastest = _estimate(small, precision, plan, profile).latency_ms
    whole = plan.estimate.latency_ms
    if fastest > WORTH * whole:
        raise UsageError(f"--operating-points {count}: the plan, {whole:.3g} ms, is next to the smallest subnet that the "
                         "supernet was trained for; allow more latency, or ask for one point")
    step = max(STEP, (fastest / whole) ** (1 / (count - 1)))
    return tuple(whole * step ** number for number in range(1, count))


def inside(plans: Sequence[CompressionPlan], latency_ms: float, room_bytes: float, format: str, tables: ErrorTables,
           space: ElasticSpace, profile: DeviceProfile) -> tuple[CompressionPlan, ...]:
    """Plans inside the last of `plans` that take at most `latency_ms` (median), and that add at most `room_bytes` to a
    file of `format` of all of `plans`: the one of least predicted error, and the best one of each depth that the supernet
    was trained in. Empty where there is none."""
    outer, found = plans[-1], []
    fewest = min(len(space.kept(space.depths[-1])), len(outer.subnet.kept))
    depths = [kept for depth in space.depths if set(kept := space.kept(depth)) <= set(outer.subnet.kept)]
    for asked in (tables, *map(tables.keeping, depths)):
        plan = _best(plans, asked, tables, latency_ms, room_bytes, format, space, profile)
        if plan is not None and len(plan.subnet.kept) >= fewest and plan.subnet not in (one.subnet for one in found):
            found.append(plan)
    return tuple(found)


def room_for(plan: CompressionPlan, count: int) -> float:
    """Bytes that each of `count` - 1 further points may add to the file."""
    return GROWTH * plan.estimate.file_bytes / (count - 1)


def opened_together(plans: Sequence[CompressionPlan], profile: DeviceProfile) -> tuple[CompressionPlan, ...]:
    """The plans with the memory that they need in one file. LiteRT packs the weights of every signature when it opens a
    file, whichever is run: all points need what they need together. Of ONNX a session holds one point, as alone.

    Raises UsageError where the budget has less memory."""
    first = plans[0]
    if first.runtime != "tflite":
        return tuple(plans)
    packed, signatures = 0.0, len(first.lengths)
    for plan in plans[1:]:
        for block, kind in cost.blocks(cost.file_shape(plan.shape, first.length, "tflite", first.shorter), plan.precision,
                                       first.length):
            copies = profile.row("tflite", kind, first.threads, first.length).weight_copies - 1
            size = cost.block_bytes(block, kind, "tflite", signatures) / cost.MB
            packed += 0.0 if block.table else signatures * max(0.0, copies) * size
    memory_mb = first.estimate.memory_mb + packed
    limit = first.budget.max_memory_mb
    if limit is not None and memory_mb > limit:
        raise UsageError(f"--operating-points {len(plans)}: LiteRT opens all of them at once, which takes "
                         f"{memory_mb:.0f} MB where {limit:g} MB are allowed; ask for fewer, allow more with "
                         "--max-memory, or take --runtime onnx")
    return tuple(replace(plan, estimate=replace(plan.estimate, memory_mb=memory_mb)) for plan in plans)


def _least(space: ElasticSpace, index: int) -> LayerSpec:
    return space.layer(index, space.widths[-1])


def _estimate(subnet: SubnetSpec, precision: Precision, plan: CompressionPlan, profile: DeviceProfile) -> cost.Estimate:
    return cost.estimate(subnet.shape(plan.source), precision, profile, plan.runtime, plan.threads, plan.length,
                         plan.budget.percentile, plan.shorter)


def _best(plans: Sequence[CompressionPlan], asked: ErrorTables, tables: ErrorTables, latency_ms: float, room_bytes: float,
          format: str, space: ElasticSpace, profile: DeviceProfile) -> CompressionPlan | None:
    """asked: what the solver is told; tables: what the plan's error is stated by."""
    outer = plans[-1]
    widths, chosen = (dict(zip(outer.subnet.kept, values)) for values in (outer.subnet.layers, outer.precision.layers))
    names = {outer.precision.head, *(name for one in chosen.values() for name in (one.attention, one.ffn))}
    rows = {name: profile.row(outer.runtime, name, outer.threads, outer.length) for name in sorted(names)}
    source = cost.file_shape(tables.source, outer.length, outer.runtime, outer.shorter)

    def allowed(option: Option) -> bool:
        if option.layer == FRAME:
            whole = outer.precision
            return (option.precision, option.words, option.word_rank) == (whole.head, whole.embedding, 0)
        spec, most = option.spec, widths.get(option.layer)
        if most is None or spec is None or spec.factored:
            return False
        least = _least(space, option.layer)
        return (option.precision == getattr(chosen[option.layer], option.part)
                and min(least.heads, most.heads) <= spec.heads and min(least.ffn, most.ffn) <= spec.ffn
                and (spec.heads <= most.heads if option.part == "attention" else spec.ffn <= most.ffn))

    options = tuple(replace(option, size_mb=_growth(option, plans, source, format) / cost.MB)
                    for option in options_of(asked, rows, outer.length, outer.shorter) if allowed(option))
    found = solve(options, tuple(errors.drop for errors in asked.layers),
                  {"latency_ms": latency_ms, "size_mb": room_bytes / cost.MB}, "error")
    if found is None:
        return None
    picked, bound = found
    forms = {(option.layer, option.part): option.spec for option in picked if option.spec is not None}
    kept = tuple(index for index in outer.subnet.kept if (index, "ffn") in forms)
    subnet = SubnetSpec(kept, tuple(LayerSpec(forms[i, "attention"].heads, forms[i, "ffn"].ffn) for i in kept))
    precision = replace(outer.precision, layers=tuple(LayerPrecision(chosen[i].attention, chosen[i].ffn) for i in kept))
    error = tables.error_of(subnet, precision)
    return replace(
        outer, subnet=subnet, precision=precision, estimate=_estimate(subnet, precision, outer, profile),
        kept_heads=kept_indices(subnet, tables.head_order, [layer.heads for layer in subnet.layers]),
        kept_neurons=kept_indices(subnet, tables.neuron_order, [layer.ffn for layer in subnet.layers]),
        predicted_error=error, bound=replace(bound, objective=error, dual=bound.dual + error - bound.objective))


def _growth(option: Option, plans: Sequence[CompressionPlan], source: EncoderShape, format: str) -> float:
    """Bytes that this form of a block adds to the file of `plans`: its nodes and scales, and of a TFLite file the
    matrices with fewer inputs than those of the points before. (ONNX files share rows and columns alike.)"""
    first = plans[0]
    if option.spec is None:
        return cost.frame_bytes(format, option.words, len(first.lengths))
    alone = option.last and source.head == "sequence"
    count = cost.attention_block if option.part == "attention" else cost.ffn_block
    block = count(source, option.spec, first.length, alone)
    signatures = len(first.lengths)
    own = (cost.block_bytes(block, option.precision, format, signatures)
           - cost.MB * cost.weights_mb(block, option.precision) - 4 * block.floats)
    if format != "tflite":
        return own
    scales = SCALE_BYTES * block.channels
    own -= signatures * scales
    inner = option.spec.heads * source.head_dim if option.part == "attention" else option.spec.ffn
    matrix = cost.MB * cost.weights_mb(replace(block, weights=inner * source.hidden), option.precision)
    before = [(dict(zip(plan.subnet.kept, plan.subnet.layers)).get(option.layer), plan.subnet.kept[-1] == option.layer)
              for plan in plans]
    if option.part == "ffn":
        return own + (matrix + scales) * all(spec is None or spec.ffn != option.spec.ffn for spec, _ in before)
    alike = [spec for spec, is_last in before if spec is not None and (is_last and source.head == "sequence") == alone]
    if not alike:  # a layer that became the last one: its four matrices are laid out otherwise there
        return own + 4 * matrix + scales
    return own + ((2 if alone else 1) * matrix + scales) * all(spec.heads != option.spec.heads for spec in alike)
