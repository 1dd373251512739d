"""Error codes: one for each class, stable, printed with its page, and explained there."""

from __future__ import annotations

import ast
import json
import re
from importlib import import_module
from pathlib import Path

import pytest

from edgebert.errors import EdgeBertError, Interrupted, UsageError, code_of, failure, page_of
from exporters.artifact import ExportError
from exporters.parity import ParityError
from tests.test_cli import edgebert

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
CODES = {"EdgeBertError": "EB-ERROR", "Interrupted": "EB-INTERRUPTED", "UsageError": "EB-USAGE",
         "BudgetError": "EB-BUDGET", "Infeasible": "EB-BUDGET", "AccuracyError": "EB-ACCURACY",
         "DeviceError": "EB-DEVICE",
         "OverBudgetError": "EB-OVER-BUDGET", "TrainingError": "EB-TRAINING", "Unwell": "EB-UNWELL",
         "BrokenBundle": "EB-BUNDLE", "ExportError": "EB-EXPORT", "ParityError": "EB-PARITY", "Unproven": "EB-PARITY",
         "BusyError": "EB-BUSY", "NotReproduced": "EB-REPRODUCE", "RunFailed": "EB-REPRODUCE-RUN"}
"""What scripts rely on: names may be added here, none may change."""


def kinds(base: type) -> set[type]:
    return {base, *(kind for one in base.__subclasses__() for kind in kinds(one))}


def every_kind() -> set[type]:
    """All error classes with an exit code, after importing each module that defines one."""
    for path in [*(ROOT / "edgebert").rglob("*.py"), *(ROOT / "exporters").rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        defined = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        if any(ast.unparse(base).endswith(("Error", "Infeasible")) for node in defined for base in node.bases):
            import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return {kind for base in (EdgeBertError, Interrupted, ExportError, ParityError) for kind in kinds(base)
            if kind.__module__.startswith(("edgebert.", "exporters."))}


def test_every_class_has_a_code_that_is_explained_with_its_exit_code():
    found = every_kind()
    assert {"Infeasible", "Unwell", "BrokenBundle", "Unproven"} <= {kind.__name__ for kind in found}
    for kind in found:
        assert re.fullmatch(r"EB-[A-Z-]+", kind.code), kind
        entry = re.search(rf"^## {kind.code}\n\nExit code (\d+\.|of the command)", PAGE, re.M)
        assert entry and entry[1] in (f"{kind.exit_code}.", "of the command"), kind
    assert {kind.__name__: kind.code for kind in found} == CODES


def test_errors_without_a_class_of_ours_have_codes_of_the_page_too():
    from device_bench.errors import BadGolden, BadRequest, RuntimeMissing

    for error, code in ((FileNotFoundError(2, "gone", "x"), "EB-FILES"), (OSError(28, "full"), "EB-FILES"),
                        (ModuleNotFoundError("no", name="onnx"), "EB-INSTALL"), (RecursionError(), "EB-USAGE"),
                        (BadRequest("x"), "EB-USAGE"), (BadGolden("x"), "EB-BUNDLE"), (RuntimeMissing("x"), "EB-DEVICE")):
        line = failure(error)
        assert line is not None and code_of(error) == code
        assert re.search(rf"^## {code}\n\nExit code {line[1]}\.", PAGE, re.M)
    assert failure(ValueError("a bug")) is None, "what nobody expected keeps its traceback"


def test_the_page_explains_no_code_that_is_not_there():
    explained = set(re.findall(r"^## (EB-\S+)$", PAGE, re.M))
    assert explained == set(CODES.values()) | {"EB-FILES", "EB-INSTALL"}


@pytest.mark.parametrize(("words", "code", "exit_code"), [
    (("fit-device", "--task", "snip", "--dry-run"), "EB-USAGE", 2),
    (("fit-device", "-p", "pixel6", "--dry-run", "--max-latency", "0.001ms"), "EB-BUDGET", 3),
    (("bench", "docs"), "EB-USAGE", 2)])
def test_the_command_line_says_the_code_and_where_it_is_explained(words, code, exit_code):
    done = edgebert(*words)
    assert done.returncode == exit_code and done.stderr.endswith(f" [{code}, {page_of(code)}]\n")
    said = edgebert(*words, "--log-json")
    event = json.loads(said.stderr.splitlines()[-1])
    assert said.returncode == exit_code
    assert (event["event"], event["code"], event["exit_code"], event["page"]) == ("error", code, exit_code, page_of(code))
    assert done.stderr.startswith(f"edgebert: {event['text']}")


def test_a_code_is_a_word_whatever_other_libraries_call_a_code():
    class Other(Exception):
        code, exit_code = 404, 2

    assert code_of(Other()) == UsageError.code
