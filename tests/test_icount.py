"""The runtime chooses its dot-product kernels where the processor has them: counted, not timed.

A whole Arm machine is emulated with one guest nanosecond for each instruction, so the CPU time of a run is the number of
instructions that it takes. The fp32 file is the control: it has nothing to gain from dot products."""

from __future__ import annotations

from pathlib import Path

import pytest

from device_bench.native.build import build
from device_bench.result import BenchResult
from edgebert.spec import EncoderShape, LayerSpec
from exporters.artifact import InputSpec, Precision
from exporters.onnx_export import export_onnx
from tests.conftest import random_net
from tests.lab import boot

LENGTH = 32
PRECISIONS = ("int8", "fp32")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def parts(arm_parts) -> boot.Parts:
    if reason := boot.why_not():
        pytest.skip(reason)
    return arm_parts


@pytest.fixture(scope="module")
def files(parts, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("icount")
    shape = EncoderShape(hidden=128, head_dim=32, vocab=200, positions=LENGTH, token_types=2, labels=3,
                         layers=(LayerSpec(4, 512),) * 2)
    net = random_net(shape)
    made = {"bench_onnx": build(folder / "bench_onnx", headers=parts.headers), "libonnxruntime.so": parts.onnxruntime}
    for precision in PRECISIONS:
        made[f"{precision}.onnx"] = folder / f"{precision}.onnx"
        export_onnx(net, made[f"{precision}.onnx"], InputSpec((LENGTH,)), Precision.uniform(precision, 2))
    return made


@pytest.fixture(scope="module")
def records(parts, files) -> dict[tuple[str, str], BenchResult]:
    """By processor and precision; the samples are counts of instructions."""
    found = {}
    for cpu in ("cortex-a76", "cortex-a53"):
        programs = [["/bench_onnx", "--library", "/libonnxruntime.so", "--length", str(LENGTH), "--vocabulary", "200",
                     "--clock", "cpu", "--warmup", "1", "--runs", "5", f"/{precision}.onnx"] for precision in PRECISIONS]
        for precision, ended in zip(PRECISIONS, boot.boot(parts, cpu, programs, files, timeout_s=240)):
            assert ended.exit_code == 0, ended.text[-600:]
            line = next(line for line in ended.text.splitlines() if line.startswith("{"))
            found[cpu, precision] = BenchResult.from_json(line)
    return found


def instructions(record: BenchResult) -> float:
    return record.timing.p50_ns


def test_the_two_processors_are_what_they_say(records):
    for precision in PRECISIONS:
        big, small = records["cortex-a76", precision], records["cortex-a53", precision]
        assert big.device_before.cpu_model == "Cortex-A76 x1" and "dotprod" in big.device_before.features
        assert small.device_before.cpu_model == "Cortex-A53 x1" and "dotprod" not in small.device_before.features


def test_counts_repeat(records):
    for record in records.values():
        assert max(record.timing.samples_ns) < 1.02 * min(record.timing.samples_ns)


def test_dot_products_are_chosen_for_int8_and_change_nothing_for_fp32(records):
    int8, fp32 = (instructions(records["cortex-a53", precision]) / instructions(records["cortex-a76", precision])
                  for precision in PRECISIONS)
    print(f"instructions on cortex-a53 over cortex-a76: int8 {int8:.2f}, fp32 {fp32:.2f}")
    assert int8 > 1.3
    assert 0.97 < fp32 < 1.03


def test_int8_needs_fewer_instructions_than_fp32_only_with_dot_products(records):
    with_dot, without = (instructions(records[cpu, "int8"]) / instructions(records[cpu, "fp32"])
                         for cpu in ("cortex-a76", "cortex-a53"))
    assert with_dot < 0.8 < without


def test_a_count_is_never_shown_as_a_time(records):
    for record in records.values():
        assert record.emulated and not record.valid and not record.to_dict()["p50_ms"] and not record.to_dict()["mean_ms"]


def test_the_archive_is_what_cpio_reads(tmp_path):
    import shutil
    import subprocess

    if not shutil.which("cpio"):
        pytest.skip("cpio is not on this machine")
    content = {"init": b"\x7fELF", "lib/a.so": b"12345", "words": b""}
    (tmp_path / "archive").write_bytes(boot.cpio(content, folders=("proc",)))
    with (tmp_path / "archive").open("rb") as archive:
        listed = subprocess.run(["cpio", "--list", "--quiet"], stdin=archive, capture_output=True, text=True, check=True)
    assert listed.stdout.split() == ["lib", "proc", "dev/console", *content] and not listed.stderr
