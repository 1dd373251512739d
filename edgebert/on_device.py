"""The device in the loop of `fit_device`: files of planned shapes timed there, and the finished bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from device_bench.affinity import parse_mask
from device_bench.options import Options
from edgebert.benching import bench, kept_in, require_golden
from edgebert.device import DeviceProfile
from edgebert.material import Material
from edgebert.modeling import Encoder
from edgebert.plan import CompressionPlan
from edgebert.remote import bench_on, open_device
from edgebert.request import FitRequest
from edgebert.stages import Workplace, exported
from edgebert.verifying import Measured, each_tried, missed, settle

RUNS = 200


def settled(request: FitRequest, decide: Callable[[DeviceProfile, str], CompressionPlan], material: Material,
            work: Workplace) -> tuple[FitRequest, CompressionPlan]:
    """The plan that keeps the budget on the device, and the request with the profile as it was corrected there. decide: a
    plan for a profile and a runtime. Where the runtime is left open, the best plan of each is timed first; not where
    every decision trains students (a limit on the drop alone)."""
    assert request.verify_on is not None
    device, keep = open_device(request.verify_on), kept_in(records_file(request))

    def options(plan: CompressionPlan) -> Options:
        return Options(threads=plan.threads, length=plan.length, runs=RUNS, golden=False,
                       cores=cores_for(plan, request.profile), vocabulary=plan.shape.vocab)

    def timed(plan: CompressionPlan) -> Measured:
        torch.manual_seed(request.seed)
        inputs = replace(material.inputs, lengths=plan.lengths)
        artifact, = exported("trial", Encoder(plan.shape).eval(), plan.runtime, (plan.precision,), inputs,
                             request.tflite_compat, material.data.labels, work)
        with work.reporter.stage(f"time a trial file on {device.name}"):
            record, = bench_on(device, [artifact.path], options(plan), keep)
        for reason in () if record.emulated else record.reasons():
            work.reporter.say(f"  note: {reason}")
        return Measured.of(record, plan.budget.percentile)

    profile, say = request.profile, work.reporter.say
    names = profile.runtimes(request.threads)
    if request.runtime == "auto" and len(names) > 1 and not (request.minimise_latency or request.tflite_compat):
        each = [lambda costs, name=name: decide(costs, name) for name in names]
        profile = each_tried(profile, each, timed, device.name, say)
    found = settle(profile, lambda costs: decide(costs, request.runtime), timed, request.verify_rounds, device.name, say)
    note = f"plan {'kept' if found.rounds == 1 else 'found'} in {found.rounds} round{'s' * (found.rounds > 1)}"
    plan = replace(found.plan, provenance={**found.plan.provenance, "verified on": f"{device.name}: {note}"})
    return replace(request, profile=found.profile), plan


def missed_there(request: FitRequest) -> list[str]:
    """What the finished bundle's files exceed of the budget on the device. Raises DeviceError, and BrokenBundle where
    they answer otherwise there than here."""
    assert request.verify_on is not None
    plan = CompressionPlan.loads((request.out / "plan.json").read_text(encoding="utf-8"))
    records = bench(request.out, runs=RUNS, device=request.verify_on, cores=cores_for(plan, request.profile),
                    keep=kept_in(records_file(request)))
    require_golden(records, request.verify_on)
    return [f"{record.file_name} on {request.verify_on}: {miss}" for record in records
            for miss in missed(plan, Measured.of(record, plan.budget.percentile))]


def cores_for(plan: CompressionPlan, profile: DeviceProfile) -> tuple[int, ...] | None:
    """The cores the profile names for the plan's threads."""
    mask = profile.core_mask(plan.threads)
    return None if mask is None else parse_mask(mask)


def records_file(request: FitRequest) -> Path:
    """Where what was measured on the device is kept, whatever becomes of the bundle."""
    return request.out.with_name(f"{request.out.name}.measured.jsonl")
