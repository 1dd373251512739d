"""A bundle's record, read back: what it was made from, what was planned and measured, timings taken since. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from device_bench.result import BenchResult
from edgebert.bundle import BrokenBundle, check_files, read_manifest
from edgebert.device import DeviceProfile, load_profile
from edgebert.errors import UsageError
from edgebert.evidence import Evidence
from edgebert.plan import CompressionPlan
from edgebert.verdict import There

MEASURED = ".measured.jsonl"
"""What the name of a bundle becomes for the records that --verify-on keeps beside it."""


@dataclass(frozen=True)
class Stored:
    """folder: of the bundle. profile: None where no profile of that name is known here. there: its files as they were
    timed on a device after it was made."""

    folder: Path
    manifest: dict[str, Any]
    evidence: Evidence
    plan: CompressionPlan
    profile: DeviceProfile | None
    there: tuple[There, ...] = ()

    @property
    def device(self) -> str:
        return self.profile.title if self.profile else self.plan.profile


def read_stored(folder: Path, measured: Sequence[Path] = ()) -> Stored:
    """A bundle whose files are as they were packed. measured: records of `edgebert bench --out`, of which those of its
    files are taken; beside them those that --verify-on left next to the bundle.

    Raises UsageError (exit code 2) for a folder that is no bundle and records that are none, BrokenBundle (4) for one
    that was changed or that another version wrote.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    try:
        evidence = Evidence.loads((folder / "results.json").read_text(encoding="utf-8"))
        plan = CompressionPlan.loads((folder / "plan.json").read_text(encoding="utf-8"))
        if not {"teacher", "student"} <= {model.role for model in evidence.models}:
            raise UsageError("results.json names no teacher, or no student")
    except (OSError, UnicodeDecodeError, UsageError) as error:
        raise BrokenBundle(f"{folder}: {error}; read it with the edgebert that made it, or make it again") from error
    try:
        profile = load_profile(plan.profile)
    except UsageError:
        profile = None
    beside = folder.with_name(folder.resolve().name + MEASURED)
    return Stored(folder, manifest, evidence, plan, profile,
                  timed_there(manifest, [*measured, *([beside] if beside.is_file() else [])]))


def timed_there(manifest: dict[str, Any], records: Sequence[Path]) -> tuple[There, ...]:
    """The last timing of each of the bundle's files on each device. Raises UsageError naming a line that is no record."""
    names = {entry["sha256"]: name for name, entry in manifest["files"].items()}
    found: dict[tuple[str, str], There] = {}
    for path in records:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: cannot be read ({error}); give what `edgebert bench --out` wrote") from error
        for number, line in enumerate(lines, 1):
            try:
                record = BenchResult.from_json(line)
            except ValueError as error:
                raise UsageError(f"{path}, line {number}: no record of `edgebert bench --out` ({error})") from error
            if record.sha256 in names and not record.emulated:
                one = _there(names[record.sha256], record)
                found.pop((one.name, one.device), None)
                found[one.name, one.device] = one
    return tuple(reversed(found.values()))


def _there(name: str, record: BenchResult) -> There:
    facts = record.device_before
    device = (facts.android or {}).get("model") or facts.machine or facts.cpu_model or "the device"
    return There(name, device, record.latency_ms(50), record.latency_ms(90),
                 None if record.peak_rss_bytes is None else record.peak_rss_bytes / 1e6, tuple(record.reasons()))


def renamed(found: Sequence[Stored]) -> tuple[Stored, ...]:
    """The same, with the folders of bundles that are called alike told apart by the folder above."""
    folders = [one.folder.resolve() for one in found]
    names = [folder.name for folder in folders]
    return tuple(replace(one, folder=Path(folder.parent.name if names.count(folder.name) > 1 else "") / folder.name)
                 for one, folder in zip(found, folders))
