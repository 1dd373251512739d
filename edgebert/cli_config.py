"""`--config FILE` for every command, and `edgebert init`, which writes the file."""

from __future__ import annotations

import functools
import inspect
import shlex
import sys
from collections.abc import Callable, Collection, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import typer

from edgebert.claim import write_text
from edgebert.cli_options import EVERYWHERE, with_flags
from edgebert.config import Flag, config_text, flags_of, read_config, written_out
from edgebert.errors import UsageError

EXAMPLES = """Examples:

  edgebert init                                                     (asks, then writes edgebert.toml)

  edgebert init --yes --out pixel6.toml                             (asks nothing)

  edgebert fit-device --config edgebert.toml

  edgebert fit-device --config edgebert.toml --max-latency 3ms      (the flag counts before the file)"""

TABLES = ("fit-device", "train-elastic", "compress")
"""Commands whose flags `init` writes; a table for any other is read as well."""

QUESTIONS = ("profile", "model", "data", "max_latency", "max_size", "max_drop", "effort")
"""Parameters of fit-device that the wizard asks for, in this order."""

_written: ContextVar[Callable[[Sequence[str]], list[str]]] = ContextVar("_written", default=list)
"""How the words of the command that runs are written without --config."""


def command_line() -> str:
    """The command that runs, as it can be run again: what --config gave is written out as flags."""
    return shlex.join(["edgebert", *_written.get()(sys.argv[1:])])


def configured(command: Callable[..., None]) -> Callable[..., None]:
    """The command with `--config` beside its own flags."""
    @functools.wraps(command)
    def run(*args: Any, context: typer.Context, config: Path | None, **flags: Any) -> None:
        # By its name, since the enumeration is click's or of a copy that typer carries.
        taken = {name: value for name, value in (context.default_map or {}).items()
                 if getattr(context.get_parameter_source(name), "name", "") == "DEFAULT_MAP"}
        before = _written.set(lambda words: written_out(words, known, taken))
        try:
            command(*args, **flags)
        finally:
            _written.reset(before)

    def take(context: typer.Context, path: Path | None) -> Path | None:
        if path is not None:
            commands: Collection[str] = getattr(context.parent and context.parent.command, "commands",
                                                (str(context.info_name),))
            context.default_map = read_config(path, str(context.info_name), known, commands)
        return path

    own = inspect.signature(command, eval_str=True)
    known = flags_of(own)
    config = typer.Option("--config", callback=take, is_eager=True, metavar="FILE", rich_help_panel=EVERYWHERE,
                          help="Take flags that are not given here from this command's table in a TOML file, such as "
                          "`edgebert init` writes.")
    return with_flags(run, own, {"context": (typer.Context, inspect.Parameter.empty),
                                 "config": (Annotated[Path | None, config], None)})


def init(
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("edgebert.toml"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing, leave every flag at its default; so it is, too, "
                                      "where no terminal can answer.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older one.")] = False,
) -> None:
    """Write a file with all flags of the long commands and what each does, for --config."""
    from edgebert.cli import app

    if out.is_dir() or (out.exists() and not overwrite):
        raise UsageError(f"{out} exists; pass --overwrite or another --out")
    callbacks = {one.name: one.callback for one in app.registered_commands if one.callback}
    tables = {name: flags_of(inspect.signature(callbacks[name], eval_str=True)) for name in TABLES}
    answers = {} if yes or not sys.stdin.isatty() else ask(tables[TABLES[0]])
    write_text(out, config_text(tables, answers))
    print(f"{out}: read it, change what you like, then: edgebert {TABLES[0]} --config {shlex.quote(str(out))}")


def ask(flags: Sequence[Flag]) -> dict[str, Any]:
    """Parameter -> answer, of the QUESTIONS that were answered with more than Enter; a wrong answer is asked again."""
    known = {flag.name: flag for flag in flags}
    answers: dict[str, Any] = {}
    typer.echo("Enter takes what is in brackets, or leaves it to edgebert.", err=True)
    for name in QUESTIONS:
        while True:
            text = typer.prompt(known[name].question, default="", show_default=False, err=True).strip()
            try:
                if text:
                    answers[name] = known[name].parsed(text)
                    _usable(name, text)
                break
            except UsageError as error:
                typer.echo(f"  {error}", err=True)
    return answers


def _usable(name: str, text: str) -> None:
    """Raises UsageError for an answer that the command itself would refuse."""
    from edgebert.data_files import may_be_data
    from edgebert.device import load_profile, parse_latency, parse_size

    if name == "profile":
        load_profile(text)
    elif name == "max_latency":
        parse_latency(text)
    elif name == "max_size":
        parse_size(text, "--max-size")
    elif name == "data" and not may_be_data(Path(text)):
        raise UsageError(f"{text}: there is no such file or folder")
