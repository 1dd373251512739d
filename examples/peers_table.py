"""What bench_peers.py has measured, as a table and a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Line = dict[str, Any]
WIDTH, HEIGHT = 680, 380
LETTER, LINE = 5.6, 15
"""Pixels of the picture's names: the width of a letter, the height of a line."""
HEADS = ("way", "learns after the teacher", "dev", "test", "ms a text: median, p90", "of torch.onnx's fp32", "MB",
         "peak MB", "CPU minutes", "lines", "version, licence")


def table(lines: Sequence[Line]) -> str:
    """Markdown, one row a way."""
    rows = [f"| {' | '.join(HEADS)} |", f"|---|---{'|---:' * (len(HEADS) - 3)}|---|"]
    for line in lines:
        if "why" in line:
            cells = [line["way"], f"not measured: {line['why']}", *[""] * (len(HEADS) - 2)]
        else:
            minutes, cpu = line["cpu_minutes"], line["cpu_ms"]
            dev, test = line["accuracy"]["dev"], line["accuracy"]["test"]
            cells = [line["way"], line["trained"] or "nothing", f"{dev:.1f}", f"{test:.1f}",
                     f"{cpu['p50']:.2f}, {cpu['p90']:.2f}", f"{line['of_reference']:.3f}",
                     f"{line['bytes'] / 1e6:.1f}", f"{line['peak_rss_bytes'] / 1e6:.0f}",
                     "" if minutes is None else f"{minutes:.1f}", str(line["lines"] or ""),
                     f"{line['version']}, {line['licence']}"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def draw(lines: Sequence[Line], picture: Path) -> None:
    """Wrong answers over time, both on scales of equal ratios: the good ones differ by tenths of a point."""
    import altair as alt

    values = [{"way": line["way"], "ms": line["cpu_ms"]["p50"], "wrong": max(0.1, 100 - line["accuracy"]["test"]),
               "learns": line["trained"] or "nothing"} for line in lines if "why" not in line]
    scales = []
    for name, inverted in (("ms", False), ("wrong", True)):
        numbers = [value[name] for value in values]
        ends = [min(numbers) / 1.5, max(numbers) * 1.5]
        scales.append(alt.Scale(type="log", domain=ends, reverse=inverted, nice=False))
    x = alt.X("ms:Q", title="ms from text to label, one thread, processor time", scale=scales[0])
    y = alt.Y("wrong:Q", title="wrong answers on test, %", scale=scales[1])
    whole = alt.Chart(alt.Data(values=values), width=WIDTH, height=HEIGHT)
    points = whole.mark_point(filled=True, size=80, opacity=1).encode(x, y, color=alt.Color(
        "learns:N", title="learns after the teacher", scale=alt.Scale(scheme="tableau10"),
        legend=alt.Legend(orient="bottom", labelLimit=300)))
    across, down = scales[0].domain, scales[1].domain
    places = placed([value["way"] for value in values], [
        (WIDTH * share(value["ms"], across), HEIGHT * share(value["wrong"], down)) for value in values])
    names = [alt.Chart(alt.Data(values=[value])).mark_text(dx=dx, dy=dy, fontSize=11).encode(x, y, text="way:N")
             for value, (dx, dy) in zip(values, places)]
    alt.layer(points, *names).save(str(picture))


def share(value: float, domain: Sequence[float]) -> float:
    """Where the value lies between the ends of a scale of equal ratios, 0 to 1."""
    return math.log(value / domain[0]) / math.log(domain[1] / domain[0])


def placed(names: Sequence[str], points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Shifts (x, y) of the middle of each name from its point, in pixels, the nearest at which it covers no point and no
    name before it. points: in pixels from the left and the top."""
    taken = [(px - 6, py - 6, px + 6, py + 6) for px, py in points]
    found = []
    for name, (px, py) in zip(names, points):
        half = LETTER * len(name) / 2
        tries = [(side * (half + 10), 0.0) for side in (1, -1)]
        tries += [(lean * half, side * LINE * step) for step in range(1, 9) for lean in (0, 0.9, -0.9)
                  for side in (-1, 1)]
        for dx, dy in tries:
            left, top, right, bottom = px + dx - half, py + dy - LINE / 2, px + dx + half, py + dy + LINE / 2
            if left > 0 and top > 0 and right < WIDTH and bottom < HEIGHT and not any(
                    left < b[2] and b[0] < right and top < b[3] and b[1] < bottom for b in taken):
                break
        taken.append((left, top, right, bottom))
        found.append((dx, dy))
    return found
