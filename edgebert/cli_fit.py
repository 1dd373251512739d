"""`edgebert fit-device`: its flags, checked and handed on."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from edgebert import cli_options as options
from edgebert import cli_plan
from edgebert.cli_config import command_line
from edgebert.cli_options import INPUT, RUN, Runtime
from edgebert.errors import UsageError


class Effort(StrEnum):
    quick = "quick"
    standard = "standard"
    thorough = "thorough"
    full = "full"


class Percentile(StrEnum):
    p50 = "p50"
    p90 = "p90"


Profile = Annotated[str, options.profile_option(help="A device name (see `edgebert profiles`) or a .toml.")]
BUDGET, METHODS = "Budget (defaults come from the profile)", "Methods beside width and depth"


EXAMPLES = """Examples:

  edgebert fit-device --profile pixel6

  edgebert fit-device -p raspberry-pi-4 --model ./my-bert --data ./my-data --max-latency 25ms --runtime onnx

  edgebert fit-device -p pixel6 --task clinc150 --max-drop 1.0      (the fastest model that loses at most a point)

  edgebert fit-device -p pixel6 --methods all                       (low rank, vocabulary ... where they pay)

  edgebert fit-device -p raspberry-pi-4 --verify-on ssh:pi@raspberrypi      (timed there before anything is trained)

  edgebert fit-device --profiles pixel6,galaxy-s24,raspberry-pi-4 --out fleet      (a bundle for each, one training)

  edgebert fit-device --profiles all --workers 4 --out fleet      (every device there is, four at a time)

  edgebert fit-device -p pixel6 --max-latency 3ms --dry-run         (the plan only, in seconds)"""


def fit_device(
    profile: Profile = "pixel6",
    profiles: Annotated[str | None, typer.Option(metavar="A,B,...", help="Several devices instead, or all: a bundle for "
                        "each, in a folder of its name below --out, from one teacher and one set of tables.")] = None,
    model: options.Model = None,
    task: options.Task = None,
    data: options.Data = None,
    supernet: Annotated[Path | None, typer.Option(rich_help_panel=INPUT, help="A folder made by train-elastic, whose "
                        "model and data are used; --data only where the data have moved.")] = None,
    task_type: options.TaskType = None,
    metric: options.MetricName = None,
    text_column: options.TextColumn = None,
    pair_column: options.PairColumn = None,
    label_column: options.LabelColumn = None,
    length: options.Length = None,
    lengths: options.Lengths = None,
    max_latency: Annotated[str | None, typer.Option(rich_help_panel=BUDGET, help="Such as 12ms; at --percentile.")
                           ] = None,
    percentile: Annotated[Percentile | None, typer.Option(rich_help_panel=BUDGET, help="Of the latency.")] = None,
    max_memory: Annotated[str | None, typer.Option(rich_help_panel=BUDGET, help="Peak of the process, such as "
                          "60MB.")] = None,
    max_size: Annotated[str | None, typer.Option(rich_help_panel=BUDGET, help="Model file, such as 20MB.")] = None,
    max_drop: Annotated[float | None, typer.Option(rich_help_panel=BUDGET, help="Points of the metric below the "
                        "teacher. Alone: minimise the latency.")] = None,
    runtime: Annotated[Runtime, typer.Option(rich_help_panel=RUN, help="auto takes the better one.")] = Runtime.auto,
    threads: Annotated[int | None, typer.Option(rich_help_panel=RUN, help="Default: the profile's.")] = None,
    effort: Annotated[Effort, typer.Option(rich_help_panel=RUN, help="How to make up for the cuts. quick: by "
                     "least squares alone, nothing trained; standard: distil for as long as the number of labels asks "
                     "for; thorough: four times as long; full: train a supernet, cut from it, distil, and train for the "
                     "rounding of the file where that costs points. Each says first how long it will take.")
                     ] = Effort.standard,
    teacher_epochs: options.TeacherEpochs = None,
    criterion: options.Criterion = options.Importance.obs,
    methods: Annotated[str, typer.Option(rich_help_panel=METHODS, help="Which may be used, where the tables say that "
                       "they pay: vocabulary, refit, stream, lowrank, embeddings, or all, or none.")] = "refit",
    corpus: options.Corpus = None,
    keep_languages: options.KeepLanguages = None,
    min_count: options.MinCount = None,
    vocabulary_size: options.VocabularySize = None,
    operating_points: Annotated[int, typer.Option(rich_help_panel=RUN, metavar="N", help="With --supernet: N subnets, "
                                "each inside the one before, that share their weights in the files; the app steps down "
                                "when the device is hot.")] = 1,
    tflite_compat: Annotated[str | None, typer.Option(rich_help_panel=RUN, help="2.14: a file that tflite-runtime "
                             "2.14.0 computes right.")] = None,
    this_machine: Annotated[bool, typer.Option("--this-machine", rich_help_panel=RUN, help="The target is this "
                            "machine: hold what is measured here against the budget.")] = False,
    verify_on: Annotated[str | None, typer.Option(rich_help_panel=RUN, metavar="DEVICE", help="local, ssh:user@host or "
                         "adb:SERIAL: time plans on the target, correct the profile, and plan again until what is "
                         "measured keeps the budget.")] = None,
    verify_rounds: Annotated[int, typer.Option(rich_help_panel=RUN, help="Most plans to time with --verify-on.")] = 5,
    workers: Annotated[str | None, typer.Option(rich_help_panel=RUN, metavar="N|ADDRESS", help="With --profiles: devices "
                       "at once, as so many processes on this machine, or on a Ray cluster (host:port, or auto). Needs "
                       "the extra `ray`.")] = None,
    refine: Annotated[int, typer.Option(rich_help_panel=RUN, metavar="N", help="Try N plans for real before one is "
                      "taken: the best ones by the tables, and ones that the trials suggest.")] = 0,
    study: Annotated[str | None, typer.Option(rich_help_panel=RUN, metavar="FILE|URL", help="Keep the trials of --refine "
                     "in a journal file or a database (postgresql+psycopg://...) that several runs fill.")] = None,
    seed: options.Seed = 0,
    cache: options.CacheFolder = None,
    resume: options.Resume = False,
    tensorboard: options.TensorBoard = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", rich_help_panel=RUN, help="Print the plan and stop. Uses "
                       "stored error tables; needs no torch.")] = False,
    tables: Annotated[Path | None, typer.Option(rich_help_panel=RUN, help="Error tables for --dry-run, as a run "
                      "leaves them in its bundle.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", rich_help_panel=RUN, help="Where the bundle goes.")
                   ] = Path("edgebert-bundle"),
    overwrite: options.Overwrite = False,
    make_zip: Annotated[bool, typer.Option("--zip", rich_help_panel=RUN, help="Also pack it as a .zip.")] = False,
    as_json: Annotated[bool, typer.Option("--json", rich_help_panel=RUN, help="Print the result as JSON.")] = False,
) -> None:
    """Search, cut, recover, export, prove and pack a model for a device."""
    from edgebert.device import load_profile, parse_latency, parse_size
    from edgebert.lengths import asked_lengths
    from edgebert.methods import parse_methods

    devices = options.devices_named(profiles, threads) if profiles is not None else [load_profile(profile)]
    if workers is not None and (profiles is None or dry_run):
        raise UsageError("--workers makes bundles for several devices at once: " + (
            "a dry run takes seconds, leave it out" if dry_run else "name them with --profiles"))
    if profiles and (verify_on or this_machine):
        one = "--verify-on" if verify_on else "--this-machine"
        raise UsageError(f"--profiles is for several devices and {one} for one of them; fit that one alone")
    flags = {
        "max_latency_ms": None if max_latency is None else parse_latency(max_latency),
        "max_memory_mb": None if max_memory is None else parse_size(max_memory, "--max-memory"),
        "max_size_mb": None if max_size is None else parse_size(max_size, "--max-size"),
        "max_drop": max_drop, "percentile": percentile.value if percentile else None}
    only_drop = max_drop is not None and not any((max_latency, max_memory, max_size))
    budgets = [device.budget.override(**flags) for device in devices]
    if only_drop:
        budgets = [replace(budget, max_latency_ms=None) for budget in budgets]
    if supernet is not None:
        _refuse_beside_supernet({"--model": model, "--task": task, "--task-type": task_type, "--metric": metric,
                                 "--text-column": text_column, "--pair-column": pair_column,
                                 "--label-column": label_column, "--length": length, "--dry-run": dry_run or None,
                                 "--teacher-epochs": teacher_epochs,
                                 "--effort full": effort if effort == Effort.full else None})
    longest, chosen = asked_lengths(length, lengths)
    names = parse_methods(methods)
    if methods == "all" and supernet is not None:  # which keeps the vocabulary that it was trained with
        names = tuple(name for name in names if name != "vocabulary")
    vocabulary = options.vocabulary_choice("vocabulary" in names, corpus, keep_languages, min_count, vocabulary_size)
    if data is None and task is None:
        task = "snips"
    if dry_run and refine:
        raise UsageError("--refine tries plans with the model, which --dry-run does without; leave one of them out")
    if dry_run:
        cli_plan.dry_runs(devices, budgets, task, tables, runtime.value, threads, longest, (chosen or ())[:-1], as_json)
        return
    if tables is not None:
        raise UsageError("--tables is for --dry-run: a real run measures its own tables, or finds them in the cache")
    places = {device.name: out / device.name if profiles else out for device in devices}
    for place in places.values():
        options.check_out(place, overwrite)
    from edgebert.cache import Cache, default_cache
    from edgebert.data import Columns
    from edgebert.request import FitRequest

    requests = [FitRequest(
        profile=device, budget=budget, out=places[device.name], model=model, task=task, data=data,
        columns=Columns(text_column, pair_column, label_column), kind=task_type, metric=metric, runtime=runtime.value,
        threads=threads or device.threads, length=longest, lengths=chosen, effort=effort.value,
        teacher_epochs=teacher_epochs,
        criterion=criterion.value, methods=names, vocabulary=vocabulary, tflite_compat=tflite_compat,
        minimise_latency=only_drop, supernet=supernet, tensorboard=tensorboard, this_machine=this_machine,
        verify_on=verify_on, verify_rounds=verify_rounds, operating_points=operating_points, zip=make_zip,
        overwrite=overwrite, seed=seed, refine=refine, study=study,
        command=command_line()) for device, budget in zip(devices, budgets)]
    stages = Cache(cache or default_cache(), resume)
    if profiles:
        cli_plan.run_fleet(requests, stages, workers, profiles.strip() == options.EVERY, as_json)
    else:
        cli_plan.run(requests[0], stages, as_json)


def _refuse_beside_supernet(flags: dict[str, object]) -> None:
    given = [flag for flag, value in flags.items() if value is not None]
    if given:
        raise UsageError(f"--supernet brings its own model and task; it contradicts {', '.join(given)}")
