"""Every method that changes shapes, alone and together: accuracy of the exported int8 files over their measured latency.

    python examples/method_front.py --task clinc150 --out front.jsonl --recover-steps 300
    python examples/method_front.py --out front.jsonl --task clinc150 --picture front-clinc150.svg

One teacher; every way at several shares of what it saves on. Nothing is trained but what says "recovered": the teacher
distilled into that cut for --recover-steps steps. Each network is written in int8 as ONNX and as TFLite; the file
answers the dev rows one at a time, and is timed in turn with the teacher's own int8 file, one thread, in processor time,
which other programs on the machine lengthen little. One JSON line a file; ways that are there already are not run again.
--picture: draws what --out holds for the task, prints it as a table, and runs nothing.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from device_bench.inputs import synthetic_inputs
from device_bench.measure import interleave
from device_bench.runtimes import open_model
from edgebert import cost
from edgebert.cache import Cache, default_cache
from edgebert.compressors import METHODS
from edgebert.cutting import cut_of
from edgebert.device import Budget, load_profile
from edgebert.errors import UsageError
from edgebert.job import Compressed, Job
from edgebert.material import Material, gather
from edgebert.method_tables import tables_with_hidden, tables_with_ranks
from edgebert.modeling import Encoder
from edgebert.progress import Reporter
from edgebert.request import RunRequest
from edgebert.searching import search
from edgebert.stages import RECOVERY, TEACHER, Workplace, student_of, tables_of, teacher_of
from edgebert.train.batches import steps_per_epoch
from exporters.artifact import Artifact, InputSpec, Precision
from exporters.files import export_files
from exporters.parity import logits_of as file_logits

FORMATS = ("onnx", "tflite")
ALONE = {"magnitude": (0.7, 0.5, 0.35), "taylor": (0.7, 0.5, 0.35), "fisher": (0.7, 0.5, 0.35), "kwon": (0.7, 0.5),
         "ziplm": (0.7, 0.5, 0.35), "svd": (0.7, 0.5), "drone": (0.7, 0.5, 0.35), "stream-mask": (0.67, 0.5),
         "stream-rotation": (0.67, 0.5)}
"""Of compressors.METHODS: shares of what each saves on."""
TOGETHER = {"obs + refit": ("refit",), "all together": ("refit", "stream", "lowrank")}
SEARCHED = (0.7, 0.5, 0.35, 0.25)
RECOVERED = ("fisher", "obs + refit", "all together")


def searched(job: Job, methods: tuple[str, ...]) -> Compressed:
    """What fit-device cuts with these methods for `keep` of the whole int8 model's predicted latency."""
    teacher, material, work = job.teacher, job.material, job.work
    tables = tables_of(teacher, material.data, material.train, "obs", work)
    rows = tuple(row for row in job.profile.rows if (row.runtime, row.threads) == ("tflite", 1))
    if "lowrank" in methods:
        tables = tables_with_ranks(tables, teacher, material, rows, work)
    if "stream" in methods:
        tables = tables_with_hidden(tables, teacher, material, work)
    int8 = Precision.uniform("int8", len(teacher.layers))
    whole = cost.estimate(teacher.shape, int8, job.profile, "tflite", 1, job.length)
    plan = search(tables, job.profile, Budget(max_latency_ms=job.keep * whole.tail_ms), "tflite", 1, job.length,
                  precisions=("int8",))
    cut = cut_of(plan, teacher, material, methods, work)
    return Compressed(cut.net, {"predicted_error": plan.predicted_error}, plan.subnet.kept, cut.basis)


def ways() -> Iterator[tuple[str, float, Callable[[Job], Compressed]]]:
    for name, shares in ALONE.items():
        yield from ((name, share, METHODS[name].run) for share in shares)
    for name, methods in TOGETHER.items():
        yield from ((name, share, partial(searched, methods=methods)) for share in SEARCHED)


def write(net: Encoder, folder: Path, name: str, material: Material) -> dict[str, Artifact]:
    """An int8 file of each format, for the longest input alone."""
    spec = InputSpec((material.inputs.max_length,), material.inputs.token_types)
    int8 = Precision.uniform("int8", len(net.layers))
    return {format: export_files(format, net, {folder / f"{name}.{format}": int8}, spec, {})[0] for format in FORMATS}


def of_teacher(file: Artifact, teacher: Artifact, length: int, vocab: int) -> tuple[float, float]:
    """Median processor milliseconds of the file, and its ratio to the teacher's, timed in turn."""
    calls = {}
    for name, artifact in (("file", file), ("teacher", teacher)):
        session = open_model(artifact.path, threads=1, length=length)
        calls[name] = partial(session.run, synthetic_inputs(session, length, vocabulary=vocab))
    timings = interleave(calls, time.process_time_ns, warmup=10, runs=120, max_seconds=60, refill=2)
    own, whole = timings["file"].p50_ns, timings["teacher"].p50_ns
    return own / 1e6, own / whole


def show(lines: list[dict], picture: Path) -> None:
    """The table on standard output, the picture into a file."""
    import altair as alt

    whole = {line["format"]: line["dev"] for line in lines if line["way"] == "teacher"}
    print("| way | share | ONNX: of teacher's latency, dev | TFLite: of teacher's latency, dev |\n|---|---|---|---|")
    found: dict[tuple[str, float], dict[str, dict]] = {}
    for line in lines:
        found.setdefault((line["way"], line["share"]), {})[line["format"]] = line
    for (way, share), both in found.items():
        cells = [f"{both[f]['of_teacher']:.2f}, {both[f]['dev']:.1f}" for f in FORMATS]
        print(f"| {way} | {share:g} | {' | '.join(cells)} |")
    named = [{**line, "runtime": {"onnx": "ONNX Runtime, int8", "tflite": "LiteRT, int8"}[line["format"]]}
             for line in lines if line["way"] != "teacher"]
    base = alt.Chart(alt.Data(values=named), width=330, height=330)
    marks = base.mark_line(point={"size": 45}).encode(
        x=alt.X("of_teacher:Q", title="measured latency, of the teacher's int8 file",
                scale=alt.Scale(type="log", nice=False, padding=10)),
        y=alt.Y("dev:Q", title=f"{lines[0]['metric'].replace('_', ' ')} of the file on dev, points",
                scale=alt.Scale(zero=False)),
        color=alt.Color("way:N", title=None, sort=None, scale=alt.Scale(scheme="tableau20")))
    if any(line["recovered"] for line in named):
        marks = marks.encode(strokeDash=alt.StrokeDash("recovered:N", title="recovered"))
    title = f"{lines[0]['task']}: the teacher's file has {whole['onnx']:.1f} (ONNX) and {whole['tflite']:.1f} (TFLite)"
    marks.facet(column=alt.Column("runtime:N", title=None)).properties(title=title).save(str(picture))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--teacher-epochs", type=int)
    parser.add_argument("--recover-steps", type=int, default=300, help="0: nothing is recovered")
    parser.add_argument("--profile", default="x86-laptop")
    parser.add_argument("--only", nargs="*", help="ways, by name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    written = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    if asked.picture:
        name = asked.task or asked.data.name
        return show([line for line in written if line["task"] == name and line["seed"] == asked.seed], asked.picture)
    reporter = Reporter()
    material = gather(RunRequest(task=asked.task, data=asked.data, seed=asked.seed), reporter)
    work = Workplace(Cache(asked.cache), reporter, asked.seed)
    fresh = copy.deepcopy(material.checkpoint.net)
    teacher = teacher_of(material.checkpoint, material.data, material.train, asked.teacher_epochs, work)
    job = Job(teacher, lambda: copy.deepcopy(fresh), material, 1.0, load_profile(asked.profile), TEACHER, work)
    here = (material.data.name, asked.seed)
    done = {(line["way"], line["share"]) for line in written if (line["task"], line["seed"]) == here}
    length, rows = material.inputs.max_length, material.dev

    with tempfile.TemporaryDirectory() as made:
        with reporter.stage("write the teacher's files"):
            whole = write(teacher, Path(made), "teacher", material)

        def note(way: str, share: float, net: Encoder, seconds: float, recovered: bool = False) -> None:
            files = whole if way == "teacher" else write(net, Path(made), "cut", material)
            for format, artifact in files.items():
                points = material.scorers["dev"].points(file_logits(artifact, rows.ids, rows.mask, rows.types))
                milliseconds, ratio = of_teacher(artifact, whole[format], length, teacher.shape.vocab)
                line = {"task": here[0], "seed": here[1], "metric": material.metric, "way": way, "share": share,
                        "recovered": recovered, "format": format, "dev": points, "rows": len(rows), "length": length,
                        "cpu_ms": milliseconds, "of_teacher": ratio, "file_bytes": artifact.file_bytes,
                        "seconds": round(seconds, 1)}
                with asked.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                reporter.say(f"  {way} {share:g} {format}: {points:.2f} at {ratio:.2f}")

        if ("teacher", 1.0) not in done:
            note("teacher", 1.0, teacher, 0.0)
        for way, share, run in ways():
            after = f"{way}, recovered"
            wanted = [name for name in (way, after) if (name, share) not in done
                      and (name == way or (way in RECOVERED and asked.recover_steps))]
            if not wanted or (asked.only and way not in asked.only):
                continue
            began = time.process_time()
            try:
                cut = run(replace(job, keep=share))
            except UsageError as error:  # a share that this way cannot reach
                reporter.say(f"  {way} {share:g}: {error}")
                continue
            seconds = time.process_time() - began
            if way in wanted:
                note(way, share, cut.net, seconds)
            if after in wanted:
                epochs = asked.recover_steps / steps_per_epoch(material.train, RECOVERY.batch_size)
                lesson = replace(RECOVERY, epochs=epochs, seed=asked.seed)
                student = student_of(cut.net, cut.kept, teacher, material, lesson, work, cut.basis)
                note(after, share, student, seconds, True)


if __name__ == "__main__":
    main()
