"""Write docs/reference from the code: every command, every public name, the schema of every file.

    python examples/make_reference.py            (writes what differs, and names it)
    python examples/make_reference.py --check    (writes nothing; ends with 1 where a page is not what the code says)
"""

from __future__ import annotations

import argparse
import enum
import inspect
import json
import os
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from reference_outputs import OUTPUTS
from reference_schemas import SCHEMAS, schemas

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
MADE = "<!-- Made by examples/make_reference.py; change the code, not this page. -->"
WIDTH = 100


def pages() -> dict[str, str]:
    """Path below docs/reference -> content."""
    made = {"cli.md": cli_page(), "python.md": python_page(), "schemas.md": schemas_page()}
    for name, schema in schemas(SCHEMAS | OUTPUTS).items():
        made[f"schemas/{name}.json"] = json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
    return made


def cli_page() -> str:
    """Every command with its arguments, options and examples."""
    import typer

    from edgebert import errors
    from edgebert.cli import app

    group = typer.main.get_command(app)
    parts = ["# Commands", "", MADE, "", "`edgebert COMMAND --help` prints the same. Every command also takes "
             "`--log-json` (events as JSON lines on stderr) and `-v` (more lines), and all but those of `profiles` take "
             "`--config FILE` ([flags in a file](../howto/config.md)); they are left out below.", "",
             "| | |", "|---|---|"]
    commands = dict(_commands(group, "edgebert"))
    parts += [f"| [`{name.removeprefix('edgebert ')}`](#{name.replace(' ', '-')}) | {_cell(_sentence(command.help))} |"
              for name, command in commands.items()]
    for name, command in commands.items():
        parts += ["", f"## {name}", "", *_command(name, command)]
    codes = sorted({(kind.exit_code, kind.code) for kind in vars(errors).values()
                    if isinstance(kind, type) and issubclass(kind, (errors.EdgeBertError, errors.Interrupted))
                    and kind is not errors.EdgeBertError})
    parts += ["", "## Exit codes", "", f"{_paragraphs(group.epilog)}", "", "| exit code | code of the message |",
              "|---|---|", *(f"| {number} | `{code}` |" for number, code in codes)]
    return "\n".join(parts) + "\n"


def _commands(group: Any, start: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        yield f"{start} {name}", command
        if getattr(command, "commands", None):
            yield from _commands(command, f"{start} {name}")


def _command(name: str, command: Any) -> Iterator[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and one.name not in
               ("help", "config", "log_json", "verbose")]
    words, kinds = [one.metavar or one.name.upper() for one in arguments], _kinds(command)
    yield from (_paragraphs(command.help), "", "```text", " ".join([name, *words, *(["[OPTIONS]"] if options else [])]),
                "```")
    if arguments:
        yield from ("", "| argument | |", "|---|---|")
        yield from (f"| `{word}` | {_cell(one.help)} |" for word, one in zip(words, arguments))
    for panel in dict.fromkeys(one.rich_help_panel for one in options):
        yield from ("", f"| {panel or 'option'} | | default |", "|---|---|---|")
        yield from (_option(one, kinds[one.name]) for one in options if one.rich_help_panel == panel)
    examples = inspect.cleandoc(command.epilog or "")
    if examples:
        text = "\n".join(line.rstrip() for line in examples.splitlines() if line.strip())
        yield from ("", "```text", text, "```")


def _option(one: Any, kind: Any) -> str:
    flags = ", ".join(f"`{flag}`" for flag in (*one.opts, *one.secondary_opts))
    default = one.default.value if isinstance(one.default, enum.Enum) else one.default
    shown = "" if callable(default) or default in (None, False, ()) else f"`{default}`"
    word = "" if kind is bool else f" `{one.metavar or _word(kind)}`"
    return f"| {flags}{word} | {_cell(one.help)} | {'needed' if one.required else shown} |".replace(" |  |", " | |")


def _word(kind: Any) -> str:
    """What stands for a value: its choices, or PATH, TEXT, INT, FLOAT."""
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "{" + ",".join(choice.value for choice in kind) + "}"
    return "TEXT" if kind is str else kind.__name__.upper()


def _kinds(command: Any) -> dict[str, Any]:
    """Parameter -> the type of its values, without "or None" and "list of"."""
    def plain(kind: Any) -> Any:
        if typing.get_origin(kind) is typing.Annotated:
            return plain(typing.get_args(kind)[0])
        inner = [part for part in typing.get_args(kind) if part is not type(None)]
        return plain(inner[0]) if inner else kind

    parameters = inspect.signature(command.callback, eval_str=True).parameters
    return {name: plain(one.annotation) for name, one in parameters.items()}


def _cell(text: str | None) -> str:
    return _angles(" ".join((text or "").split()).replace("|", "\\|"))


def _angles(text: str) -> str:
    """Text outside of `code` with nothing in it that Markdown or HTML would take for its own."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(piece if index % 2 else re.sub(r"([*<>])", r"\\\1", piece) for index, piece in enumerate(pieces))


def _first(text: str | None) -> str:
    return inspect.cleandoc(text or "").split("\n\n")[0]


def _sentence(text: str | None) -> str:
    return re.split(r"(?<=\.)\s", _first(text))[0]


def _paragraphs(text: str | None) -> str:
    """A docstring as Markdown: lines joined where a paragraph goes on; an indented part ("Raises:") as a list."""
    found = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text or "")):
        head, *rest = paragraph.splitlines()
        if rest and all(line.startswith("    ") for line in rest) and head.endswith(":"):
            items: list[str] = []
            for line in rest:
                deeper = line.startswith("     ")
                items[-1:] = [f"{items[-1]} {line.strip()}"] if deeper and items else [*items[-1:], line.strip()]
            found.append(f"{_angles(head)}\n\n" + "\n".join(f"- {_angles(item)}" for item in items))
        else:
            found.append(_angles(" ".join(line.strip() for line in paragraph.splitlines())))
    return "\n\n".join(found)


def python_page() -> str:
    """Every name of edgebert.__all__: signature, docstring, and what a class has of its own."""
    import edgebert

    # Not by getattr(edgebert, name), which gives a module of the same name where there is one.
    public = {name: getattr(import_module(f"edgebert.{home}"), name) for name, home in sorted(edgebert._HOMES.items())}
    parts = ["# Python", "", MADE, "", "`import edgebert` is light: each name is imported when it is first used, and "
             "what plans, lists and inspects needs no torch. Errors are `edgebert.EdgeBertError` with `exit_code` and "
             "`code`.",
             "", "| | |", "|---|---|"]
    parts += [f"| [`{name}`](#{name.lower()}) | {_cell(_sentence(value.__doc__))} |" for name, value in public.items()]
    for name, value in public.items():
        parts += ["", f"## {name}", "", *_public(name, value)]
    return "\n".join(parts) + "\n"


def _public(name: str, value: Any) -> Iterable[str]:
    home = f"`{value.__module__}`"
    if not inspect.isclass(value):
        return ["```python", _signature(name, value), "```", "", _paragraphs(value.__doc__), "", home]
    lines = [f"class {name}{_bases(value)}:"]
    if is_dataclass(value):
        annotations = value.__annotations__
        lines += [f"    {field}: {annotations[field]}{_default(value, field)}" for field in annotations]
    elif "__init__" in vars(value):
        lines.append(_indent(_signature("__init__", value.__init__)))
    own = {key: member for key, member in vars(value).items()
           if not key.startswith("_") and isinstance(member, (property, classmethod, staticmethod, types.FunctionType))}
    texts: list[str] = []
    lines += [""] if len(lines) > 1 and own else []
    for key, member in own.items():
        inner = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        mark = "" if inspect.isfunction(member) else f"    @{type(member).__name__}\n"
        lines.append(mark + _indent(_signature(key, inner)))
        if inner.__doc__:
            texts.append(f"- `{key}`: {_angles(' '.join(_first(inner.__doc__).split()))}")
    return ["```python", *(lines if len(lines) > 1 else [f"{lines[0]} ..."]), "```", "", _paragraphs(value.__doc__),
            *(["", *texts] if texts else []), "", home]


def _bases(value: type) -> str:
    named = [base.__name__ for base in value.__bases__ if base is not object]
    return f"({', '.join(named)})" if named else ""


def _default(value: type, field: str) -> str:
    default = value.__dataclass_fields__[field].default  # type: ignore[attr-defined]
    return f" = {default!r}" if isinstance(default, (int, float, str, bool, tuple, type(None))) else ""


def _signature(name: str, function: Any) -> str:
    """`def name(...) -> result: ...`, a line for each argument where one line is too long."""
    plain = f"def {name}{_plain(str(inspect.signature(function)))}: ..."
    if len(plain) <= WIDTH:
        return plain
    signature = inspect.signature(function)
    lines = [f"    {_plain(str(parameter))}," for parameter in signature.parameters.values()]
    result = "" if signature.return_annotation is inspect.Signature.empty else f" -> {_type(signature.return_annotation)}"
    return "\n".join([f"def {name}(", *lines, f"){result}: ..."])


def _plain(text: str) -> str:
    """A signature without quotes around annotations, and with `...` for a function that is a default."""
    return re.sub(r"= <.*? at 0x[0-9a-f]+>", "= ...", re.sub(r"(: |-> )'([^']+)'", r"\1\2", text))


def _type(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def schemas_page() -> str:
    """The list of the schemas, with what every file holds at its top."""
    parts = ["# Files and their schemas", "", MADE, "", "JSON Schemas (draft 2020-12) of what edgebert writes and reads, "
             "made from the records in the code. A schema says the form; what must fit together (a plan's widths and its "
             "source, samples and what a clock can give) is checked when a file is read, and named in one line. The "
             "reading side takes older versions of some files too.", "", "[Codes of errors](../errors.md), [exit "
             "codes](cli.md#exit-codes).", "", "| schema | of | its top |", "|---|---|---|"]
    for name, schema in schemas(SCHEMAS | OUTPUTS).items():
        top = schema.get("items", schema)  # a list is told by what is in it
        keys = ", ".join(f"`{key}`" if key in top["required"] else f"(`{key}`)" for key in top["properties"])
        title = (SCHEMAS | OUTPUTS)[name][0]
        parts.append(f"| [{name}.json](schemas/{name}.json) | {title.split(': ')[0]} | {keys} |")
    return "\n".join([*parts, "", "In brackets: what may be left out.", ""])


def main() -> int:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    differ = [name for name, text in pages().items()
              if not (REFERENCE / name).is_file() or (REFERENCE / name).read_text(encoding="utf-8") != text]
    for name in differ:
        print(f"docs/reference/{name}: {'is not what the code says' if check else 'written'}")
    if not check:
        made = pages()
        for name in differ:
            target = REFERENCE / name
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(target.name + ".new")
            partial.write_text(made[name], encoding="utf-8")
            os.replace(partial, target)
    return 1 if check and differ else 0


if __name__ == "__main__":
    sys.exit(main())
