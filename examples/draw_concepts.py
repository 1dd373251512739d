"""Draw the three pictures of docs/concepts from the shipped error tables, the profiles and the search itself.

    python examples/draw_concepts.py             (seconds; no torch, no network)
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebert import cost
from edgebert.charts import LIGHT
from edgebert.demo import demo_tables
from edgebert.device import Budget, DeviceProfile, load_profile
from edgebert.plan import CompressionPlan
from edgebert.searching import front, search
from edgebert.spec import LayerSpec, SubnetSpec
from edgebert.tables import ErrorTables
from exporters.artifact import Precision

if TYPE_CHECKING:
    import altair as alt

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "concepts"
TASK, DEVICE, RUNTIME, THREADS, LENGTH = "snips", "pixel6", "tflite", 1, 32
BUDGETS_MS = (2.6, 1.9, 1.2)
DEVICES = ("x86-laptop", "pixel6", "pixel8", "galaxy-s24", "raspberry-pi-4", "raspberry-pi-5", "galaxy-a14",
           "low-end-a53")
COLOURS = {"measured": LIGHT["accent"], "derived": LIGHT["second"], "guessed": LIGHT["warn"]}
TICKS = [0, 0.003, 0.01, 0.03, 0.1, 0.3, 1]
Values = list[dict[str, Any]]


def plan_for(tables: ErrorTables, profile: DeviceProfile, limit_ms: float) -> CompressionPlan:
    return search(tables, profile, Budget(limit_ms), RUNTIME, THREADS, LENGTH)


def kept_parts(tables: ErrorTables, profile: DeviceProfile) -> Values:
    """What each layer keeps of its heads and neurons under each of BUDGETS_MS, as shares of the layer."""
    found: Values = []
    for limit in BUDGETS_MS:
        plan = plan_for(tables, profile, limit)
        widths = dict(zip(plan.subnet.kept, plan.subnet.layers))
        for index, whole in enumerate(tables.source.layers):
            own = widths.get(index)
            for what, kept, of in (("heads", own.heads if own else 0, whole.heads),
                                   ("neurons", own.ffn if own else 0, whole.ffn)):
                found.append({"limit": f"{limit} ms", "layer": f"layer {index}", "what": what, "share": kept / of,
                              "text": f"{kept:,}" if own else "left out"})
    return found


def options(tables: ErrorTables, profile: DeviceProfile) -> Iterator[dict[str, Any]]:
    """Each cut alone: milliseconds that it saves on the device, and the error that it causes."""
    source = tables.source
    whole = SubnetSpec.full(source)
    int8 = Precision.uniform("int8", len(source.layers))

    def latency(subnet: SubnetSpec) -> float:
        return cost.estimate(subnet.shape(source), int8, profile, RUNTIME, THREADS, LENGTH).latency_ms

    for index, (errors, layer) in enumerate(zip(tables.layers, source.layers)):
        for what, widths in (("heads", errors.heads), ("neurons", errors.ffn)):
            for width, error in widths.items():
                if width == (layer.heads if what == "heads" else layer.ffn):
                    continue
                cut = LayerSpec(width, layer.ffn) if what == "heads" else LayerSpec(layer.heads, width)
                layers = tuple(cut if i == index else one for i, one in enumerate(source.layers))
                yield {"layer": f"layer {index}", "what": f"fewer {what}", "width": width, "error": error,
                       "saved_ms": latency(whole) - latency(replace(whole, layers=layers))}


def draw_elastic(tables: ErrorTables, profile: DeviceProfile) -> alt.Chart:
    import altair as alt

    base = alt.Chart(alt.Data(values=kept_parts(tables, profile)))
    y = alt.Y("layer:N", title=None, axis=alt.Axis(domain=False, ticks=False))
    x = alt.X("share:Q", title=None, axis=None, scale=alt.Scale(domain=[0, 1.35]))
    whole = alt.Chart(alt.Data(values=[{"layer": f"layer {i}", "share": 1} for i in range(len(tables.source.layers))]))
    ground = whole.mark_bar(fill=LIGHT["surface"], stroke=LIGHT["line"], size=13).encode(x=x, y=y)

    def panel(limit: str, what: str) -> alt.Chart:
        one = base.transform_filter(f"datum.limit == '{limit}' && datum.what == '{what}'")
        colour = LIGHT["accent"] if what == "heads" else LIGHT["second"]
        return alt.layer(ground, one.mark_bar(color=colour, size=13).encode(x=x, y=y),
                         one.mark_text(align="left", dx=5, color=LIGHT["ink"]).encode(
                             x=x, y=y, text="text:N")).properties(width=190, height=130, title=f"{what}, {limit}")

    return alt.vconcat(*(alt.hconcat(*(panel(f"{limit} ms", what) for limit in BUDGETS_MS))
                         for what in ("heads", "neurons")))


def draw_search(tables: ErrorTables, profile: DeviceProfile) -> alt.Chart:
    import altair as alt

    cuts = alt.Chart(alt.Data(values=list(options(tables, profile)))).mark_line(point={"size": 14}, strokeWidth=1).encode(
        x=alt.X("saved_ms:Q", title="saved on the device, ms (cost table)"),
        y=alt.Y("error:Q", title="error of this cut alone, nats of KL (error table)",
                scale=alt.Scale(type="symlog", constant=0.01), axis=alt.Axis(values=TICKS, format="~g")),
        color=alt.Color("layer:N", title=None, scale=alt.Scale(scheme="viridis"), legend=alt.Legend(orient="top-right")),
        strokeDash=alt.StrokeDash("what:N", title=None, legend=alt.Legend(orient="top-right", symbolType="stroke")),
        order="saved_ms:Q")
    plans = front(tables, profile, Budget(), RUNTIME, THREADS, LENGTH, 16)
    limit = BUDGETS_MS[1]
    best = plan_for(tables, profile, limit)
    dots = alt.Chart(alt.Data(values=[{"ms": p.estimate.tail_ms, "error": p.predicted_error} for p in plans]))
    x = alt.X("ms:Q", title="latency of the whole plan, ms (p90)", scale=alt.Scale(zero=False))
    y = alt.Y("error:Q", title="predicted error of the whole plan", scale=alt.Scale(type="symlog", constant=0.01),
              axis=alt.Axis(values=TICKS, format="~g"))
    chosen = alt.Chart(alt.Data(values=[{"ms": best.estimate.tail_ms, "error": best.predicted_error}]))
    rule = alt.Chart(alt.Data(values=[{"ms": limit}]))
    whole = alt.layer(dots.mark_line(color=LIGHT["baseline"], point={"color": LIGHT["baseline"]}).encode(x=x, y=y),
                      rule.mark_rule(color=LIGHT["warn"], strokeDash=[5, 4]).encode(x="ms:Q"),
                      rule.mark_text(color=LIGHT["warn"], align="left", dx=6, text=f"budget {limit} ms").encode(
                          x="ms:Q", y=alt.value(10)),
                      chosen.mark_point(filled=True, size=140, color=LIGHT["accent"], opacity=1).encode(x=x, y=y))
    return alt.hconcat(cuts.properties(width=330, height=300, title="every cut alone"),
                       whole.properties(width=330, height=300, title="the best plans"))


def estimates(tables: ErrorTables) -> Values:
    """The uncompressed int8 model on each of DEVICES, with the range that its error says."""
    found: Values = []
    for name in DEVICES:
        profile = load_profile(name)
        shape = tables.source
        int8 = Precision.uniform("int8", len(shape.layers))
        one = cost.estimate(shape, int8, profile, RUNTIME, profile.threads, LENGTH)
        share = one.error_pct / 100
        found.append({"device": f"{name}, {profile.threads} thread{'s' * (profile.threads > 1)}", "ms": one.tail_ms,
                      "low": one.tail_ms * (1 - share), "high": one.tail_ms * (1 + share), "known": one.provenance,
                      "text": one.text()})
    return found


def draw_latencies(tables: ErrorTables) -> alt.Chart:
    import altair as alt

    base = alt.Chart(alt.Data(values=estimates(tables)))
    y = alt.Y("device:N", title=None, sort=list(DEVICES), axis=alt.Axis(domain=False, ticks=False, labelLimit=220))
    colour = alt.Color("known:N", title=None, scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())),
                       legend=alt.Legend(orient="top"))
    x = alt.X("low:Q", title="p90 latency of all-MiniLM-L6-v2 in int8, 32 tokens, LiteRT (ms)",
              scale=alt.Scale(type="log"), axis=alt.Axis(values=[1, 2, 5, 10, 20, 50]))
    return alt.layer(base.mark_bar(size=10, opacity=0.35).encode(y=y, x=x, x2="high:Q", color=colour),
                     base.mark_point(filled=True, size=70, opacity=1).encode(y=y, x="ms:Q", color=colour),
                     base.mark_text(align="left", dx=8, color=LIGHT["ink"]).encode(
                         y=y, x="high:Q", text="text:N")).properties(width=520, height=240)


def draw(folder: Path) -> list[Path]:
    tables = ErrorTables.loads(demo_tables(TASK).read_text(encoding="utf-8"))
    profile = load_profile(DEVICE)
    drawn = {"elastic": draw_elastic(tables, profile), "search": draw_search(tables, profile),
             "latencies": draw_latencies(tables)}
    return [_save(chart, folder / f"{name}.svg") for name, chart in drawn.items()]


def _save(chart: alt.Chart, path: Path) -> Path:
    import vl_convert

    axis = {"labelColor": LIGHT["muted"], "titleColor": LIGHT["muted"], "titleFontWeight": "normal",
            "gridColor": LIGHT["line"]}
    config = {"font": "sans-serif", "view": {"stroke": None}, "background": "#ffffff", "axis": axis, "aria": False,
              "title": {"anchor": "start", "fontSize": 13, "fontWeight": "normal", "color": LIGHT["ink"]}}
    svg = vl_convert.vegalite_to_svg({**chart.to_dict(validate=False), "config": config}, allowed_base_urls=[])
    partial = path.with_name(path.name + ".new")
    partial.write_text(svg + "\n", encoding="utf-8")
    os.replace(partial, path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=PICTURES, help="folder for the pictures")
    for path in draw(parser.parse_args().out):
        print(path)


if __name__ == "__main__":
    main()
