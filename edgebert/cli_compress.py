"""`edgebert compress`: its flags, and what it prints."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from edgebert import cli_options as options
from edgebert.cli_config import command_line
from edgebert.cli_options import RUN

console = Console(highlight=False)
METHOD = "Method"

EXAMPLES = """Methods:

  cut heads, neurons and layers    magnitude, taylor, fisher, kwon, ziplm

  store matrices as products       drone, asvd, svd

  narrow the residual stream       stream-mask, stream-rotation

  zeros in place of weights        zeros, snip, adapt, rigl, tickets

  cut while fine-tuning            early-bird

Examples:

  edgebert compress --method ziplm --keep 0.5 --task clinc150 --out half

  edgebert compress --method drone --keep 0.7 --model ./my-bert --data ./my-data --recover standard

  edgebert export half --runtime both"""


def compress(
    method: Annotated[str, typer.Option(rich_help_panel=METHOD, help="See the list below.")],
    keep: Annotated[float, typer.Option(rich_help_panel=METHOD, help="A share, such as 0.5: of the predicted latency "
                                        "for cuts, of the layers' weights for products and zeros, of the hidden size "
                                        "for the stream, of heads and neurons for early-bird.")],
    recover: Annotated[str, typer.Option(rich_help_panel=METHOD, help="Distil afterwards: none, standard or "
                                         "thorough.")] = "none",
    profile: Annotated[str, options.profile_option(rich_help_panel=METHOD, help="The device whose cost rows say "
                                         "what a head and a neuron cost.")] = "pixel6",
    model: options.Model = None,
    task: options.Task = None,
    data: options.Data = None,
    task_type: options.TaskType = None,
    metric: options.MetricName = None,
    text_column: options.TextColumn = None,
    pair_column: options.PairColumn = None,
    label_column: options.LabelColumn = None,
    length: options.Length = None,
    trim: options.Trim = False,
    corpus: options.Corpus = None,
    keep_languages: options.KeepLanguages = None,
    min_count: options.MinCount = None,
    vocabulary_size: options.VocabularySize = None,
    teacher_epochs: options.TeacherEpochs = None,
    tensorboard: options.TensorBoard = None,
    seed: options.Seed = 0,
    cache: options.CacheFolder = None,
    resume: options.Resume = False,
    out: Annotated[Path, typer.Option("--out", "-o", rich_help_panel=RUN, help="Folder for the checkpoint.")
                   ] = Path("compressed"),
    overwrite: options.Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=RUN, help="Print compress.json.")] = False,
) -> None:
    """Run one compression method on its own and say what it costs and saves."""
    from edgebert.device import load_profile

    device = load_profile(profile)
    vocabulary = options.vocabulary_choice(trim, corpus, keep_languages, min_count, vocabulary_size)
    options.check_out(out, overwrite)
    from edgebert.cache import Cache, default_cache
    from edgebert.compressing import CompressRequest, compress
    from edgebert.data import Columns
    from edgebert.progress import Reporter
    from edgebert.runlog import recorded

    request = CompressRequest(
        method, keep, device, out, recover, model=model, task=task if task or data else "snips", data=data,
        columns=Columns(text_column, pair_column, label_column), kind=task_type, metric=metric, length=length,
        vocabulary=vocabulary, teacher_epochs=teacher_epochs, tensorboard=tensorboard, overwrite=overwrite, seed=seed,
        command=command_line())
    stages, reporter = Cache(cache or default_cache(), resume), Reporter()
    with recorded(stages.runs, reporter.seconds):
        result = compress(request, stages, reporter)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        _show(result, out)


def _show(result: dict[str, Any], out: Path) -> None:
    table = Table(title=f"{result['method']}, keep {result['keep']:g}: {result['seconds']:.0f} s", title_justify="left",
                  pad_edge=False)
    for name in ("", "before", "after"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    before, after = result["before"], result["after"]
    for split in ("dev", "test"):
        points = (f"{model[split]['points']:.2f}" for model in (before, after))
        table.add_row(f"{result['metric'].replace('_', ' ')}, {split}", *points)
    for name, unit, value in (("parameters", "M", lambda m: m["params"] / 1e6),
                              ("multiplications", "M", lambda m: m["macs"] / 1e6),
                              ("int8 weights", "MB", lambda m: m["int8_weights"]["plain_bytes"] / 1e6),
                              ("int8 weights, deflated", "MB", lambda m: m["int8_weights"]["deflate_bytes"] / 1e6)):
        table.add_row(name, *(f"{value(m):.1f} {unit}" for m in (before, after)))
    console.print(table)
    for name, value in result["facts"].items():
        console.print(f"  {name.replace('_', ' ')}: {value if isinstance(value, str) else f'{value:.4g}'}")
    console.print(f"checkpoint: {out}   next: edgebert export {shlex.quote(str(out))}")
