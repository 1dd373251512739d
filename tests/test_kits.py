"""Kits: which blocks they hold in which order, and files that are written once."""

from __future__ import annotations

import itertools
import json

import pytest

from device_bench.errors import BadRequest
from device_bench.kit import read_kit
from edgebert import sweeping as kits
from edgebert.errors import UsageError
from edgebert.sweep_design import BLOCK_KINDS, Candidate, design, grid
from tests.sweep_material import CANDIDATES, lines_of, write_kit


def test_a_longer_design_begins_with_the_shorter_one():
    short, long = design(50, 128), design(150, 128)
    assert long[:len(short)] == short and len(long) > len(short)
    assert 50 <= sum(len(one.lengths) for one in short) <= 51
    assert len({one.name for one in long}) == len(long)
    assert all(length in grid(128) for one in long for length in one.lengths)
    assert all(Candidate.from_json(json.loads(json.dumps(one.to_json()))) == one for one in long)


def test_the_first_fifty_timings_hold_every_kind_and_mostly_encoders_of_varied_shape():
    first = design(50, 128)
    assert {one.kind for one in first} == {"encoder", *(kind.split()[-1] for kind in BLOCK_KINDS)}
    assert any(one.last for one in first)
    encoders = [one for one in first[:12] if one.kind == "encoder"]
    assert len(encoders) == 8
    assert len({one.shape.hidden for one in encoders}) >= 3 and len({len(one.shape.layers) for one in encoders}) >= 3
    weights = [sum(block.weights for block in one.blocks(16)) for one in encoders]
    assert max(weights) > 10 * min(weights)


def test_the_shortest_design_times_two_lengths_of_everything():
    """At the least --max-length there is, no candidate names one length twice."""
    assert all(one.lengths[0] < one.lengths[1] for one in design(30, 32))


def test_settings_that_make_no_kit_are_refused(tmp_path):
    for given, flag in (({"samples": 4}, "--samples"), ({"max_length": 16}, "--max-length"),
                        ({"precisions": ("int4",)}, "--precision"), ({"runtimes": ()}, "--runtime")):
        with pytest.raises(UsageError, match=flag):
            kits.make_kit(tmp_path / "kit", **given)
    assert not (tmp_path / "kit").exists()


def test_a_kit_lists_files_that_are_there(sweep_kit):
    items = read_kit(sweep_kit.folder)
    assert tuple(items) == sweep_kit.items and sweep_kit.made == len(items) == 10
    assert sweep_kit.timings == sum(len(item["lengths"]) for item in items) == 16
    order = [(item["kind"], item["runtime"], item["precision"]) for item in items]
    assert order[:4] == list(itertools.product(["encoder"], ["onnx", "tflite"], ["fp32", "int8"]))
    assert order[4:6] == [("gelu", "onnx", "fp32"), ("gelu", "tflite", "fp32")], "without weights one precision is enough"
    assert (sweep_kit.folder / "bench.pyz").is_file()


def test_what_is_right_in_a_kit_is_kept(sweep_kit, monkeypatch):
    monkeypatch.setattr(kits, "design", lambda samples, max_length: CANDIDATES)
    before = {path.name: path.stat().st_mtime_ns for path in sweep_kit.folder.glob("*.*e*") if "json" not in path.name}
    (sweep_kit.folder / sweep_kit.items[0]["file"]).write_bytes(b"damaged")
    again = kits.make_kit(sweep_kit.folder)
    assert again.made == 1 and again.items == sweep_kit.items
    after = {path.name: path.stat().st_mtime_ns for path in sweep_kit.folder.glob("*.*e*") if "json" not in path.name}
    assert {name for name in before if before[name] != after[name]} <= {sweep_kit.items[0]["file"], "bench.pyz"}


def test_a_kit_that_was_stopped_is_usable_and_is_gone_on_with(sweep_kit, tmp_path, monkeypatch):
    monkeypatch.setattr(kits, "design", lambda samples, max_length: CANDIDATES)
    real, calls = kits._export, []

    def stopped(candidate, runtime, items, folder):
        calls.append(candidate.kind)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(candidate, runtime, items, folder)

    monkeypatch.setattr(kits, "_export", stopped)
    with pytest.raises(KeyboardInterrupt):
        kits.make_kit(tmp_path / "kit", ("onnx",))
    assert [item["kind"] for item in read_kit(tmp_path / "kit")] == ["encoder", "encoder"]
    calls.append("not stopped again")
    whole = kits.make_kit(tmp_path / "kit", ("onnx",))
    assert whole.made == 3 and whole.items == tuple(item for item in sweep_kit.items if item["runtime"] == "onnx")
    (tmp_path / "kit" / whole.items[0]["file"]).unlink()
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        kits.make_kit(tmp_path / "kit", ("onnx",))
    assert len(read_kit(tmp_path / "kit")) == 5, "what was right stays listed"


@pytest.mark.parametrize(("change", "what"), [
    ({"file": "../secret.onnx"}, "file"), ({"file": "/etc/passwd"}, "file"), ({"lengths": []}, "lengths"),
    ({"lengths": ["8"]}, "lengths"), ({"runtime": "torch"}, "runtime"), ({"kind": "cnn"}, "kind"),
    ({"file": "x.tflite"}, "no .onnx file"), ({"id": None}, "id")])
def test_a_kit_from_anybody_is_checked(onnx_kit, change, what):
    items = read_kit(onnx_kit)
    items[0].update(change)
    (onnx_kit / "kit.json").write_text(json.dumps({"schema": 1, "items": items}))
    with pytest.raises(BadRequest, match=what):
        read_kit(onnx_kit)


def test_a_folder_that_is_no_kit_is_refused(tmp_path):
    with pytest.raises(BadRequest, match="edgebert sweep --kit"):
        read_kit(tmp_path)
    for content in ("{", "[]", '{"schema": 9, "items": []}'):
        (tmp_path / "kit.json").write_text(content)
        with pytest.raises(BadRequest, match="kit"):
            read_kit(tmp_path)


def test_the_command_line_sweeps_this_machine(sweep_kit, tmp_path, monkeypatch, capsys):
    from typer.testing import CliRunner

    from edgebert.cli import app

    monkeypatch.setattr(kits, "design", lambda samples, max_length: CANDIDATES)
    out, folder = tmp_path / "r.jsonl", write_kit(tmp_path / "kit", sweep_kit.folder, sweep_kit.items)
    done = CliRunner().invoke(app, ["sweep", "--kit", str(folder), "--device", "local", "--out", str(out),
                                    "--runs", "10", "--runtime", "onnx"])
    assert done.exit_code == 0, done.output
    assert len(lines_of(out)) == 8
    refused = CliRunner().invoke(app, ["sweep", "--kit", str(tmp_path / "k"), "--affinity", "0x1"])
    assert isinstance(refused.exception, UsageError) and "--device" in str(refused.exception)
    assert not (tmp_path / "k").exists()


def test_another_device_is_swept_with_the_same_options(sweep_kit, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from edgebert import remote
    from edgebert.cli import app
    from edgebert.device import load_profile

    calls = []
    monkeypatch.setattr(kits, "design", lambda samples, max_length: CANDIDATES)
    monkeypatch.setattr(remote, "open_device", lambda name: name)
    monkeypatch.setattr(remote, "sweep_on", lambda *given: calls.append(given))
    folder = write_kit(tmp_path / "kit", sweep_kit.folder, sweep_kit.items)
    done = CliRunner().invoke(app, ["sweep", "--kit", str(folder), "--device", "adb:x", "--out", str(tmp_path / "r"),
                                    "--threads", "1,2,4", "--profile", "pixel6", "--runs", "9", "--runtime", "onnx"])
    assert done.exit_code == 0, done.output
    masks = [load_profile("pixel6").core_mask(count).lower() for count in (1, 2, 4)]
    assert len(set(masks)) == 3
    for (device, own, out, arguments, limit, *_), threads, mask in zip(calls, "124", masks, strict=True):
        assert (device, own, out, limit) == ("adb:x", folder, tmp_path / "r", None)
        assert arguments == ["--threads", threads, "--runs", "9", "--rounds", "1", "--max-seconds", "3.0",
                             "--clock", "wall", "--affinity", mask]
