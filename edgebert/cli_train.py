"""`edgebert train-elastic`: its flags, and what it prints."""

from __future__ import annotations

import shlex
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from edgebert import cli_options as options
from edgebert.cli_config import command_line
from edgebert.cli_options import RUN
from edgebert.errors import UsageError

if TYPE_CHECKING:
    from edgebert.supernet import Supernet

console = Console(highlight=False)


class Recipe(StrEnum):
    sandwich = "sandwich"
    dynabert = "dynabert"


class Distill(StrEnum):
    hidden = "hidden"
    ckd = "ckd"


class Decay(StrEnum):
    linear = "linear"
    cosine = "cosine"
    constant = "constant"


class Products(StrEnum):
    bf16 = "bf16"
    fp32 = "fp32"


class DepthOrder(StrEnum):
    scored = "scored"
    fixed = "fixed"


SPACE, TRAINING = "Subnets", "Elastic training"

EXAMPLES = """Examples:

  edgebert train-elastic --task clinc150 --out clinc150-supernet

  edgebert train-elastic --model ./my-bert --data ./my-data --augment 5 --out my-supernet

  edgebert fit-device --supernet my-supernet --profile raspberry-pi-4 --max-latency 15ms"""


def train_elastic(
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
    widths: Annotated[str, typer.Option(rich_help_panel=SPACE, help="Fractions of heads and neurons.")
                      ] = "1,0.75,0.5,0.25",
    depths: Annotated[str, typer.Option(rich_help_panel=SPACE, help="Fractions of layers.")] = "1,0.75,0.5",
    depth_order: Annotated[DepthOrder | None, typer.Option(rich_help_panel=SPACE, help="Which layers leave first: "
                           "scored by what their absence does, or DynaBERT's fixed rule. Default: the recipe's.")
                           ] = None,
    recipe: Annotated[Recipe, typer.Option(rich_help_panel=TRAINING, help="sandwich: in each step the largest, the "
                      "smallest and two random subnets, layers of mixed widths; dynabert: the paper's two stages "
                      "over the whole grid.")] = Recipe.sandwich,
    distill: Annotated[Distill | None, typer.Option(rich_help_panel=TRAINING, help="How hidden states are taught: "
                       "their values (hidden) or the relations between them (ckd). Default: hidden.")] = None,
    augment: Annotated[int, typer.Option(min=0, rich_help_panel=TRAINING, help="Copies of each training row with "
                       "other words, labelled by the teacher.")] = 0,
    epochs: Annotated[float | None, typer.Option(rich_help_panel=TRAINING, help="Of each stage, over rows and copies. "
                      "Default: the recipe's.")] = None,
    learning_rate: Annotated[float | None, typer.Option(rich_help_panel=TRAINING, help="Default: the recipe's.")
                             ] = None,
    decay: Annotated[Decay, typer.Option(rich_help_panel=TRAINING, help="Of the learning rate, after a tenth of warm-up.")
                     ] = Decay.linear,
    batch_size: Annotated[int, typer.Option(min=1, rich_help_panel=TRAINING, help="Rows of a step.")] = 32,
    accumulate: Annotated[int, typer.Option(min=1, rich_help_panel=TRAINING, help="Pieces a batch is computed in, to "
                          "save memory; the result is the same up to rounding.")] = 1,
    patience: Annotated[int, typer.Option(min=0, rich_help_panel=TRAINING, help="Stop after so many epochs without a "
                        "better score on the selection split; 0: never.")] = 0,
    precision: Annotated[Products, typer.Option(rich_help_panel=TRAINING, help="Of matrix products.")] = Products.bf16,
    tune_epochs: Annotated[float, typer.Option(rich_help_panel=TRAINING, help="A last stage on the labels.")] = 0.0,
    teacher_epochs: options.TeacherEpochs = None,
    criterion: options.Criterion = options.Importance.fisher,
    tensorboard: options.TensorBoard = None,
    seed: options.Seed = 0,
    cache: options.CacheFolder = None,
    resume: options.Resume = False,
    out: Annotated[Path, typer.Option("--out", "-o", rich_help_panel=RUN, help="Folder for the supernet.")
                   ] = Path("supernet"),
    overwrite: options.Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=RUN, help="Print supernet.json.")] = False,
) -> None:
    """Train one model that holds every width and depth, for `fit-device --supernet` to cut from in about a minute."""
    options.check_out(out, overwrite)
    vocabulary = options.vocabulary_choice(trim, corpus, keep_languages, min_count, vocabulary_size)
    spaces = {"widths": _fractions(widths, "--widths"), "depths": _fractions(depths, "--depths")}
    from edgebert.cache import Cache, default_cache
    from edgebert.data import Columns
    from edgebert.elastic_stages import settings_for
    from edgebert.progress import Reporter
    from edgebert.runlog import recorded
    from edgebert.train_elastic import ElasticRequest, train_elastic

    settings = settings_for(
        recipe.value, **spaces, order=depth_order and depth_order.value, distill=distill and distill.value,
        augment=augment, tune_epochs=tune_epochs, schedule={
            "epochs": epochs, "learning_rate": learning_rate, "decay": decay.value, "batch_size": batch_size,
            "accumulate": accumulate, "patience": patience, "precision": precision.value})
    request = ElasticRequest(
        settings, out, model=model, task=task if task or data else "snips", data=data,
        columns=Columns(text_column, pair_column, label_column), kind=task_type, metric=metric, length=length,
        vocabulary=vocabulary, teacher_epochs=teacher_epochs, criterion=criterion.value, tensorboard=tensorboard,
        overwrite=overwrite, seed=seed, command=command_line())
    stages, reporter = Cache(cache or default_cache(), resume), Reporter()
    with recorded(stages.runs, reporter.seconds):
        supernet = train_elastic(request, stages, reporter)
    if as_json:
        print((supernet.folder / "supernet.json").read_text(encoding="utf-8"), end="")
    else:
        _show(supernet)


def _fractions(text: str, flag: str) -> tuple[float, ...]:
    try:
        return tuple(float(Fraction(part.strip())) for part in text.split(","))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise UsageError(f"{flag} {text}: give fractions separated by commas, such as 1,0.75,1/2,1/4") from error


def _show(supernet: Supernet) -> None:
    table = Table(title=f"{supernet.task.metric} on {supernet.task.name}: dev / test; teacher "
                        f"{supernet.teacher[1]:.2f} / {supernet.teacher[2]:.2f}", title_justify="left", pad_edge=False)
    table.add_column("depth \\ width", no_wrap=True)
    for width in supernet.space.widths:
        table.add_column(f"{width:g}", justify="right")
    for depth in supernet.space.depths:
        table.add_row(f"{depth:g}", *(f"{p.dev:.2f} / {p.test:.2f}" for p in supernet.grid if p.depth == depth))
    console.print(table)
    console.print(f"supernet: {supernet.folder}   next: edgebert fit-device --supernet "
                  f"{shlex.quote(str(supernet.folder))} --profile pixel6")
