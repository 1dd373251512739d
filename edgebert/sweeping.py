"""Sweep kits: model files of the building blocks and of small encoders, exported as any other model is, with the order
in which a device times them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_bench.errors import BenchError
from device_bench.kit import KIT_NAME, KIT_SCHEMA, read_kit
from device_bench.packing import write_pyz
from device_bench.sweep import SweepOptions, summary, sweep
from edgebert.bundle import file_sha256, versions
from edgebert.claim import claimed, clear_temporary
from edgebert.device import PRECISIONS, RUNTIMES
from edgebert.errors import DeviceError, UsageError
from edgebert.progress import Reporter
from edgebert.sweep_design import FLOAT_KINDS, Candidate, design

if TYPE_CHECKING:
    from exporters.artifact import Artifact

BENCH_NAME = "bench.pyz"
_MAKERS = ("edgebert", "torch", "onnx", "litert-torch", "ai-edge-quantizer")


@dataclass(frozen=True)
class Kit:
    """A folder with kit.json, model files and bench.pyz. made: files that were written, the others were there."""

    folder: Path
    items: tuple[dict[str, Any], ...]
    made: int

    @property
    def timings(self) -> int:
        """How many a sweep with one number of threads takes."""
        return sum(len(item["lengths"]) for item in self.items)


def make_kit(folder: Path, runtimes: Sequence[str] = RUNTIMES, precisions: Sequence[str] = PRECISIONS,
             samples: int = 50, max_length: int = 128, reporter: Reporter | None = None) -> Kit:
    """Writes a kit with about `samples` timings for each runtime and precision, at lengths up to `max_length`.

    kit.json grows with every file, so that a stopped call goes on where it was, and what it left can be swept. Files that
    an older kit.json names, and that are what it says, are not written again.

    Raises UsageError for settings that are not known, ExportError where a format's packages are missing, BusyError where
    another process makes the kit.
    """
    for what, values, known in (("--runtime", runtimes, RUNTIMES), ("--precision", precisions, PRECISIONS)):
        if not values or not set(values) <= set(known):
            raise UsageError(f"{what} {','.join(values)}: choose from {', '.join(known)}")
    reporter = reporter or Reporter(quiet=True)
    candidates = design(samples, max_length)
    with claimed(folder):
        folder.mkdir(exist_ok=True)
        clear_temporary(folder)
        return _made(folder, candidates, runtimes, precisions, reporter)


def _made(folder: Path, candidates: Sequence[Candidate], runtimes: Sequence[str], precisions: Sequence[str],
          reporter: Reporter) -> Kit:
    right = _right_files(folder)
    items: list[dict[str, Any]] = []
    made = 0
    with reporter.stage("make the kit", total=len(candidates) * len(runtimes), unit="blocks") as tick:
        for candidate in candidates:
            for runtime in runtimes:
                planned = _items(candidate, runtime, precisions)
                missing = [item for item in planned if not _same(right.get(item["id"], {}), item)]
                for item, artifact in zip(missing, _export(candidate, runtime, missing, folder), strict=True):
                    right[item["id"]] = {**item, "sha256": artifact.sha256}
                items += [right[item["id"]] for item in planned]
                if missing:
                    made += len(missing)
                    listed = {item["id"] for item in items}
                    _write_list(folder, items + [item for name, item in right.items() if name not in listed])
                tick(1)
    _write_list(folder, items)
    write_pyz(folder / BENCH_NAME)
    return Kit(folder, tuple(items), made)


def _items(candidate: Candidate, runtime: str, precisions: Sequence[str]) -> list[dict[str, Any]]:
    """The kit's items for one candidate, without hashes; a block without weights is the same in every precision."""
    wanted = ("fp32",) if candidate.kind in FLOAT_KINDS else precisions
    return [{"id": f"{candidate.name}-{runtime}-{precision}", "file": f"{candidate.name}-{precision}.{runtime}",
             "runtime": runtime, "precision": precision, **candidate.to_json()} for precision in wanted]


def _same(known: dict[str, Any], item: dict[str, Any]) -> bool:
    """Whether an item with a hash is the same as one without."""
    return {name: value for name, value in known.items() if name != "sha256"} == item


def _made_with() -> dict[str, str]:
    return {name: version for name, version in versions().items() if name in _MAKERS}


def _right_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Items of an older kit.json, by id, whose file is what it says; none where other versions made it."""
    try:
        older = json.loads((folder / KIT_NAME).read_text(encoding="utf-8"))
        if older["made_with"] != _made_with():
            return {}
        return {item["id"]: item for item in read_kit(folder)
                if (folder / item["file"]).is_file() and file_sha256(folder / item["file"]) == item["sha256"]}
    except (OSError, ValueError, KeyError, TypeError, BenchError):  # none, unfinished or somebody else's: made anew
        return {}


def _write_list(folder: Path, items: list[dict[str, Any]]) -> None:
    part = folder / f".{KIT_NAME}.{os.getpid()}.part"
    try:
        text = json.dumps({"schema": KIT_SCHEMA, "made_with": _made_with(), "items": items}, indent=1)
        part.write_text(text + "\n", encoding="utf-8")
        os.replace(part, folder / KIT_NAME)
    finally:
        part.unlink(missing_ok=True)


def _export(candidate: Candidate, runtime: str, items: Sequence[dict[str, Any]], folder: Path) -> Sequence[Artifact]:
    """Writes the files of one candidate, random weights from a fixed seed."""
    if not items:
        return ()
    import torch
    from torch import nn

    from edgebert.modeling import Encoder
    from edgebert.stages import quietly
    from exporters.artifact import InputSpec, Precision
    from exporters.files import export_files
    from exporters.parts import Part, export_part

    files = {folder / item["file"]: item["precision"] for item in items}
    with quietly(), torch.random.fork_rng(devices=()), torch.no_grad():
        torch.manual_seed(0)
        if candidate.shape is None:
            modules: dict[str, Callable[[], Any]] = {"linear": lambda: nn.Linear(candidate.inputs, candidate.outputs),
                       "norm": lambda: nn.LayerNorm(candidate.inputs, 1e-12), "gelu": lambda: None}
            return export_part(runtime, Part(candidate.kind, modules[candidate.kind](), candidate.inputs), files,
                               candidate.lengths)
        net = Encoder(candidate.shape).eval()
        if candidate.kind == "encoder":
            count = len(candidate.shape.layers)
            uniform = {path: Precision.uniform(precision, count) for path, precision in files.items()}
            return export_files(runtime, net, uniform, InputSpec(candidate.lengths), {})
        module = net if candidate.kind == "embedding" else net.layers[0]
        return export_part(runtime, Part(candidate.kind, module, candidate.shape.hidden, candidate.last), files,
                           candidate.lengths)


def sweep_device(device: str, kit: Kit, out: Path, options: SweepOptions, reporter: Reporter) -> None:
    """Times the kit on "local", this machine, or another device as `remote.open_device` names it, and appends the
    timings to `out`. What `out` holds is not timed again.

    Raises UsageError for results of other conditions, DeviceError where nothing could be timed or the device is gone,
    BusyError where another process writes to `out`.
    """
    def say(text: str) -> None:
        reporter.say(f"  {text}")

    total = kit.timings * options.rounds * len(options.threads)
    with claimed(out), reporter.stage("sweep", total=total, unit="timings") as tick:
        if device != "local":
            from edgebert.remote import open_device, sweep_on

            sweep_on(open_device(device), kit.folder, out, options.to_arguments(), options.time_limit_s, tick, say)
            return
        try:
            swept = sweep(kit.folder, out, options, say, tick)
        except BenchError as error:
            raise (UsageError if error.exit_code == UsageError.exit_code else DeviceError)(str(error)) from error
    if not swept.timed and not swept.kept:
        raise DeviceError("nothing could be timed on this machine; the lines above say why")
    say(f"{out}: {summary(swept)}")
