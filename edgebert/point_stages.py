"""Operating points as networks: chosen by what they score, and recovered together, so that they stay subnets of
one network."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors.torch import save_model

from edgebert.compress.subnet import extract
from edgebert.errors import UsageError
from edgebert.material import Material
from edgebert.modeling import Encoder
from edgebert.origin import Origin
from edgebert.plan import CompressionPlan
from edgebert.points import LOOSER, WORTH, inside, latencies, opened_together, room_for
from edgebert.prove import formats
from edgebert.request import FitRequest
from edgebert.stages import Workplace, saved_net, weights_hash
from edgebert.train.device import on_device
from edgebert.train.elastic import Together, distil_step, subnet_logits
from edgebert.train.loop import optimise
from edgebert.train.objectives import OBJECTIVES
from edgebert.train.schedule import Schedule
from edgebert.train.tensorboard import tensorboard


@dataclass(frozen=True)
class Points:
    """plans: the largest first. cut: the largest as it was cut. nets: of all, recovered together. reasons: for people."""

    plans: tuple[CompressionPlan, ...]
    cut: Encoder
    nets: tuple[Encoder, ...]
    reasons: tuple[str, ...]


def smaller_plans(plan: CompressionPlan, request: FitRequest, origin: Origin, material: Material,
                  work: Workplace) -> tuple[CompressionPlan, ...]:
    """`plan`, and the further points of the request, each inside the one before: of the plans that `points.inside`
    offers, the one that scores best on the selection split as a slice of the supernet.

    Raises UsageError where the supernet has no smaller subnet that pays."""
    assert origin.space is not None
    score = material.scorers["select"].points
    format = "tflite" if "tflite" in formats(request, plan) else "onnx"
    room, plans = room_for(plan, request.operating_points), [plan]
    with work.reporter.stage("smaller operating points", request.operating_points - 1) as tick:
        for latency_ms in latencies(plan, request.operating_points, origin.space, request.profile):
            found: tuple[CompressionPlan, ...] = ()
            while not found and latency_ms <= WORTH * plans[-1].estimate.latency_ms:
                found = inside(plans, latency_ms, room, format, origin.tables, origin.space, request.profile)
                latency_ms *= LOOSER
            if not found:
                raise UsageError(f"--operating-points {request.operating_points}: inside point {len(plans)}, "
                                 f"{plans[-1].estimate.latency_ms:.3g} ms, there is no faster subnet that keeps the "
                                 f"shared file small; ask for {len(plans)}, or allow the largest more latency")
            plans.append(max(found, key=lambda one: score(subnet_logits(origin.net, one.subnet, material.select))))
            tick(1)
    for number, one in enumerate(plans, 1):
        points = score(subnet_logits(origin.net, one.subnet, material.select))
        work.reporter.say(f"  point {number}: {one.estimate.text()}, {len(one.subnet.kept)} layers: {points:.2f} on "
                          "select")
    return opened_together(plans, request.profile)


def points_of(plans: Sequence[CompressionPlan], teacher: Encoder, origin: Origin, material: Material,
              schedule: Schedule | None, work: Workplace) -> Points:
    """Networks of the plans, slices of one supernet that was trained further on exactly these subnets in every step (the
    sandwich of Yu and Huang 2019 with nothing random in it), where that scores better on the selection split."""
    subnets, reasons = tuple(plan.subnet for plan in plans), []
    net = origin.net
    if schedule is not None:
        trained = _together(subnets, teacher, origin, material, schedule, work)
        before, after = (_mean_score(some, subnets, material) for some in (net, trained))
        used = "used" if after > before else "not used"
        reasons.append(f"recovery: {used}: the points together {before:.2f} -> {after:.2f} on the selection split")
        net = trained if after > before else net
    cut = _slice(origin.net, plans[0])
    return Points(tuple(plans), cut, tuple(_slice(net, plan) for plan in plans), tuple(reasons))


def _slice(net: Encoder, plan: CompressionPlan) -> Encoder:
    return extract(net, plan.subnet, plan.kept_heads, plan.kept_neurons)


def _mean_score(net: Encoder, subnets: Sequence, material: Material) -> float:
    points = material.scorers["select"].points
    return float(np.mean([points(subnet_logits(net, subnet, material.select)) for subnet in subnets]))


def _together(subnets: tuple, teacher: Encoder, origin: Origin, material: Material, schedule: Schedule,
              work: Workplace) -> Encoder:
    """The supernet after `schedule` on these subnets, from the cache where it is there."""
    assert origin.space is not None
    net = copy.deepcopy(origin.net)
    inputs = {"start": weights_hash(origin.net), "teacher": weights_hash(teacher), "data": material.data.sha256,
              "length": int(material.train.ids.shape[1]), "schedule": asdict(schedule),
              "points": [subnet.to_json() for subnet in subnets]}

    def make(out: Path, partial: Path) -> None:
        dropout, net.dropout = net.dropout, 0.0
        net.word.requires_grad_(False)
        step = distil_step(net, teacher, origin.space, Together(subnets), OBJECTIVES[material.data.kind],
                           precision=schedule.precision, seed=work.seed)
        with (work.reporter.stage("recover the points together", schedule.steps(material.train), "rows",
                                  schedule.batch_size) as tick,
              tensorboard(work.tensorboard, "points") as log, on_device(net, teacher)):
            optimise(net, material.train, step, schedule, tick, partial / "state.safetensors", log=log)
        net.word.requires_grad_(True)
        net.dropout = dropout
        save_model(net, str(out / "model.safetensors"))

    net, found = work.cache.stage("points", 1, inputs, make, saved_net(net), together=True)
    if found:
        work.reporter.reused("recover the points together", f"{schedule.epochs:g} epochs")
    return net
