"""A bundle's own command once more, and what comes out beside what came out then: the path of `edgebert reproduce`."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebert.bundle import check_files, read_manifest, versions
from edgebert.errors import EdgeBertError, UsageError

COMMANDS = ("fit-device", "build")
"""Those that make bundles."""

TIMED = ("results.json", "report.html", "README.md", "MODEL_CARD.md", "sbom.cdx.json")
"""Files that hold timings of the run itself, or the versions of what is installed."""

SAME_AGAIN = ("task", "kind", "metric", "labels", "length", "models", "parity", "front", "cuts", "served")
"""What results.json says that no clock has a part in."""


class NotReproduced(EdgeBertError):
    """The same command now makes something else."""

    exit_code = 4
    code = "EB-REPRODUCE"


class RunFailed(EdgeBertError):
    """The command, run again, failed; its own line says why."""

    code = "EB-REPRODUCE-RUN"

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"the command ended with exit code {exit_code}; the line above says why")
        self.exit_code = exit_code


@dataclass(frozen=True)
class Again:
    """What may differ from then. model, data: where they are now, None for where the command says. cache: of finished
    stages, None to make everything anew."""

    model: str | None = None
    data: Path | None = None
    cache: Path | None = None


@dataclass(frozen=True)
class Reproduction:
    """A bundle that came out the same. files: names with equal bytes. words: what was run. others: packages whose version
    is another one now."""

    folder: Path
    words: tuple[str, ...]
    files: tuple[str, ...]
    others: tuple[str, ...]


def reproduce(folder: Path, again: Again) -> Reproduction:
    """Runs the command of the manifest into a temporary folder, with as many threads, and compares the plan, every file
    without timings in it, and the scores.

    Raises UsageError for a bundle whose command is not known or whose model or data are not what they were; RunFailed
    with the exit code of a run that fails; NotReproduced (4) naming the first difference.
    """
    folder = Path(folder)
    then = read_manifest(folder)
    check_files(folder, then)
    words = recorded(then)
    others = changed_versions(then)
    with tempfile.TemporaryDirectory(prefix="edgebert-reproduce-") as scratch:
        made = Path(scratch) / "bundle"
        run = to_run(words, then, again, made, Path(scratch))
        _require_inputs(then, words, again)
        _run(run, then.get("torch_threads"))
        now = read_manifest(made)
        _require_same_inputs(then, now)
        found = list(differences(folder, then, made, now))
        if found:
            raise NotReproduced(f"{folder} is not what its command makes: {found[0]}{_more(found)}{_blame(others)}")
    same = tuple(name for name in then["files"] if name not in TIMED)
    return Reproduction(folder, tuple(run), same, others)


def parsed(words: list[str]) -> dict[str, Any]:
    """The values of a command's flags, by name, as the command would get them; nothing is run. Raises UsageError for
    words that it does not take."""
    import typer

    from edgebert.cli import app

    try:
        command: Any = vars(typer.main.get_command(app))["commands"][words[0]]
        return dict(command.make_context(words[0], list(words[1:])).params)
    except Exception as error:  # typer's own copy of click has no public name for its errors
        raise UsageError(f"edgebert {words[0]} of this version does not take the manifest's words: {error}") from error


def recorded(manifest: dict[str, Any]) -> list[str]:
    """The words of the command that made a bundle, after the program's name. Raises UsageError for what this program
    would not run again: a manifest may come from anybody."""
    command = manifest.get("command")
    try:
        program, *words = shlex.split(command if isinstance(command, str) else "")
    except ValueError as error:
        raise UsageError(f"the manifest names no command that can be run again ({error})") from error
    if program != "edgebert" or not words or words[0] not in COMMANDS:
        raise UsageError(f"the bundle was not made by edgebert {' or '.join(COMMANDS)} on the command line: build its "
                         "plan again with `edgebert build BUNDLE/plan.json`")
    if any(word.partition("=")[0] == "--config" for word in words):
        raise UsageError("the manifest names a --config file, which edgebert never writes there; do not trust this "
                         "bundle")
    if any(word.partition("=")[0] == "--verify-on" for word in words):
        raise UsageError("the plan rests on timings of a device (--verify-on), which no second run repeats: build it "
                         "again with `edgebert build BUNDLE/plan.json`")
    return words


def to_run(words: list[str], manifest: dict[str, Any], again: Again, out: Path, scratch: Path) -> list[str]:
    """The words to run: those recorded, with flags after them that send everything the run writes into `scratch`. The
    last one of a flag given twice counts."""
    run = [word for word in words if word not in ("--this-machine", "--resume")]
    given = {word.partition("=")[0] for word in words}
    run += ["--out", str(out), "--cache", str(again.cache or scratch / "cache")]
    if "--tensorboard" in given:
        run += ["--tensorboard", str(scratch / "curves")]
    if "--profiles" in given:
        run += ["--profiles", "", "--profile", str(manifest["profile"])]
    for flag, value in (("--model", again.model), ("--data", again.data)):
        if value is not None:
            run += [flag, str(value)]
    if parsed(run)["out"] != out:  # words that would swallow those after them
        raise UsageError("the manifest's command cannot be sent into a temporary folder; do not trust this bundle")
    return run


def changed_versions(manifest: dict[str, Any]) -> tuple[str, ...]:
    """Packages that are of another version here, such as "torch 2.12.0 then, 2.13.0 now"."""
    then, now = manifest.get("versions", {}), versions()
    return tuple(f"{name} {then.get(name, 'none')} then, {now.get(name, 'none')} now"
                 for name in {**then, **now} if then.get(name) != now.get(name))


def _require_inputs(then: dict[str, Any], words: list[str], again: Again) -> None:
    """Raises UsageError where the model or the data are others now; before anything is trained, but for a model of a
    supernet or with a trimmed vocabulary, which only the run itself finds."""
    flags = parsed(words)
    if flags.get("supernet"):
        return
    from edgebert.checkpoint import load_checkpoint, resolve
    from edgebert.data import Columns, load_dataset
    from edgebert.demo import demo_model_folder, demo_task_folder

    model, place = again.model or flags["model"], again.data or flags["data"]
    data = load_dataset(place or demo_task_folder(flags["task"] or "snips"),
                        Columns(flags["text_column"], flags["pair_column"], flags["label_column"]), flags["task_type"])
    checkpoint = load_checkpoint(resolve(model) if model else demo_model_folder(), data.labels, flags["seed"], data.kind)
    if checkpoint.labels is not None:
        data = data.with_labels(checkpoint.labels)
    now = {"data_sha256": data.sha256, "checkpoint_sha256": checkpoint.sha256}
    if flags.get("trim") or "vocabulary" in str(flags.get("methods", "")) or flags.get("methods") == "all":
        now.pop("checkpoint_sha256")
    _require_same_inputs(then, now)


def _require_same_inputs(then: dict[str, Any], now: dict[str, Any]) -> None:
    for name, what, flag in (("data_sha256", "data", "--data"), ("checkpoint_sha256", "model", "--model")):
        if name in now and now[name] != then.get(name):
            raise UsageError(f"the {what} are not those the bundle was made from (sha256 {str(then.get(name))[:12]} "
                             f"then, {now[name][:12]} now): say with {flag} where they are")


def _run(words: list[str], threads: int | None) -> None:
    """Runs edgebert in a process of its own, without a shell; ends it where this one is ended. What it says about its
    progress goes where this one's goes."""
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if isinstance(threads, int) else {})}
    run = subprocess.Popen([sys.executable, "-m", "edgebert", *words], stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL, env=environment)
    try:
        code = run.wait()
    except BaseException:
        run.terminate()
        run.wait()
        raise
    if code:
        raise RunFailed(code if code > 0 else 128 - code)


def differences(folder: Path, then: dict[str, Any], made: Path, now: dict[str, Any]) -> Iterator[str]:
    """What is not the same in two bundles, a sentence each, the plan first."""
    names = sorted({*then["files"], *now["files"]} - set(TIMED), key=lambda name: (name != "plan.json", name))
    for name in names:
        one, other = then["files"].get(name), now["files"].get(name)
        if one is None or other is None:
            yield f"{name} is there only {'now' if one is None else 'then'}"
        elif one["sha256"] != other["sha256"]:
            where = _first(_json(folder / name), _json(made / name)) if name.endswith(".json") else None
            yield f"{name} differs" + (f" at {where}" if where else "")
    one, other = _json(folder / "results.json"), _json(made / "results.json")
    where = _first({name: one.get(name) for name in SAME_AGAIN}, {name: other.get(name) for name in SAME_AGAIN})
    if where:
        yield f"results.json differs at {where}"


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _first(one: Any, other: Any, place: str = "") -> str | None:
    """The first place where two JSON values differ, with both values; None where they are equal."""
    if isinstance(one, dict) and isinstance(other, dict):
        pairs = [(f"{place}.{name}" if place else str(name), one.get(name), other.get(name)) for name in {**one, **other}]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [(f"{place}[{i}]", a, b) for i, (a, b) in enumerate(zip(one, other))]
    else:
        return None if one == other else f"{place}: {json.dumps(one):.60} then, {json.dumps(other):.60} now"
    return next((found for where, a, b in pairs if (found := _first(a, b, where))), None)


def _more(found: list[str]) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""


def _blame(others: tuple[str, ...]) -> str:
    return f"; made with other versions: {'; '.join(others)}" if others else ""
