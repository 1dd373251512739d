"""Pictures of several bundles at once, drawn as those of `edgebert.charts` are. A bundle is a letter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from edgebert.charts import LIGHT, WIDE, Point, drawn, error_axis

if TYPE_CHECKING:
    import altair as alt

ROLES = ("accent", "second", "warn", "ink", "baseline")
"""Colours of the fronts, over again where there are more; the letters tell them apart."""

LARGEST_PX2 = 700


class BundlePoint(NamedTuple):
    """latency_ms: estimated, at the budget's percentile. points: of the metric, with the half of its 95 % interval."""

    letter: str
    latency_ms: float
    points: float
    plus_minus: float
    file_mb: float


class Front(NamedTuple):
    """points: by rising latency. chosen: the bundle's plan."""

    letter: str
    points: tuple[Point, ...]
    chosen: Point


def bundles_chart(bundles: Sequence[BundlePoint], points_title: str) -> str:
    """Latency against accuracy; the area of a circle is the size of the file, the line through it the 95 % interval."""
    label = "; ".join(f"{b.letter}: {b.latency_ms:.3g} ms, {b.points:.2f} ± {b.plus_minus:.2f}, {b.file_mb:.3g} MB"
                      for b in bundles)
    right = 1.12 * max(b.latency_ms for b in bundles)
    largest = max(b.file_mb for b in bundles)
    low, high = min(b.points - b.plus_minus for b in bundles), max(b.points + b.plus_minus for b in bundles)
    margin = 0.12 * (high - low) + 0.1

    def build(width: int) -> alt.Chart:
        import altair as alt

        rows = [{**b._asdict(), "low": b.points - b.plus_minus, "high": b.points + b.plus_minus,
                 "text": f"{b.letter}, {b.file_mb:.3g} MB" if width == WIDE else b.letter} for b in bundles]
        data = alt.Data(values=rows)
        x = alt.X("latency_ms:Q", title="estimated latency on its own device (ms)",
                  scale=alt.Scale(domain=[0, right], nice=False), axis=alt.Axis(grid=False, tickCount=width // 90))
        scale = alt.Scale(domain=[low - margin, high + margin], nice=False, zero=False)
        y = alt.Y("points:Q", title=points_title, scale=scale, axis=alt.Axis(tickCount=5, domain=False, ticks=False))
        base = alt.Chart(data).encode(x=x)
        return alt.layer(
            base.mark_rule(color=LIGHT["baseline"], strokeWidth=1.5).encode(y=alt.Y("low:Q", scale=scale), y2="high"),
            base.mark_circle(color=LIGHT["accent"], opacity=0.85).encode(y=y, size=alt.Size(
                "file_mb:Q", legend=None, scale=alt.Scale(domain=[0, largest], range=[0, LARGEST_PX2]))),
            base.mark_text(color=LIGHT["ink"], fontWeight="bold", align="left", dx=17, dy=-4).encode(y=y, text="text:N"),
        ).properties(width=width - 90, height=250)

    return drawn(build, label)


def fronts_chart(fronts: Sequence[Front], error_title: str) -> str:
    """Each bundle's front, its plan as a filled circle with its letter."""
    label = "; ".join(f"{f.letter}: {len(f.points)} plans from {f.points[0].latency_ms:.3g} to "
                      f"{f.points[-1].latency_ms:.3g} ms, chosen {f.chosen.latency_ms:.3g} ms with "
                      f"error {f.chosen.error:.3g}" for f in fronts)
    every = [point for front in fronts for point in (*front.points, front.chosen)]
    right = 1.1 * max(point.latency_ms for point in every)
    coloured = [(front, LIGHT[ROLES[i % len(ROLES)]]) for i, front in enumerate(fronts)]
    letters = {f.chosen: ", ".join(other.letter for other in fronts if other.chosen == f.chosen) for f in fronts}

    def build(width: int) -> alt.Chart:
        import altair as alt

        x = alt.X("latency_ms:Q", title="estimated latency on its own device (ms)",
                  scale=alt.Scale(domain=[0, right], nice=False), axis=alt.Axis(grid=False, tickCount=width // 90))
        scale, ticks = error_axis([point.error for point in every])
        y = alt.Y("error:Q", title=error_title, scale=alt.Scale(**scale, nice=False),
                  axis=alt.Axis(**ticks, format="~g", domain=False, ticks=False))
        lines, words = [], []
        for front, colour in coloured:
            line = alt.Chart(alt.Data(values=[point._asdict() for point in sorted(front.points)]))
            mark = alt.Chart(alt.Data(values=[front.chosen._asdict()]))
            lines[:0] = [line.mark_line(color=colour, strokeWidth=1.5, opacity=0.8).encode(x=x, y=y),
                         mark.mark_point(filled=True, color=colour, size=90, opacity=1).encode(x=x, y=y)]
            if letters[front.chosen].startswith(front.letter):
                words.append(mark.mark_text(color=colour, fontWeight="bold", align="left", dx=8, dy=-8,
                                            text=letters[front.chosen]).encode(x=x, y=y))
        return alt.layer(*lines, *words).properties(width=width - 70, height=230)

    return drawn(build, label)
