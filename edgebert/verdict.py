"""What a run came to: a bundle's files against its budget, beside the teacher's own, and in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from edgebert.cost import MB
from edgebert.evidence import Evidence, FileEvidence
from edgebert.plan import CompressionPlan
from edgebert.wording import LEVEL, mb, ms, signed, spaced, times, typeset

ERROR_UNITS = {"kl": "nats of KL"}
"""What the error tables' metric is called on a page, where that is not its own name."""


class Versus(NamedTuple):
    """A student's file beside the teacher's own file of the same format and precision, where one was made.

    smaller, faster: bytes and undisturbed latency of the teacher's file over those of the student's. drop: points the
    file lies below the teacher on the test split: below its file if that was scored, else below the torch model.
    """

    file: FileEvidence
    teacher: FileEvidence | None
    smaller: float | None
    faster: float | None
    drop: float | None


class BudgetRow(NamedTuple):
    """One line of the budget table. measured: (figure, what it is of, fits). fits: None where there is no limit or the
    figure does not answer it."""

    name: str
    limit: str
    estimate: str
    estimate_fits: bool | None
    measured: tuple[tuple[str, str, bool | None], ...]


class There(NamedTuple):
    """A file of the bundle timed on its target, by `edgebert bench` or --verify-on. p50_ms, p90_ms: None of too few runs.
    memory_mb: peak of the process, None where the device does not tell. doubts: why the milliseconds are not valid."""

    name: str
    device: str
    p50_ms: float | None
    p90_ms: float | None
    memory_mb: float | None
    doubts: tuple[str, ...] = ()


class Held(NamedTuple):
    """One limit held against what is known best. spare: share of the limit that is left, below 0 what it is missed by.
    sure: the answer does not hang on an estimate's error. said: in words."""

    fits: bool
    sure: bool
    spare: float
    said: str


class Verdict(NamedTuple):
    """fits: whether all limits are kept, None where there are none. sure: of all of them. title: in one sentence. limits:
    each in one."""

    fits: bool | None
    sure: bool
    title: str
    limits: tuple[str, ...]


def students(evidence: Evidence) -> tuple[FileEvidence, ...]:
    return tuple(file for file in evidence.files if file.role == "student")


def versus(evidence: Evidence, file: FileEvidence) -> Versus:
    """A student's file against the teacher's: that of the same format and precision, else of the same format."""
    same = sorted((other for other in evidence.files if other.role == "teacher" and other.format == file.format),
                  key=lambda other: other.precision != file.precision)
    teacher = same[0] if same else None
    reference = teacher.test if teacher and teacher.test else evidence.model("teacher").test
    return Versus(
        file, teacher, teacher.file_bytes / file.file_bytes if teacher else None,
        teacher.timing.undisturbed_ms / file.timing.undisturbed_ms if teacher else None,
        reference.points - file.test.points if file.test else None)


def primary(evidence: Evidence, plan: CompressionPlan) -> Versus:
    """The file the headline speaks of: of the plan's runtime and precision where there is one, then the fastest."""
    return versus(evidence, min(students(evidence), key=lambda file: (
        file.format != plan.runtime, file.precision != plan.precision.name, file.timing.p50_ms)))


def headline(best: Versus, place: str) -> str:
    """What was made, in one sentence. place: what to call the machine that timed the files."""
    than = "it" if best.teacher and best.teacher.test else "the teacher"
    where = "" if best.drop is None else (
        f"level with {than}" if abs(best.drop) < LEVEL else
        f"{abs(best.drop):.1f} points {'below' if best.drop > 0 else 'above'} {than}") + " on the test split"
    if best.teacher is None or best.smaller is None or best.faster is None:
        sentence = f"{mb(best.file.file_bytes / MB)}, {ms(best.file.timing.p50_ms)} a call on {place}"
    else:
        sentence = (f"{times(best.smaller, 'smaller', 'larger')}, {times(best.faster, 'faster', 'slower')} than the "
                    f"teacher’s own {best.teacher.precision} file on {place}")
    return sentence + (where and f", {where}")


def verdict(evidence: Evidence, plan: CompressionPlan, device: str, there: Sequence[There] = ()) -> Verdict:
    """Whether the file that the headline speaks of keeps the plan's budget, by how much, and how sure that is. device:
    what to call the target. there: what was timed on it, which counts before what was timed here and before estimates."""
    file = primary(evidence, plan).file
    held = [one for one in (*_held_speed(evidence, plan, file, next((t for t in there if t.name == file.name), None)),
                            _held_size(file, plan), _held_drop(evidence, plan)) if one]
    if not held:
        return Verdict(None, True, f"No limit was set for {device}", ())
    missed = [one for one in held if not one.fits]
    sure = all(one.sure for one in missed or held)
    if missed:
        title = f"{'Does not fit' if any(one.sure for one in missed) else 'May not fit'} {device}"
    else:
        title = f"Fits {device}" if sure else f"Should fit {device}, but only a timing there can tell"
    return Verdict(not missed, sure, title, tuple(one.said for one in held))


def _held_speed(evidence: Evidence, plan: CompressionPlan, file: FileEvidence, timed: There | None) -> list[Held]:
    """Latency and memory: by a timing on the device, else by one here if here is the target, else by the estimate. Of an
    estimate the answer is sure where it holds at either end of its error; of estimated memory no error is known."""
    budget, estimate, found = plan.budget, plan.estimate, []
    tail: float | None = None
    memory: float | None = None
    place = f"measured on {timed.device}" if timed else "measured on the target"
    if timed:
        tail = None if timed.doubts else timed.p90_ms if budget.percentile == "p90" else timed.p50_ms
        memory = timed.memory_mb
    elif evidence.host_is_target:
        tail, memory = getattr(file.timing, f"{budget.percentile}_ms"), file.timing.peak_rss_mb
    if (limit := budget.max_latency_ms) is not None:
        error = 0.0 if tail is not None else estimate.error_pct / 100
        value = estimate.tail_ms if tail is None else tail
        sure = value * (1 + error) <= limit or value * (1 - error) > limit
        how = place if tail is not None else typeset(f"{estimate.provenance} estimate, +/- {estimate.error_pct:.0f} %")
        found.append(_held(f"{budget.percentile} latency", value, limit, ms, sure, how))
    if (limit := budget.max_memory_mb) is not None:
        value = estimate.memory_mb if memory is None else memory
        known = memory is not None
        found.append(_held("peak memory", value, limit, mb, known, place if known else "estimate"))
    return found


def _held_size(file: FileEvidence, plan: CompressionPlan) -> Held | None:
    limit = plan.budget.max_size_mb
    return None if limit is None else _held("file size", file.file_bytes / MB, limit, mb, True, f"of {file.name}")


def _held_drop(evidence: Evidence, plan: CompressionPlan) -> Held | None:
    limit, student = plan.budget.max_drop, evidence.model("student").dev
    if limit is None:
        return None
    drop = evidence.model("teacher").dev.points - student.points
    return Held(drop <= limit, True, (limit - drop) / limit if limit else 0.0,
                f"{spaced(evidence.metric)}: {abs(drop):.2f} points {'below' if drop > 0 else 'above'} the teacher on "
                f"{student.rows:,} rows of the dev split, {limit:.2f} below it allowed")


def _held(name: str, value: float, limit: float, unit: Callable[[float], str], sure: bool, how: str) -> Held:
    spare = 1 - value / limit
    share = f"{100 * abs(spare):.0f}" if abs(spare) >= 0.01 else "under 1"
    by = f"{share} % {'to spare' if spare >= 0 else 'too much'}"
    return Held(spare >= 0, sure, spare, f"{name}: {unit(value)} of {unit(limit)}, {typeset(by)} ({how})")


def budget_rows(evidence: Evidence, plan: CompressionPlan, there: Sequence[There] = ()) -> tuple[BudgetRow, ...]:
    """Budget beside estimate beside measurement. Timings answer the budget only where the host is the target, and on the
    target itself."""
    budget, estimate = plan.budget, plan.estimate
    drop = evidence.model("teacher").dev.points - evidence.model("student").dev.points

    def of(value: Callable[[FileEvidence], float], written: Callable[[float], str], limit: float | None,
           answers: bool) -> tuple[tuple[str, str, bool | None], ...]:
        return tuple((written(value(file)), file.name, _fits(value(file), limit) if answers else None)
                     for file in students(evidence))

    def row(name: str, limit: float | None, unit: Callable[[float], str], written: str, figure: float | None,
            measured: tuple[tuple[str, str, bool | None], ...]) -> BudgetRow:
        return BudgetRow(name, "no limit" if limit is None else unit(limit), written,
                         None if figure is None else _fits(figure, limit), measured)

    latency, memory, size = budget.max_latency_ms, budget.max_memory_mb, budget.max_size_mb
    tails = tuple((ms(tail), f"{t.name} on {t.device}", None if t.doubts else _fits(tail, latency)) for t in there
                  if (tail := t.p90_ms if budget.percentile == "p90" else t.p50_ms) is not None)
    peaks = tuple((mb(t.memory_mb), f"{t.name} on {t.device}", _fits(t.memory_mb, memory)) for t in there
                  if t.memory_mb is not None)
    return (
        row(f"latency, {budget.percentile}", latency, ms, typeset(estimate.text()), estimate.tail_ms,
            (*tails, *of(lambda f: getattr(f.timing, f"{budget.percentile}_ms"), ms, latency, evidence.host_is_target))),
        row("peak memory", memory, mb, f"~{mb(estimate.memory_mb)}", estimate.memory_mb,
            (*peaks, *of(lambda f: f.timing.peak_rss_mb, mb, memory, evidence.host_is_target))),
        row("file size", size, mb, f"~{mb(estimate.file_bytes / MB)}", estimate.file_bytes / MB,
            of(lambda f: f.file_bytes / MB, mb, size, True)),
        row(f"{spaced(evidence.metric)} drop", budget.max_drop, lambda points: f"{points:.1f} points",
            f"predicted error {plan.predicted_error:.3g} ({error_unit(plan)}), before recovery", None,
            ((f"{signed(drop)} points", "torch student below teacher, dev split", _fits(drop, budget.max_drop)),)))


def error_unit(plan: CompressionPlan) -> str:
    metric = plan.provenance.get("metric", "kl")
    return ERROR_UNITS.get(metric, metric)


def _fits(value: float, limit: float | None) -> bool | None:
    return None if limit is None else value <= limit
