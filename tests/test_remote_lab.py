"""Remotes against real parts: aarch64 wheels under qemu, a real sshd, a real adbd. No figure of them is a latency."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from device_bench import BenchResult
from device_bench.packing import write_pyz
from edgebert.bundle import file_sha256, write_manifest
from tests.bench_material import onnx_truth, tflite_truth, write_golden, write_onnx, write_tflite
from tests.lab.build import lab_folder
from tests.lab.lab import ADB_DEVICE, SSH_DEVICE, Lab, python_command, running
from tests.test_plan import PLAN

DEVICES = (SSH_DEVICE, ADB_DEVICE)
TEMPORARY = {SSH_DEVICE: "/tmp", ADB_DEVICE: "/data/local/tmp"}
LENGTH, VOCABULARY = 8, 40


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """A tiny model of each format, with its golden rows."""
    found = {}
    for name, write, truth in (("m.onnx", write_onnx, onnx_truth), ("m.tflite", write_tflite, tflite_truth)):
        folder = tmp_path_factory.mktemp("model")
        write_golden(folder, truth, LENGTH, {name: 1e-4})
        found[name] = write(folder / name)
    return found


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "plan.json").write_text(PLAN.dumps())
    write_golden(folder, onnx_truth, LENGTH, {"model.onnx": 1e-4})
    write_onnx(folder / "model.onnx")
    write_manifest(folder, {})
    return folder


def there(lab: Lab, device: str, *words: str) -> str:
    """What a command prints on the device, by its own program and not by ours."""
    reach = (("ssh", "-F", lab.environment["EDGEBERT_SSH_CONFIG"], "lab") if device == SSH_DEVICE
             else ("adb", "-s", device.removeprefix("adb:"), "shell"))
    return lab.run([*reach, *words]).stdout.strip()


def edgebert(*words: object) -> list[str]:
    return [sys.executable, "-m", "edgebert", *map(str, words)]


def is_arm(record: BenchResult) -> bool:
    facts = record.device_before
    return (facts.architecture == "aarch64" and "dotprod" in facts.features and "Cortex-A76" in (facts.cpu_model or "")
            and "qemu" in (record.emulated or ""))


@pytest.mark.parametrize("name, wheels, runtime", [("m.onnx", "runtimes", "onnxruntime"),
                                                   ("m.tflite", "runtimes", "ai_edge_litert"),
                                                   ("m.tflite", "tflite214", "tflite_runtime")])
def test_bench_pyz_runs_on_arm_with_the_real_wheels(device_lab, models, tmp_path, name, wheels, runtime):
    words = [str(write_pyz(tmp_path / "bench.pyz")), "--runs", "5", "--warmup", "0", "--length", str(LENGTH),
             "--vocabulary", str(VOCABULARY), str(models[name])]
    done = subprocess.run(python_command(lab_folder() / "root", words, wheels), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = BenchResult.from_json(done.stdout)
    assert record.runtime == runtime and record.golden.ok and is_arm(record)
    assert not record.valid and "emulated" in record.reasons()[0]
    shown = json.loads(done.stdout)
    assert shown["emulated"] and all(shown[key] is None for key in ("p50_ms", "p90_ms", "p95_ms", "mean_ms", "min_ms"))


@pytest.mark.parametrize("device", DEVICES)
def test_a_bundle_is_timed_behind_a_real_server(device_lab, bundle, device, tmp_path):
    done = device_lab.run(edgebert("bench", bundle, "--device", device, "--runs", 5, "--out", tmp_path / "out.jsonl"))
    assert done.returncode == 0, done.stderr
    assert "emulated, not a latency" in done.stdout and not re.search(r"\d\.\d{3}", done.stdout)
    record = BenchResult.from_json((tmp_path / "out.jsonl").read_text())
    assert is_arm(record) and record.golden.ok and record.sha256 == file_sha256(bundle / "model.onnx")
    assert "edgebert" not in there(device_lab, device, "ls", TEMPORARY[device])
    assert there(device_lab, device, "id", "-un") == ("pi" if device == SSH_DEVICE else "root")


HOSTILE = """
import sys, tempfile
from pathlib import Path
from edgebert.errors import DeviceError
from edgebert.remote import open_device
NAMES = ("-rf $(touch owned) `touch owned` \\"it's\\" \\\\ * ~ ; touch owned\\n$HOME && # \\u00e9", "--help")
with open_device(sys.argv[1]).workspace() as place, tempfile.TemporaryDirectory() as here:
    for name in NAMES:
        file, back = Path(here, name), Path(here, "back")
        file.write_text(f"content of {name}")
        place.push(file, f"sub {name}/{name}")
        place.pull(f"sub {name}/{name}", back)
        assert back.read_text() == file.read_text()
    for words in (NAMES, ("", "a  b", "\\n")):
        said = place.run(["/bin/busybox", "printf", "[%s]", *words], 60)
        assert said.stdout == "".join(f"[{word}]" for word in words), said
    assert place.run(["sh", "-c", "exit 255"], 60).exit_code == 255
    assert place.run(["stat", "-c", "%a", ".."], 60).stdout == "700\\n"
    large = Path(here, "large")
    with large.open("wb") as file:
        file.truncate(80_000_000)
    try:
        place.push(large, "large")
    except DeviceError as error:
        print(error)
"""


@pytest.mark.parametrize("device", DEVICES)
def test_hostile_names_private_folders_and_a_full_device(device_lab, device):
    done = device_lab.run([sys.executable, "-c", HOSTILE, device])
    assert done.returncode == 0, done.stderr
    assert "large (80.0 MB) could not be stored" in done.stdout and "free some space" in done.stdout
    listed = there(device_lab, device, "ls", "/", "/tmp", TEMPORARY[device])
    assert "owned" not in listed and "edgebert" not in listed


SWEEP = """
import sys
from pathlib import Path
from edgebert.remote import open_device, sweep_on
print(sweep_on(open_device(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), ["--runs", "3", "--max-seconds", "1"]))
"""


def test_a_sweep_comes_back_line_by_line(device_lab, models, tmp_path):
    kit, out = tmp_path / "kit", tmp_path / "out.jsonl"
    kit.mkdir()
    (kit / "m.onnx").write_bytes(models["m.onnx"].read_bytes())
    item = {"id": "tiny", "file": "m.onnx", "sha256": file_sha256(kit / "m.onnx"), "runtime": "onnx", "precision": "fp32",
            "kind": "encoder", "lengths": [4, LENGTH], "shape": {"vocab": VOCABULARY}}
    (kit / "kit.json").write_text(json.dumps({"schema": 1, "items": [item]}))
    done = device_lab.run([sys.executable, "-c", SWEEP, SSH_DEVICE, str(kit), str(out)])
    assert done.returncode == 0 and int(done.stdout) == 2, done.stderr
    records = [BenchResult.from_dict(json.loads(line)["result"]) for line in out.read_text().splitlines()]
    assert [record.length for record in records] == [4, LENGTH] and all(map(is_arm, records))


def test_a_profile_of_the_live_device(device_lab, tmp_path):
    done = device_lab.run(edgebert("profiles", "new", "--device", ADB_DEVICE, "--out", tmp_path / "lab.toml"))
    assert done.returncode == 0, done.stderr
    assert "Cortex-A76" in (tmp_path / "lab.toml").read_text()


def test_a_device_without_the_runtime_says_what_to_install(device_lab, bundle):
    done = device_lab.run(edgebert("bench", bundle, "--device", SSH_DEVICE, "--device-python", "/usr/bin/python3"))
    assert done.returncode == 6 and "pip install numpy onnxruntime" in done.stderr


@pytest.mark.parametrize("device, server", [(SSH_DEVICE, "sshd"), (ADB_DEVICE, "adbd")])
def test_a_device_that_goes_away_in_the_middle(device_lab, bundle, device, server):
    words = edgebert("bench", bundle, "--device", device, "--runs", 1_000_000, "--max-seconds", 600)
    with subprocess.Popen([*device_lab.enter, *words], stderr=subprocess.PIPE, text=True,
                          env={**os.environ, **device_lab.environment}) as command:
        deadline = time.monotonic() + 60
        while "600.0" not in device_lab.run(["ps", "-ww", "-ef"]).stdout and time.monotonic() < deadline:
            time.sleep(0.1)  # until what runs is bench.pyz there: its words are written another way than those here
        device_lab.tell(f"stop {server}")
        _, stderr = command.communicate(timeout=120)
    try:
        assert command.returncode == 6 and "went away" in stderr, stderr
        assert device_lab.run(edgebert("bench", bundle, "--device", device)).returncode == 6
    finally:
        device_lab.tell(f"start {server}")
    assert there(device_lab, device, "echo", "back") == "back"


def test_the_lab_leaves_nothing_behind(device_lab):
    """A second lab comes and goes beside the first."""
    def entries() -> list[str]:
        return device_lab.run(["ls", "/proc/sys/fs/binfmt_misc"]).stdout.split()

    with running(lab_folder() / "root") as lab:
        space = lab.run(["stat", "-Lc", "%i", "/proc/self/ns/pid"]).stdout.strip()
        group = lab.process.pid
        assert f"edgebert-lab-{space}" in entries()
    processes = subprocess.run(["ps", "-e", "-o", "pgid=,pidns="], capture_output=True, text=True).stdout
    assert str(group) not in processes.split() and space not in processes.split()
    assert f"edgebert-lab-{space}" not in entries()
    assert str(lab_folder()) not in Path("/proc/self/mounts").read_text()
