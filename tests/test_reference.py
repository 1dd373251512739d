"""docs/reference says what the code says, and its schemas tell right files from wrong ones, as the readers do."""

from __future__ import annotations

import copy
import glob
import importlib.util
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.docs_material import code_of, edgebert, make_place

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = ROOT / "docs" / "reference" / "schemas"


def test_it_is_what_the_code_says():
    done = subprocess.run([sys.executable, ROOT / "examples" / "make_reference.py", "--check"], capture_output=True,
                          text=True)
    assert done.returncode == 0, f"{done.stdout}`python examples/make_reference.py` writes it anew\n{done.stderr[-500:]}"


def test_every_name_and_command_has_words_of_its_own():
    from edgebert import __all__

    page = (ROOT / "docs/reference/python.md").read_text(encoding="utf-8")
    for name in __all__[1:]:
        body = page.split(f"\n## {name}\n", 1)[1].split("\n## ", 1)[0]
        assert len(body.split("```")[-1].split()) > 3, f"{name} has no docstring"
    commands = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8").split("\n## edgebert ")[1:]
    assert len(commands) > 15 and all("[OPTIONS]" in one for one in commands)


@dataclass(frozen=True)
class Case:
    """How a wrong file is made from a right one, and what reads it. wrong: (what, change of the value)."""

    schema: str
    wrong: tuple[tuple[str, Callable[[Any], object]], ...]
    read: Callable[[Any, Path], object]


def put(*path: Any) -> Callable[[Any], object]:
    """A change that puts path's last entry where the others lead."""
    *way, key, value = path

    def change(whole: Any) -> None:
        for step in way:
            whole = whole[step]
        whole[key] = value

    return change


def drop(key: str) -> Callable[[Any], object]:
    return lambda whole: whole.pop(key)


def read_plan(value: Any, folder: Path) -> object:
    from edgebert import CompressionPlan

    return CompressionPlan.loads(json.dumps(value))


def read_tables(value: Any, folder: Path) -> object:
    from edgebert import ErrorTables

    return ErrorTables.loads(json.dumps(value))


def read_results(value: Any, folder: Path) -> object:
    from edgebert.evidence import Evidence

    return Evidence.loads(json.dumps(value))


def read_manifest(value: Any, folder: Path) -> object:
    from edgebert.bundle import read_manifest

    (folder / "manifest.json").write_text(json.dumps(value), encoding="utf-8")
    return read_manifest(folder)


def read_record(value: Any, folder: Path) -> object:
    from device_bench.result import BenchResult

    return BenchResult.from_dict(value)


CASES = {
    "plan": Case("plan", (("unknown key", put("speed", 1)), ("no budget", drop("budget")), ("text for a number", put(
        "threads", "one")), ("ranges that are none", put("layers", 0, "kept_heads", "all")), ("another runtime", put(
            "runtime", "tvm")), ("another schema", put("schema", 99))), read_plan),
    "tables": Case("tables", (("no layers", drop("layers")), ("a word for an error", put("layers", 0, "drop", "much")),
                              ("another schema", put("schema", 99)), ("no heads", put("layers", 0, "heads", "2", "x"))),
                   read_tables),
    "results": Case("results", (("no models", drop("models")), ("another schema", put("schema", 99)), (
        "unknown key of a file", put("files", 0, "colour", "red")), ("no samples", put("files", 0, "timing", {}))),
        read_results),
    "manifest": Case("manifest", (("no files", drop("files")), ("another schema", put("schema", 99)), (
        "bytes as text", put("files", "plan.json", "bytes", "12"))), read_manifest),
    "record": Case("record", (("no samples", drop("samples_ns")), ("a clock nobody has", put("clock", "sun")), (
        "a hash that is none", put("sha256", "abc")), ("text for a number", put("threads", "one"))), read_record),
}


def validator(name: str) -> Draft202012Validator:
    schema = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.fixture(scope="module")
def place(tmp_path_factory, bert_folder) -> Path:
    """A folder with a toy bundle, and a record that bench made of it."""
    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_place(folder, bert_folder)
        done = edgebert("bench", "edgebert-bundle", "--runs", "12", "--out", "records.jsonl")
        assert code_of(done) == 0, done.output
    return folder


@pytest.fixture(scope="module")
def files(place) -> dict[str, Any]:
    """One real file of each kind."""
    bundle = place / "edgebert-bundle"
    found = {name: json.loads((bundle / f"{name}.json").read_text(encoding="utf-8"))
             for name in ("plan", "tables", "results", "manifest")}
    return {**found, "record": json.loads((place / "records.jsonl").read_text(encoding="utf-8").splitlines()[0])}


OUTPUTS = {
    "inspect": ("inspect edgebert-bundle --length 16", "inspect my-bert --length 16",
                "inspect edgebert-bundle/model_*.onnx"),
    "verify": ("verify edgebert-bundle",),
    "compare": ("compare edgebert-bundle edgebert-bundle --runs 12",),
    "front": ("front --profile pixel6 --points 2 --runtime onnx",),
    "explain": ("explain edgebert-bundle",),
    "export": ("export my-bert --runtime onnx --precision int8 --length 16 --out exported",),
    "calibrate": ("calibrate --profile pixel6 --from sweep.jsonl --out pixel6.toml",),
    "reproduce": ("reproduce edgebert-bundle",),
    "push": ("push edgebert-bundle me/tiny",),
    "doctor": ("doctor",),
    "profiles": ("profiles",),
}
"""Schema -> commands whose --json fits it."""


@pytest.mark.parametrize(("name", "line"), [(name, line) for name, lines in OUTPUTS.items() for line in lines])
def test_what_a_command_prints_fits_its_schema(name, line, place, monkeypatch):
    from edgebert import hub, reproducing
    from tests.test_calibrating import sweep_of, write

    monkeypatch.chdir(place)
    if name == "calibrate":
        write(place / "sweep.jsonl", sweep_of())
    # A whole run, whose comparison tests/test_reproducing.py makes for real; here only what is printed of it.
    monkeypatch.setattr(reproducing, "reproduce", lambda folder, again: reproducing.Reproduction(
        folder, ("fit-device", "--out", "made"), ("plan.json",), ("torch 1 then, 2 now",)))
    # tests/test_hub.py pushes to a server.
    monkeypatch.setattr(hub, "push", lambda folder, repo, *how: hub.Pushed(repo, "https://x", True, ("plan.json",)))
    words = [found for word in line.split() for found in (sorted(glob.glob(word)) or [word])]
    done = edgebert(*words, "--json")
    assert code_of(done) in (0, 1) if name == "doctor" else code_of(done) == 0, (done.output, done.exception)
    printed = done.stdout.splitlines() if name in ("compare", "front") else [done.stdout]
    assert printed
    for text in printed:
        assert [error.message for error in validator(name).iter_errors(json.loads(text))] == []
    value = json.loads(printed[0])
    value = value[0] if isinstance(value, list) else value
    value[next(iter(value))] = object
    assert list(validator(name).iter_errors([value] if name == "profiles" else value)), "the schema takes anything"


def test_every_command_with_json_has_a_schema_and_every_schema_a_test():
    import typer

    from edgebert.cli import app

    commands = typer.main.get_command(app).commands
    takes = {name for name, command in commands.items() if any("--json" in one.opts for one in command.params)}
    files = {"fit-device", "build", "bench", "bench-native", "train-elastic", "compress"}  # what these print is a file
    assert takes - files == set(OUTPUTS)
    assert {path.stem for path in SCHEMAS.glob("*.json")} == set(OUTPUTS) | set(CASES) | {"profile"}


@pytest.mark.parametrize("name", CASES)
def test_a_real_file_fits_its_schema(files, name):
    assert [error.message for error in validator(name).iter_errors(files[name])] == []


@pytest.mark.parametrize(("name", "number"), [(name, i) for name, case in CASES.items() for i in range(len(case.wrong))],
                         ids=lambda part: str(part))
def test_a_wrong_file_fits_neither_its_schema_nor_its_reader(files, name, number, tmp_path):
    what, change = CASES[name].wrong[number]
    value = copy.deepcopy(files[name])
    CASES[name].read(copy.deepcopy(value), tmp_path)
    change(value)
    assert list(validator(name).iter_errors(value)), f"the schema takes a {name} with {what}"
    with pytest.raises(Exception, match=r".") as refused:
        CASES[name].read(value, tmp_path)
    assert getattr(refused.value, "exit_code", 2) in (2, 4)


def test_every_profile_fits_the_schema_and_so_do_shipped_tables():
    check = validator("profile")
    for path in sorted((ROOT / "profiles").glob("*.toml")):
        assert [error.message for error in check.iter_errors(tomllib.loads(path.read_text(encoding="utf-8")))] == [], path
    for path in sorted((ROOT / "edgebert" / "demo").glob("*/tables.json")):
        tables = json.loads(path.read_text(encoding="utf-8"))
        assert [error.message for error in validator("tables").iter_errors(tables)] == [], path


@pytest.mark.parametrize(("old", "new"), [
    ('machine = "aarch64"', 'colour = "red"\nmachine = "aarch64"'), ('machine = "aarch64"', 'machine = "vax"'),
    ("ram_mb = 8192\n", ""), ('percentile = "p90"', 'percentile = "p42"'), ('1 = "0x80"', '1 = "first"'),
    ("count = 4", 'count = "four"')])
def test_a_wrong_profile_fits_neither_the_schema_nor_the_reader(old, new, tmp_path):
    from edgebert.device import read_profile
    from edgebert.errors import UsageError

    text = (ROOT / "profiles" / "pixel6.toml").read_text(encoding="utf-8")
    assert old in text
    wrong = text.replace(old, new)
    assert list(validator("profile").iter_errors(tomllib.loads(wrong)))
    (tmp_path / "pixel6.toml").write_text(wrong, encoding="utf-8")
    with pytest.raises(UsageError):
        read_profile(tmp_path / "pixel6.toml")


def test_low_rank_and_narrow_plans_fit_too():
    """What the toy bundle does not have: factored matrices, a narrower stream, words in 4 bits."""
    from dataclasses import replace

    from edgebert import Budget, load_profile
    from edgebert.demo import demo_tables
    from edgebert.searching import search
    from edgebert.tables import read_tables as load

    tables = load(demo_tables("snips"))
    layer = replace(tables.layers[0], ranks={"query": {64: 0.0}}, qk_dim={8: 0.0})
    tables = replace(tables, layers=(layer, *tables.layers[1:]), hidden={256: 0.0}, word_ranks={64: 0.0},
                     int4_embedding=0.0)
    plan = search(tables, load_profile("pixel6"), Budget(max_latency_ms=1.5, max_size_mb=6.0), "onnx", 1, 32)
    value = json.loads(plan.dumps())
    assert {"hidden", "word_rank"} & set(value)
    assert [error.message for error in validator("plan").iter_errors(value)] == []
    assert [error.message for error in validator("tables").iter_errors(json.loads(json.dumps(tables.to_json())))] == []


def test_the_pictures_of_the_concepts_are_drawn_from_the_search(tmp_path):
    spec = importlib.util.spec_from_file_location("draw_concepts", ROOT / "examples" / "draw_concepts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    drawn = module.draw(tmp_path)
    assert sorted(path.name for path in drawn) == sorted(path.name for path in (ROOT / "docs/concepts").glob("*.svg"))
    from edgebert import ErrorTables, load_profile
    from edgebert.demo import demo_tables

    tables = ErrorTables.loads(demo_tables(module.TASK).read_text(encoding="utf-8"))
    plan = module.plan_for(tables, load_profile(module.DEVICE), module.BUDGETS_MS[1])
    for layer in plan.subnet.layers:
        assert f">{layer.ffn:,}<" in (tmp_path / "elastic.svg").read_text(encoding="utf-8")
