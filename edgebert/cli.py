"""The command line. Nothing heavy is imported before a command needs it, so that --help answers at once."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from edgebert import (
    cli_build,
    cli_compare,
    cli_compress,
    cli_config,
    cli_device,
    cli_doctor,
    cli_explain,
    cli_files,
    cli_fit,
    cli_front,
    cli_native,
    cli_profiles,
    cli_push,
    cli_report,
    cli_reproduce,
    cli_sign,
    cli_train,
    runlog,
)
from edgebert import cli_options as options
from edgebert.cli_options import ONNX, TFLITE, Formats
from edgebert.crew import crew, refuse_single_launch
from edgebert.errors import Interrupted, code_of, failure, page_of

EXIT_CODES = (
    "Exit codes: 0 ok, 1 doctor found something wrong, 2 usage or bad input, 3 budget unreachable, 4 a file does not "
    "compute what it should, 5 accuracy below --max-drop, 6 device or runtime, 7 measured over budget, 8 training "
    "diverged or lost a process, 9 another run has the folder, 130 interrupted. Errors carry a code, explained in "
    "docs/errors.md."
    "\n\nWhat a run did is kept as JSON lines in the cache, in runs/TIME/events.jsonl, also where it was killed."
    "\n\nStart with: edgebert fit-device --profile pixel6 --dry-run")
MAKE, PLANS, READ, DEVICES = "Make a model", "Look at plans and models", "Bundles", "Devices and timings"

NO_TELEMETRY = ("DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY", "ORT_DISABLE_TELEMETRY")
"""Variables by which libraries are told to send nothing about their use."""

app = typer.Typer(no_args_is_help=True, add_completion=True, rich_markup_mode="rich", pretty_exceptions_enable=False,
                  context_settings={"help_option_names": ["-h", "--help"]},
                  help="Turn a fine-tuned BERT into the best model that fits a phone.", epilog=EXIT_CODES)


app.command("init", rich_help_panel=MAKE, epilog=cli_config.EXAMPLES)(cli_config.init)
app.command("fit-device", rich_help_panel=MAKE, epilog=cli_fit.EXAMPLES)(cli_fit.fit_device)
app.command("train-elastic", rich_help_panel=MAKE, epilog=cli_train.EXAMPLES)(cli_train.train_elastic)
app.command("compress", rich_help_panel=MAKE, epilog=cli_compress.EXAMPLES)(cli_compress.compress)
app.command("compare", rich_help_panel=DEVICES, epilog=cli_compare.EXAMPLES)(cli_compare.compare)
app.command("build", rich_help_panel=MAKE, epilog=cli_build.EXAMPLES)(cli_build.build)
app.command("reproduce", rich_help_panel=READ, epilog=cli_reproduce.EXAMPLES)(cli_reproduce.reproduce)
app.command("front", rich_help_panel=PLANS, epilog=cli_front.EXAMPLES)(cli_front.front)
app.command("report", rich_help_panel=READ, epilog=cli_report.EXAMPLES)(cli_report.report)
app.command("push", rich_help_panel=READ, epilog=cli_push.EXAMPLES)(cli_push.push)
app.command("explain", rich_help_panel=PLANS, epilog=cli_explain.EXAMPLES)(cli_explain.explain)
app.command("sweep", rich_help_panel=DEVICES, epilog=cli_device.SWEEP_EXAMPLES)(cli_device.sweep)
app.command("calibrate", rich_help_panel=DEVICES, epilog=cli_device.CALIBRATE_EXAMPLES)(cli_device.calibrate)
app.command("bench-native", rich_help_panel=DEVICES, epilog=cli_native.BENCH_EXAMPLES)(cli_native.bench_native)
app.command("timings", rich_help_panel=DEVICES, epilog=cli_native.TIMINGS_EXAMPLES)(cli_native.timings)
app.command("doctor", rich_help_panel=DEVICES, epilog=cli_doctor.EXAMPLES)(cli_doctor.doctor)
app.command("sign", rich_help_panel=READ, epilog=cli_sign.EXAMPLES)(cli_sign.sign)
app.add_typer(cli_profiles.app, name="profiles", rich_help_panel=DEVICES)


@app.command(rich_help_panel=PLANS, epilog=cli_files.INSPECT_EXAMPLES)
def inspect(target: Annotated[Path, typer.Argument(help="A checkpoint folder, a bundle, a plan.json or a model file.")],
            length: Annotated[int, typer.Option(help="Tokens to count MACs for.")] = 64,
            as_json: options.AsJson = False) -> None:
    """Shapes, parameters, MACs and bytes."""
    cli_files.inspect(target, length, as_json)


@app.command(rich_help_panel=MAKE, epilog=cli_files.EXPORT_EXAMPLES)
def export(model: Annotated[str, typer.Argument(help="A fine-tuned checkpoint: a Hugging Face folder or hub id.")],
           out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.")] = Path("exported"),
           runtime: Annotated[Formats, typer.Option(help="Files for ONNX Runtime, LiteRT or both; or a Core ML package "
                                                    "for iOS 16 and macOS 13 or later, in fp32, fp16 or int8_weights, "
                                                    "proven by reading it back, not by running Core ML.")] = Formats.both,
           precision: Annotated[str, typer.Option(help="fp32, fp16, int8, int8_weights or int4_weights: how matrices "
                                                  "are stored and multiplied.")] = "int8",
           length: Annotated[int | None, typer.Option(rich_help_panel=TFLITE, help="Most tokens of an input. Default: "
                                                      "64.")] = None,
           lengths: Annotated[str | None, typer.Option(rich_help_panel=TFLITE, metavar="N,N,...", help="Lengths that a "
                                                       "TFLite file is made for, such as 16,32,64. Default: --length and "
                                                       "half of it.")] = None,
           tflite_compat: Annotated[str | None, typer.Option(rich_help_panel=TFLITE, help="2.14 for tflite-runtime "
                                                             "2.14.0.")] = None,
           onnx_inputs: Annotated[options.Integers, typer.Option(rich_help_panel=ONNX, help="Type of the file's inputs; "
                                                                 "transformers.js feeds int64 alone.")
                                  ] = options.Integers.int32,
           onnx_fixed: Annotated[bool, typer.Option("--onnx-fixed", rich_help_panel=ONNX, help="One row of exactly "
                                                    "--length tokens, for compilers that refuse free dimensions.")
                                 ] = False,
           onnx_opset: Annotated[int | None, typer.Option(rich_help_panel=ONNX, help="Version of the operators, 17 to "
                                                          "23. Default: 20, or 21 with 4-bit matrices.")] = None,
           tokenizer_in_graph: Annotated[Path | None, typer.Option(rich_help_panel=ONNX, metavar="TEXTS", help="Also an "
                                         "ONNX file that takes a text, if onnxruntime-extensions gives every line of "
                                         "this file the tokenizer's own ids.")] = None,
           overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace older files.")] = False,
           as_json: options.AsJson = False) -> None:
    """Export a checkpoint as it is, without compression, and prove the files."""
    options.check_out(out, overwrite)
    form = options.onnx_form(onnx_inputs, onnx_fixed, onnx_opset)
    cli_files.export(model, out, runtime.value, precision, length, lengths, tflite_compat, overwrite, form,
                     tokenizer_in_graph, as_json)


@app.command(rich_help_panel=READ, epilog=cli_files.VERIFY_EXAMPLES)
def verify(folder: Annotated[Path, typer.Argument(help="A bundle.")],
           key: Annotated[Path | None, typer.Option(help="The public key of who must have signed it.")] = None,
           as_json: options.AsJson = False) -> None:
    """Check signature, hashes, token ids and logits of a bundle. Exit code 4 where anything differs."""
    cli_files.verify(folder, key, as_json)


@app.command(rich_help_panel=DEVICES, epilog=cli_files.BENCH_EXAMPLES)
def bench(folder: Annotated[Path, typer.Argument(help="A bundle.")],
          device: options.Device = "local",
          device_python: options.DevicePython = None,
          threads: options.Threads = None,
          runs: options.Runs = 200,
          max_seconds: Annotated[float, typer.Option(help="Fewer runs of a file where they take longer.")] = 20.0,
          affinity: options.Affinity = None,
          profile: Annotated[str | None, options.profile_option(rich_help_panel=options.DEVICE, help="Run on "
                                                      "the cores that this profile names.")] = None,
          check: Annotated[bool, typer.Option("--check", help="The device is the target: exit code 7 where the budget is "
                           "missed.")] = False,
          out: Annotated[Path | None, typer.Option("--out", "-o", help="Append every record to this file as it "
                                                   "comes.")] = None,
          as_json: Annotated[bool, typer.Option("--json", help="One benchmark record a line.")] = False) -> None:
    """Time a bundle's files on this machine, or on a device behind ssh or adb, and check its answers there."""
    where = cli_files.Where(device, device_python, affinity, profile, out)
    cli_files.bench(folder, where, threads, runs, max_seconds, check, as_json)


for group in (app, cli_profiles.app):
    for registered in group.registered_commands:
        registered.callback = registered.callback and options.observed(registered.callback)
for registered in app.registered_commands:
    registered.callback = registered.callback and cli_config.configured(registered.callback)


def main() -> None:
    """Runs the command line; expected failures become one line on stderr and their exit code."""
    for name in NO_TELEMETRY:
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Torch's threads spin while they wait for each other; as soon as another program wants a core, that costs more than
    # the work. A short spin keeps the speed of a quiet machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # products of MKL are then the same on any number of threads
    runlog.quieten()
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, _interrupt)
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # as nohup sets it
        signal.signal(hangup, _interrupt)
    try:
        refuse_single_launch()
        app(standalone_mode=True)
    except BaseException as error:
        if (known := failure(error)) is None:
            raise
        _fail(*known, code_of(error))


def _interrupt(number: int, frame: object) -> None:
    raise Interrupted("stopped; finished stages are kept, run the same command with --resume to go on")


def _fail(message: str, exit_code: int, code: str) -> None:
    here = crew()
    process = "" if here.main else f" (process {here.rank})"
    if runlog.speaks_json():
        runlog.event("error", text=message, exit_code=exit_code, code=code, page=page_of(code))
    else:
        print(f"edgebert{process}: {message} [{code}, {page_of(code)}]", file=sys.stderr)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
