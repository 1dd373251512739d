"""What bench_export.py has measured, as two tables and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export_peers import ENTRIES

Line = dict[str, Any]


def plural(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


def latest(lines: Sequence[Line], what: str) -> dict[tuple, Line]:
    """The last line of each name, or of each name, length and number of threads."""
    return {(line["name"], line.get("length"), line.get("threads")): line for line in lines if line["what"] == what}


def show(lines: Sequence[Line], picture: Path | None) -> None:
    """Two tables on standard output, and the picture into a file."""
    latency, files = latest(lines, "latency"), latest(lines, "file")
    cells = sorted({(threads, length) for _, length, threads in latency})
    heads = [f"{length}, {plural(threads)}" for threads, length in cells]
    print(f"| | {' | '.join(heads)} |\n|---{'|---:' * len(heads)}|")
    for entry in ENTRIES:
        found = [latency.get((entry.name, length, threads)) for threads, length in cells]
        if any(found):
            texts = ["" if line is None else f"{line['ratio']:.3f}" if "ratio" in line else "failed" for line in found]
            print(f"| {entry.name} | {' | '.join(texts)} |")
    busy = {plural(line["threads"]) for line in latency.values() if line.get("busy")}
    if busy:
        print(f"\nSome rows of {' and '.join(sorted(busy))} were timed while other programs wanted the cores: processor "
              "time bears that, the wall time of several threads does not.")
    print("\n| | accuracy | relative RMSE | MB | load, CPU ms | peak MB | runtime |\n|---|---:|---:|---:|---:|---:|---|")
    for entry in ENTRIES:
        line = files.get((entry.name, None, None))
        if line is not None and "why" in line:
            print(f"| {entry.name} | not measured: {line['why']} | | | | | |")
        elif line is not None:
            worth = (f"{line['accuracy']:.1f}", f"{line['relative_rmse']:.2g}") if "accuracy" in line else ("", "")
            print(f"| {entry.name} | {' | '.join(worth)} | {line['file_bytes'] / 1e6:.1f} | {line['load_cpu_ms']:.0f} | "
                  f"{line['peak_rss_bytes'] / 1e6:.0f} | {line['runtime']} |")
    if picture is not None:
        draw(latency, picture)


def draw(latency: dict[tuple, Line], picture: Path) -> None:
    """The best of each family at every length."""
    import altair as alt

    best: dict[tuple, float] = {}
    families = {entry.name: entry.family for entry in ENTRIES}
    for (name, length, threads), line in latency.items():
        if "ratio" in line:
            key = (families[name], length, threads)
            best[key] = min(best.get(key, line["ratio"]), line["ratio"])
    values = [{"family": family, "length": length, "threads": plural(threads), "ratio": ratio}
              for (family, length, threads), ratio in best.items()]
    order = list(dict.fromkeys(families.values()))
    lengths = sorted({value["length"] for value in values})
    alt.Chart(alt.Data(values=values), width=300, height=300).mark_line(point=True).encode(
        x=alt.X("length:Q", title="tokens", scale=alt.Scale(type="log", base=2, nice=False),
                axis=alt.Axis(values=lengths)),
        y=alt.Y("ratio:Q", title="latency, of torch.onnx's fp32 file", scale=alt.Scale(type="log")),
        color=alt.Color("family:N", title="the fastest of", sort=order, scale=alt.Scale(scheme="tableau10")),
    ).facet(column=alt.Column("threads:N", title=None)).save(str(picture))
