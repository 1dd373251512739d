"""A run's evidence as texts for people: report.html, the bundle's README.md and its model card.

Values in, text out; nothing is measured or decided here. The words are in `templates/`, the pictures in
`edgebert.charts`. Labels, example texts and file names are not trusted: HTML is escaped, Markdown is put in code spans.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgebert import charts
from edgebert.cost import MB
from edgebert.device import DeviceProfile
from edgebert.evidence import Evidence, FileEvidence
from edgebert.plan import CompressionPlan

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).resolve().parent / "templates"
RUNTIME_NAMES = {"onnx": "ONNX Runtime", "tflite": "LiteRT"}
ROLE_NAMES = {"teacher": "teacher", "cut": "cut, before recovery", "student": "student, after recovery"}
LONGEST_EXAMPLE = 280
LEVEL = 0.05


class Versus(NamedTuple):
    """A student's file beside the teacher's own file of the same format and precision, where one was made.

    smaller, faster: bytes and median latency of the teacher's file over those of the student's. drop: points the file
    lies below the teacher on the test split (below its file if that was scored, else below the torch model).
    """

    file: FileEvidence
    teacher: FileEvidence | None
    smaller: float | None
    faster: float | None
    drop: float | None


class BudgetRow(NamedTuple):
    """One line of the budget table. fits: None where there is no limit or the figure does not answer it."""

    name: str
    limit: str
    estimate: str
    estimate_fits: bool | None
    measured: tuple[tuple[str, str], ...]
    measured_fits: bool | None


def render_report(evidence: Evidence, plan: CompressionPlan, profile: DeviceProfile | None) -> str:
    """report.html: one page that loads nothing from anywhere."""
    device = profile.title if profile else plan.profile
    best = primary(evidence, plan)
    return _environment(html=True).get_template("report.html.j2").render(
        evidence=evidence, plan=plan, device=device, best=best, headline=headline(best), versus=_versus_all(evidence),
        teacher=evidence.model("teacher"), student=evidence.model("student"), host_name=_host_name(evidence),
        host=host_rows(evidence.host), budget=budget_rows(evidence, plan), warnings=warnings(evidence),
        css=f"{charts.palette_css()}\n{(TEMPLATES / 'report.css').read_text(encoding='utf-8')}",
        pictures=_pictures(evidence, plan, device), role_names=ROLE_NAMES, runtime_names=RUNTIME_NAMES,
        precision_roles=charts.PRECISION_ROLES, longest=LONGEST_EXAMPLE)


def render_bundle_readme(evidence: Evidence, plan: CompressionPlan, profile: DeviceProfile | None,
                         command: str) -> str:
    """README.md of the bundle: what is in it, how to check it, how to run it. command: what made the bundle."""
    files = {form: [file for file in _students(evidence) if file.format == form] for form in RUNTIME_NAMES}
    return _environment().get_template("bundle_readme.md.j2").render(
        **_markdown_values(evidence, plan, profile), files=files, command=command)


def render_model_card(evidence: Evidence, plan: CompressionPlan, profile: DeviceProfile | None) -> str:
    """MODEL_CARD.md: a Hugging Face model card. It names no licence: that of the teacher and the data applies."""
    return _environment().get_template("model_card.md.j2").render(
        **_markdown_values(evidence, plan, profile), metric_type={"macro_f1": "f1"}.get(evidence.metric, evidence.metric),
        formats=sorted({file.format for file in _students(evidence)}))


def versus(evidence: Evidence, file: FileEvidence) -> Versus:
    """A student's file against the teacher's: that of the same format and precision, else of the same format."""
    same = sorted((other for other in evidence.files if other.role == "teacher" and other.format == file.format),
                  key=lambda other: other.precision != file.precision)
    teacher = same[0] if same else None
    reference = teacher.test if teacher and teacher.test else evidence.model("teacher").test
    return Versus(
        file, teacher, teacher.file_bytes / file.file_bytes if teacher else None,
        teacher.timing.p50_ms / file.timing.p50_ms if teacher else None,
        reference.points - file.test.points if file.test else None)


def primary(evidence: Evidence, plan: CompressionPlan) -> Versus:
    """The file the headline speaks of: of the plan's runtime and precision where there is one, then the fastest."""
    return versus(evidence, min(_students(evidence), key=lambda file: (
        file.format != plan.runtime, file.precision != plan.precision.name, file.timing.p50_ms)))


def headline(best: Versus) -> str:
    """What was made, in one sentence."""
    where = "" if best.drop is None else (
        "level with it" if abs(best.drop) < LEVEL else
        f"{abs(best.drop):.1f} points {'below' if best.drop > 0 else 'above'} it") + " on the test split"
    if best.smaller is None or best.faster is None or best.teacher is None:
        sentence = f"{_mb(best.file.file_bytes)} and {_ms(best.file.timing.p50_ms)} a call on this machine"
        return f"{sentence}; {where.replace(' it ', ' the teacher ')}" if where else sentence
    ratios = f"{_times(best.smaller, 'smaller', 'larger')}, {_times(best.faster, 'faster', 'slower')}"
    return f"{ratios} than the teacher’s own {best.teacher.precision} file on this machine" + (where and f", {where}")


def budget_rows(evidence: Evidence, plan: CompressionPlan) -> tuple[BudgetRow, ...]:
    """Budget beside estimate beside measurement. Timings answer the budget only where the host is the target."""
    budget, estimate, files = plan.budget, plan.estimate, _students(evidence)
    at_host = evidence.host_is_target

    def of(figure: Any) -> tuple[tuple[str, str], ...]:
        return tuple((figure(file), file.name) for file in files)

    slow = max(getattr(file.timing, f"{budget.percentile}_ms") for file in files)
    drop = evidence.model("teacher").dev.points - evidence.model("student").dev.points
    none = "no limit"
    return (
        BudgetRow(f"latency, {budget.percentile}", none if budget.max_latency_ms is None else _ms(budget.max_latency_ms),
                  _typeset(estimate.text()), _fits(estimate.tail_ms, budget.max_latency_ms),
                  of(lambda f: _ms(getattr(f.timing, f"{budget.percentile}_ms"))),
                  _fits(slow, budget.max_latency_ms) if at_host else None),
        BudgetRow("peak memory", none if budget.max_memory_mb is None else f"{budget.max_memory_mb:g} MB",
                  f"~{estimate.memory_mb:.0f} MB", _fits(estimate.memory_mb, budget.max_memory_mb),
                  of(lambda f: f"{f.timing.peak_rss_mb:.0f} MB"),
                  _fits(max(f.timing.peak_rss_mb for f in files), budget.max_memory_mb) if at_host else None),
        BudgetRow("file size", none if budget.max_size_mb is None else f"{budget.max_size_mb:g} MB",
                  f"~{_mb(estimate.file_bytes)}", _fits(estimate.file_bytes / MB, budget.max_size_mb),
                  of(lambda f: _mb(f.file_bytes)),
                  _fits(max(f.file_bytes for f in files) / MB, budget.max_size_mb)),
        BudgetRow(f"{_words(evidence.metric)} drop", none if budget.max_drop is None else f"{budget.max_drop:g} points",
                  f"predicted error {plan.predicted_error:.3g}", None,
                  ((f"{_signed(drop)} points" if drop else "0.00 points", "dev split, student against teacher"),),
                  _fits(drop, budget.max_drop)))


def warnings(evidence: Evidence) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Each reason to distrust a figure once, with the files it holds for; the run's notes last, with none."""
    found: dict[str, tuple[str, ...]] = {}
    for file in evidence.files:
        for text in file.timing.warnings:
            found[text] = (*found.get(text, ()), file.name)
    return (*found.items(), *((note, ()) for note in evidence.notes))


def host_rows(host: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The machine's facts as (name, text), without those it did not tell. Keys ending in _bytes are shown in GB."""
    rows = []
    for key, value in host.items():
        text = _fact(key, value)
        if text:
            rows.append((_words(key.removesuffix("_bytes")), text))
    return tuple(rows)


def _pictures(evidence: Evidence, plan: CompressionPlan, device: str) -> dict[str, str]:
    """The page's charts by name; "front" is absent where the run made no front."""
    estimate = plan.estimate
    tail = estimate.tail_ms / estimate.latency_ms
    made = {"layers": charts.layers_chart(layer_rows(plan)), "stages": charts.stages_chart(evidence.seconds, _duration),
            "latency": charts.latency_chart([charts.Samples(
                f"{file.name} (teacher)" if file.role == "teacher" else file.name, file.role, file.timing.samples_ns,
                file.timing.p50_ms, file.timing.p90_ms) for file in evidence.files])}
    if evidence.front:
        made["front"] = charts.front_chart(
            [charts.Point(point.latency_ms * tail, point.error) for point in evidence.front],
            charts.Point(estimate.tail_ms, plan.predicted_error), plan.budget.max_latency_ms,
            f"estimated {estimate.percentile} latency on {device} (ms)", "predicted error (nats of KL)")
    return made


def layer_rows(plan: CompressionPlan) -> list[charts.LayerRow]:
    """One row a layer of the source, dropped ones too."""
    kept = dict(zip(plan.subnet.kept, zip(plan.kept_heads, plan.subnet.layers, plan.precision.layers)))
    rows = []
    for index, whole in enumerate(plan.source.layers):
        if index in kept:
            heads, spec, precision = kept[index]
            rows.append(charts.LayerRow(index, whole.heads, whole.ffn, heads, spec.ffn, precision.attention,
                                        precision.ffn))
        else:
            rows.append(charts.LayerRow(index, whole.heads, whole.ffn, (), 0, "", ""))
    return rows


def _markdown_values(evidence: Evidence, plan: CompressionPlan, profile: DeviceProfile | None) -> dict[str, Any]:
    """What both Markdown texts speak of."""
    return {"evidence": evidence, "plan": plan, "device": profile.title if profile else plan.profile,
            "headline": headline(primary(evidence, plan)), "teacher": evidence.model("teacher"),
            "student": evidence.model("student"), "students": _students(evidence),
            "versus": {v.file.name: v for v in _versus_all(evidence)}, "host_name": _host_name(evidence),
            "runtime_names": RUNTIME_NAMES, "role_names": ROLE_NAMES}


def _students(evidence: Evidence) -> tuple[FileEvidence, ...]:
    return tuple(file for file in evidence.files if file.role == "student")


def _versus_all(evidence: Evidence) -> tuple[Versus, ...]:
    return tuple(versus(evidence, file) for file in _students(evidence))


def _host_name(evidence: Evidence) -> str:
    for key in ("cpu_model", "machine"):
        if evidence.host.get(key):
            return str(evidence.host[key])
    return "this machine"


def _environment(html: bool = False) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=html, undefined=StrictUndefined,
                       trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    made.filters.update(ms=_ms, mb=_mb, signed=_signed, duration=_duration, millions=_millions, words=_words,
                        times=_times, typeset=_typeset, cut=_cut, yaml=json.dumps, code=_code_span, fence=_fence)
    return made


def _fits(value: float, limit: float | None) -> bool | None:
    return None if limit is None else value <= limit


def _ms(value: float) -> str:
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} ms"


def _mb(file_bytes: int) -> str:
    value = file_bytes / MB
    return f"{value:.{2 if value < 10 else 1 if value < 1000 else 0}f} MB"


def _millions(count: int) -> str:
    if count >= 1e9:
        return f"{count / 1e9:.2f} G"
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.0f} k"


def _signed(value: float) -> str:
    """Two digits with a true minus sign; 0.00 without one."""
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "−")


def _times(ratio: float, more: str, less: str) -> str:
    """3.14 -> "3.1× smaller", 0.5 -> "2.0× larger", about 1 -> "no smaller"."""
    if abs(ratio - 1) < LEVEL:
        return f"no {more}"
    return f"{ratio:.1f}× {more}" if ratio > 1 else f"{1 / ratio:.1f}× {less}"


def _duration(seconds: float) -> str:
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"


def _words(key: str) -> str:
    return key.replace("_", " ")


def _typeset(text: str) -> str:
    return text.replace("+/-", "±")


def _cut(text: str, longest: int) -> str:
    """A long text shortened, saying how long it was."""
    return text if len(text) <= longest else f"{text[:longest].rstrip()}… ({len(text):,} characters)"


def _fact(key: str, value: Any) -> str:
    if value is None or value == "" or value == [] or value == {} or value == ():
        return ""
    if key.endswith("_bytes") and isinstance(value, int):
        return f"{value / 1e9:.1f} GB"
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(str(k))} {_fact(str(k), v)}" for k, v in value.items() if _fact(str(k), v))
    if isinstance(value, (list, tuple)):
        texts = [_fact(key, item) for item in value]
        return ", ".join(dict.fromkeys(text for text in texts if text))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _code_span(text: str) -> str:
    """Untrusted text as a Markdown code span on one line."""
    flat = " ".join(str(text).split()) or " "
    ticks = "`" * (1 + max(map(len, re.findall(r"`+", flat)), default=0))
    pad = " " if "`" in flat else ""
    return f"{ticks}{pad}{flat}{pad}{ticks}"


def _fence(text: str, language: str = "") -> str:
    """Untrusted text as a fenced block that it cannot close."""
    ticks = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return f"{ticks}{language}\n{text}\n{ticks}"
