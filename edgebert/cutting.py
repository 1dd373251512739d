"""What a plan cuts out of a network before anything is trained: the methods in the order in which they compose.

vocabulary (in `material.gather`, because it changes the rows) -> depth and width -> refit -> stream -> low rank and
embeddings -> recovery (`stages.student_of`) -> quantisation (the exporters). Each works on what those before it left.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor

from edgebert.compress.embeddings import factor_word_table, word_frequencies
from edgebert.compress.lowrank import lowrank
from edgebert.compress.moments import Moments, second_moments
from edgebert.compress.obs import CRITERION as OBS
from edgebert.compress.obs import operate
from edgebert.compress.refit import refit
from edgebert.compress.stream import principal_basis, rotate
from edgebert.compress.stream_refit import refit as stream_refit
from edgebert.compress.subnet import extract
from edgebert.material import Material
from edgebert.methods import why_refit
from edgebert.modeling import Encoder
from edgebert.plan import CompressionPlan
from edgebert.spec import SubnetSpec
from edgebert.stages import CALIBRATION_ROWS, Workplace, calibration, weights_hash
from edgebert.train.batches import Rows
from edgebert.train.teacher import logits_of

STREAM_ROWS = 512
"""Training rows that a narrower stream is fitted on; all their states are held in memory at once."""


@dataclass(frozen=True)
class Cut:
    """net: as small as the plan says, untrained. reasons: what closed forms were worth, for people. basis: [hidden,
    width] from the source's residual stream to a narrower one, None where it is as wide."""

    net: Encoder
    reasons: tuple[str, ...]
    basis: Tensor | None = None


def cut_of(plan: CompressionPlan, origin: Encoder, material: Material, methods: tuple[str, ...], work: Workplace,
           seen: Callable[[], list[dict[str, Moments]]] | None = None) -> Cut:
    """The layers, heads and neurons that the plan keeps of `origin`, with the weights that go with its criterion;
    refitted where that scores better on the selection split; stored as the plan says. seen: gives the moments of what
    enters `output` and `down` of the origin on `calibration` rows, where several plans are cut; None to measure them."""
    subnet, shape = plan.subnet, plan.shape
    cuts = subnet.whole != SubnetSpec.full(origin.shape)
    updated = cuts and plan.provenance.get("criterion") == OBS
    inputs = {"model": weights_hash(origin), "data": material.data.sha256, "length": material.inputs.max_length,
              "subnet": subnet.to_json(), "heads": [list(h) for h in plan.kept_heads], "seed": work.seed,
              "neurons": [list(n) for n in plan.kept_neurons], "refit": "refit" in methods, "updated": updated,
              "rows": CALIBRATION_ROWS}

    def make(out: Path, partial: Path) -> None:
        units, reasons = (subnet.whole, plan.kept_heads, plan.kept_neurons), []
        batches = calibration(material.train, work)
        if updated:
            net = operate(origin, seen() if seen else second_moments(origin, batches, ("output", "down")), *units)
        else:
            net = extract(origin, *units)
        if "refit" in methods and cuts:
            points = material.scorers["select"].points
            with work.reporter.stage("refit by least squares", len(net.layers)) as tick:
                better = refit(origin, net, subnet.whole, batches, tick=tick)
            before, after = (points(logits_of(some, material.select)) for some in (net, better))
            reasons.append(why_refit(before, after))
            net = better if after > before else net
        if subnet.hidden:
            net, basis = narrowed(net, subnet.hidden, material.train, work)
            save_file({"basis": basis.contiguous()}, out / "basis.safetensors")
        if any(layer.factored for layer in subnet.layers):
            with work.reporter.stage("factor matrices"):
                net = lowrank(net, subnet.layers, second_moments(net, batches))
        if subnet.word_rank:
            net = factor_word_table(net, word_frequencies(material.train, shape.vocab), subnet.word_rank)
        save_model(net, str(out / "model.safetensors"))
        (out / "reasons.json").write_text(json.dumps(reasons), encoding="utf-8")

    def load(entry: Path) -> Cut:
        net = Encoder(shape, origin.eps, origin.dropout)
        load_model(net, entry / "model.safetensors")
        basis = load_file(entry / "basis.safetensors")["basis"] if subnet.hidden else None
        return Cut(net.eval(), tuple(json.loads((entry / "reasons.json").read_text())), basis)

    return work.cache.stage("cut", 1, inputs, make, load)[0]


def narrowed(net: Encoder, width: int, train: Rows, work: Workplace) -> tuple[Encoder, Tensor]:
    """`net` with a stream of `width` numbers, fitted to what it was, and the basis that leads there."""
    batches = calibration(train, work, STREAM_ROWS)
    basis = principal_basis(net, batches, width)
    with work.reporter.stage(f"narrow the stream to {width}", len(net.layers)) as tick:
        return stream_refit(rotate(net, basis), net, basis, batches, tick=tick), basis
