"""The table and the picture of what cutting alone costs, from what examples/prune_curve.py wrote.

    python examples/prune_tables.py prune_curve.jsonl [--picture FILE.svg]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def table(lines: list[dict]) -> str:
    """A row for each way: points on dev at each speed, then at each width."""
    columns = sorted({(line["kind"], line["amount"]) for line in lines if line["way"] != "teacher"},
                     key=lambda column: (column[0] != "speed", column[1] if column[0] == "speed" else -column[1]))
    teacher = next(line["dev"] for line in lines if line["way"] == "teacher")
    names = [f"{amount:g}x faster" if kind == "speed" else f"width {amount:g}" for kind, amount in columns]
    rows = [f"dev; teacher {teacher:.1f}", "", "| way | " + " | ".join(names) + " | s |", "|---" * (len(names) + 2) + "|"]
    for way in dict.fromkeys(line["way"] for line in lines if line["way"] != "teacher"):
        mine = [line for line in lines if line["way"] == way]
        found = {(line["kind"], line["amount"]): line["dev"] for line in mine}
        seconds = max(sum(line["seconds"].values()) for line in mine)
        points = (f"{found[column]:.1f}" if column in found else "" for column in columns)
        rows.append(f"| {way} | " + " | ".join(points) + f" | {seconds:.0f} |")
    return "\n".join(rows) + "\n"


def picture(path: Path, lines: list[dict]) -> None:
    """Points on dev over predicted speed-up, one line a way."""
    import altair as alt

    whole = next(line for line in lines if line["way"] == "teacher")
    values = [{"way": line["way"], "faster": whole["latency_ms"] / line["latency_ms"], "points": line["dev"]}
              for line in lines if line["kind"] == "speed"]
    for way in dict.fromkeys(value["way"] for value in values):
        values.append({"way": way, "faster": 1.0, "points": whole["dev"]})
    chart = alt.Chart(alt.Data(values=values), width=560, height=320).mark_line(point={"size": 60}).encode(
        x=alt.X("faster:Q", title="times faster, predicted", scale=alt.Scale(zero=False, padding=12)),
        y=alt.Y("points:Q", title="accuracy on dev rows, points", scale=alt.Scale(zero=False, padding=12)),
        color=alt.Color("way:N", title=None, sort=None, scale=alt.Scale(scheme="tableau10")))
    chart.properties(title=f"{whole['task']}: cut, nothing trained").save(str(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curve", type=Path)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    lines = [json.loads(line) for line in asked.curve.read_text(encoding="utf-8").splitlines()]
    print(table(lines))
    if asked.picture:
        picture(asked.picture, lines)


if __name__ == "__main__":
    main()
