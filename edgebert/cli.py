"""The command line. Nothing heavy is imported before a command needs it, so that --help answers at once."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import signal
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from edgebert import cli_files, cli_plan, cli_train
from edgebert import cli_options as options
from edgebert.cli_options import INPUT, RUN
from edgebert.crew import crew, refuse_single_launch
from edgebert.errors import Interrupted, UsageError

EXIT_CODES = """Exit codes: 0 ok, 2 usage or bad input, 3 budget unreachable, 4 a file does not compute what it should,
5 accuracy below --max-drop, 6 device or runtime, 7 measured over budget, 8 training diverged or lost a process,
130 interrupted."""

app = typer.Typer(no_args_is_help=True, add_completion=True, rich_markup_mode="rich", pretty_exceptions_enable=False,
                  context_settings={"help_option_names": ["-h", "--help"]},
                  help="Turn a fine-tuned BERT into the best model that fits a phone.", epilog=EXIT_CODES)


class Runtime(StrEnum):
    auto = "auto"
    both = "both"
    onnx = "onnx"
    tflite = "tflite"


class Effort(StrEnum):
    quick = "quick"
    standard = "standard"
    thorough = "thorough"
    full = "full"


class Percentile(StrEnum):
    p50 = "p50"
    p90 = "p90"


Profile = Annotated[str, typer.Option("--profile", "-p", help="A device name (see `edgebert profiles`) or a .toml.")]
BUDGET = "Budget (defaults come from the profile)"


@app.command("fit-device", epilog="""Examples:

  edgebert fit-device --profile pixel6

  edgebert fit-device -p raspberry-pi-4 --model ./my-bert --data ./my-data --max-latency 25ms --runtime onnx

  edgebert fit-device -p pixel6 --task clinc150 --max-drop 1.0      (the fastest model that loses at most a point)

  edgebert fit-device -p pixel6 --max-latency 3ms --dry-run         (the plan only, in seconds)""")
def fit_device(
    profile: Profile = "pixel6",
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
    effort: Annotated[Effort, typer.Option(rich_help_panel=RUN, help="How long to recover what the cuts cost: a "
                     "quarter of, exactly, or four times what the number of labels asks for; full: train a supernet "
                     "first, and cut from it.")] = Effort.standard,
    teacher_epochs: options.TeacherEpochs = None,
    criterion: options.Criterion = options.Importance.fisher,
    tflite_compat: Annotated[str | None, typer.Option(rich_help_panel=RUN, help="2.14: a file that tflite-runtime "
                             "2.14.0 computes right.")] = None,
    this_machine: Annotated[bool, typer.Option("--this-machine", rich_help_panel=RUN, help="The target is this "
                            "machine: hold what is measured here against the budget.")] = False,
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

    device = load_profile(profile)
    flags = {
        "max_latency_ms": None if max_latency is None else parse_latency(max_latency),
        "max_memory_mb": None if max_memory is None else parse_size(max_memory, "--max-memory"),
        "max_size_mb": None if max_size is None else parse_size(max_size, "--max-size"),
        "max_drop": max_drop, "percentile": percentile.value if percentile else None}
    only_drop = max_drop is not None and not any((max_latency, max_memory, max_size))
    budget = device.budget.override(**flags)
    if only_drop:
        budget = replace(budget, max_latency_ms=None)
    if supernet is not None:
        _refuse_beside_supernet({"--model": model, "--task": task, "--task-type": task_type, "--metric": metric,
                                 "--text-column": text_column, "--pair-column": pair_column,
                                 "--label-column": label_column, "--length": length, "--dry-run": dry_run or None,
                                 "--teacher-epochs": teacher_epochs,
                                 "--effort full": effort if effort == Effort.full else None})
    if data is None and task is None:
        task = "snips"
    if dry_run:
        cli_plan.dry_run(device, budget, task, tables, runtime.value, threads, length, as_json)
        return
    if tables is not None:
        raise UsageError("--tables is for --dry-run: a real run measures its own tables, or finds them in the cache")
    options.check_out(out, overwrite)
    from edgebert.cache import Cache, default_cache
    from edgebert.data import Columns
    from edgebert.request import FitRequest

    request = FitRequest(
        profile=device, budget=budget, out=out, model=model, task=task, data=data,
        columns=Columns(text_column, pair_column, label_column), kind=task_type, metric=metric, runtime=runtime.value,
        threads=threads or device.threads, length=length, effort=effort.value, teacher_epochs=teacher_epochs,
        criterion=criterion.value, tflite_compat=tflite_compat, minimise_latency=only_drop, supernet=supernet,
        tensorboard=tensorboard, this_machine=this_machine, zip=make_zip, overwrite=overwrite, seed=seed,
        command=shlex.join(["edgebert", *sys.argv[1:]]))
    cli_plan.run(request, Cache(cache or default_cache(), resume), as_json)


def _refuse_beside_supernet(flags: dict[str, object]) -> None:
    given = [flag for flag, value in flags.items() if value is not None]
    if given:
        raise UsageError(f"--supernet brings its own model and task; it contradicts {', '.join(given)}")


app.command("train-elastic", epilog=cli_train.EXAMPLES)(cli_train.train_elastic)


@app.command(epilog="Examples:\n\n  edgebert profiles\n\n  edgebert profiles pixel6 --json")
def profiles(name: Annotated[str | None, typer.Argument(help="Show this one: a name or a .toml file.")] = None,
             as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """List the device profiles, or show one with the source of each figure."""
    cli_plan.profiles(name, as_json)


@app.command(epilog="Examples:\n\n  edgebert inspect ./my-bert\n\n  edgebert inspect edgebert-bundle/plan.json")
def inspect(target: Annotated[Path, typer.Argument(help="A checkpoint folder, a bundle, a plan.json or a model file.")],
            length: Annotated[int, typer.Option(help="Tokens to count MACs for.")] = 64,
            as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Shapes, parameters, MACs and bytes."""
    cli_files.inspect(target, length, as_json)


@app.command(epilog="Example:\n\n  edgebert export ./my-bert --out exported --runtime both --precision int8")
def export(model: Annotated[str, typer.Argument(help="A fine-tuned checkpoint: a Hugging Face folder or hub id.")],
           out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.")] = Path("exported"),
           runtime: Annotated[Runtime, typer.Option(help="onnx, tflite or both.")] = Runtime.both,
           precision: Annotated[str, typer.Option(help="fp32 or int8.")] = "int8",
           length: Annotated[int, typer.Option(help="Most tokens of an input.")] = 64,
           tflite_compat: Annotated[str | None, typer.Option(help="2.14 for tflite-runtime 2.14.0.")] = None,
           overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace older files.")] = False) -> None:
    """Export a checkpoint as it is, without compression, and prove the files."""
    options.check_out(out, overwrite)
    cli_files.export(model, out, runtime.value, precision, length, tflite_compat, overwrite)


@app.command(epilog="Example:\n\n  edgebert verify edgebert-bundle")
def verify(folder: Annotated[Path, typer.Argument(help="A bundle.")],
           as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Check hashes, token ids and logits of a bundle. Exit code 4 where anything differs."""
    cli_files.verify(folder, as_json)


@app.command(epilog="Examples:\n\n  edgebert bench edgebert-bundle\n\n  edgebert bench edgebert-bundle --check")
def bench(folder: Annotated[Path, typer.Argument(help="A bundle.")],
          threads: Annotated[int | None, typer.Option(help="Default: the plan's.")] = None,
          runs: Annotated[int, typer.Option(help="Timed runs a file.")] = 200,
          check: Annotated[bool, typer.Option("--check", help="This machine is the target: exit code 7 where the "
                           "budget is missed.")] = False,
          as_json: Annotated[bool, typer.Option("--json", help="One benchmark record a line.")] = False) -> None:
    """Time a bundle's files on this machine."""
    cli_files.bench(folder, threads, runs, check, as_json)


def main() -> None:
    """Runs the command line; expected failures become one line on stderr and their exit code."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Torch's threads spin while they wait for each other; as soon as another program wants a core, that costs more than
    # the work. A short spin keeps the speed of a quiet machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    for noisy in ("torchao", "torch.utils._pytree"):  # they warn on import of parts that are not used here
        logging.getLogger(noisy).setLevel(logging.ERROR)
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, _interrupt)
    try:
        refuse_single_launch()
        app(standalone_mode=True)
    except OSError as error:
        full = " (free some space; finished stages are kept)" if error.errno == errno.ENOSPC else ""
        _fail(f"{error.filename or 'file system'}: {error.strerror or error}{full}", 2)
    except ModuleNotFoundError as error:
        _fail(f"the package {error.name!r} is not installed; pip install 'edgebert[all]' brings all that a run needs", 2)
    except RecursionError:
        _fail("an input file is nested too deeply to be read", 2)
    except Exception as error:
        if type(error).__name__ == "SafetensorError":  # a full disk, mostly; the class is not imported for --help
            _fail(f"weights cannot be stored: {error}; finished stages are kept", 2)
        code = getattr(error, "exit_code", None)
        if code is None:
            raise
        _fail(str(error), code)


def _interrupt(number: int, frame: object) -> None:
    raise Interrupted("stopped; finished stages are kept, run the same command with --resume to go on")


def _fail(message: str, code: int) -> None:
    here = crew()
    process = "" if here.main else f" (process {here.rank})"
    print(f"edgebert{process}: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
