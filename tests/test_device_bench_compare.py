"""Comparing two models: the ratio and its interval against scipy, brute force and simulated noise; the command."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from device_bench import BadRequest, BenchError, BenchResult, Options, Timing, compare_in_child, write_pyz
from device_bench.affinity import current_cores
from device_bench.compare import Comparison, Ratio, _signed_rank_quantile, compare, compared, main, paired_ratio
from tests.bench_material import (
    VOCABULARY,
    onnx_truth,
    phone_tree,
    sound_result,
    write_golden,
    write_onnx,
    write_tflite,
)

QUICK = ["--runs", "70", "--warmup", "2", "--vocabulary", str(VOCABULARY)]


@pytest.fixture
def sound(tmp_path):
    return sound_result(phone_tree(tmp_path / "phone"))


# --- the statistics ---

@pytest.mark.parametrize("count", [5, 6, 12, 20])
def test_signed_rank_quantile_by_counting_every_sign(count):
    """The distribution of the sum of the positive ranks, over all 2^n signs for the small counts, scipy's for all."""
    k = _signed_rank_quantile(count, 0.025)
    if count <= 12:
        sums = [sum(ranks) for size in range(count + 1) for ranks in itertools.combinations(range(1, count + 1), size)]
        assert sum(one < k for one in sums) <= 0.025 * 2 ** count < sum(one <= k for one in sums)
    values = np.arange(1, count + 1, dtype=float)

    def probability(statistic: int) -> float:
        """P(sum <= statistic): signs for which the first ranks, largest first, add up to it."""
        signs, left = -np.ones(count), statistic
        for rank in range(count, 0, -1):
            if rank <= left:
                signs[rank - 1], left = 1, left - rank
        return stats.wilcoxon(signs * values, alternative="less", method="exact").pvalue

    assert (k == 0 or probability(k - 1) <= 0.025) and probability(k) > 0.025


def test_interval_against_its_definition():
    """The Walsh averages, sorted, less the quantile on both sides; the estimate is their median."""
    rng = np.random.default_rng(3)
    a, b = rng.integers(900, 1100, 20).tolist(), rng.integers(400, 600, 20).tolist()
    logs = np.log(np.array(a) / np.array(b))
    walsh = np.sort([(logs[i] + logs[j]) / 2 for i in range(20) for j in range(i, 20)])
    got = paired_ratio(a, b)
    assert got.estimate == pytest.approx(math.exp(np.median(walsh)))
    # 53 is the tabulated quantile for n = 20, two-sided 5 % (statistics of at most 52 are significant).
    assert (got.low, got.high) == (pytest.approx(math.exp(walsh[52])), pytest.approx(math.exp(walsh[-53])))


def test_interval_is_where_the_test_of_scipy_stops_rejecting():
    rng = np.random.default_rng(4)
    a, b = (rng.lognormal(0, 0.05, (2, 20)) * np.array([[1e6], [8e5]])).astype(int).tolist()
    got = paired_ratio(a, b)
    logs = np.log(np.array(a) / np.array(b))
    for edge, inside in ((got.low, 1 + 1e-9), (got.high, 1 - 1e-9)):
        assert stats.wilcoxon(logs - math.log(edge * inside), method="exact").pvalue > 0.05
        assert stats.wilcoxon(logs - math.log(edge / inside), method="exact").pvalue <= 0.05


def test_blocks_of_rounds_give_the_ratio_of_their_medians():
    """Ten rounds a block, one of them disturbed tenfold in A only: it moves no block's median."""
    a, b = [2_000] * 200, [1_000] * 200
    a[::10] = [20_000] * 20
    assert paired_ratio(a, b) == Ratio(pytest.approx(2.0), pytest.approx(2.0), pytest.approx(2.0), 0.95)
    assert paired_ratio([1000] * 5, [1000] * 5) is None  # five blocks can give no 95 % interval
    assert paired_ratio([1000] * 6, [1000] * 6).estimate == 1.0
    swapped, straight = paired_ratio(b, a[:1] + b[1:]), paired_ratio(a[:1] + b[1:], b)
    assert (swapped.low, swapped.high) == (pytest.approx(1 / straight.high), pytest.approx(1 / straight.low))
    for wrong in (([1], [1, 2]), ([0, 1], [1, 1])):
        with pytest.raises(ValueError):
            paired_ratio(*wrong)


def quiet(rng, rounds):
    return rng.lognormal(0, 0.03, (2, rounds))


def skewed(rng, rounds):
    return 1 + rng.gamma(1, 0.05, (2, rounds))


def bursts(rng, rounds):
    """Another program takes a share of the machine for ten rounds at a time, a fifth of the time: both suffer."""
    disturbed, out = False, np.empty(rounds)
    for turn in range(rounds):
        disturbed = rng.random() < (0.9 if disturbed else 0.025)
        out[turn] = 1.4 if disturbed else 1.0
    return out * rng.lognormal(0, 0.02, (2, rounds))


def drift(rng, rounds):
    """The clock falls by a third over the run."""
    return np.linspace(1.0, 1.5, rounds) * rng.lognormal(0, 0.02, (2, rounds))


@pytest.mark.parametrize("noise", [quiet, skewed, bursts, drift])
@pytest.mark.parametrize("rounds", [64, 200])
def test_the_interval_covers_the_true_ratio_as_often_as_it_says(noise, rounds):
    """300 comparisons of a model 1.25 times as fast: 95 % of 300 are 285, with a standard deviation of 3.8."""
    rng = np.random.default_rng(11)
    covered, widths = 0, []
    for _ in range(300):
        a, b = (noise(rng, rounds) * np.array([[1.25e6], [1e6]])).astype(int).tolist()
        got = paired_ratio(a, b)
        covered += got.low <= 1.25 <= got.high
        widths.append(got.high / got.low - 1)
    assert covered >= 285 - 4 * 3.8
    assert np.median(widths) < 0.05  # and it is not wide for want of an answer


def test_equal_models_are_seldom_told_apart():
    rng = np.random.default_rng(12)
    told = 0
    for _ in range(300):
        got = paired_ratio(*(bursts(rng, 100) * 1e6).astype(int).tolist())
        told += got.low > 1 or got.high < 1
    assert told <= 15 + 4 * 3.8


# --- the record and its sentence ---

def pair(sound: BenchResult, a_ns=2_000_000, b_ns=1_000_000, **changes) -> Comparison:
    noise = [1.0, 1.01, 0.99, 1.02, 0.98] * 20
    sides = (dataclasses.replace(sound, file_name=name, timing=Timing(tuple(int(ns * x) for x in noise)), **changes)
             for name, ns in (("a.onnx", a_ns), ("b.onnx", b_ns)))
    return compared(("a.onnx", "b.onnx"), *sides)


def test_sentence_and_round_trip(sound):
    done = pair(sound)
    assert done.valid and done.reasons() == []
    assert done.sentence() == "b.onnx is 2 (2 to 2) times as fast as a.onnx (95% interval, 100 rounds)"
    assert Comparison.from_json(done.to_json()) == done
    record = json.loads(done.to_json())
    assert record["times_as_fast"]["estimate"] == pytest.approx(2.0) and record["valid"] is True
    assert record["a"]["p50_ms"] == pytest.approx(2.0)
    assert "times as fast as a.onnx: no difference is shown" in pair(sound, 1_015_000).sentence()
    assert "no difference" not in pair(sound, 1_030_000).sentence() + pair(sound, 970_000).sentence()
    same = pair(sound, 1_000_000)
    assert "b.onnx is 1 (1 to 1) times as fast as a.onnx: no difference is shown" in same.sentence()
    assert "by CPU time" in pair(sound, clock="cpu").sentence() and pair(sound, clock="cpu").valid


def test_what_spoils_a_ratio(sound):
    emulated = dataclasses.replace(sound.device_before, emulated="qemu-user")
    done = pair(sound, device_before=emulated)
    assert done.times_as_fast is None and not done.valid and "emulator" in done.sentence()
    assert json.loads(done.to_json())["times_as_fast"] is None and Comparison.from_json(done.to_json()) == done
    few = compared(("a", "b"), *(dataclasses.replace(sound, timing=Timing((1000_000,) * 5)),) * 2)
    assert not few.valid and few.sentence().startswith("too few rounds")
    busy = pair(sound, cpu_share=0.5)
    assert busy.valid and not busy.a.valid  # both shared the machine alike: no latency, but a ratio


@pytest.mark.parametrize("spoil, words", [
    (lambda r: "[]", "not a comparison"), (lambda r: json.dumps({**r, "schema": 9}), "not a comparison"),
    (lambda r: json.dumps({**r, "names": ["a"]}), "two names"), (lambda r: json.dumps({**r, "names": ["a", 1]}), "names"),
    (lambda r: json.dumps({**r, "b": None}), "no schema"),
    (lambda r: json.dumps({**r, "a": {**r["a"], "load_ms": -1}}), "load_ms"),
])
def test_wrong_comparisons_are_refused(sound, spoil, words):
    with pytest.raises(ValueError, match=words):
        Comparison.from_json(spoil(json.loads(pair(sound).to_json())))


# --- tiny real models ---

def test_compare_tiny_models(tmp_path, capsys):
    a, b = write_onnx(tmp_path / "a.onnx"), write_tflite(tmp_path / "b.tflite")
    assert main([str(a), str(b), *QUICK, "--length", "8"]) == 0
    out, err = capsys.readouterr()
    done = Comparison.from_json(out)
    assert (done.a.runtime, done.b.runtime) == ("onnxruntime", "ai_edge_litert")
    assert len(done.a.timing.samples_ns) == len(done.b.timing.samples_ns) == 70
    assert done.a.peak_rss_bytes is None and done.b.baseline_rss_bytes is None and done.a.energy is None
    assert done.a.states == done.b.states and done.a.cpu_share is not None
    assert err.splitlines()[-1] == f"bench: {done.sentence()}"
    ratio = done.a.timing.p50_ns / done.b.timing.p50_ns
    assert done.times_as_fast.low * 0.8 <= ratio <= done.times_as_fast.high * 1.25


def test_compare_refuses_what_cannot_be_compared(tmp_path, capsys):
    a, b = write_onnx(tmp_path / "a.onnx"), write_tflite(tmp_path / "b.tflite")
    with pytest.raises(BadRequest, match="give --length"):
        compare(a, b, Options(vocabulary=VOCABULARY))  # 64 by default, and 8
    with pytest.raises(BadRequest, match="--sustained"):
        compare(a, b, Options(sustained=1))
    assert main([str(a), str(tmp_path / "none.onnx"), *QUICK]) == 2
    assert capsys.readouterr().err == f"bench: {tmp_path / 'none.onnx'}: no such file\n"


def test_compare_checks_golden_rows(tmp_path, capsys):
    folders = [tmp_path / name for name in "ab"]
    for folder, scale in zip(folders, (1.0, 3.0), strict=True):
        folder.mkdir()
        write_onnx(folder / "m.onnx")
        write_golden(folder, onnx_truth, 4, scale=scale)
    paths = [str(folder / "m.onnx") for folder in folders]
    assert main([*paths, *QUICK]) == 4
    out, err = capsys.readouterr()
    done = Comparison.from_json(out)
    assert done.names == tuple(paths) and not done.valid and done.a.golden.ok and not done.b.golden.ok
    assert f"not valid: {paths[1]}: the model does not reproduce golden.json" in err
    assert main([*paths, *QUICK, "--no-golden"]) == 0


def test_compare_from_the_zipapp_and_in_a_child(tmp_path):
    a, b = write_onnx(tmp_path / "a.onnx"), write_onnx(tmp_path / "b.onnx")
    pyz = write_pyz(tmp_path / "bench.pyz")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([sys.executable, str(pyz), "compare", str(a), str(b), *QUICK, "--clock", "cpu"],
                          capture_output=True, text=True, cwd=tmp_path, env=clean, timeout=60)
    assert done.returncode == 0, done.stderr
    assert Comparison.from_json(done.stdout).a.clock == "cpu" and "by CPU time" in done.stderr
    options = Options(runs=70, warmup=2, vocabulary=VOCABULARY, cores=current_cores()[:1])
    child = compare_in_child(a, b, options)
    assert Comparison.from_json(child.line).a.affinity.actual == current_cores()[:1]
    missing = compare_in_child(a, tmp_path / "none.onnx", options)
    assert missing.exit_code == 2 and not missing.line and "no such file" in missing.stderr
    with pytest.raises(BenchError, match="a.onnx and b.onnx: no answer within 0 s"):
        compare_in_child(a, b, options, timeout_s=0.01)
