"""A plan that a person gives, perhaps after editing it: built as it stands, and priced anew."""

from __future__ import annotations

import bisect
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edgebert import cost
from edgebert.device import DeviceProfile
from edgebert.errors import UsageError
from edgebert.knapsack import Bound
from edgebert.plan import GIVEN, CompressionPlan
from edgebert.spec import EncoderShape
from edgebert.tables import ErrorTables


def read_plan(path: Path) -> CompressionPlan:
    """The plan in a file. Raises UsageError naming the line that is wrong or impossible, where a line is."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); give a plan.json, such as a bundle's") from error
    try:
        return CompressionPlan.loads(text)
    except UsageError as error:
        line = line_of(text, str(error))
        raise UsageError(f"{path}{'' if line is None else f', line {line}'}: {error}") from error


def line_of(text: str, complaint: str) -> int | None:
    """The line of a plan's text that a complaint of `CompressionPlan.loads` is about; None where it names none."""
    starts = [(int(found[1]), found.start()) for found in re.finditer(r'"layer"\s*:\s*(\d+)', text)]
    first, last, key = 0, len(text), None
    if place := re.search(r"layers\[(\d+)\](?:: (?:unknown key ')?(\w+))?", complaint):
        key, index = place[2], int(place[1])
    elif place := re.search(r"\blayer (\d+)\b(?:.*?\b(kept_heads|kept_neurons|heads|neurons))?", complaint):
        key, numbers = place[2], [number for number, _ in starts]
        index = numbers.index(int(place[1])) if int(place[1]) in numbers else len(starts)
    else:
        words = re.findall(r"\w+", complaint)
        key, index = next((word for word in words if f'"{word}"' in text), None), None
        if key is None:
            return None
    if index is not None:
        if index >= len(starts):
            return None
        first = starts[index][1]
        last = starts[index + 1][1] if index + 1 < len(starts) else text.find("]", first)
    found = re.search(rf'"{"ffn" if key == "neurons" else key}"', text[first:last])
    return text.count("\n", 0, first + (found.start() if found else 0)) + 1


def as_given(plan: CompressionPlan, tables: ErrorTables, profile: DeviceProfile) -> CompressionPlan:
    """The same cuts with what the profile and the tables say of them now. What the solver proved stays where that is
    what it proved; of widths between those that the tables have, the error is interpolated."""
    estimate = cost.estimate(plan.shape, plan.precision, profile, plan.runtime, plan.threads, plan.length,
                             plan.budget.percentile, plan.shorter)
    try:
        error = _filled(plan, tables).error_of(plan.subnet, plan.precision)
    except (KeyError, UsageError):  # ranks, a stream or precisions that these tables were not measured for
        error = plan.predicted_error
    mean = replace(estimate, mean_ms=plan.estimate.mean_ms)
    proved = mean == plan.estimate and abs(error - plan.predicted_error) <= 1e-9
    bound = plan.bound if proved else Bound(GIVEN, error, 0.0, 1.0, "none")
    return replace(plan, profile=profile.name, estimate=estimate, predicted_error=error, bound=bound)


def require_given(plan: CompressionPlan, source: EncoderShape) -> None:
    """Raises UsageError where the plan is for another model."""
    whole = plan.source
    if whole == source:
        return
    if replace(whole, vocab=source.vocab) == source:
        raise UsageError(f"the plan is for a vocabulary of {whole.vocab} pieces, the model has {source.vocab}; trim it "
                         "as it was for the plan (--trim-vocabulary and what else the plan's command said)")
    if replace(whole, labels=source.labels, head=source.head) == source:
        raise UsageError(f"the plan is for {whole.labels} labels ({whole.head}), the task has {source.labels} "
                         f"({source.head}); give the task the plan was made for")
    raise UsageError("the plan is for another model: its source has "
                     f"{len(whole.layers)} layers of hidden size {whole.hidden}, this model {len(source.layers)} of "
                     f"{source.hidden}; give --model the one it was made for")


def _filled(plan: CompressionPlan, tables: ErrorTables) -> ErrorTables:
    """Tables that also have the plan's widths."""
    layers = list(tables.layers)
    for index, spec in zip(plan.subnet.kept, plan.subnet.layers):
        errors = layers[index]
        layers[index] = replace(errors, heads=_with(errors.heads, spec.heads), ffn=_with(errors.ffn, spec.ffn))
    return replace(tables, layers=tuple(layers))


def _with(levels: Mapping[int, float], width: int) -> dict[int, float]:
    """`levels` and one more width, on the line between its neighbours; below the narrowest on the line through the two
    narrowest."""
    if width in levels or len(levels) < 2:
        return dict(levels) if width in levels else {**levels, width: next(iter(levels.values()))}
    known = sorted(levels)
    at = min(max(bisect.bisect(known, width), 1), len(known) - 1)
    low, high = known[at - 1], known[at]
    slope = (levels[high] - levels[low]) / (high - low)
    return {**levels, width: levels[low] + slope * (width - low)}
