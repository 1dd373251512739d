"""`edgebert build`: exactly the plan in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgebert import cli_options as options
from edgebert import cli_plan
from edgebert.cli_config import command_line
from edgebert.cli_fit import Effort
from edgebert.cli_options import RUN
from edgebert.errors import UsageError

EXAMPLES = """Examples:

  edgebert fit-device --profile pixel6 --dry-run --json > plan.json     (then edit it)

  edgebert build plan.json --out by-hand

  edgebert build edgebert-bundle/plan.json --model ./my-bert --data ./my-data --profile pixel8 --out again"""


def build(
    plan: Annotated[Path, typer.Argument(help="A plan.json, from a bundle or from --dry-run --json, edited or not.")],
    model: options.Model = None,
    task: options.Task = None,
    data: options.Data = None,
    task_type: options.TaskType = None,
    metric: options.MetricName = None,
    text_column: options.TextColumn = None,
    pair_column: options.PairColumn = None,
    label_column: options.LabelColumn = None,
    trim: options.Trim = False,
    corpus: options.Corpus = None,
    keep_languages: options.KeepLanguages = None,
    min_count: options.MinCount = None,
    vocabulary_size: options.VocabularySize = None,
    profile: Annotated[str | None, options.profile_option(rich_help_panel=RUN, help="Another device than the "
                                                "plan's, to price it on.")] = None,
    effort: Annotated[Effort, typer.Option(rich_help_panel=RUN, help="How to make up for the cuts; quick: nothing "
                      "is trained.")] = Effort.standard,
    refit: Annotated[bool, typer.Option("--refit/--no-refit", rich_help_panel=RUN, help="Least squares after the cut, "
                                        "where that scores better.")] = True,
    teacher_epochs: options.TeacherEpochs = None,
    tflite_compat: Annotated[str | None, typer.Option(rich_help_panel=RUN, help="2.14: a file that tflite-runtime "
                             "2.14.0 computes right.")] = None,
    seed: options.Seed = 0,
    cache: options.CacheFolder = None,
    resume: options.Resume = False,
    out: Annotated[Path, typer.Option("--out", "-o", rich_help_panel=RUN, help="Where the bundle goes.")
                   ] = Path("edgebert-bundle"),
    overwrite: options.Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=RUN, help="Print the result as JSON.")] = False,
) -> None:
    """Build exactly the plan in a file: cut, recover, export, prove and pack it, or say which line is impossible."""
    from edgebert.cache import Cache, default_cache
    from edgebert.data import Columns
    from edgebert.device import load_profile
    from edgebert.given import read_plan
    from edgebert.request import FitRequest

    given = read_plan(plan)
    device = load_profile(profile or given.profile)
    if effort == Effort.full:
        raise UsageError("--effort full trains a supernet to search in; a plan that is given needs none: take thorough")
    options.check_out(out, overwrite)
    criterion = given.provenance.get("criterion", "")  # of a supernet's plan none: its units are in order already
    if criterion not in list(options.Importance):
        criterion = options.Importance.fisher.value
    if data is None and task is None:
        task = "snips"
    request = FitRequest(
        profile=device, budget=given.budget, out=out, model=model, task=task, data=data,
        columns=Columns(text_column, pair_column, label_column), kind=task_type, metric=metric, runtime=given.runtime,
        threads=given.threads, length=given.length, lengths=given.lengths, effort=effort.value,
        teacher_epochs=teacher_epochs, criterion=criterion,
        methods=("refit",) if refit else (), tflite_compat=tflite_compat, overwrite=overwrite, seed=seed,
        vocabulary=options.vocabulary_choice(trim, corpus, keep_languages, min_count, vocabulary_size),
        command=command_line(), given=given)
    cli_plan.run(request, Cache(cache or default_cache(), resume), as_json)
