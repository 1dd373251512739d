"""Bundles read back and put side by side, over made-up evidence: no number here was measured."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from edgebert.bundle import BrokenBundle, file_sha256, write_manifest
from edgebert.device import Budget, load_profile
from edgebert.errors import UsageError
from edgebert.evidence import Evidence
from edgebert.plan import CompressionPlan
from edgebert.side_by_side import ACCURACY, SPEED, differences, render_comparison, sides_of, spoilt
from edgebert.stored import Stored, read_stored, timed_there
from tests.bench_material import phone_tree, sound_result
from tests.test_cli import edgebert
from tests.test_report import EVIL, Page, build_evidence, build_files, build_plan, priced

GENEROUS = Budget(60.0, "p90", 150.0, 40.0, 1.0)
FACTS = {"command": "edgebert fit-device --profile pixel6", "seed": 0, "profile": "pixel6", "task": "made-up-intents",
         "checkpoint_sha256": "ab" * 32, "data_sha256": "cd" * 32}


def write(folder: Path, evidence: Evidence | None = None, plan: CompressionPlan | None = None, **facts) -> Path:
    """A bundle of what a report is made from."""
    folder.mkdir(parents=True)
    plan = plan or priced(build_plan(budget=GENEROUS), load_profile("pixel6"))
    plan = replace(plan, provenance={**plan.provenance, "tables_sha256": "ef" * 32})
    (folder / "results.json").write_text((evidence or build_evidence()).dumps())
    (folder / "plan.json").write_text(plan.dumps())
    (folder / "model_mixed.onnx").write_bytes(b"weights of " + folder.name.encode())
    write_manifest(folder, {**FACTS, **facts})
    return folder


def three_bundles(root: Path) -> tuple[Stored, ...]:
    """Two for different devices, and one of other data with another seed, whose profile is not known."""
    other = build_evidence(build_files(("onnx",)), labels=150, host_is_target=True)
    return tuple(read_stored(folder) for folder in (
        write(root / "a"), write(root / "b", plan=priced(build_plan((1, 2), GENEROUS), load_profile("raspberry-pi-4"))),
        write(root / "nested" / "a", replace(other, task=EVIL), build_plan(budget=Budget(max_latency_ms=1.0)), seed=5,
              data_sha256="99" * 32)))


def test_a_page_on_three_bundles_is_whole_and_loads_nothing(tmp_path):
    html = render_comparison(three_bundles(tmp_path), "edgebert report a b nested/a --compare")
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "img", "image", "use")
        assert not any(name in ("href", "src") for name in attributes)
    assert "url(" not in html and "@import" not in html and EVIL not in html and "<script" not in html
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    for words in ("3 bundles: 2 should fit, 1 does not fit", "C nested/a Does not fit test-phone",
                  "Raspberry Pi 4 Model B", "97.43 ± 1.17", "0.38 of the teacher’s", "14, 9", "4 of 5", "not timed",
                  "not comparable: other data", "cdcdcdcdcdcd…", "accuracy not comparable", "edgebert fit-device",
                  "edgebert report a b nested/a --compare", "the distance to each bundle’s own teacher"):
        assert words in text, words
    pictures = re.findall(r"<svg.*?</svg>", html, re.S)
    assert len(pictures) == 2 * (1 + 1 + 3), "the bundles, their fronts, three models"
    labels = [re.search(r'aria-label="([^"]*)"', picture)[1] for picture in pictures]
    assert sum(label.startswith("A: layer 0 ") for label in labels) == 2 and "C: 11.6 ms, 0.43 ± 1.17" not in labels[0]


def test_figures_are_those_of_each_bundle(tmp_path):
    first, second, third = sides_of(three_bundles(tmp_path))
    assert (first.letter, second.letter, third.letter) == ("A", "B", "C")
    assert [side.name for side in (first, second, third)] == [f"{tmp_path.name}/a", "b", "nested/a"]
    assert first.points == (97.43, 1.17) and first.drop == pytest.approx(97.86 - 97.43) and first.checks == (4, 5)
    assert third.stored.profile is None and third.judged.sure and "Pixel 6" in first.stored.device


CHANGES = {
    "data": (dict(data_sha256="9" * 64), ACCURACY, "not comparable: other data"),
    "metric": (dict(evidence=replace(build_evidence(), metric="macro_f1")), ACCURACY, "not comparable: other metric"),
    "teacher": (dict(checkpoint_sha256="9" * 64), ACCURACY, "not like for like: other teacher"),
    "seed": (dict(seed=3), ACCURACY, "not like for like: other seed"),
    "criterion": (dict(plan=replace(build_plan(), provenance={"criterion": "obs", "model_sha256": "ab" * 32})),
                  ACCURACY, ""),
    "machine of the timings": (dict(evidence=replace(build_evidence(), host={"cpu_model": "other"})), SPEED,
                               "not comparable: other machine of the timings"),
    "tokens of the timings": (dict(evidence=replace(build_evidence(), length=32)), SPEED,
                              "not comparable: other tokens of the timings")}


@pytest.mark.parametrize("name", CHANGES)
def test_what_differs_is_called_out_and_says_what_it_spoils(tmp_path, name):
    changed, kind, said = CHANGES[name]
    pair = [read_stored(write(tmp_path / "a", plan=build_plan())),
            read_stored(write(tmp_path / "b", **{"plan": build_plan(), **changed}))]
    found = differences(pair)
    assert [one.name for one in found] == [name] and len(set(found[0].values)) == 2
    assert spoilt(found, kind) == said and spoilt(found, SPEED if kind == ACCURACY else ACCURACY) == ""


def test_other_versions_blur_the_accuracy(tmp_path):
    pair = [read_stored(write(tmp_path / name, versions_unused=0)) for name in "ab"]
    assert differences(pair) == () and "The same data, teacher, seed and versions." in render_comparison(pair, "x")
    pair[1].manifest["versions"] = {**pair[1].manifest["versions"], "torch": "1.0"}
    found = differences(pair)
    assert [one.name for one in found] == ["torch"] and spoilt(found, ACCURACY) == "not like for like: other torch"


def test_fronts_are_drawn_together_only_by_the_same_tables(tmp_path):
    pair = [read_stored(write(tmp_path / name)) for name in "ab"]
    assert "Not drawn" not in (page := render_comparison(pair, "x")) and "A, B" in page, "both chose the same plan"
    pair[1].plan.provenance["tables_sha256"] = "0" * 64
    assert "Not drawn" in render_comparison(pair, "x")


def test_records_of_the_target_are_taken_by_what_was_timed(tmp_path):
    record = sound_result(phone_tree(tmp_path / "phone"))
    folder = write(tmp_path / "a")
    own = replace(record, sha256=file_sha256(folder / "model_mixed.onnx"))
    (tmp_path / "a.measured.jsonl").write_text(own.to_json() + "\n" + record.to_json() + "\n")
    found = read_stored(folder)
    assert [(t.name, t.p50_ms) for t in found.there] == [("model_mixed.onnx", own.latency_ms(50))]
    (tmp_path / "bad.jsonl").write_text(own.to_json() + "\n{}\n")
    with pytest.raises(UsageError, match=r"bad.jsonl, line 2: no record"):
        timed_there(found.manifest, [tmp_path / "bad.jsonl"])
    with pytest.raises(UsageError, match="cannot be read"):
        read_stored(folder, [tmp_path / "none.jsonl"])


def damaged(folder: Path, how: str) -> None:
    if how == "changed":
        (folder / "model_mixed.onnx").write_bytes(b"other")
        return
    name = "plan.json" if how == "plan" else "results.json"
    value = json.loads((folder / name).read_text())
    if how == "older":
        value["schema"] = 1
    elif how == "no student":
        value["models"] = value["models"][:1]
    else:
        del value["files" if how == "damaged" else "layers"]
    (folder / name).write_text(json.dumps(value))
    write_manifest(folder, FACTS)


@pytest.mark.parametrize(("how", "said"), [
    ("changed", "sha256 differs"), ("older", "another schema"), ("damaged", "'files'"), ("plan", "layers is missing"),
    ("no student", "no student")])
def test_a_bundle_that_is_broken_or_older_is_one_line(tmp_path, how, said):
    folder = write(tmp_path / "a")
    damaged(folder, how)
    with pytest.raises(BrokenBundle, match=said) as caught:
        read_stored(folder)
    assert caught.value.exit_code == 4 and "\n" not in str(caught.value)


def test_the_command_writes_one_page(tmp_path):
    a, b = write(tmp_path / "a"), write(tmp_path / "b", seed=1)
    before = {path.name: path.read_bytes() for path in a.iterdir()}
    done = edgebert("report", a, "--out", tmp_path / "one.html")
    assert done.returncode == 0 and "Should fit" in (tmp_path / "one.html").read_text(), done.stderr
    done = edgebert("report", a, b, "--compare", "--out", tmp_path / "two.html")
    assert done.returncode == 0 and "2 bundles" in (tmp_path / "two.html").read_text(), done.stderr
    assert before == {path.name: path.read_bytes() for path in a.iterdir()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "one.html", "two.html"]
    for asked, code, said in (((a, b), 2, "pass --compare"), ((a, "--compare"), 2, "two or more"),
                              ((a, "--out", a / "report.html"), 2, "lies in a bundle"),
                              ((tmp_path,), 2, "is not a bundle"),
                              ((a, "--out", tmp_path / "one.html"), 2, "pass --overwrite")):
        done = edgebert("report", *asked)
        assert done.returncode == code and said in " ".join(done.stderr.split()), done.stderr
    damaged(b, "older")
    done = edgebert("report", a, b, "--compare", "--out", tmp_path / "two.html", "--overwrite")
    assert done.returncode == 4 and "another schema" in done.stderr and "2 bundles" in (tmp_path / "two.html").read_text()
