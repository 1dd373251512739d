"""The documents stay true: commands exist, links lead somewhere, exit codes and snippets match the code."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md",
         *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for text in re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
            found.append((page.name, text))
    return found


def commands(start: str) -> list[tuple[str, list[str]]]:
    found = []
    for page, text in blocks("bash"):
        for line in text.replace("\\\n", " ").splitlines():
            for part in line.split("#")[0].split("&&"):
                words = shlex.split(part)
                if words[:1] == [start]:
                    found.append((page, words))
    return found


@pytest.mark.parametrize(("page", "words"), commands("edgebert"), ids=lambda v: v if isinstance(v, str) else " ".join(v))
def test_every_edgebert_command_in_the_docs_parses(page, words, tmp_path, monkeypatch):
    """Each command is parsed by the real parser; none is run here."""
    import typer

    from edgebert.cli import app

    monkeypatch.chdir(tmp_path)
    Path("edgebert.toml").touch()  # --config is read while the command is parsed

    group = typer.main.get_command(app)
    if words[1:] in ([], ["--help"]):
        return
    context = group.make_context("edgebert", words[1:], resilient_parsing=False)
    command = group.commands[words[1]]
    with contextlib.suppress(typer.Exit):  # --help prints and exits
        command.make_context(words[1], words[2:], parent=context)


@pytest.mark.parametrize(("page", "words"), commands("make"), ids=lambda v: v if isinstance(v, str) else " ".join(v))
def test_every_make_target_in_the_docs_exists(page, words):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert set(words[1:]) <= set(targets)


@pytest.mark.parametrize("words", [w for _, w in commands("python") if w[1].startswith("examples/")],
                         ids=" ".join)
def test_every_example_in_the_docs_answers_help(words):
    done = subprocess.run([sys.executable, str(ROOT / words[1]), "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_dry_run_of_the_readme_runs_as_written():
    for _page, words in commands("edgebert"):
        if "--dry-run" in words and "--config" not in words:  # its file is made by the line before it
            done = subprocess.run([sys.executable, "-c", "from edgebert.cli import main; main()", *words[1:]],
                                  capture_output=True, text=True, cwd=ROOT)
            assert done.returncode == 0, (words, done.stderr)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files_that_exist(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links, as GitHub and the site make it."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    heads = [re.sub(r"[`*]", "", head).lower() for head in re.findall(r"^#+ +(.+?) *$", text, re.M)]
    return {re.sub(r"[^\w\- ]", "", head).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_into_a_page_lead_to_its_headings(page):
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]*)\)", page.read_text(encoding="utf-8")):
        there = page.parent / target if target else page
        assert anchor in anchors(there), f"{page.name}: {target}#{anchor} is no heading there"


def test_python_snippets_compile_and_use_the_public_api():
    import edgebert

    for page, text in blocks("python"):
        compile(text, page, "exec")
        for name in re.findall(r"\bedgebert\.(\w+)\(", text):
            assert name in edgebert.__all__, f"{page} uses edgebert.{name}"


def test_public_names_all_resolve():
    import edgebert

    for name in edgebert.__all__:
        assert getattr(edgebert, name) is not None


def test_exit_codes_in_the_readme_are_the_code_s():
    from edgebert import errors
    from edgebert.bundle import BrokenBundle
    from edgebert.searching import Infeasible
    from exporters.parity import ParityError

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for kind, code in ((errors.UsageError, 2), (Infeasible, 3), (ParityError, 4), (BrokenBundle, 4),
                       (errors.AccuracyError, 5), (errors.DeviceError, 6), (errors.OverBudgetError, 7)):
        assert kind.exit_code == code
        assert re.search(rf"^\| {code} \|", text, re.M), f"exit code {code} is not in the README"
