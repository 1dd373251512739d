"""The report's pictures: values in, SVG text out, drawn by altair and turned into SVG by vl-convert without a network.

Every picture is drawn twice, for a wide and for a narrow page; a style sheet shows one of the two. Colours are those of
`PALETTE`; `palette_css` lets a page replace them in the dark. Heavy libraries are imported inside the functions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import altair as alt

WIDE, NARROW = 700, 330  # px

# role -> (light, dark). Text roles have a contrast of at least 4.5 to 1 against the surface of their mode.
PALETTE = {
    "ink": ("#1c2530", "#e3e8ee"),
    "muted": ("#5a6775", "#9caab8"),
    "line": ("#d4dae1", "#38434f"),
    "surface": ("#fefefe", "#14191f"),
    "panel": ("#f4f6f8", "#1b222a"),
    "accent": ("#1b6a88", "#62b4d4"),
    "second": ("#7a5ea6", "#b79fe0"),
    "baseline": ("#8b96a3", "#75818e"),
    "warn": ("#a8480b", "#f0a062"),
}
LIGHT = {role: light for role, (light, _) in PALETTE.items()}
_NOT_NEEDED = r"clip-path|xmlns(?::\w+)?|font-family|role|aria-[a-z]+|class|pointer-events"
PRECISION_ROLES = {"int8": "accent", "fp32": "second"}


class Point(NamedTuple):
    """One plan: estimated latency in ms, predicted error."""

    latency_ms: float
    error: float


class LayerRow(NamedTuple):
    """One source layer. kept_heads: indices; empty when the layer is dropped. Precisions: "int8" or "fp32"."""

    index: int
    heads: int
    ffn: int
    kept_heads: tuple[int, ...]
    kept_ffn: int
    attention_precision: str
    ffn_precision: str


class Samples(NamedTuple):
    """Timed calls of one file. role: "student" or "teacher"."""

    title: str
    role: str
    samples_ns: tuple[int, ...]
    p50_ms: float
    p90_ms: float


def palette_css() -> str:
    """CSS variables for both modes, and the rules that let the pictures follow them."""
    light, dark = ("".join(f"--{role}:{colours[i]};" for role, colours in PALETTE.items()) for i in (0, 1))
    rules = [f'.chart [{kind}="{colour}"]{{{kind}:var(--{role})}}'
             for role, colour in LIGHT.items() for kind in ("fill", "stroke")]
    return "\n".join([f":root{{color-scheme:light dark;{light}}}",
                      f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}", *rules])


def front_chart(points: Sequence[Point], chosen: Point, budget_ms: float | None, latency_title: str,
                error_title: str, steps: Sequence[Point] = ()) -> str:
    """Estimated latency against predicted error: the front, the chosen plan, the budget as a vertical line. steps: the
    smaller operating points, from the second on.

    The line is left out where it lies beyond twice the slowest plan.
    """
    every = [*points, chosen, *steps]
    slowest = max(p.latency_ms for p in every)
    limit = budget_ms if budget_ms is not None and budget_ms <= 2 * slowest else None
    right = 1.06 * max(slowest, limit or 0)
    label = (f"{len(points)} plans of the front by estimated latency and predicted error; chosen: "
             f"{chosen.latency_ms:.3g} ms, error {chosen.error:.3g}"
             + (f"; the budget is {budget_ms:.3g} ms" if budget_ms is not None else "")
             + "".join(f"; point {number}: {one.latency_ms:.3g} ms, error {one.error:.3g}"
                       for number, one in enumerate(steps, 2)))

    def build(width: int) -> alt.Chart:
        import altair as alt

        def x(field: str) -> alt.X:
            return alt.X(field, type="quantitative", title=latency_title,
                         scale=alt.Scale(domain=[0, right], nice=False),
                         axis=alt.Axis(grid=False, tickCount=width // 90))

        scale, ticks = error_axis([p.error for p in every])
        y = alt.Y("error:Q", title=error_title, scale=alt.Scale(**scale, nice=False),
                  axis=alt.Axis(**ticks, format="~g", domain=False, ticks=False))
        data = alt.Data(values=[p._asdict() for p in sorted(points)])
        mark = alt.Data(values=[chosen._asdict()])
        below = chosen.latency_ms > 0.3 * right  # no plan lies below a front, nor a budget left of the chosen plan
        layers = [
            alt.Chart(data).mark_line(color=LIGHT["baseline"], strokeWidth=1.5).encode(x=x("latency_ms"), y=y),
            alt.Chart(data).mark_point(color=LIGHT["baseline"], fill=LIGHT["surface"], size=44, opacity=1,
                                       strokeWidth=1.5).encode(x=x("latency_ms"), y=y),
            alt.Chart(mark).mark_point(filled=True, color=LIGHT["accent"], size=130, opacity=1).encode(
                x=x("latency_ms"), y=y),
            alt.Chart(mark).mark_text(align="right" if below else "left", dx=-9 if below else 10,
                                      dy=12 if below else -10, color=LIGHT["accent"], fontWeight="bold",
                                      text=f"chosen, {chosen.latency_ms:.3g} ms").encode(x=x("latency_ms"), y=y)]
        if steps:
            smaller = alt.Chart(alt.Data(values=[{**one._asdict(), "name": f"point {number}"}
                                                 for number, one in enumerate(steps, 2)]))
            layers += [smaller.mark_point(filled=True, color=LIGHT["accent"], size=64, opacity=1).encode(
                           x=x("latency_ms"), y=y),
                       smaller.mark_text(align="left", dx=8, dy=-8, color=LIGHT["accent"]).encode(
                           x=x("latency_ms"), y=y, text="name:N")]
        if limit is not None:
            rule = alt.Chart(alt.Data(values=[{"limit": limit}]))
            left = limit > 0.6 * right
            layers += [
                rule.mark_rule(color=LIGHT["warn"], strokeDash=[5, 4]).encode(x=x("limit")),
                rule.mark_text(color=LIGHT["warn"], align="right" if left else "left", dx=-6 if left else 6,
                               text=f"budget, {limit:.3g} ms").encode(x=x("limit"), y=alt.value(8))]
        return alt.layer(*layers).properties(width=width - 70, height=230)

    return drawn(build, label)


def layers_chart(rows: Sequence[LayerRow], name: str = "") -> str:
    """What each source layer kept: its heads one by one, its FFN width as a bar, dropped layers empty. name: of the
    model, where a page shows several."""
    label = "; ".join(f"layer {r.index} " + (f"keeps {len(r.kept_heads)} of {r.heads} heads and {r.kept_ffn:,} of "
                                             f"{r.ffn:,} neurons" if r.kept_heads else "dropped") for r in rows)
    label = f"{name}: {label}" if name else label
    widest = max(row.heads for row in rows), max(row.ffn for row in rows)

    def build(width: int) -> alt.Chart:
        import altair as alt

        beside = width == WIDE
        panel = width / 2 - 42 if beside else width - 40
        words = 136
        share = (panel - words) / panel
        y = alt.Y("layer:O", title=None, sort=None, axis=alt.Axis(domain=False, ticks=False, labelPadding=8),
                  scale=alt.Scale(paddingInner=0.42, paddingOuter=0.1))

        def x(field: str) -> Any:
            kind = alt.X2 if field == "to" else alt.X
            more = {} if field == "to" else {"axis": None, "scale": alt.Scale(domain=[0, 1], nice=False),
                                             "type": "quantitative"}
            return kind(field, **more)

        def panel_of(title: str, bars: list[dict[str, Any]], texts: list[dict[str, Any]]) -> alt.LayerChart:
            colour = alt.Color("colour:N", scale=None)
            drawn = alt.Chart(alt.Data(values=bars)).mark_rect(strokeWidth=1, cornerRadius=1.5).encode(
                x=x("from"), x2=x("to"), y=y, color=colour, stroke=alt.Stroke("outline:N", scale=None))
            written = alt.Chart(alt.Data(values=texts)).mark_text(align="left", dx=8).encode(
                x=x("at"), y=y, text="text:N", color=colour)
            return alt.layer(drawn, written).properties(
                width=panel, height=max(24 * len(rows), 24),
                title=alt.Title(title, anchor="start", fontSize=12, fontWeight="normal", color=LIGHT["muted"]))

        heads, neurons = [], []
        for row in rows:
            step = share / widest[0]
            for head in range(row.heads):
                kept = head in row.kept_heads
                heads.append(_bar(row.index, head * step, (head + 0.82) * step,
                                  PRECISION_ROLES[row.attention_precision] if kept else None))
            whole, part = share * row.ffn / widest[1], share * row.kept_ffn / widest[1]
            neurons.append(_bar(row.index, 0, whole, None))
            if row.kept_heads:
                neurons.append(_bar(row.index, 0, part, PRECISION_ROLES[row.ffn_precision]))
        return alt.concat(
            panel_of("attention heads", heads, [_words(r, share, f"{len(r.kept_heads)} of {r.heads}",
                                                       r.attention_precision) for r in rows]),
            panel_of("FFN neurons", neurons, [_words(r, share, f"{r.kept_ffn:,} of {r.ffn:,}", r.ffn_precision)
                                              for r in rows]),
            columns=2 if beside else 1, spacing=26)

    return drawn(build, label)


def latency_chart(files: Sequence[Samples]) -> str:
    """One histogram a file on a shared axis from 0, with p50 and p90 as ticks. Samples beyond the axis are counted."""
    right = max(max(file.p90_ms * 1.25, _percentile(file.samples_ns, 0.99) / 1e6 * 1.05) for file in files)
    width_ms = right / 160
    label = "; ".join(f"{f.title}: p50 {f.p50_ms:.3g} ms, p90 {f.p90_ms:.3g} ms" for f in files)
    areas, marks, names = [], [], []
    for row, file in enumerate(files):
        role = "accent" if file.role == "student" else "baseline"
        counts = [0] * 161
        for sample in file.samples_ns:
            counts[min(int(sample / 1e6 / width_ms), 160)] += 1
        peak, base = max(counts[:160]) or 1, row + 0.88
        areas += [{"row": row, "ms": i * width_ms, "top": base - 0.4 * counts[i] / peak, "base": base,
                   "colour": LIGHT[role]} for i in range(160) if i in (0, 159) or counts[i] != counts[i - 1]]
        marks += [{"ms": ms, "top": base + 0.02, "base": base + depth}
                  for ms, depth in ((file.p50_ms, 0.12), (file.p90_ms, 0.07))]
        beyond = f", {counts[160]} beyond the axis" if counts[160] else ""
        names.append({"high": row + 0.14, "low": row + 0.36, "title": file.title,
                      "note": f"{len(file.samples_ns)} runs{beyond}",
                      "numbers": f"p50 {_ms(file.p50_ms)}, p90 {_ms(file.p90_ms)}"})

    def build(width: int) -> alt.Chart:
        import altair as alt

        y_scale = alt.Scale(domain=[len(files), 0], nice=False)
        x = alt.X("ms:Q", title="measured latency of one call (ms)", scale=alt.Scale(domain=[0, right], nice=False),
                  axis=alt.Axis(grid=False, tickCount=width // 90))
        y, y2 = alt.Y("top:Q", axis=None, scale=y_scale), alt.Y2("base")
        colour = alt.Color("colour:N", scale=None)
        area = alt.Chart(alt.Data(values=areas)).mark_area(interpolate="step-after", opacity=0.85).encode(
            x=x, y=y, y2=y2, color=colour, detail="row:N")
        rules = alt.Chart(alt.Data(values=marks)).mark_rule(color=LIGHT["ink"], strokeWidth=1.5).encode(
            x=x, y=y, y2=y2)
        inner, wide = width - 24, width == WIDE

        def text(field: str, colour: str, at: str = "high", place: float = 0) -> alt.Chart:
            return alt.Chart(alt.Data(values=names)).mark_text(
                align="right" if place else "left", color=LIGHT[colour], limit=inner * (0.5 if wide else 1)).encode(
                y=alt.Y(f"{at}:Q", axis=None, scale=y_scale), x=alt.value(place), text=f"{field}:N")

        layers = [area, rules, text("title", "ink"),
                  text("numbers", "ink", place=inner) if wide else text("numbers", "muted", "low")]
        if wide:
            layers.append(text("note", "muted", place=inner - 180))
        return alt.layer(*layers).properties(width=inner, height=(64 if wide else 84) * len(files))

    return drawn(build, label)


def drawn(build: Callable[[int], alt.Chart], label: str) -> str:
    """Both widths as two SVG elements of the classes "chart wide" and "chart narrow"."""
    import vl_convert

    drawn = []
    for name, width in (("wide", WIDE), ("narrow", NARROW)):
        spec = {**build(width).to_dict(validate=False), "config": _config(), "background": None}
        svg = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
        drawn.append(_embedded(svg, f"chart {name}", label))
    return "".join(drawn)


def _embedded(svg: str, classes: str, label: str) -> str:
    """An SVG document as an element of a page: named for screen readers, its ids those of no other picture."""
    inner = re.sub(r"^.*?<svg[^>]*>", "", svg, count=1, flags=re.S)
    box = re.search(r'viewBox="([^"]*)"', svg)
    size = re.search(r'<svg[^>]*\bwidth="([\d.]+)"', svg)
    if box is None or size is None:
        raise ValueError("the converter gave an SVG without a size")
    inner = re.sub(r"<clipPath.*?</clipPath>", "", inner, flags=re.S)
    inner = re.sub(rf' (?:{_NOT_NEEDED})="[^"]*"', "", inner)
    return (f'<svg class="{classes}" role="img" aria-label="{escape(label)}" viewBox="{box[1]}" '
            f'width="{size[1]}">{inner}')


def _config() -> dict[str, Any]:
    muted, line = LIGHT["muted"], LIGHT["line"]
    return {"aria": False, "font": "sans-serif", "view": {"stroke": None}, "text": {"fontSize": 12},
            "padding": {"left": 2, "right": 8, "top": 4, "bottom": 2},
            "axis": {"labelColor": muted, "titleColor": muted, "titleFontWeight": "normal", "titleFontSize": 12,
                     "labelFontSize": 12, "gridColor": line, "domainColor": line, "tickColor": line,
                     "titlePadding": 8, "labelFlush": False}}


def _bar(layer: int, start: float, stop: float, role: str | None) -> dict[str, Any]:
    """A kept part in its role's colour, or the outline of what was taken away."""
    return {"layer": layer, "from": start, "to": stop, "colour": LIGHT[role or "surface"],
            "outline": LIGHT[role or "line"]}


def _words(row: LayerRow, at: float, kept: str, precision: str) -> dict[str, Any]:
    if not row.kept_heads:
        return {"layer": row.index, "at": at, "text": "dropped", "colour": LIGHT["warn"]}
    return {"layer": row.index, "at": at, "text": f"{kept}, {precision}", "colour": LIGHT["ink"]}


def error_axis(errors: list[float]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(scale, ticks): linear; symmetric-log where errors span more than a factor of 20, which still shows a 0."""
    positive = [error for error in errors if error > 0]
    highest = max(positive, default=1e-6)
    if not positive or highest < 20 * min(positive):
        return {"domain": [0, 1.1 * highest]}, {"tickCount": 5}
    least = max(min(positive), highest / 300)
    decades = range(math.floor(math.log10(least)), math.ceil(math.log10(highest)) + 1)
    ticks = [digit * 10.0 ** power for power in decades for digit in (1, 3)]
    scale = {"type": "symlog", "constant": least, "domain": [0, 1.15 * highest]}
    return scale, {"values": [0, *(tick for tick in ticks if least <= tick <= 1.15 * highest)]}


def _percentile(values: Sequence[int], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _ms(value: float) -> str:
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} ms"
