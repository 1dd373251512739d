"""Flags from a file: every one can be set there, one on the command line counts first, and what is wrong is one line."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from edgebert import cli_config
from edgebert.cli import app
from edgebert.config import Flag, config_text, flags_of, read_config, toml_value, written_out
from edgebert.errors import UsageError
from tests.docs_material import edgebert as in_process
from tests.test_cli import edgebert

GROUP = typer.main.get_command(app)
COMMANDS = {one.name or one.callback.__name__: flags_of(inspect.signature(one.callback, eval_str=True))
            for one in app.registered_commands}
EVERY = [(command, flag) for command, flags in COMMANDS.items() for flag in flags]


def context_of(command: str, *words: str, arguments: bool = True) -> typer.Context:
    """The command's flags as it would get them; nothing is run."""
    named = [one for one in GROUP.commands[command].params if one.param_type_name == "argument" and one.required]
    parent = GROUP.make_context("edgebert", [command, "--help"])
    return GROUP.commands[command].make_context(command, [*words, *(["x"] * len(named) if arguments else [])],
                                                parent=parent)


def needed(command: str, but: str) -> list[str]:
    """Values for the flags that a command cannot do without."""
    return [word for flag in COMMANDS[command] if flag.needed and flag.name != but for word in flag.words(sample(flag))]


def sample(flag: Flag):
    """A value that is not the default."""
    if flag.kind is bool:
        return not flag.default
    if flag.kind is list:
        return ["one", "two words"]
    if flag.kind in (int, float):
        return flag.kind((flag.default or flag.least or 1) + 1)
    return next((choice for choice in flag.choices if choice != flag.default), "some \\ \"text\"")


def plain(value):
    """A parsed value as TOML has it."""
    if isinstance(value, (list, tuple)):
        return [str(one) for one in value]
    return value if isinstance(value, (bool, int, float)) else getattr(value, "value", None) or str(value)


@pytest.mark.parametrize(("command", "flag"), EVERY, ids=lambda one: one.key if isinstance(one, Flag) else one)
def test_every_flag_of_every_command_can_be_set_by_the_file_and_is_written_out_as_a_flag(command, flag, tmp_path):
    file, value = tmp_path / "c.toml", sample(flag)
    file.write_text(f"[{command}]\n{flag.key} = {toml_value(value)}\n", encoding="utf-8")
    context = context_of(command, "--config", str(file), *needed(command, flag.name))
    assert plain(context.params[flag.name]) == value
    words = written_out(["--config", str(file), *needed(command, flag.name)], COMMANDS[command], {flag.name: value})
    again = context_of(command, *words)
    assert {**again.params, "config": None} == {**context.params, "config": None}


def test_flags_of_the_file_are_those_of_the_parser():
    """So that none is forgotten: what typer made of a command, against what was read off its signature."""
    for command, flags in COMMANDS.items():
        options = [one for one in GROUP.commands[command].params if one.param_type_name == "option"]
        assert [flag.name for flag in flags] == [one.name for one in options if one.name not in ("config", "help")]
        assert all(flag.word in one.opts for flag, one in zip(flags, (o for o in options if o.name != "config")))


def test_a_flag_on_the_command_line_counts_before_the_file(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('[fit-device]\nmax-latency = "9ms"\nseed = 3\n[train-elastic]\nseed = 4\n', encoding="utf-8")
    params = context_of("fit-device", "--max-latency", "3ms", f"--config={file}").params
    assert (params["max_latency"], params["seed"]) == ("3ms", 3)
    assert context_of("train-elastic", "--config", str(file)).params["seed"] == 4
    assert context_of("compress", "--config", str(file), *needed("compress", "")).params["seed"] == 0


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("init") / "edgebert.toml"
    done = in_process("init", "--yes", "--out", str(file))
    assert done.exit_code == 0, done.output
    assert shlex.quote(str(file)) in done.output
    return file


@pytest.mark.parametrize("command", cli_config.TABLES)
def test_the_file_that_init_writes_names_every_flag_and_changes_nothing(command, written):
    text = written.read_text(encoding="utf-8")
    assert tomllib.loads(text) == {name: {} for name in cli_config.TABLES}
    body = text.split(f"[{command}]\n", 1)[1].split("\n\n\n[", 1)[0]
    assert re.findall(r"^#([\w-]+) = ", body, re.M) == [flag.key for panel in dict.fromkeys(
        flag.panel for flag in COMMANDS[command]) for flag in COMMANDS[command] if flag.panel == panel]
    for flag in COMMANDS[command]:
        assert " ".join(flag.help.split()).rstrip(".") in " ".join(re.sub(r"^# ?", "", body, flags=re.M).split())
    without, there = (context_of(command, *words, *needed(command, "")).params for words in
                      ((), ("--config", str(written))))
    assert {**there, "config": None} == {**without, "config": None}


def test_its_defaults_are_the_commands_own(written, tmp_path):
    """Every line with a default, uncommented: still the same."""
    without_default = r"(?!N$|\"\.\.\.\"$|\[\"\.\.\.\"\]$)"
    text = re.sub(rf"^#([\w-]+ = ){without_default}", r"\1", written.read_text(encoding="utf-8"), flags=re.M)
    tables = tomllib.loads(text)
    assert {"profile", "runtime", "seed", "overwrite"} <= set(tables["fit-device"])
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    for command in tables:
        bare, there = (context_of(command, *words, *needed(command, "")).params for words in
                       ((), ("--config", str(tmp_path / "c.toml"))))
        assert {**there, "config": None} == {**bare, "config": None}


def test_a_plan_by_the_file_is_the_plan_by_flags(tmp_path):
    file = tmp_path / "edgebert.toml"
    file.write_text('[fit-device]\nprofile = "pixel6"\nmax-latency = "5ms"\ndry-run = true\njson = true\n')
    by_file = edgebert("fit-device", "--config", file)
    by_flags = edgebert("fit-device", "-p", "pixel6", "--max-latency", "5ms", "--dry-run", "--json")
    assert by_file.returncode == 0, by_file.stderr
    assert json.loads(by_file.stdout) == json.loads(by_flags.stdout)


WRONG = {
    "unknown key": ('[fit-device]\n\nmax-latncy = "4ms"', "c.toml:3: fit-device.max-latncy: unknown key, did you mean "
                    "'max-latency'?"),
    "parameter's name for its flag": ('[fit-device]\nmax_latency = "4ms"', "did you mean 'max-latency'?"),
    "unknown table": ("[fit-devise]\nseed = 1", "c.toml:1: fit-devise: no command has this name, did you mean "
                      "'fit-device'?"),
    "key without a table": ("seed = 1", "c.toml:1: seed: a key outside of a command's table; put it below [fit-device]"),
    "a key for a table": ("fit-device = 1", "write [fit-device] on a line of its own"),
    "text for a number": ('[fit-device]\nseed = "one"', "c.toml:2: fit-device.seed: must be a whole number, got 'one'"),
    "number for a text": ("[fit-device]\nmax-latency = 4", "must be text, got 4"),
    "truth for a number": ("[fit-device]\nseed = true", "must be a whole number"),
    "word for a truth": ('[fit-device]\ndry-run = "yes"', "must be true or false"),
    "text for a list": ('[fit-device]\ncorpus = "a.txt"', "must be a list of texts"),
    "no such choice": ('[fit-device]\neffort = "through"', "did you mean 'thorough'?"),
    "below the least": ("[fit-device]\nmin-count = 0", "must be at least 1, got 0"),
    "no number": ("[fit-device]\nmax-drop = nan", "finite number"),
    "a number without end": (f"[fit-device]\nmax-drop = {10**400}", "at most 15 digits"),
    "no TOML": ("[fit-device\n", "cannot be read as TOML"),
    "config in config": ('[fit-device]\nconfig = "c.toml"', "config: unknown key"),
    "nested without end": ("a = " + "[" * 100_000, "nested too deeply"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_one_line_that_names_the_key(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, expected = WRONG[name]
    Path("c.toml").write_text(text, encoding="utf-8")
    done = in_process("fit-device", "--config", "c.toml", "--dry-run")
    assert isinstance(done.exception, UsageError) and expected in str(done.exception)
    assert len(str(done.exception).splitlines()) == 1


def test_the_command_line_says_it_in_one_line_with_exit_code_2(tmp_path):
    (tmp_path / "c.toml").write_text('[fit-device]\nprofil = "pixel6"\n')
    for words, expected in (((tmp_path / "c.toml",), "did you mean 'profile'?"),
                            ((tmp_path / "none.toml",), "No such file or directory (`edgebert init` writes one)")):
        done = edgebert("fit-device", "--config", *words)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and expected in done.stderr


def test_the_manifest_s_command_has_the_file_s_flags_and_no_file(tmp_path, monkeypatch):
    """What `reproduce` runs again depends on no file that may have changed since."""
    file, seen = tmp_path / "c.toml", []
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b c"):
        Path(name).write_text("play some music\n")
    file.write_text('[fit-device]\nmax-latency = "9ms"\nseed = 3\ncorpus = ["a", "b c"]\nzip = true\nresume = false\n'
                    'methods = "vocabulary"\nprofile = "pixel8"\n')
    words = ["fit-device", "--config", str(file), "-p", "pixel6", "--out", str(tmp_path / "b")]
    monkeypatch.setattr("sys.argv", ["edgebert", *words])
    monkeypatch.setattr("edgebert.cli_plan.run", lambda request, cache, as_json: seen.append(request))
    assert CliRunner().invoke(app, words).exception is None
    again = shlex.split(seen[0].command)
    assert again[:6] == ["edgebert", "fit-device", "-p", "pixel6", "--out", str(tmp_path / "b")]
    assert "--config" not in again and "--profile" not in again and "--resume" not in again
    monkeypatch.setattr("sys.argv", again)
    assert CliRunner().invoke(app, again[1:]).exception is None
    assert seen[0].profile == seen[1].profile and seen[0].budget == seen[1].budget
    assert (seen[0].seed, seen[0].vocabulary, seen[0].zip) == (seen[1].seed, seen[1].vocabulary, True)
    assert shlex.split(seen[1].command) == again


def test_a_manifest_that_names_a_config_is_not_run_again():
    from edgebert.reproducing import recorded

    with pytest.raises(UsageError, match="--config"):
        recorded({"command": "edgebert fit-device --config somebody.toml"})


def test_the_wizard_asks_again_until_an_answer_can_be_used(tmp_path, monkeypatch):
    said = iter(["pixel66", "pixel8", "./my-bert", "", "fast", "4ms", "", "much", "1.5", "through", "thorough"])
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    asked = []
    monkeypatch.setattr(typer, "prompt", lambda text, **_: asked.append(text) or next(said))
    monkeypatch.chdir(tmp_path)
    cli_config.init()
    assert next(said, None) is None and asked[0].startswith("profile: A device name") and asked[0].endswith("[pixel6]")
    assert tomllib.loads(Path("edgebert.toml").read_text()) == {
        "fit-device": {"profile": "pixel8", "model": "./my-bert", "max-latency": "4ms", "max-drop": 1.5,
                       "effort": "thorough"},
        "train-elastic": {"model": "./my-bert"}, "compress": {"profile": "pixel8", "model": "./my-bert"}}
    with pytest.raises(UsageError, match="--overwrite"):
        cli_config.init()


def test_every_question_is_a_flag_of_fit_device():
    assert set(cli_config.QUESTIONS) <= {flag.name for flag in COMMANDS["fit-device"]}


@pytest.mark.parametrize("text", ["a\"b", "c:\\d", "tab\tnew\nline", "caf\u00e9 \u20ac", "\x7f", "#[x]"])
def test_texts_survive_the_file(text, tmp_path):
    flags = tuple(flag for flag in COMMANDS["fit-device"] if flag.name in ("model", "corpus"))
    (tmp_path / "c.toml").write_text(config_text({"fit-device": flags}, {"model": text, "corpus": [text]}), "utf-8")
    assert read_config(tmp_path / "c.toml", "fit-device", flags, ["fit-device"]) == {"model": text, "corpus": [text]}


def test_the_how_to_s_file_is_read(tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "howto" / "config.md").read_text(encoding="utf-8")
    text = re.search(r"```toml\n(.*?)```", page, re.S)[1]
    for command, table in tomllib.loads(text).items():
        assert set(table) <= {flag.key for flag in COMMANDS[command]}
    message = re.search(r"`(edgebert\.toml:.*)`", page)[1]
    with pytest.raises(UsageError) as refused:
        wrong = tmp_path / "edgebert.toml"
        wrong.write_text(text.replace("max-latency", "max-latncy"), encoding="utf-8")
        read_config(wrong, "fit-device", COMMANDS["fit-device"], COMMANDS)
    assert str(refused.value).split(": ", 1)[1] == message.split(": ", 1)[1]
