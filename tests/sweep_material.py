"""What the tests of kits and sweeps share: a tiny kit of both runtimes, and ways to copy, shorten and read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from device_bench.kit import read_kit
from device_bench.sweep import SweepOptions
from edgebert import sweeping as kits
from edgebert.spec import EncoderShape, LayerSpec
from edgebert.sweep_design import Candidate

TINY = EncoderShape(hidden=16, head_dim=8, vocab=50, positions=16, token_types=2, labels=3, layers=(LayerSpec(1, 24),))
CANDIDATES = (Candidate("encoder", (8, 12), TINY), Candidate("gelu", (8, 12), inputs=24, outputs=24),
              Candidate("attention", (8,), TINY, last=True))
QUICK = SweepOptions(runs=12, max_seconds=5.0)


@pytest.fixture(scope="session")
def sweep_kit(tmp_path_factory):
    """A tiny kit of both runtimes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kits, "design", lambda samples, max_length: CANDIDATES)
        return kits.make_kit(tmp_path_factory.mktemp("kit"))


@pytest.fixture
def onnx_kit(sweep_kit, tmp_path):
    """A copy of the ONNX half, to be damaged."""
    items = [item for item in sweep_kit.items if item["runtime"] == "onnx"]
    return write_kit(tmp_path / "onnx-kit", sweep_kit.folder, items)


def write_kit(folder: Path, source: Path, items: list[dict]) -> Path:
    folder.mkdir()
    for item in items:
        (folder / item["file"]).write_bytes((source / item["file"]).read_bytes())
    (folder / "kit.json").write_text(json.dumps({"schema": 1, "items": items}))
    return folder


def keep_items(folder: Path, *numbers: int) -> None:
    """Shortens a kit's list."""
    items = read_kit(folder)
    (folder / "kit.json").write_text(json.dumps({"schema": 1, "items": [items[number] for number in numbers]}))


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
