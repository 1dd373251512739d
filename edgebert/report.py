"""A run's evidence as texts for people: report.html, the bundle's README.md and its model card.

Values in, text out; nothing is measured or decided here. The words are in `templates/`, the pictures in
`edgebert.charts`. Labels, example texts and file names are not trusted: HTML is escaped, Markdown is put in code spans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebert import charts
from edgebert.breakdown import breakdown
from edgebert.cost import MB
from edgebert.device import DeviceProfile
from edgebert.evidence import ClassEvidence, Evidence, Example, FileEvidence
from edgebert.layout import AUTO_CLASSES
from edgebert.methods import SAID
from edgebert.metrics import share_interval
from edgebert.plan import CompressionPlan
from edgebert.readings import READINGS
from edgebert.sampling import Samples
from edgebert.verdict import There, budget_rows, error_unit, headline, primary, students, verdict, versus
from edgebert.wording import FILTERS, cores_text, fact_text, mb, spaced

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).resolve().parent / "templates"
RUNTIME_NAMES = {"onnx": "ONNX Runtime", "tflite": "LiteRT"}
ROLE_NAMES = {"teacher": "teacher", "cut": "as cut, before recovery", "student": "student, after recovery"}
METRIC_TYPES = {"macro_f1": "f1", "micro_f1": "f1", "span_f1": "f1", "answer_f1": "f1",
                "matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr"}
"""Our name -> the Hub's."""

ELSEWHERE = "the machine that made it"
LONGEST_EXAMPLE = 280
WORST = 8
"""Labels that are shown."""


def render_report(evidence: Evidence, plan: CompressionPlan, profile: DeviceProfile | None,
                  command: str | None = None, there: Sequence[There] = ()) -> str:
    """report.html: one page that loads nothing from anywhere. command: what made the bundle; without it the plan's
    provenance is asked for one. there: what was timed on the target."""
    values = _values(evidence, plan, profile, "this machine")
    return environment(html=True).get_template("report.html.j2").render(
        **values, methods=[(name, plan.provenance[name]) for name in SAID if name in plan.provenance],
        stored=stored_lines(plan), best=primary(evidence, plan), budget=budget_rows(evidence, plan, there),
        worst=worst_classes(evidence), judged=verdict(evidence, plan, values["device"], there),
        parts=breakdown(plan, profile), warnings=warnings(evidence, there), host=host_rows(evidence.host),
        pictures=_pictures(evidence, plan, values["device"]), css=page_css(), precision_roles=charts.PRECISION_ROLES,
        longest=LONGEST_EXAMPLE, command=command or plan.provenance.get("command"))


def worst_classes(evidence: Evidence) -> list[tuple[ClassEvidence, float, float]]:
    """The labels found least often, each with the 95 % interval of the share that the file finds, in percent."""
    shown = evidence.classes[:WORST]
    return [(one, *share_interval(100 * one.file / one.rows, one.rows)) for one in shown]


def page_css() -> str:
    return f"{charts.palette_css()}\n{(TEMPLATES / 'report.css').read_text(encoding='utf-8')}"


def render_bundle_readme(evidence: Evidence, plan: CompressionPlan, profile: DeviceProfile | None,
                         command: str, samples: Samples | None = None) -> str:
    """README.md of the bundle: what is in it, how to check it, how to run it. command: what made the bundle. samples: the
    programs in it."""
    files = {form: [file for file in students(evidence) if file.format == form] for form in RUNTIME_NAMES}
    example = evidence.examples[0] if evidence.examples else Example("hello", None, "")
    return environment().get_template("bundle_readme.md.j2").render(
        **_values(evidence, plan, profile, ELSEWHERE), files=files, command=command, samples=samples,
        ported=samples is not None and any(language.own_tokens for language in samples.languages),
        per_token=READINGS[evidence.kind].kotlin is None, auto_class=f"AutoModel{AUTO_CLASSES[evidence.kind]}",
        compat=any("_compat" in file.name for file in files["tflite"]),
        int8=any(file.precision != "fp32" for file in files["tflite"]),
        example_code=_example_code(example))


def render_model_card(evidence: Evidence, plan: CompressionPlan, profile: DeviceProfile | None) -> str:
    """MODEL_CARD.md: a Hugging Face model card. It names no licence: that of the teacher and the data applies."""
    return environment().get_template("model_card.md.j2").render(
        **_values(evidence, plan, profile, ELSEWHERE), metric_type=METRIC_TYPES.get(evidence.metric, evidence.metric),
        formats=sorted({file.format for file in students(evidence)}),
        trained=any(name.startswith("recover") for name in evidence.seconds))


def _example_code(example: Example) -> str:
    """Python that encodes an example's text, or its two texts."""
    lines = [f"text = {example.text[:LONGEST_EXAMPLE]!r}"]
    if example.pair is not None:
        lines.append(f"second = {example.pair[:LONGEST_EXAMPLE]!r}")
    return "\n".join([*lines, f"encoded = tokenizer.encode(text{'' if example.pair is None else ', second'})"])


def warnings(evidence: Evidence, there: Sequence[There] = ()) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Each reason to distrust a figure once, with the files it holds for; the run's notes last, with none."""
    found: dict[str, tuple[str, ...]] = {}
    for title, texts in (*((f"{t.name} on {t.device}", t.doubts) for t in there),
                         *((_file_title(file), file.timing.warnings) for file in evidence.files)):
        for text in texts:
            found[text] = (*found.get(text, ()), title)
    return (*found.items(), *((note, ()) for note in evidence.notes))


def host_rows(host: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The machine's facts as (name, text), without those it did not tell. Keys ending in _bytes are shown in GB."""
    told = ((key, cores_text(value) if key == "core_facts" else fact_text(key, value)) for key, value in host.items())
    return tuple(("core clocks" if key == "core_facts" else spaced(key.removesuffix("_bytes")), text)
                 for key, text in told if text)


def _pictures(evidence: Evidence, plan: CompressionPlan, device: str) -> dict[str, str]:
    """The page's charts by name; "front" is absent where the run made no front."""
    estimate = plan.estimate
    tail = estimate.tail_ms / estimate.latency_ms
    made = {"layers": charts.layers_chart(layer_rows(plan)), "latency": charts.latency_chart([charts.Samples(
        _file_title(file), file.role, file.timing.samples_ns, file.timing.p50_ms, file.timing.p90_ms)
        for file in evidence.files])}
    if evidence.front:
        made["front"] = charts.front_chart(
            [charts.Point(point.latency_ms * tail, point.error) for point in evidence.front],
            charts.Point(estimate.tail_ms, plan.predicted_error), plan.budget.max_latency_ms,
            f"estimated {estimate.percentile} latency on {device} (ms)", f"predicted error ({error_unit(plan)})",
            [charts.Point(point.estimate.tail_ms, point.predicted_error) for point in evidence.points[1:]])
    return made


def layer_rows(plan: CompressionPlan) -> list[charts.LayerRow]:
    """One row a layer of the source, dropped ones too."""
    rows = {index: charts.LayerRow(index, whole.heads, whole.ffn, (), 0, "", "")
            for index, whole in enumerate(plan.source.layers)}
    for index, heads, spec, precision in zip(plan.subnet.kept, plan.kept_heads, plan.subnet.layers,
                                             plan.precision.layers):
        rows[index] = rows[index]._replace(kept_heads=heads, kept_ffn=spec.ffn, attention_precision=precision.attention,
                                           ffn_precision=precision.ffn)
    return list(rows.values())


def stored_lines(plan: CompressionPlan) -> tuple[str, ...]:
    """What is not stored whole: "layer 2: up rank 128, down rank 96"."""
    word = (f"word table: rank {plan.subnet.word_rank} of {plan.source.embedding}",) if plan.subnet.word_rank else ()
    if plan.precision.embedding == "int4":
        word += ("word table: rows in 4 bits",)
    if plan.subnet.hidden:
        word += (f"residual stream: {plan.subnet.hidden} of {plan.source.hidden} numbers, behind a projection",)
    return (*word, *(f"layer {index}: " + ", ".join([
        *([f"scores from {spec.qk_dim} of {plan.source.head_dim} numbers a head"] if spec.qk_dim else []),
        *(f"{name} rank {rank}" for name, rank in spec.ranks)])
        for index, spec in zip(plan.subnet.kept, plan.subnet.layers) if spec.factored))


def length_values(evidence: Evidence) -> dict[str, Any]:
    """What each length of the TFLite file serves and takes. measured_at: length -> median of the student's file here.
    mean_estimated, mean_measured: over the training rows; None where a length was not timed."""
    file = next((file for file in students(evidence) if file.format == "tflite"), None)
    measured = {} if file is None else {**dict(file.shorter), evidence.length: file.timing.p50_ms}
    total = sum(one.rows for one in evidence.served)
    whole = total and all(one.length in measured for one in evidence.served)
    return {"total_served": total, "measured_at": measured,
            "mean_estimated": sum(one.rows * one.latency_ms for one in evidence.served) / total if total else None,
            "mean_measured": sum(one.rows * measured[one.length] for one in evidence.served) / total if whole else None}


def _values(evidence: Evidence, plan: CompressionPlan, profile: DeviceProfile | None, place: str) -> dict[str, Any]:
    """What all three texts speak of."""
    own = students(evidence)
    return {
        "evidence": evidence, "plan": plan, "device": profile.title if profile else plan.profile,
        "headline": headline(primary(evidence, plan), place), "teacher": evidence.model("teacher"),
        "student": evidence.model("student"), "students": own, "host_name": host_name(evidence),
        "reading": READINGS[evidence.kind],
        "versus": {file.name: versus(evidence, file) for file in own}, "runtime_names": RUNTIME_NAMES,
        "role_names": ROLE_NAMES, **length_values(evidence)}


def _file_title(file: FileEvidence) -> str:
    """The file's name; the teacher's files are called like the student's."""
    return f"teacher’s {file.name}" if file.role == "teacher" else file.name


def host_name(evidence: Evidence) -> str:
    return str(evidence.host.get("cpu_model") or evidence.host.get("machine") or "this machine")


def environment(html: bool = False) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=html, undefined=StrictUndefined,
                       trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    made.filters.update(FILTERS, mb=lambda file_bytes: mb(file_bytes / MB), title_of=_file_title)
    return made
