"""What `edgebert profiles check` holds a profile against, beyond what every reader of one refuses."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edgebert.cost import estimate
from edgebert.derive import FAMILIES
from edgebert.device import DeviceProfile, read_profile
from edgebert.profile_reader import complaint
from edgebert.spec import EncoderShape, LayerSpec
from exporters.artifact import Precision

MINILM = EncoderShape(384, 32, 30522, 512, 2, 150, (LayerSpec(12, 1536),) * 6)
"""all-MiniLM-L6-v2 with a classifier, before any compression."""
BUDGET_TOKENS, BUDGET_OVER = 32, 2.4
"""A default budget is set so that MINILM's int8 file takes BUDGET_OVER times the allowed latency at BUDGET_TOKENS."""
SHORTEST_SOURCE = 10


def whole_latency_ms(profile: DeviceProfile) -> float:
    """MINILM in int8 at BUDGET_TOKENS tokens, in the faster runtime, at the percentile of the profile's budget."""
    return min(estimate(MINILM, Precision.uniform("int8", len(MINILM.layers)), profile, runtime, profile.threads,
                        BUDGET_TOKENS, profile.budget.percentile).tail_ms
               for runtime in profile.runtimes(profile.threads))


def default_latency_ms(profile: DeviceProfile) -> float:
    """What the rule gives as max_latency_ms, in two digits."""
    return float(f"{whole_latency_ms(profile) / BUDGET_OVER:.2g}")


def check(path: Path) -> DeviceProfile:
    """The profile of a file that keeps every rule. Raises UsageError naming file, line and key of the first it breaks."""
    profile = read_profile(path)
    fail = partial(complaint, path, path.read_text(encoding="utf-8"))
    for fact, text in profile.sources:
        if len(text) < SHORTEST_SOURCE:
            raise fail(f"sources.{fact}", f"'{text}' does not say where this comes from; begin a guess with 'guess:'")
    for index, cluster in enumerate(profile.clusters):
        if cluster.kind not in FAMILIES:
            raise fail(f"cluster[{index}]", f"'{cluster.kind}' is no core family, so that nothing can be derived; give "
                       f"the nearest as family: {', '.join(FAMILIES)}")
    for row in profile.rows:
        place = f"{row.runtime} {row.precision} with {row.threads} thread(s)"
        if row.provenance == "measured" and not (row.date and row.runtime_version):
            raise fail("cost", f"{place}: a measured row needs its date and runtime_version")
        if len(row.source) < SHORTEST_SOURCE:
            raise fail("cost", f"{place}: the source does not say where the row comes from")
    budget, wanted = profile.budget, default_latency_ms(profile)
    if budget.max_latency_ms is None or None in (budget.max_memory_mb, budget.max_size_mb):
        raise fail("budget", f"give the defaults of a run: max_latency_ms (here {wanted:g}), max_memory_mb, max_size_mb")
    if not 0.8 <= budget.max_latency_ms / wanted <= 1.25:
        raise fail("budget.max_latency_ms", f"is {budget.max_latency_ms:g}; so that a run compresses at all, the int8 "
                   f"MiniLM must take {BUDGET_OVER} times of it at {BUDGET_TOKENS} tokens: write {wanted:g}")
    return profile
