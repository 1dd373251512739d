"""Profiles are facts: every shipped one is complete and sound, and every way to write one wrong is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgebert.cost import estimate
from edgebert.device import Budget, list_profiles, load_profile, parse_latency, parse_size, profile_folders
from edgebert.errors import UsageError
from edgebert.spec import EncoderShape, LayerSpec
from exporters.artifact import Precision

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("galaxy-s24", "low-end-a53", "pixel6", "pixel8", "raspberry-pi-4", "raspberry-pi-5", "x86-laptop")
MINILM = EncoderShape(384, 32, 30522, 512, 2, 150, (LayerSpec(12, 1536),) * 6)
TINYBERT = EncoderShape(312, 26, 30522, 512, 2, 2, (LayerSpec(12, 1200),) * 4)
BERT_BASE = EncoderShape(768, 64, 30522, 512, 2, 2, (LayerSpec(12, 3072),) * 12)


def predicted_ms(shape: EncoderShape, precision: str, device: str, runtime: str, threads: int, length: int) -> float:
    uniform = Precision.uniform(precision, len(shape.layers))
    return estimate(shape, uniform, load_profile(device), runtime, threads, length, "p50").latency_ms


def test_the_promised_devices_ship() -> None:
    assert set(NAMES) <= set(list_profiles())


@pytest.mark.parametrize("name", list_profiles())
def test_a_shipped_profile_is_complete(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name and profile.sources and profile.isa
    assert profile.runtimes(profile.threads) == ("onnx", "tflite")
    for row in profile.rows:
        assert len(row.source) > 20, "every cost row says where it comes from"
        assert row.provenance == "measured" or row.error_pct >= 30
        assert row.ns_per_mac > 0
    for runtime in profile.runtimes(1):
        fp32, int8 = (predicted_ms(MINILM, p, name, runtime, 1, 64) for p in ("fp32", "int8"))
        assert int8 < fp32


@pytest.mark.parametrize("name", list_profiles())
def test_a_default_budget_asks_for_a_real_compression(name: str) -> None:
    """Roughly a third to a half of the uncompressed MiniLM's int8 latency, in the device's better runtime."""
    profile = load_profile(name)
    whole = min(estimate(MINILM, Precision.uniform("int8", 6), profile, runtime, profile.threads, 32,
                         profile.budget.percentile).tail_ms for runtime in profile.runtimes(profile.threads))
    assert 0.33 <= profile.budget.max_latency_ms / whole <= 0.52
    assert profile.budget.max_size_mb is not None and profile.budget.max_memory_mb is not None


@pytest.mark.parametrize(("shape", "precision", "device", "runtime", "threads", "length", "anchor_ms", "within"), [
    (MINILM, "int8", "raspberry-pi-4", "onnx", 4, 64, 34.0, 0.25),
    (MINILM, "fp32", "galaxy-s24", "tflite", 4, 80, 21.0, 0.35),
    (BERT_BASE, "fp32", "galaxy-s24", "tflite", 4, 80, 90.0, 0.35),
    (BERT_BASE, "fp32", "pixel8", "tflite", 1, 64, 162.0, 0.25),
    (BERT_BASE, "fp32", "pixel8", "tflite", 1, 32, 81.8, 0.25),
    (BERT_BASE, "fp32", "pixel8", "tflite", 1, 8, 20.1, 0.25),
    (TINYBERT, "fp32", "raspberry-pi-5", "tflite", 1, 16, 4.71, 0.40),
    (TINYBERT, "int8", "raspberry-pi-5", "tflite", 1, 16, 2.21, 0.40),
])
def test_derived_rows_reproduce_published_figures(shape: EncoderShape, precision: str, device: str, runtime: str,
                                                  threads: int, length: int, anchor_ms: float, within: float) -> None:
    """Public figures (see docs/profiles.md). TinyBERT's was taken on an A76 at 2.27 GHz, the Raspberry Pi 5's cores."""
    found = predicted_ms(shape, precision, device, runtime, threads, length)
    assert found == pytest.approx(anchor_ms, rel=within)


def test_affinity_of_the_pixel_6() -> None:
    profile = load_profile("pixel6")
    assert (profile.core_mask(1), profile.core_mask(4), profile.core_mask(3)) == ("0x80", "0xF0", None)
    assert "dotprod" in profile.isa and "i8mm" not in profile.isa


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'pixel6'"):
        load_profile("pixl6")
    with pytest.raises(UsageError, match="raspberry-pi-4"):
        load_profile("zzzzzz")


def pixel6(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    text = next(f / "pixel6.toml" for f in profile_folders() if (f / "pixel6.toml").is_file()).read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "pixel6.toml"
    path.write_text(text)
    return path


def test_a_path_is_read(tmp_path: Path) -> None:
    assert load_profile(pixel6(tmp_path)) == load_profile("pixel6")


@pytest.mark.parametrize(("change", "message"), [
    (("ram_mb", "ram_bm"), "ram_bm: unknown key, did you mean 'ram_mb'"),
    (("op_us", "opus"), r"cost\[0\].opus: unknown key, did you mean 'op_us'"),
    (("max_size_mb", "max_sise_mb"), "budget.max_sise_mb: unknown key, did you mean 'max_size_mb'"),
    (("bandwidth_gbs = ", "bandwidth_gbs = -"), "bandwidth_gbs: must be a positive number"),
    (("bandwidth_gbs = ", "bandwidth_gbs = nan #"), "bandwidth_gbs: must be a positive number"),
    (("ram_mb = ", "ram_mb = 1.5 #"), "ram_mb: must be a int"),
    (("threads = 1", "threads = true"), "threads: must be a int"),
    (('title = ', '#'), "title: is missing"),
    (("ns_per_mac = ", "#"), r"cost\[0\].ns_per_mac: is missing"),
    (("ns_per_mac = ", "ns_per_mac = inf #"), r"cost\[0\].ns_per_mac: must be a positive number"),
    (('runtime = "onnx"', 'runtime = "onxx"'), r"cost\[0\].runtime: 'onxx' is not one of"),
    (('provenance = "', 'provenance = "sure'), r"cost\[0\].provenance"),
    (('"0x80"', '"80"'), "affinity.1: must be a hexadecimal core mask"),
    (('"0xF0"', '"0xF000"'), "affinity.4: 0xF000 does not give 4 of 8 cores"),
    (('name = "pixel6"', 'name = "pixel7"'), "name: is 'pixel7' but the file"),
    (('name = "pixel6"', 'name = '), "cannot be read as a profile"),
    (('percentile = "p90"', 'percentile = "p99"'), "budget.percentile: 'p99' is not one of p50, p90"),
])
def test_a_wrong_profile_names_file_and_key(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = pixel6(tmp_path, change)
    with pytest.raises(UsageError, match=message) as caught:
        load_profile(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "ms"), [("12ms", 12), ("0.012s", 12), ("12", 12), ("900us", 0.9), (" 1.5 MS ", 1.5)])
def test_latencies(text: str, ms: float) -> None:
    assert parse_latency(text) == pytest.approx(ms)


@pytest.mark.parametrize(("text", "mb"), [("20MB", 20), ("20MiB", 20.97152), ("500kB", 0.5), ("20", 20), ("1GB", 1000)])
def test_sizes(text: str, mb: float) -> None:
    assert parse_size(text) == pytest.approx(mb)


@pytest.mark.parametrize("text", ["", "fast", "12 parsecs", "-3ms", "0", "1e999ms", "12ms13", "nan"])
def test_nonsense_names_the_flag_and_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=r"--max-latency: .* write for example --max-latency 12ms"):
        parse_latency(text)
    with pytest.raises(UsageError, match="--max-memory 20MB"):
        parse_size(text, "--max-memory")


def test_flags_override_a_profile_budget_one_by_one() -> None:
    default = Budget(max_latency_ms=10.0, max_size_mb=20.0)
    assert default.override(max_latency_ms=5.0, max_size_mb=None) == Budget(max_latency_ms=5.0, max_size_mb=20.0)
    with pytest.raises(UsageError, match="percentile 'p99'"):
        default.override(percentile="p99")
    with pytest.raises(UsageError, match="max_size_mb must be a positive number"):
        default.override(max_size_mb=float("nan"))


def test_planning_imports_nothing_heavy() -> None:
    code = ("import sys, edgebert.search, edgebert.plan, edgebert.cost; "
            "print([m for m in ('torch', 'scipy', 'transformers', 'onnx', 'litert_torch') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
