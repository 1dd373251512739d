"""Tables and the picture of docs/experiments.md, from what the other scripts wrote.

    python examples/elastic_tables.py supernet ... [--baselines FILE.jsonl] [--ablation FILE.jsonl] [--picture FILE.svg]

supernet: folders made by train-elastic. The picture is of the first one, and of the baselines of its task where given.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from edgebert.cost import macs
from edgebert.spec import SubnetSpec
from edgebert.supernet import Supernet, open_supernet


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def grid_table(supernet: Supernet) -> str:
    widths = supernet.space.widths
    rows = [f"{supernet.task.name}, {supernet.task.metric}: dev / test; teacher {supernet.teacher[1]:.2f} / "
            f"{supernet.teacher[2]:.2f}", "",
            "| depth: kept layers | " + " | ".join(f"width {w:g}" for w in widths) + " |",
            "|---" * (len(widths) + 1) + "|"]
    for depth in supernet.space.depths:
        points = [p for p in supernet.grid if p.depth == depth]
        kept = " ".join(map(str, points[0].subnet.kept))
        rows.append(f"| {depth:g}: {kept} | " + " | ".join(f"{p.dev:.2f} / {p.test:.2f}" for p in points) + " |")
    return "\n".join(rows) + "\n"


def ablation_table(lines: list[dict]) -> str:
    shapes = [(1, 1), (0.5, 1), (0.25, 1), (0.5, 0.5), (0.25, 0.5)]
    rows = ["| variant | mean of the grid, dev / test | " + " | ".join(f"{w:g}, {d:g}" for w, d in shapes) + " |",
            "|---" * (len(shapes) + 2) + "|"]
    for line in lines:
        dev = {(w, d): value for w, d, _, value, _ in line["grid"]}
        means = [sum(point[k] for point in line["grid"]) / len(line["grid"]) for k in (3, 4)]
        rows.append(f"| {line['variant']} | {means[0]:.2f} / {means[1]:.2f} | "
                    + " | ".join(f"{dev[shape]:.2f}" for shape in shapes) + " |")
    return "\n".join(rows) + "\n"


def baseline_table(lines: list[dict], supernet: Supernet | None) -> str:
    elastic = {f"{p.width:g},{p.depth:g}": p for p in supernet.grid} if supernet else {}
    rows = ["| shape | elastic, dev / test | on its own, dev / test |", "|---|---|---|"]
    for line in lines:
        if line["way"] == "separate":
            own = elastic.get(line["shape"])
            said = f"{own.dev:.2f} / {own.test:.2f}" if own else ""
            rows.append(f"| {line['shape']} | {said} | {line['dev']:.2f} / {line['test']:.2f} |")
    rows += ["", "| first layers, fine-tuned | dev / test |", "|---|---|"]
    rows += [f"| {line['shape']} | {line['dev']:.2f} / {line['test']:.2f} |" for line in lines
             if line["way"] == "truncated"]
    return "\n".join(rows) + "\n"


def picture(path: Path, supernet: Supernet, lines: list[dict]) -> None:
    """Points on test over multiplications of one inference, one colour for each way."""
    import altair as alt

    source, length = supernet.space.source, supernet.task.length

    def cost(subnet: SubnetSpec) -> float:
        return macs(subnet.shape(source), length) / 1e6

    ways = {"separate": "each on its own", "truncated": "first layers, fine-tuned"}
    values = [{"way": f"supernet, depth {p.depth:g}", "macs": cost(p.subnet), "points": p.test} for p in supernet.grid]
    for line in lines:
        if line["way"] == "separate":
            width, depth = map(float, line["shape"].split(","))
            values.append({"way": ways["separate"], "macs": cost(supernet.space.uniform(width, depth)),
                           "points": line["test"]})
        if line["way"] == "truncated":
            layers = int(line["shape"])
            shape = replace(source, layers=source.layers[:layers])
            values.append({"way": ways["truncated"], "macs": macs(shape, length) / 1e6, "points": line["test"]})
    base = alt.Chart(alt.Data(values=values), width=560, height=320)
    marks = base.mark_line(point={"size": 70}).encode(
        x=alt.X("macs:Q", title=f"million multiplications for {length} tokens",
                scale=alt.Scale(type="log", nice=False, padding=12)),
        y=alt.Y("points:Q", title=f"{supernet.task.metric} on test, points", scale=alt.Scale(zero=False, padding=12)),
        color=alt.Color("way:N", title=None, sort=None, scale=alt.Scale(scheme="tableau10")))
    level = alt.Data(values=[{"points": supernet.teacher[2]}])
    teacher = alt.Chart(level).mark_rule(strokeDash=[4, 4]).encode(y="points:Q")
    (teacher + marks).properties(title=f"{supernet.task.name}: dashed, the teacher").save(str(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("supernets", nargs="*", type=Path)
    parser.add_argument("--baselines", type=Path)
    parser.add_argument("--ablation", type=Path)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    supernets = [open_supernet(folder) for folder in asked.supernets]
    for supernet in supernets:
        print(grid_table(supernet))
    lines = lines_of(asked.baselines) if asked.baselines else []
    if lines:
        print(baseline_table(lines, supernets[0] if supernets else None))
    if asked.ablation:
        print(ablation_table(lines_of(asked.ablation)))
    if asked.picture:
        picture(asked.picture, supernets[0], lines)


if __name__ == "__main__":
    main()
