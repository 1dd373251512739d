"""`edgebert compress`: every method makes a checkpoint that opens again, and says what it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgebert.cache import Cache
from edgebert.checkpoint import load_checkpoint
from edgebert.compressing import CompressRequest, compress
from edgebert.compressors import METHODS
from edgebert.device import load_profile
from edgebert.errors import UsageError
from edgebert.progress import Reporter
from tests.test_pipeline import write_task

pytestmark = pytest.mark.slow

KEEP = {"magnitude": 0.7, "taylor": 0.7, "fisher": 0.7, "kwon": 0.96, "ziplm": 0.7, "early-bird": 0.5}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compress")
    write_task(folder / "task")
    return folder


@pytest.fixture(scope="module")
def request_of(root: Path, bert_folder: Path):
    def make(method: str, **changes: object) -> CompressRequest:
        base = CompressRequest(method, KEEP.get(method, 0.5), load_profile("pixel6"), root / method,
                               model=str(bert_folder), task=None, data=root / "task", teacher_epochs=2)
        return replace(base, **changes)

    return make


@pytest.mark.parametrize("method", METHODS)
def test_a_method_leaves_a_checkpoint_and_a_record(method: str, request_of, root: Path) -> None:
    result = compress(request_of(method), Cache(root / "cache"), Reporter(quiet=True))
    assert json.loads((root / method / "compress.json").read_text()) == result
    labels = tuple(json.loads((root / method / "config.json").read_text())["label2id"])
    again = load_checkpoint(root / method, labels)
    assert again.labels == labels and again.net.shape.to_json() == result["after"]["shape"]
    before, after = result["before"], result["after"]
    weights = torch.cat([value.flatten() for name, value in again.net.state_dict().items()
                         if name.startswith("layers") and name.endswith(".weight") and "norm" not in name])
    if METHODS[method].share == "the layers' weights" and "sparsity" in result["facts"]:
        assert float((weights == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
        assert after["params"] == before["params"] and after["macs"] == before["macs"]
        assert after["int8_weights"]["bitmap_bytes"] < before["int8_weights"]["bitmap_bytes"]
    else:
        assert after["params"] < before["params"] and after["macs"] < before["macs"]


def test_recovery_follows_and_is_refused_where_it_would_undo_the_method(request_of, root: Path) -> None:
    with pytest.raises(UsageError, match="--recover standard would fill the zeros of --method snip again"):
        request_of("snip", recover="standard")
    plain, result = (compress(request_of("drone", recover=how, out=root / how), Cache(root / "cache"),
                              Reporter(quiet=True)) for how in ("none", "standard"))
    assert result["recover"] == "standard" and result["after"]["shape"] == plain["after"]["shape"]
    weights = [(root / how / "model.safetensors").read_bytes() for how in ("none", "standard")]
    assert weights[0] != weights[1]


def test_masks_alone_say_how_far_they_go(request_of, root: Path) -> None:
    with pytest.raises(UsageError, match=r"--keep 0.1: masks keep every layer, which comes to 0\.\d+ of the latency"):
        compress(request_of("kwon", keep=0.1, out=root / "never"), Cache(root / "cache"), Reporter(quiet=True))
    assert not (root / "never").exists()


def test_a_narrower_stream_recovers_from_a_teacher_seen_through_its_basis(request_of, root: Path) -> None:
    result = compress(request_of("stream-rotation", recover="standard", out=root / "narrow"), Cache(root / "cache"),
                      Reporter(quiet=True))
    before, after = result["before"]["shape"], result["after"]["shape"]
    assert after["hidden"] == 32 < before["hidden"] == after["embedding"]
    with pytest.raises(UsageError, match="--keep 1: a stream of [0-9]+ numbers, in steps of 16, becomes no narrower"):
        compress(request_of("stream-mask", keep=1.0, out=root / "wide"), Cache(root / "cache"), Reporter(quiet=True))


@pytest.mark.parametrize(("changes", "said"), [
    ({"method": "unknown"}, "--method 'unknown' is not known, choose from magnitude, taylor"),
    ({"keep": 0.0}, "--keep 0: a share of the layers' weights, more than 0 and at most 1"),
    ({"keep": 1.5}, "--keep 1.5: a share"), ({"keep": float("nan")}, "--keep nan: a share"),
    ({"recover": "full"}, "--recover 'full' is not known, choose from none, standard"),
    ({"task": "snips"}, "either --task .* or --data")])
def test_wrong_requests_are_refused(changes: dict[str, object], said: str, request_of) -> None:
    base = request_of("drone")
    with pytest.raises(UsageError, match=said):
        replace(base, **changes)
