"""The command line in a shell, a pipe and a terminal: completion, help, colours, bars, widths."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from edgebert.cli import app
from tests.test_cli import ROOT, RUN, edgebert

ESCAPE = "\x1b["
GROUP = typer.main.get_command(app)


def commands(group=GROUP, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], object]]:
    found = []
    for name, command in group.commands.items():
        found.append(((*path, name), command))
        if hasattr(command, "commands"):
            found += commands(command, (*path, name))
    return found


@pytest.mark.parametrize(("path", "command"), commands(), ids=lambda one: " ".join(one) if isinstance(one, tuple) else "")
def test_every_command_has_help_with_an_example_and_words_for_every_flag(path, command):
    assert f"edgebert {' '.join(path)}" in command.epilog.split("Example", 1)[1]
    assert command.help and command.rich_help_panel if len(path) == 1 else command.help
    for one in command.params:
        assert one.help or one.name in ("seed", "context"), one.name
    shown = [one.rich_help_panel for one in command.params if one.param_type_name == "option"]
    assert len(shown) < 9 or len(set(shown)) > 1, "many flags in one heap"


def words_for(completed: str, position: int) -> list[str]:
    """What bash is offered for the last word."""
    program = Path(sys.executable).parent / "edgebert"
    env = {**os.environ, "_EDGEBERT_COMPLETE": "complete_bash", "COMP_WORDS": completed, "COMP_CWORD": str(position)}
    return subprocess.run([program], capture_output=True, text=True, env=env, check=True).stdout.split()


def test_the_shell_completes_commands_flags_and_devices():
    assert words_for("edgebert fit", 1) == ["fit-device"]
    assert {"--max-latency", "--max-memory", "--max-size", "--max-drop"} <= set(words_for("edgebert fit-device --max", 2))
    assert "pixel6" in words_for("edgebert fit-device --profile pix", 3)
    assert words_for("edgebert fit-device --effort th", 3) == ["thorough"]


@pytest.mark.parametrize(("shell", "file"), [("bash", ".bashrc"), ("zsh", ".zfunc/_edgebert"),
                                             ("fish", ".config/fish/completions/edgebert.fish")])
def test_completion_installs_itself_and_shows_its_script(shell, file, tmp_path):
    program = Path(sys.executable).parent / "edgebert"
    # The shell is named, since that of this process is whatever started the tests.
    env = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run([program, "--install-completion", shell], capture_output=True, text=True, env=env)
    assert done.returncode == 0 and "installed" in done.stdout, done.stderr
    assert "edgebert" in (tmp_path / file).read_text()
    shown = subprocess.run([program, "--show-completion", shell], capture_output=True, text=True, env=env)
    assert shown.returncode == 0 and "_EDGEBERT_COMPLETE" in shown.stdout


PLAIN = (("--help",), ("profiles",), ("profiles", "show", "pixel6"), ("fit-device", "--profile", "pixel6", "--dry-run"),
         ("fit-device", "--effort", "high"))


@pytest.mark.parametrize("words", PLAIN, ids=" ".join)
def test_a_pipe_gets_no_colour_codes(words):
    done = edgebert(*words, TERM="xterm-256color")
    assert ESCAPE not in done.stdout + done.stderr and (done.stdout or done.stderr)


def in_terminal(*words: str, **environment: str) -> str:
    """What the command writes to a terminal of 100 columns."""
    import pty

    ours, theirs = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "TERM": "xterm-256color", **environment}
    env = {name: value for name, value in env.items() if name != "NO_COLOR" or "NO_COLOR" in environment}
    process = subprocess.Popen([*RUN, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=ROOT)
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        written += part
    process.wait(timeout=60)
    os.close(ours)
    return written.decode("utf-8", "replace")


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are not on Windows")
def test_a_terminal_gets_colours_unless_it_asks_for_none():
    assert ESCAPE in in_terminal("profiles", "--help")
    plain = in_terminal("profiles", "--help", NO_COLOR="1")
    assert "\x1b[3" not in plain and "\x1b[1;3" not in plain, "bold is no colour"


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are not on Windows")
def test_a_bar_is_for_terminals_alone():
    words = ("front", "--profile", "pixel6", "--points", "2", "--runtime", "onnx", "--json")
    assert "━" in in_terminal(*words)
    done = edgebert(*words, TERM="xterm-256color")
    assert "━" not in done.stderr and "done in" in done.stderr
    assert all(json.loads(line) for line in done.stdout.splitlines())


def test_the_width_is_that_of_columns_and_nothing_is_cut_off():
    for columns in ("72", "200"):
        shown = edgebert("profiles", COLUMNS=columns).stdout
        assert max(map(len, shown.splitlines())) <= int(columns)
        assert "raspberry-pi-4" in shown and "…" not in shown


def test_a_stream_that_is_not_utf_8_gets_plain_lines():
    done = edgebert("profiles", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0 and "pixel6" in done.stdout and done.stdout.isascii()


def test_a_reader_that_goes_away_is_no_error():
    """As `edgebert profiles --json | head -1` does."""
    process = subprocess.Popen([*RUN, "profiles", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
                               env={**os.environ, "PYTHONPATH": str(ROOT)})
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read().decode()
    process.wait(timeout=60)
    assert "Traceback" not in said, said
