"""Rows nobody measured: the formula by hand, its behaviour, and every public latency it was fitted to."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from edgebert import cost, derive, published
from edgebert.device import Cluster, CostRow, DeviceProfile, list_profiles, load_profile, with_derived_rows
from edgebert.published import FIGURES, MODELS, MOST_OFF, Figure, table
from edgebert.spec import EncoderShape
from exporters.artifact import Precision

PAGE = Path(__file__).resolve().parent.parent / "docs" / "profiles.md"


def predicted_ms(shape: EncoderShape, precision: str, device: str, runtime: str, threads: int, length: int) -> float:
    uniform = Precision.uniform(precision, len(shape.layers))
    return cost.estimate(shape, uniform, load_profile(device), runtime, threads, length, "p50").latency_ms


def derived(profile: DeviceProfile, threads: int = 1, precision: str = "fp32", runtime: str = "tflite") -> CostRow:
    return CostRow(**derive.cost_table(profile, runtime, precision, derive.cores_of(profile, threads)))


@pytest.mark.parametrize("figure", FIGURES, ids=lambda f: f"{f.device}-{f.model}-{f.precision}-{f.tokens}")
def test_an_estimate_is_near_every_public_latency(figure: Figure) -> None:
    ratio = figure.estimate_ms / figure.latency_ms
    assert 1 / MOST_OFF <= ratio <= MOST_OFF
    assert abs(ratio - 1) <= derive.ERROR_PCT["derived"] / 100, "the error that derived rows state"


FITTED = [*(("EFFICIENCY", kernel) for kernel in ("fp32", "fp16", "int8", "int8 dotprod", "fp32 SME")),
          ("TIERS", "little"), "CROWDING", "SCORE_SHARE", "SYNC_US"]


@pytest.mark.parametrize("factor", [1 / 1.5, 1.5])
@pytest.mark.parametrize("constant", FITTED, ids=str)
def test_a_fitted_constant_fits_better_than_half_as_much_more_or_less(
        constant: str | tuple[str, str], factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "load_profile", functools.cache(load_profile))

    def loss() -> float:
        return sum(math.log(figure.estimate_ms / figure.latency_ms) ** 4 for figure in FIGURES)

    fitted = loss()
    if isinstance(constant, str):
        monkeypatch.setattr(derive, constant, getattr(derive, constant) * factor)
    elif constant[0] == "EFFICIENCY":
        monkeypatch.setitem(derive.EFFICIENCY, constant[1], derive.EFFICIENCY[constant[1]] * factor)
    else:
        little = derive.TIERS["little"]
        monkeypatch.setitem(derive.TIERS, "little", replace(little, efficiency=little.efficiency * factor))
    assert loss() > 1.02 * fitted


def test_every_public_figure_is_there() -> None:
    """As published; a figure is never dropped because the formula misses it."""
    assert sorted((f.profile, f.model, f.precision, f.latency_ms) for f in FIGURES) == sorted([
        ("pixel4", "BERT-base", "fp32", 342.0), ("pixel4", "MobileBERT", "fp32", 62.0),
        ("pixel4", "MobileBERT-tiny", "fp32", 40.0), ("pixel6", "MobileBERT", "fp32", 471.0),
        *(("pixel8", "BERT-base", "fp32", ms) for ms in (20.1, 81.8, 162.0)),
        ("snapdragon-8-gen-3", "MiniLM-L6", "fp32", 21.0), ("snapdragon-8-gen-3", "mpnet-base", "fp32", 90.0),
        ("iphone-17-pro", "MiniLM-L6", "fp32", 7.0), ("iphone-17-pro", "mpnet-base", "fp32", 24.0),
        *(("kirin-810", "TinyBERT 4-312", p, ms) for p, ms in (("fp32", 4.71), ("fp16", 3.21), ("int8", 2.21),
                                                               ("fp32", 16.6), ("fp16", 9.1), ("int8", 7.1))),
        ("raspberry-pi-4", "MiniLM-L6", "int8", 34.0)])


@pytest.mark.parametrize(("model", "gmacs", "within"), [
    ("BERT-base", 11.2, 0.02),        # 12 x (85.05 M weights x 128 + 2 x 128^2 x 768) / 12, by hand
    ("MobileBERT", 2.85, 0.10),       # the paper: 5.7 GFLOPs at 128 tokens
    ("MobileBERT-tiny", 1.55, 0.05),  # the paper: 3.1 GFLOPs
])
def test_published_models_have_their_macs(model: str, gmacs: float, within: float) -> None:
    found = sum(block.macs + block.score_macs for block in MODELS[model](128)) / 1e9
    assert found == pytest.approx(gmacs, rel=within)


def test_a_row_is_marked_derived_where_a_figure_exists_and_guessed_elsewhere() -> None:
    known = {(derive.cores_of(load_profile(f.profile), f.threads, f.mask)[0].kind,
                  derive.rate(derive.cores_of(load_profile(f.profile), f.threads, f.mask), f.precision,
                              load_profile(f.profile).isa)[0], f.threads) for f in FIGURES}
    assert known == derive.PUBLISHED
    assert all(figure.row.provenance == "derived" for figure in FIGURES)
    assert derived(load_profile("raspberry-pi-zero-2-w"), 4, "int8").provenance == "guessed"


def test_the_page_shows_the_estimates_of_this_formula() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert "\n".join(table(FIGURES)) in text, "paste what `edgebert profiles check --published` prints"
    for name, family in derive.FAMILIES.items():
        shown = re.search(rf"^\| {re.escape(name)} \|(.*)\|$", text, re.MULTILINE)
        assert shown, f"the table of core families lacks {name}"
        assert [cell.strip() for cell in shown[1].split("|")][:2] == [str(family.flops), family.tier]


def test_a_row_by_hand() -> None:
    """One Cortex-X1 at 2.8 GHz, from the numbers in the formula."""
    row = derived(load_profile("pixel6"))
    assert row.ns_per_mac == pytest.approx(2 / (2.8 * 32 * derive.EFFICIENCY["fp32"]), rel=1e-3)
    assert row.ns_per_score_mac == pytest.approx(row.ns_per_mac / derive.SCORE_SHARE, rel=1e-3)
    assert row.ns_per_score == pytest.approx(1.4 * 3.3 / 2.8, rel=1e-3)
    assert row.base_us == pytest.approx(15 * 3.3 / 2.8, rel=1e-3)
    assert row.op_us == pytest.approx(0.25 * 3.3 / 2.8, rel=1e-3)
    assert row.ns_per_weight_byte == pytest.approx(derive.STREAMED / 51.2, rel=1e-3)
    int8 = derived(load_profile("pixel6"), precision="int8")
    gain = 4 * derive.EFFICIENCY["int8 dotprod"] / derive.EFFICIENCY["fp32"]
    assert row.ns_per_mac / int8.ns_per_mac == pytest.approx(gain, rel=1e-3) and int8.ns_per_score == row.ns_per_score
    slower = derived(load_profile("pixel6"), precision="int8", runtime="onnx")
    assert int8.ns_per_mac / slower.ns_per_mac == pytest.approx(derive.ONNX_INT8, rel=1e-3)


def test_the_reference_core_gets_the_reference() -> None:
    core = Cluster("reference", 1, derive.REFERENCE_GHZ, "x86-64 AVX-512")
    row = derived(replace(load_profile("x86-laptop"), clusters=(core,), affinity=()))
    assert {name: getattr(row, name) for name in derive.REFERENCE} == derive.REFERENCE


def test_better_hardware_is_never_slower() -> None:
    base = load_profile("pixel6")
    clusters = tuple(replace(c, ghz=c.ghz * 1.1) for c in base.clusters)
    better = {"clock": replace(base, clusters=clusters), "memory": replace(base, bandwidth_gbs=80.0)}
    for name, profile in better.items():
        for threads in (1, 2, 4):
            for precision in ("fp32", "int8"):
                slow, fast = derived(base, threads, precision), derived(profile, threads, precision)
                assert all(getattr(fast, kind) <= getattr(slow, kind) for kind in derive.KINDS), name
                assert any(getattr(fast, kind) < getattr(slow, kind) for kind in derive.KINDS), name


def test_int8_kernels_follow_the_instruction_set() -> None:
    base = load_profile("pixel8")
    speeds = [1 / derived(replace(base, isa=isa), precision="int8").ns_per_mac
              for isa in (("neon",), ("neon", "dotprod"), ("neon", "dotprod", "i8mm"))]
    assert speeds == sorted(speeds) and speeds[0] < speeds[1] < speeds[2]
    assert "int8 i8mm on 1 Cortex-X3 at 2.91 GHz" in derived(base, precision="int8").source


def test_threads_share_products_and_wait_for_each_other() -> None:
    one, two, four = (derived(load_profile("raspberry-pi-5"), n) for n in (1, 2, 4))
    assert one.ns_per_mac > two.ns_per_mac > four.ns_per_mac > one.ns_per_mac / 4
    assert two.op_us == pytest.approx(one.op_us + derive.SYNC_US, rel=1e-3) and four.base_us == one.base_us


def test_a_matrix_unit_does_not_add_up_over_threads() -> None:
    profile = load_profile("iphone-17")
    assert derived(profile, 1).ns_per_mac == derived(profile, 4).ns_per_mac
    without = replace(profile, isa=tuple(name for name in profile.isa if name != "sme"))
    assert derived(without, 1).ns_per_mac > 2 * derived(profile, 1).ns_per_mac


@pytest.mark.parametrize(("name", "threads", "mask", "cores"), [
    ("pixel6", 1, None, [("Cortex-X1", 2.8)]),
    ("pixel6", 4, None, [("Cortex-X1", 2.8)] * 2 + [("Cortex-A76", 2.25)] * 2),
    ("pixel6", 1, "0x1", [("Cortex-A55", 1.8)]),
    ("galaxy-s24", 4, None, [("Cortex-X4", 3.39)] + [("Cortex-A720", 3.15)] * 3),
    ("pixel8", 4, None, [("Cortex-X3", 2.91)] + [("Cortex-A715", 2.37)] * 3),
    ("iphone-13", 4, None, [("Apple performance", 3.23)] * 2 + [("Apple efficiency", 2.02)] * 2),
])
def test_threads_run_on_the_cores_of_the_mask_or_on_the_fastest(
        name: str, threads: int, mask: str | None, cores: list[tuple[str, float]]) -> None:
    assert [(core.kind, core.ghz) for core in derive.cores_of(load_profile(name), threads, mask)] == cores


@pytest.mark.parametrize("name", list_profiles())
def test_masks_name_fast_cores(name: str) -> None:
    """A mask that left out the fastest cores would be a mistake in the numbering."""
    profile = load_profile(name)
    bare = replace(profile, affinity=())
    for threads, _ in profile.affinity:
        speeds = [[core.ghz * derive.FAMILIES[core.kind].flops for core in derive.cores_of(p, threads)]
                  for p in (profile, bare)]
        assert sum(speeds[0]) >= 0.95 * sum(speeds[1])


def test_every_coefficient_has_a_kind() -> None:
    coefficients = {f.name for f in fields(CostRow) if re.search(r"_us$|^ns_per_", f.name)}
    assert coefficients == set(derive.KINDS)
    assert {derive.KINDS[name] for name in derive.REFERENCE} == {"overhead", "elements"}


def test_device_features_are_known() -> None:
    """A feature device_bench reports may be written in a profile, so that a profile can be made from a device."""
    from device_bench import cpu_facts

    assert set(cpu_facts._FEATURES.values()) <= set(derive.ISA)


def test_nothing_is_derived_from_a_core_that_is_not_known() -> None:
    profile = replace(load_profile("pixel6"), rows=(), affinity=(), clusters=(Cluster("Cortex-Q", 4, 2.0),))
    assert with_derived_rows(profile).rows == ()
