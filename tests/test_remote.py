"""Remotes without hardware: `ssh`, `scp` and `adb` are stand-ins that hand their words to this machine's own shell."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from device_bench import BenchResult
from device_bench.options import Options
from edgebert.bundle import file_sha256, write_manifest
from edgebert.errors import DeviceError, UsageError
from edgebert.remote import bench_on, open_device, processes, sweep_on
from edgebert.remote.ssh import Address, parse_address
from tests.bench_material import onnx_truth, phone_tree, sound_result, write_golden, write_onnx
from tests.test_plan import PLAN

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the stand-ins need setsid and /proc")
DEVICES = {"local": "local", "ssh": "ssh:pi@board", "adb": "adb:X1"}
HOSTILE = ("plain", "two words", "it's", 'a "b"', "; touch owned", "$(touch owned)", "`touch owned`", "line\nbreak",
           "-rf", "--help", "*", "~", "a\\b", "$HOME", "&& false", "#", "é", "")
NAMES = ("plain.onnx", "-rf $(touch owned) `touch owned` \"it's\" \\ * ~ ; touch owned\n$HOME && # é", "--help")


@pytest.fixture
def board(tmp_path, monkeypatch):
    """A folder with the stand-ins on PATH; `misbehave("full", "copy")` makes the device so at such commands."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("ssh", "scp", "adb"):
        shutil.copyfile(Path(__file__).with_name("fake_remote.sh"), programs / name)
        (programs / name).chmod(0o755)
    (tmp_path / "device").mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("EDGEBERT_DEVICE_FOLDER", str(tmp_path / "device"))
    return programs


def misbehave(board: Path, how: str, where: str = "") -> None:
    (board / "FAKE_MODE").write_text(f"{how} {where}\n")


def left(board: Path) -> list[str]:
    """Private folders that are still on the device."""
    return sorted(path.name for path in (board.parent / "device").iterdir())


@pytest.fixture(params=DEVICES)
def name(request, board):
    return DEVICES[request.param]


@pytest.fixture(params=["ssh", "adb"])
def far(request, board):
    return DEVICES[request.param]


def device_python(board: Path, body: str) -> str:
    """A stand-in for the device's Python: it has everything, and runs `body` for bench.pyz."""
    facts = json.dumps({"version": [3, 11, 2], "machine": "aarch64", "modules": ["numpy", "onnxruntime"]})
    path = board / "devicepython"
    path.write_text(f"#!/bin/sh\ncase $1 in -c) echo '{facts}'; exit;; -m) exit;; esac\n{body}\n")
    path.chmod(0o755)
    return str(path)


# --- names ---

@pytest.mark.parametrize("text", ["", "usb:1", "ssh:", "adb:", "local:1", "ssh:-oProxyCommand=touch owned", "ssh:-l@host",
                                  "ssh:me@-host", "ssh:host;id", "ssh:a b", "ssh:host:0", "ssh:host:99999", "ssh:host:2x",
                                  "ssh:u@h@h", "ssh:host\n", "adb:-s", "adb:a b", "adb:$(id)", "adb:x;y", "ssh:[::1"])
def test_a_name_that_could_be_an_option_or_a_command_is_refused(text):
    with pytest.raises(UsageError):
        open_device(text)


@pytest.mark.parametrize("text, address, destination, prefix", [
    ("board", Address("board"), "board", "board:"),
    ("pi@raspberrypi.local:2222", Address("raspberrypi.local", "pi", 2222), "pi@raspberrypi.local",
     "pi@raspberrypi.local:"),
    ("10.0.0.7:22", Address("10.0.0.7", None, 22), "10.0.0.7", "10.0.0.7:"),
    ("me@[fe80::1%eth0]:22", Address("fe80::1%eth0", "me", 22), "me@fe80::1%eth0", "me@[fe80::1%eth0]:"),
])
def test_addresses(text, address, destination, prefix):
    found = parse_address(text)
    assert found == address and (found.destination, found.scp_prefix) == (destination, prefix)


@pytest.mark.parametrize("python", ["-c", "python3\nrm", "py\0thon"])
def test_a_device_python_that_is_no_command_is_refused(python, monkeypatch):
    with pytest.raises(UsageError):
        open_device("local", python)
    if "\0" not in python:
        monkeypatch.setenv("EDGEBERT_DEVICE_PYTHON", python)
        with pytest.raises(UsageError):
            open_device("local")


@pytest.mark.parametrize("folder", ["relative", "/a b", "/x;id", "/$(id)"])
def test_a_device_folder_of_other_characters_is_refused(folder, monkeypatch):
    monkeypatch.setenv("EDGEBERT_DEVICE_FOLDER", folder)
    with pytest.raises(UsageError):
        open_device("ssh:board")


# --- files and words ---

def test_hostile_names_and_words_arrive_as_they_are(name, board, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    with open_device(name).workspace() as place:
        for word in NAMES:
            (here / word).write_text(f"content of {word}")
            place.push(here / word, f"{word}/{word}")
            place.pull(f"{word}/{word}", tmp_path / "back")
            assert (tmp_path / "back").read_text() == f"content of {word}"
        listed = place.run([sys.executable, "-IS", "-c", "import os; print(sorted(os.listdir()))"], 20)
        assert listed.stdout.strip() == repr(sorted(NAMES))
        said = place.run([sys.executable, "-IS", "-c", "import sys; print(sys.argv[1:])", *HOSTILE], 20)
        assert said.stdout.strip() == repr(list(HOSTILE)) and said.exit_code == 0
    assert left(board) == [] and not list(tmp_path.rglob("owned")) and not Path("/owned").exists()


def test_names_outside_the_folder_are_refused(board, tmp_path):
    with open_device("local").workspace() as place:
        for name in ("../x", "/etc/passwd", "a/../../x", "", "a\0b"):
            with pytest.raises(ValueError):
                place.push(Path(__file__), name)
            with pytest.raises(ValueError):
                place.pull(name, tmp_path / "x")


def test_the_folder_is_private_and_files_are_executable_only_where_they_were(name, board, tmp_path):
    script, text = tmp_path / "tool", tmp_path / "text"
    script.write_text("#!/bin/sh\necho it runs\n")
    script.chmod(0o755)
    text.write_text("x")
    with open_device(name).workspace() as place:
        place.push(script, "tool")
        place.push(text, "text")
        assert stat.S_IMODE(Path(place.folder).stat().st_mode) == 0o700
        assert place.run(["./tool"], 20).stdout == "it runs\n"
        assert place.run(["./text"], 20).exit_code == 126


def test_output_and_exit_codes_come_back(name, board):
    with open_device(name).workspace() as place:
        for code in (0, 6, 255):
            done = place.run(["sh", "-c", 'printf "out\\n\\nmore"; echo err >&2; exit "$0"', str(code)], 20)
            assert (done.exit_code, done.stdout, done.stderr) == (code, "out\n\nmore", "err\n")
        assert place.run(["no-such-program"], 20).exit_code == 127


def test_lines_are_handed_on_while_the_program_runs(name, board):
    seen: list[tuple[str, float]] = []
    start = time.monotonic()
    with open_device(name).workspace() as place:
        place.run(["sh", "-c", "echo first; sleep 1; echo second"], 20,
                  lambda line: seen.append((line, time.monotonic() - start)))
    when = dict(seen)
    assert when["second"] - when["first"] > 0.7


def test_what_a_login_prints_is_no_output(far, board):
    misbehave(board, "banner")
    with open_device(far).workspace() as place:
        assert place.run(["echo", "hello"], 20).stdout == "hello\n"


# --- the folder goes, and what runs in it ---

@pytest.mark.parametrize("ending", [None, ValueError, DeviceError, KeyboardInterrupt])
def test_the_folder_is_removed_however_the_block_ends(name, board, ending):
    try:
        with open_device(name).workspace() as place:
            place.push(Path(__file__), "file")
            assert len(left(board)) == 1
            if ending:
                raise ending("enough")
    except (ValueError, DeviceError, KeyboardInterrupt):
        pass
    assert left(board) == []


def running(word: str) -> list[str]:
    found = []
    for path in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it ended meanwhile, or is no process
            if word in (path / "cmdline").read_bytes().decode(errors="replace"):
                found.append(path.name)
    return found


def test_a_program_that_takes_too_long_is_ended_on_the_device_too(name, board):
    word = f"sleeper-{os.getpid()}-{name[:3]}"
    with pytest.raises(DeviceError, match="no answer within 1 s"), open_device(name).workspace() as place:
        place.run(["sh", "-c", "sleep 300; sleep 300", word], 1)
    deadline = time.monotonic() + 5
    while running(word) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running(word) == [] and left(board) == []


def test_ctrl_c_ends_the_program_and_removes_the_folder(far, board, interruptible):
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt), open_device(far).workspace() as place:
        place.run(["sleep", "300"], 60)
    assert left(board) == []


# --- a device that fails ---

def test_a_device_that_cannot_be_reached(far, board):
    misbehave(board, "refused", "connect")
    with pytest.raises(DeviceError, match="ssh pi@board true|adb devices -l"), open_device(far).workspace():
        raise AssertionError("there is no device")


def test_an_unauthorised_phone(board):
    misbehave(board, "unauthorized", "connect")
    with pytest.raises(DeviceError, match="question on its screen"), open_device("adb:X1").workspace():
        raise AssertionError("there is no device")


@pytest.mark.parametrize("device, program", [("ssh:pi@board", "ssh"), ("adb:X1", "adb")])
def test_a_missing_program_here(device, program, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match=f"'{program}' is not installed here"), open_device(device).workspace():
        raise AssertionError("there is no device")


@pytest.mark.parametrize("how", ["full", "short"])
def test_a_full_device(far, board, how):
    with pytest.raises(DeviceError, match="could not be stored.*free some space"), open_device(far).workspace() as place:
        misbehave(board, how, "copy")
        place.push(Path(__file__), "file")
    assert left(board) == []


def test_a_device_without_room_for_a_folder(far, board):
    (board.parent / "device").rmdir()
    with pytest.raises(DeviceError, match="no folder can be made.*EDGEBERT_DEVICE_FOLDER"), open_device(far).workspace():
        raise AssertionError("there is no folder")


@pytest.mark.parametrize("how", ["garbage", "vanish0"])
def test_a_device_that_answers_nonsense_or_nothing(far, board, how):
    misbehave(board, how)
    with pytest.raises(DeviceError, match="went away or does not run commands"), open_device(far).workspace():
        raise AssertionError("nothing was made")


def test_an_answer_without_end(far, board, monkeypatch):
    monkeypatch.setattr(processes, "MOST_BYTES", 1 << 16)
    misbehave(board, "endless", "echo")
    with pytest.raises(DeviceError, match="answers without end"), open_device(far).workspace() as place:
        place.run(["echo"], 20)


def test_a_folder_that_cannot_be_removed_is_named(far, board, caplog):
    with open_device(far).workspace() as place:
        misbehave(board, "vanish0")
    assert place.folder in caplog.text and "remove it by hand" in caplog.text


# --- the device's Python ---

@pytest.mark.parametrize("script, sentence", [
    ("echo bash: not found >&2; exit 127", "no Python 3.9 or newer"),
    ("echo Python 2.7.18", "no Python 3.9 or newer"),
    ("""echo '{"version": [3, 8, 2], "machine": "aarch64", "modules": ["numpy"]}'""", "no Python 3.9 or newer"),
    ("""echo '{"version": [3, 11, 2], "machine": "aarch64", "modules": []}'""",
     "lacks numpy and onnxruntime.*-m pip install numpy onnxruntime"),
    ("""echo '{"version": [3, 11, 2], "machine": "aarch64", "modules": ["numpy", "ai_edge_litert"]}'""",
     "lacks onnxruntime.*-m pip install onnxruntime"),
    ("""echo '{"version": "new", "machine": 7}'""", "no Python 3.9 or newer"), ("echo '[]'", "no Python 3.9 or newer"),
])
def test_a_device_without_what_is_needed_says_what_to_install(far, board, script, sentence, tmp_path):
    python = board / "other python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    model = write_onnx(tmp_path / "m.onnx", 8)
    with pytest.raises(DeviceError, match=sentence):
        bench_on(open_device(far, str(python)), [model], Options())


def test_the_runtime_of_either_name_will_do_and_32_bit_arm_is_told_of_its_own(board):
    python = device_python(board, "")
    text = Path(python).read_text()
    Path(python).write_text(text.replace('"onnxruntime"', '"tflite_runtime"').replace("aarch64", "armv7l"))
    with open_device("local", python).workspace() as place:
        assert place.python(("numpy", "tflite")) == python
        with pytest.raises(DeviceError, match="lacks onnxruntime"):
            place.python(("onnx",))
    Path(python).write_text(text.replace('"onnxruntime"', '"numpy"').replace("aarch64", "armv7l"))
    with open_device("local", python).workspace() as place, pytest.raises(DeviceError, match="tflite-runtime only"):
        place.python(("tflite",))


# --- timings ---

def model_and_golden(folder: Path, scale: float = 1.0) -> Path:
    folder.mkdir(exist_ok=True)
    write_golden(folder, onnx_truth, 8, {"m.onnx": 1e-5}, scale)
    return write_onnx(folder / "m.onnx", 8)


def test_a_real_benchmark_comes_back_whole(name, board, tmp_path):
    path = model_and_golden(tmp_path / "models")
    other = write_onnx(tmp_path / "n.onnx", 8)  # without golden rows, and not given those of the first
    kept = []
    records = bench_on(open_device(name, sys.executable), [path, other],
                       Options(runs=5, warmup=0, length=8, vocabulary=40), kept.append)
    assert records == tuple(kept) and [record.file_name for record in records] == ["m.onnx", "n.onnx"]
    assert records[0].sha256 == file_sha256(path) and records[0].runtime == "onnxruntime"
    assert len(records[0].timing.samples_ns) == 5 and records[0].golden.ok and records[1].golden is None
    assert left(board) == []


def test_wrong_answers_on_the_device_are_in_the_record(far, board, tmp_path):
    path = model_and_golden(tmp_path / "models", scale=2.0)
    record, = bench_on(open_device(far, sys.executable), [path], Options(runs=3, warmup=0, vocabulary=40))
    assert record.golden is not None and not record.golden.ok and not record.valid


def test_an_option_the_device_refuses_is_a_usage_error(far, board, tmp_path):
    path = model_and_golden(tmp_path / "models")
    with pytest.raises(UsageError, match="batch"):
        bench_on(open_device(far, sys.executable), [write_onnx(path, 8, batch=1)], Options(batch=2, golden=False))


@pytest.mark.parametrize("body, sentence", [
    ("echo hello", "m.onnx: hello"), ("echo '{}'", "no timing of m.onnx"),
    ("echo '{\"schema\": 1'", "no timing of m.onnx"),
    ("echo bench: m.onnx: the runtime refuses it >&2; exit 6", "m.onnx: the runtime refuses it"),
    ("kill -9 $$", "killed by signal 9"), ("exit 3", "no answer"),
])
def test_answers_that_are_no_timing(far, board, tmp_path, body, sentence):
    path = model_and_golden(tmp_path / "models")
    with pytest.raises(DeviceError, match=sentence):
        bench_on(open_device(far, device_python(board, body)), [path], Options())
    assert left(board) == []


def test_a_timing_of_another_file_is_refused(far, board, tmp_path):
    path = model_and_golden(tmp_path / "models")
    line = sound_result(phone_tree(tmp_path / "phone")).to_json()
    (tmp_path / "line").write_text(line)
    with pytest.raises(DeviceError, match="timed another file"):
        bench_on(open_device(far, device_python(board, f"cat {tmp_path}/line")), [path], Options())


def test_what_was_measured_before_the_device_went_is_kept(far, board, tmp_path):
    """The second of two files is the last straw."""
    first, second = model_and_golden(tmp_path / "models"), write_onnx(tmp_path / "n.onnx", 8)
    line = dataclasses.replace(sound_result(phone_tree(tmp_path / "phone")), sha256=file_sha256(first)).to_json()
    (tmp_path / "line").write_text(line + "\n")
    misbehave(board, "vanish1", "n.onnx")
    kept = []
    with pytest.raises(DeviceError, match=r"went away|could not be stored"):
        bench_on(open_device(far, device_python(board, f"cat {tmp_path}/line")), [first, second], Options(), kept.append)
    assert [record.file_name for record in kept] == ["m.onnx"]


# --- sweeps ---

def write_kit(folder: Path, count: int) -> Path:
    folder.mkdir()
    items = []
    for number in range(count):
        path = folder / f"{number}.onnx"
        path.write_text(f"model {number}")
        items.append({"id": f"item {number}", "file": path.name, "sha256": file_sha256(path), "runtime": "onnx",
                      "precision": "fp32", "kind": "linear", "lengths": [8]})
    (folder / "kit.json").write_text(json.dumps({"schema": 1, "items": items}))
    return folder


def sweeping_python(board: Path, tmp_path: Path, kit: Path, body: str) -> str:
    """A device's Python whose sweep prints one right line for each item that its results file does not name."""
    record = sound_result(phone_tree(tmp_path / "phone")).to_dict()
    items = json.loads((kit / "kit.json").read_text())["items"]
    for number, item in enumerate(items):
        samples = [one + number for one in record["samples_ns"]]  # no two files take the very same times
        line = {"schema": 1, "item": item, "result": {**record, "sha256": item["sha256"], "samples_ns": samples}}
        (tmp_path / f"line{number}").write_text(json.dumps(line) + "\n")
    show = (f'echo "$@" > {tmp_path}/words; i=0; while [ -f {tmp_path}/line$i ]; do '
            f'grep -q "item $i\\"" results.jsonl 2> /dev/null || {{ cat {tmp_path}/line$i; {body}; }}; i=$((i+1)); done')
    return device_python(board, f'[ "$2" = sweep ] || exit 9; {show}; echo "sweep: done" >&2')


def ids(out: Path) -> list[str]:
    return [json.loads(line)["item"]["id"] for line in out.read_text().splitlines()]


def test_a_sweep_survives_the_device_and_goes_on(far, board, tmp_path):
    kit, out = write_kit(tmp_path / "kit", 6), tmp_path / "results.jsonl"
    python, ticks, said = sweeping_python(board, tmp_path, kit, ":"), [], []
    misbehave(board, "vanish4", "--print")  # two lines of ours come first
    with pytest.raises(DeviceError, match="went away"):
        sweep_on(open_device(far, python), kit, out)
    assert ids(out) == ["item 0", "item 1"]
    with out.open("a") as file:
        file.write('{"schema": 1, "item": {"id"')  # as a crash leaves it
    misbehave(board, "")
    count = sweep_on(open_device(far, python), kit, out, ["--threads", "1"], 600, ticks.append, said.append)
    assert count == sum(ticks) == 4 and ids(out) == [f"item {i}" for i in range(6)] and said == ["done"]
    words = (tmp_path / "words").read_text()
    assert "sweep kit --out results.jsonl --print --time-limit 600 --threads 1" in words and left(board) == []


def test_a_real_sweep_goes_on_where_an_older_one_ended(board, tmp_path):
    """bench.pyz itself reads the results that were pushed, and does not time them again."""
    kit, out = tmp_path / "kit", tmp_path / "results.jsonl"
    kit.mkdir()
    write_onnx(kit / "m.onnx")
    for lengths in ([4], [4, 8]):
        item = {"id": "tiny", "file": "m.onnx", "sha256": file_sha256(kit / "m.onnx"), "runtime": "onnx",
                "precision": "fp32", "kind": "encoder", "lengths": lengths, "shape": {"vocab": 40}}
        (kit / "kit.json").write_text(json.dumps({"schema": 1, "items": [item]}))
        sweep_on(open_device("ssh:pi@board", sys.executable), kit, out, ["--runs", "12", "--max-seconds", "1"])
    timed = [json.loads(line)["result"]["length"] for line in out.read_text().splitlines()]
    assert timed[0] == 4 and timed[-1] == 8 and left(board) == []
    assert len(timed) == 2 or timed == [4, 4, 8]  # a timing that a busy machine spoilt is taken again


def test_a_sweep_that_hangs_is_given_up_and_keeps_its_lines(board, tmp_path, monkeypatch):
    monkeypatch.setattr("edgebert.remote.timing.SWEEP_SILENCE_S", 1.0)
    kit, out = write_kit(tmp_path / "kit", 3), tmp_path / "results.jsonl"
    python = sweeping_python(board, tmp_path, kit, "[ $i = 1 ] && sleep 300")
    with pytest.raises(DeviceError, match="no answer within 1 s"):
        sweep_on(open_device("ssh:pi@board", python), kit, out)
    assert ids(out) == ["item 0", "item 1"] and left(board) == []


def test_a_sweep_with_an_impossible_line_stops_there(board, tmp_path):
    kit, out = write_kit(tmp_path / "kit", 3), tmp_path / "results.jsonl"
    python = sweeping_python(board, tmp_path, kit, ":")
    line = json.loads((tmp_path / "line1").read_text())
    line["result"]["samples_ns"] = [-1]
    (tmp_path / "line1").write_text(json.dumps(line) + "\n")
    with pytest.raises(DeviceError, match="no timing"):
        sweep_on(open_device("adb:X1", python), kit, out)
    assert ids(out) == ["item 0"] and left(board) == []


def test_a_sweep_that_times_nothing_says_why(board, tmp_path):
    kit = write_kit(tmp_path / "kit", 1)
    python = device_python(board, "echo bench: nothing could be timed, no onnxruntime >&2; exit 6")
    with pytest.raises(DeviceError, match="nothing could be timed"):
        sweep_on(open_device("ssh:pi@board", python), kit, tmp_path / "out.jsonl")


# --- the command ---

def small_bundle(folder: Path) -> Path:
    """What `bench` needs of a bundle: a plan, a tiny model with golden rows, a manifest."""
    folder.mkdir()
    (folder / "plan.json").write_text(PLAN.dumps())
    write_golden(folder, onnx_truth, 8, {"model.onnx": 1e-5})
    write_onnx(folder / "model.onnx")
    write_manifest(folder, {})
    return folder


def edgebert(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "edgebert", *map(str, words)], capture_output=True, text=True)


def test_the_command_times_a_bundle_there_and_keeps_the_records(board, tmp_path):
    folder, out = small_bundle(tmp_path / "bundle"), tmp_path / "records.jsonl"
    done = edgebert("bench", folder, "--device", "ssh:pi@board", "--device-python", sys.executable, "--runs", 3,
                    "--affinity", "0x1", "--out", out)
    assert done.returncode == 0, done.stderr
    record = BenchResult.from_json(out.read_text())
    assert "model.onnx" in done.stdout and record.affinity.asked == (0,) and record.golden.ok
    assert (record.threads, record.length) == (PLAN.threads, PLAN.length)


def test_the_command_says_in_one_line_what_is_wrong(board, tmp_path):
    folder = small_bundle(tmp_path / "bundle")
    misbehave(board, "refused", "connect")
    for words, code in ((("adb:X1",), 6), (("ssh:-oX",), 2), (("adb:X1", "--affinity", "0x1", "--profile", "pixel6"), 2)):
        done = edgebert("bench", folder, "--device", *words)
        assert done.returncode == code and len(done.stderr.strip().splitlines()) == 1, (words, done.stderr)


def test_wrong_answers_there_end_with_4_and_an_emulator_keeps_no_budget(board, tmp_path, monkeypatch):
    folder = small_bundle(tmp_path / "bundle")
    monkeypatch.setenv("EDGEBERT_EMULATED", "a test")
    words = ("bench", folder, "--device", "adb:X1", "--device-python", sys.executable, "--runs", 3)
    done = edgebert(*words, "--check")
    assert done.returncode == 6 and "ran on an emulator (a test)" in done.stderr
    assert "emulated, not a latency" in done.stdout and not re.search(r"\d\.\d{3}", done.stdout)
    write_golden(folder, onnx_truth, 8, {"model.onnx": 1e-5}, scale=2.0)
    write_manifest(folder, {})
    done = edgebert(*words)
    assert done.returncode == 4 and "differs from its golden logits on adb:X1" in done.stderr
