"""Where a plan's latency, memory and file bytes go on its device: by the same blocks that they were added up from."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgebert import cost
from edgebert.device import DeviceProfile
from edgebert.errors import UsageError
from edgebert.plan import CompressionPlan


@dataclass(frozen=True)
class Part:
    """A part of a model. latency_ms: of the median; memory_mb: of the peak; file_mb: of the file."""

    name: str
    latency_ms: float
    memory_mb: float
    file_mb: float


def breakdown(plan: CompressionPlan, profile: DeviceProfile | None) -> tuple[Part, ...]:
    """The parts of a plan's estimate, which they add up to: embedding, attention, FFN, head, and what is no block's (a
    call's own cost, weights that the cache does not hold; the runtime, activations; the file's frame).

    Empty where the profile is unknown, or no longer says of the plan what the plan says of itself.
    """
    if profile is None:
        return ()
    try:
        whole = cost.estimate(plan.shape, plan.precision, profile, plan.runtime, plan.threads, plan.length,
                              plan.budget.percentile, plan.shorter)
    except UsageError:
        return ()
    if replace(whole, mean_ms=plan.estimate.mean_ms) != plan.estimate:
        return ()
    signatures = 1 + len(plan.shorter)
    shape = cost.file_shape(plan.shape, plan.length, plan.runtime, plan.shorter)
    found = cost.blocks(shape, plan.precision, plan.length)
    layers = 2 * len(plan.precision.layers)
    names = [*["embedding"] * (len(found) - layers - 1), *["attention", "FFN"] * (layers // 2), "classifier"]
    parts = {name: Part(name, 0.0, 0.0, 0.0) for name in ("embedding", "attention", "FFN", "classifier")}
    for name, (block, kind) in zip(names, found, strict=True):
        row = profile.row(plan.runtime, "int8" if kind == "int4" else kind, plan.threads, plan.length)
        old = parts[name]
        parts[name] = Part(name, old.latency_ms + cost.block_latency_ms(block, row),
                           old.memory_mb + cost.block_memory_mb(block, row, signatures, kind),
                           old.file_mb + cost.block_bytes(block, kind, plan.runtime, signatures) / cost.MB)
    latency, memory, file = (sum(getattr(part, name) for part in parts.values())
                             for name in ("latency_ms", "memory_mb", "file_mb"))
    rest = Part("runtime and activations", whole.latency_ms - latency, whole.memory_mb - memory,
                whole.file_bytes / cost.MB - file)
    return (*parts.values(), rest)
