"""The report, the bundle's README and the model card, over made-up evidence: no number here was measured."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser

import pytest

from edgebert import cost
from edgebert.breakdown import breakdown
from edgebert.choice import UnderRuntime
from edgebert.cost import Estimate
from edgebert.device import Budget, Cluster, DeviceProfile, load_profile
from edgebert.evidence import (
    Changes,
    ClassEvidence,
    Evidence,
    Example,
    FileEvidence,
    FrontPoint,
    Lapse,
    ModelEvidence,
    ParityRow,
    Score,
    Timing,
)
from edgebert.knapsack import Bound
from edgebert.lengths import Cut, Served
from edgebert.plan import CompressionPlan
from edgebert.report import render_bundle_readme, render_model_card, render_report
from edgebert.spec import EncoderShape, LayerSpec, SubnetSpec
from edgebert.verdict import There, budget_rows, headline, primary, verdict, versus
from exporters.artifact import LayerPrecision, Precision
from exporters.execution import Execution

EVIL = "<script>alert('x')</script> & \"quoted\" <b>bold</b>"
COMMAND = "edgebert fit-device --profile pixel6 --max-latency 12ms --out bundle"
SOURCE = EncoderShape(hidden=384, head_dim=32, vocab=30522, positions=512, token_types=2, labels=7,
                      layers=(LayerSpec(12, 1536),) * 6)
ESTIMATE = Estimate(9.65, "p90", 11.58, 40.0, 43.0, 13_400_000, 96_000_000, 13_100_000, "derived", 3.33)


def build_profile() -> DeviceProfile:
    return DeviceProfile(
        name="test-phone", title="Test Phone", machine="aarch64", isa=("dotprod",), ram_mb=8000, bandwidth_gbs=30.0,
        threads=1, p90_over_p50=1.2, clusters=(Cluster("big", 2, 2.8),), affinity=((1, "0x1"),),
        budget=Budget(max_latency_ms=12.0), sources=(("cores", "made up"),), rows=())


def build_plan(dropped: tuple[int, ...] = (3,), budget: Budget | None = None, gap: float = 0.0) -> CompressionPlan:
    """Heads and FFN differ from layer to layer; layer 0 keeps its attention in fp32."""
    kept = tuple(i for i in range(6) if i not in dropped)
    heads = tuple(tuple(sorted(random.Random(i).sample(range(12), 3 + i % 3))) for i in kept)
    neurons = tuple(tuple(range(0, 384 + 160 * i)) for i in kept)
    return CompressionPlan(
        subnet=SubnetSpec(kept, tuple(LayerSpec(len(h), len(n)) for h, n in zip(heads, neurons))), source=SOURCE,
        kept_heads=heads, kept_neurons=neurons,
        precision=Precision(tuple(LayerPrecision("fp32" if i == 0 else "int8", "int8") for i in kept)),
        runtime="onnx", threads=1, lengths=(16, 24, 64), profile="test-phone",
        budget=Budget(12.0, "p90", 60.0, 20.0, 1.0) if budget is None else budget,
        estimate=ESTIMATE,
        predicted_error=0.2121, bound=Bound("error", 0.2121, 0.2121, gap, "HiGHS 1.12 (test)"),
        provenance={"metric": "kl", "criterion": "fisher", "model_sha256": "ab" * 32, "data_sha256": "cd" * 32})


def build_timing(median_ms: float, seed: int, warnings: tuple[str, ...] = ()) -> Timing:
    """128 samples with a tail to the right, as a busy machine gives them."""
    rng = random.Random(seed)
    samples = tuple(int(1e6 * median_ms * (0.97 + abs(rng.gauss(0, 0.05)) + (0.5 if rng.random() < 0.02 else 0)))
                    for _ in range(128))
    ordered = sorted(samples)
    return Timing(samples, ordered[64] / 1e6, ordered[115] / 1e6, 35.2, median_ms * 2.4, 61.4 + median_ms, warnings)


def build_files(formats: tuple[str, ...] = ("onnx", "tflite"), both_precisions: bool = False,
                scored: bool = True) -> tuple[FileEvidence, ...]:
    files = []
    for number, form in enumerate(formats):
        for precision, slow, size in (("mixed", 1.0, 13_650_112), ("fp32", 3.2, 48_211_004))[:1 + both_precisions]:
            kind = "fp32" if precision == "fp32" else "mixed"
            files.append(FileEvidence(
                "student", f"model_{kind}.{form}", form, precision, f"{number}a" * 32, size,
                Score(97.43, 1.17, 700) if scored else None, build_timing((2.14 - 0.5 * number) * slow, number),
                ((16, 0.71), (24, 0.93)) if form == "tflite" else ()))
        files.append(FileEvidence("teacher", f"model_qint8.{form}", form, "int8", f"{number}b" * 32, 23_415_902, None,
                                  build_timing(5.61 - 1.3 * number, 10 + number, ("the samples rise by 14 %",))))
    return tuple(files)


def build_evidence(files: tuple[FileEvidence, ...] | None = None, labels: int = 7, host_is_target: bool = False,
                   examples: tuple[Example, ...] | None = None, front: bool = True) -> Evidence:
    names = (*(f"Intent{i:03d}" for i in range(labels - 1)), "<i>Evil</i>")
    points = [FrontPoint(2.4 + 1.45 * i, 2.41 * 0.615 ** i, 6.2 + 1.4 * i, f"{3 + i}x{200 + 90 * i} " * 5, i == 5)
              for i in range(11)]
    return Evidence(
        task="made-up-intents", kind="single_label_classification", metric="accuracy", labels=names, length=64,
        notes=("12 rows of test also stand in train",),
        models=tuple(ModelEvidence(role, SOURCE if role == "teacher" else build_plan().shape, params, macs, dev, test)
                     for role, params, macs, dev, test in (
            ("teacher", 22_713_216, 682_000_000, Score(98.14, 0.98, 700), Score(97.86, 1.06, 700)),
            ("cut", 13_100_000, 96_000_000, Score(71.29, 3.35, 700), Score(70.14, 3.39, 700)),
            ("student", 13_100_000, 96_000_000, Score(97.71, 1.1, 700), Score(97.57, 1.13, 700)))),
        files=build_files() if files is None else files,
        parity=(ParityRow("tokenizer", "token ids", 32, 0.0, 0.0, True, "32 texts give the same ids"),
                ParityRow("model_mixed.onnx", "relative RMSE, right-padded", 32, 0.0312, 0.15, True, "against torch"),
                ParityRow("model_mixed.onnx", "logits vary", 32, 0.97, 0.5, True, "spread of rows"),
                ParityRow("model_mixed.onnx", "accuracy on test", 1, 0.14, 1.0, True, "97.43, torch 97.57"),
                ParityRow("model_mixed.tflite", "relative RMSE, right-padded", 32, 0.21, 0.15, False, EVIL)),
        front=tuple(points) if front else (),
        host={"machine": None, "cpu_model": "Made-up CPU <x> @ 2.10GHz", "architecture": "x86_64", "cores": 2,
              "features": ["avx2", "avx512_vnni"], "core_facts": [{"index": 0, "governor": "performance",
              "current_khz": None, "max_khz": 2_800_000, "limit_khz": None}], "temperatures_c": {},
              "memory_bytes": 8_201_000_000, "available_memory_bytes": 5_100_000_000, "kernel": "6.1.0",
              "load_average": [0.52, 0.4, 0.31], "android": None},
        host_is_target=host_is_target,
        seconds={"load the checkpoint": 3.1, "fine-tune the teacher": 0.0, "importance of heads and neurons": 21.4,
                 "error tables": 48.2, "search": 0.62, "recover by distillation": 134.0,
                 "export the student, onnx mixed": 4.4, "export the student, tflite mixed": 22.9,
                 "time the files on this machine": 13.2},
        examples=(Example("play some jazz by <artist>", None, "Intent003"), Example(EVIL, None, "<i>Evil</i>"),
                  Example("a" * 5000, None, "Intent001"))
        if examples is None else examples,
        cuts=(Cut("train", 64, 12_000, 30, 150_000, 225), Cut("dev", 64, 700, 7, 8_000, 44),
              Cut("test", 64, 700, 0, 8_000, 0)),
        served=(Served(16, 9_000, 0.62), Served(24, 2_400, 0.81), Served(64, 600, 1.93)),
        runtimes=(UnderRuntime("onnx", replace(ESTIMATE, mean_ms=2.22), 0.2121, True),
                  UnderRuntime("tflite", replace(ESTIMATE, tail_ms=14.4, mean_ms=4.44, memory_mb=51.2), None, False)),
        executions=(Execution("model_mixed.onnx", "onnxruntime 1.31.1", {"DynamicQuantizeMatMul": 20, "Gelu": 6}, 25, 26,
                              ()),
                    Execution("model_mixed.tflite", "ai_edge_litert 2.3.0", {"FULLY_CONNECTED": 36}, 30, 36, ())),
        classes=tuple(ClassEvidence(name, 100, 99 - i, 90 + i) for i, name in enumerate(names[:12])),
        changes=Changes(14, 9, (Lapse("play " + EVIL, None, "Intent001", "Intent001", "<i>Evil</i>"),
                                Lapse("is it raining", "b" * 400, "Intent002", "Intent002", "Intent003"))))


class Page(HTMLParser):
    """Reads a page; fails on a tag that does not close, keeps the text, the tags with attributes, and ids."""

    VOID = ("meta", "br", "hr", "img", "input", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def priced(given: CompressionPlan, device: DeviceProfile) -> CompressionPlan:
    """The plan as it costs on a device whose cost rows are known."""
    own = cost.estimate(given.shape, given.precision, device, given.runtime, 1, given.length, "p90", given.shorter)
    return replace(given, profile=device.name, estimate=replace(own, mean_ms=own.latency_ms / 3))


CASES = {
    "two files": lambda: (build_evidence(), build_plan(), build_profile()),
    "one file, the target, no limits, no front": lambda: (
        build_evidence(build_files(("onnx",)), host_is_target=True, front=False), build_plan((), Budget()), None),
    "four files, 150 labels": lambda: (build_evidence(build_files(both_precisions=True), labels=150),
                                       build_plan(budget=Budget(max_latency_ms=6.0, max_size_mb=10.0)),
                                       build_profile()),
    "no teacher's file, no score": lambda: (
        build_evidence(tuple(f for f in build_files(("tflite",), scored=False) if f.role == "student"), examples=()),
        build_plan((0, 1, 2, 5), Budget(max_latency_ms=400.0)), build_profile()),
    "a device whose cost rows are known, numbers": lambda: (
        replace(build_evidence(), kind="regression", metric="pearson", classes=(), labels=("score",)),
        priced(build_plan(), load_profile("pixel6")), load_profile("pixel6")),
}


@cache
def report_of(case: str) -> str:
    return render_report(*CASES[case](), COMMAND)


@pytest.mark.parametrize("case", CASES)
def test_page_is_whole_and_loads_nothing(case):
    html = report_of(case)
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "img", "base", "image", "use")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("href", "src", "srcset", "action", "data") or name.endswith(":href"):
                assert value is not None and value.startswith("#")
    assert "url(" not in html and "@import" not in html and "http-equiv" not in html
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("case", CASES)
def test_pictures_are_named_and_well_formed(case):
    from xml.etree import ElementTree

    html = report_of(case)
    pictures = re.findall(r"<svg.*?</svg>", html, re.S)
    assert len(pictures) == 2 * (2 + (CASES[case]()[0].front != ()))
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        assert root.attrib["role"] == "img" and len(root.attrib["aria-label"]) > 20
        assert {"wide", "narrow"} & set(root.attrib["class"].split())


def test_page_tells_the_numbers():
    evidence = build_evidence()
    text = Page(report_of("two files")).text
    student, teacher = evidence.files[0], evidence.files[1]
    for number in (
            f"{student.timing.p50_ms:.2f} ms", f"{teacher.timing.p50_ms:.2f} ms", f"{student.timing.p90_ms:.2f} ms",
            f"{teacher.file_bytes / student.file_bytes:.1f}× smaller",
            f"{teacher.timing.undisturbed_ms / student.timing.undisturbed_ms:.1f}× faster",
            f"{student.timing.undisturbed_ms / teacher.timing.undisturbed_ms:.2f} of its latency",
            "13.7 MB", "23.4 MB", "97.43", "± 1.17", "70.14", "−0.43", "−27.72", "+0.43 points", "12.0 ms", "60.0 MB",
            "20.0 MB", "1.0 points", "~11.6 ms (derived, uncalibrated, ± 40 %)",
            "0.0312", "≤ 0.15", "≥ 0.5", "2 min 14 s", "from the cache", "4 min 08 s", "5 of 6 layers", "3 of 12, fp32",
            "544 of 1,536, int8", "dropped", "8.2 GB", "avx2, avx512_vnni", "up to 2.80 GHz", COMMAND, "ab" * 32,
            "12 rows of test also stand in train", "the samples rise by 14 %", "proved the choice optimal"):
        assert number in text, number
    assert "which is not Test Phone" in text


def test_a_busy_machine_makes_no_file_faster():
    """Calls that other programs interrupt: nearly each of the long file's, a third of the short one's."""
    evidence = build_evidence()
    student, teacher = evidence.files[0], evidence.files[1]

    def timed(file, samples):
        median = sorted(samples)[len(samples) // 2] / 1e6
        return replace(file, timing=replace(file.timing, samples_ns=samples, p50_ms=median))

    busy = replace(evidence, files=(timed(student, (1_000_000,) * 40 + (17_000_000,) * 24),
                                    timed(teacher, (3_000_000,) * 10 + (17_000_000,) * 54), *evidence.files[2:]))
    assert versus(busy, busy.files[0]).faster == 3.0


def test_page_tells_what_is_cut_what_each_length_serves_and_what_each_runtime_takes():
    text = Page(report_of("two files")).text.replace("\N{NO-BREAK SPACE}", " ")
    measured = build_evidence().files[2].timing.p50_ms
    for words in ("train 12,000 0.25 % 0.15 %", "dev 700 1.0 % 0.55 %", "test 700 none none",
                  "16 tokens 75.0 % 0.62 ms 0.71 ms", f"64 tokens 5.0 % 1.93 ms {measured:.2f} ms",
                  f"mean over the training rows 0.72 ms {0.75 * 0.71 + 0.2 * 0.93 + 0.05 * measured:.2f} ms",
                  "ONNX Runtime planned for ~11.6 ms derived, ± 40 % 2.22 ms 43.0 MB 13.4 MB 0.212 2.",
                  "LiteRT ~14.4 ms derived, ± 40 % 4.44 ms 51.2 MB 13.4 MB none fits 1.",
                  "25 of 26 products with weights are one kernel each", "30 of 36 nodes run in the XNNPACK delegate",
                  "Its 26 nodes by kind 20 DynamicQuantizeMatMul, 6 Gelu"):
        assert words in text, words
    alone = Page(report_of("one file, the target, no limits, no front")).text
    assert "not made" in alone, "no TFLite file was timed"


def test_an_older_result_has_none_of_this_and_is_read():
    import json

    value = json.loads(build_evidence().dumps())
    for name in ("cuts", "served", "runtimes", "executions", "classes", "changes"):
        del value[name]
    for file in value["files"]:
        del file["shorter"]
    older = Evidence.loads(json.dumps(value))
    assert older.cuts == older.served == older.runtimes == older.executions == older.classes == ()
    assert older.changes is None and older.files[0].shorter == ()
    titles = re.findall(r"<h2>(.*?)</h2>", render_report(older, build_plan(), build_profile()))
    assert not any("How long" in title or "runtimes" in title for title in titles)
    assert "seq_64" not in (text := render_bundle_readme(older, build_plan(), None, COMMAND)) and "16, 24, 64" in text


def test_page_keeps_the_order_of_its_sections():
    html = report_of("two files")
    titles = re.findall(r"<h2>(.*?)</h2>", html)
    words = ("Budget", "How long", "runtimes", "Accuracy", "front", "layer", "Latency", "Proof", "time", "Examples",
             "machine", "Warnings",
             "again")
    assert len(titles) == len(words) and all(word in title for word, title in zip(words, titles))


def test_texts_are_escaped_and_long_ones_cut():
    html = render_report(build_evidence(), build_plan(), build_profile(), EVIL)
    assert EVIL not in html and "<script" not in html and "<i>Evil</i>" not in html and "<artist>" not in html
    page = Page(html)
    assert page.text.count("<script>alert('x')</script>") == 4  # an example, a lapse, the detail of a check, the command
    assert "a" * 281 not in html and "… (5,000 characters)" in page.text


def test_pictures_escape_file_names():
    files = build_files(("onnx",))
    evil = FileEvidence(**{**files[0].__dict__, "name": "<script>x</script>.onnx"})
    html = render_report(build_evidence((evil, files[1])), build_plan(), None)
    assert "<script" not in html and Page(html)


def test_host_that_is_the_target_answers_the_budget():
    tight = Budget(max_latency_ms=1.0, max_memory_mb=500.0)
    evidence = build_evidence(build_files(("onnx",)), host_is_target=True)
    rows = {row.name: row for row in budget_rows(evidence, build_plan(budget=tight))}
    assert [fits for _, _, fits in rows["latency, p90"].measured] == [False]
    assert [fits for _, _, fits in rows["peak memory"].measured] == [True]
    assert rows["file size"].limit == "no limit" and rows["file size"].measured[0][2] is None
    html = render_report(evidence, build_plan(budget=tight), build_profile())
    assert "over budget" in Page(html).text and "on the target itself" in Page(html).text


NONE, WIDE, TIGHT = Budget(), Budget(max_latency_ms=20.0, percentile="p90"), Budget(max_latency_ms=12.0)
"""No limit; one that the estimate of 11.58 ms, ± 40 %, keeps at either end of its error; one that it keeps in between."""


@pytest.mark.parametrize(("budget", "timed", "fits", "sure", "title", "said"), [
    (NONE, (), None, True, "No limit was set for Phone", ""),
    (WIDE, (), True, True, "Fits Phone", "p90 latency: 11.6 ms of 20.0 ms, 42 % to spare (derived estimate, ± 40 %)"),
    (TIGHT, (), True, False, "Should fit Phone, but only a timing there can tell", "11.6 ms of 12.0 ms, 4 % to spare"),
    (Budget(max_latency_ms=10.0), (), False, False, "May not fit Phone", "16 % too much"),
    (Budget(max_latency_ms=5.0), (), False, True, "Does not fit Phone", "132 % too much"),
    (TIGHT, (("p90_ms", 11.0),), True, True, "Fits Phone", "11.0 ms of 12.0 ms, 8 % to spare (measured on adb:1)"),
    (TIGHT, (("p90_ms", 13.0),), False, True, "Does not fit Phone", "measured on adb:1"),
    (TIGHT, (("p90_ms", 13.0), ("doubts", ("hot",))), True, False, "Should fit", "derived estimate"),
    (Budget(percentile="p50", max_latency_ms=10.0), (("p90_ms", 13.0),), True, True, "Fits", "9.00 ms of 10.0 ms"),
    (Budget(max_memory_mb=60.0), (), True, False, "Should fit", "memory: 43.0 MB of 60.0 MB, 28 % to spare (estimate)"),
    (Budget(max_memory_mb=60.0), (("memory_mb", 61.0),), False, True, "Does not fit", "61.0 MB of 60.0 MB, 2 % too much"),
    (Budget(max_size_mb=20.0), (), True, True, "Fits", "file size: 13.7 MB of 20.0 MB, 32 % to spare"),
    (Budget(max_size_mb=20.0, max_latency_ms=5.0), (), False, True, "Does not fit", "file size"),
    (Budget(max_drop=1.0), (), True, True, "Fits", "0.43 points below the teacher on 700 rows of the dev split, 1.00"),
    (Budget(max_drop=0.0), (), False, True, "Does not fit", "0.00 below it allowed")])
def test_the_verdict_says_whether_by_how_much_and_how_sure(budget, timed, fits, sure, title, said):
    there = [There("model_mixed.onnx", "adb:1", 9.0, 9.5, None)._replace(**dict(timed))] if timed else []
    found = verdict(build_evidence(), build_plan(budget=budget), "Phone", there)
    assert (found.fits, found.sure) == (fits, sure) and found.title.startswith(title), found
    assert said in "; ".join(found.limits).replace("\N{NO-BREAK SPACE}", " "), found.limits


def test_what_was_timed_on_the_target_stands_beside_the_budget():
    there = (There("model_mixed.onnx", "adb:1", 9.0, 13.0, 51.0),
             There("model_mixed.tflite", "adb:1", 8.0, 9.0, None, ("hot",)))
    rows = {row.name: row for row in budget_rows(build_evidence(), build_plan(), there)}
    assert rows["latency, p90"].measured[:2] == (("13.0 ms", "model_mixed.onnx on adb:1", False),
                                                 ("9.00 ms", "model_mixed.tflite on adb:1", None))
    assert rows["peak memory"].measured[0] == ("51.0 MB", "model_mixed.onnx on adb:1", True)
    text = Page(render_report(build_evidence(), build_plan(), build_profile(), COMMAND, there)).text
    assert text.index("Does not fit Test Phone") < text.index("Budget, estimate")
    assert "hot model_mixed.tflite on adb:1" in text


@pytest.mark.parametrize("runtime", ["onnx", "tflite"])
def test_the_parts_of_an_estimate_add_up_to_it(runtime):
    device = load_profile("pixel6")
    plan = priced(replace(build_plan(), runtime=runtime), device)
    parts = breakdown(plan, device)
    assert [part.name for part in parts] == ["embedding", "attention", "FFN", "classifier", "runtime and activations"]
    for name, whole in (("latency_ms", plan.estimate.latency_ms), ("memory_mb", plan.estimate.memory_mb),
                        ("file_mb", plan.estimate.file_bytes / 1e6)):
        shares = [getattr(part, name) for part in parts]
        assert sum(shares) == pytest.approx(whole) and min(shares) >= 0, name
    wider = replace(plan, source=replace(SOURCE, vocab=60000))
    assert breakdown(wider, device) == () == breakdown(plan, None), "not what the plan was priced with"
    quicker = replace(device, rows=tuple(replace(row, ns_per_mac=row.ns_per_mac / 2) for row in device.rows))
    assert breakdown(plan, quicker) == ()


def test_the_page_shows_where_the_file_is_worse_than_the_teacher():
    text = Page(report_of("two files")).text.replace("\N{NO-BREAK SPACE}", " ")
    for words in ("Of 700 test rows, model_mixed.onnx has 14 wrong that the teacher had right, and 9 right that the "
                  "teacher had wrong. Shown are the first 2.", "is it raining " + "b" * 280, "Intent002 Intent003",
                  "Intent000 100 99 90 83 to 94 %"):
        assert words in text, words
    numbers = Page(report_of("a device whose cost rows are known, numbers")).text
    assert "is further from the truth than the teacher on 14 and nearer to it on 9" in numbers
    assert "worst classes" not in numbers and "Where latency, memory and bytes go on Google Pixel 6" in numbers


def test_other_host_answers_only_size_and_accuracy():
    rows = budget_rows(build_evidence(), build_plan())
    assert [[fits for _, _, fits in row.measured] for row in rows] == [[None, None], [None, None], [True, True], [True]]
    assert [row.estimate_fits for row in rows] == [True, True, True, None]


def test_each_file_is_compared_with_its_own_kind():
    evidence = build_evidence(build_files(both_precisions=True))
    for file in (f for f in evidence.files if f.role == "student"):
        assert versus(evidence, file).teacher.format == file.format
    best = primary(evidence, build_plan())
    assert (best.file.format, best.file.precision) == ("onnx", "mixed")


@pytest.mark.parametrize(("points", "size", "words"), [
    (97.86, 13_650_112, "level with the teacher on the test split"),
    (98.86, 13_650_112, "1.0 points above the teacher on the test split"),
    (97.43, 46_831_804, "2.0× larger, "),
    (97.43, 23_415_902, "no smaller, ")])
def test_headline_is_honest(points, size, words):
    student, teacher = build_files(("onnx",))
    student = FileEvidence(**{**student.__dict__, "file_bytes": size, "test": Score(points, 1.0, 700)})
    evidence = build_evidence((student, teacher))
    assert words in headline(primary(evidence, build_plan()), "this machine")


def test_headline_compares_with_the_teachers_file_where_that_was_scored():
    student, teacher = build_files(("onnx",))
    teacher = FileEvidence(**{**teacher.__dict__, "test": Score(97.93, 1.0, 700)})
    best = primary(build_evidence((student, teacher)), build_plan())
    assert headline(best, "this machine").endswith("file on this machine, 0.5 points below it on the test split")


def test_evidence_from_a_file_gives_the_same_page():
    evidence, plan, profile = CASES["two files"]()
    again = Evidence.loads(evidence.dumps()), CompressionPlan.loads(plan.dumps())
    assert render_report(*again, profile, COMMAND) == report_of("two files")


def test_text_colours_have_contrast():
    """WCAG 2.1, success criterion 1.4.3: 4.5 to 1."""
    from edgebert.charts import PALETTE

    def luminance(colour: str) -> float:
        parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear))

    for mode in (0, 1):
        for role in ("ink", "muted", "accent", "warn"):
            for ground in ("surface", "panel"):
                light, dark = sorted((luminance(PALETTE[role][mode]), luminance(PALETTE[ground][mode])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (role, ground, mode)


@pytest.mark.parametrize("formats", [("onnx",), ("tflite",), ("onnx", "tflite")])
def test_readme_has_code_for_the_files_that_are_there(formats):
    text = render_bundle_readme(build_evidence(build_files(formats)), build_plan(), build_profile(), COMMAND)
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.S | re.M)
    assert len(blocks) == len(formats)
    for block in blocks:
        compile(block, "README.md", "exec")
    for form, runtimes in {"onnx": ("onnxruntime-android", "onnxruntime_objc", "import onnxruntime"),
                           "tflite": ("ai.edge.litert:litert", "TensorFlowLite", "ai_edge_litert")}.items():
        for runtime in runtimes:
            assert (runtime in text) == (form in formats)
        assert (f"bench.pyz model_mixed.{form}" in text) == (form in formats)
    assert text.count("```") % 2 == 0 and COMMAND in text and "edgebert verify" in text
    assert ("`seq_<L>`: 16, 24, 64" in text) == ("tflite" in formats)
    assert "Of train 0.25" in text and "~3.33 ms" in text
    for number in ("97.43 +/- 1.17", "~11.6 ms", "derived, uncalibrated, +/- 40 %", "which is not the target"):
        assert number in text


def test_readme_fences_cannot_be_closed_from_outside():
    from dataclasses import replace

    nasty = "x\n```\n# not a heading | <b> \U0001f600"
    examples = (Example(nasty, None, "a"),)
    evidence = replace(build_evidence(examples=examples), task="a`b|c", host={"cpu_model": "one | two"})
    text = render_bundle_readme(evidence, build_plan(), None, nasty)
    assert text.startswith("# ``") and "`one \\| two`" in text
    outside = re.sub(r"^(`{3,})[^`\n]*\n.*?^\1$", "", text, flags=re.S | re.M)
    assert "not a heading" not in outside
    code = re.findall(r"^```python\n(.*?)^```$", text, re.S | re.M)
    assert code and all(repr(nasty) in block for block in code)


def test_model_card_is_one_that_hugging_face_reads():
    from huggingface_hub import ModelCard

    evidence = build_evidence()
    card = ModelCard(render_model_card(evidence, build_plan(), build_profile()))
    assert card.data.library_name == "edgebert" and card.data.pipeline_tag == "text-classification"
    assert {"onnx", "tflite"} <= set(card.data.tags) and "license" not in card.data.to_dict()
    results = card.data.eval_results
    assert [(r.metric_type, r.metric_value) for r in results] == [
        ("accuracy", 0.9743), ("accuracy", 0.9743), ("accuracy", 0.9757)]
    for words in ("DynaBERT", "Kwon", "Hinton", "which is not the target", "derived", "97.43 +/- 1.17"):
        assert words in card.text
