"""Options that several commands share, each described once."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgebert import runlog
from edgebert.claim import claimed
from edgebert.errors import UsageError

if TYPE_CHECKING:
    from edgebert.device import DeviceProfile
    from edgebert.trimming import VocabularyChoice
    from exporters.artifact import OnnxForm

INPUT, RUN = "Model and data", "How to run"


class Importance(StrEnum):
    obs = "obs"
    fisher = "fisher"
    taylor = "taylor"
    magnitude = "magnitude"


class Runtime(StrEnum):
    auto = "auto"
    both = "both"
    onnx = "onnx"
    tflite = "tflite"


class Formats(StrEnum):
    both = "both"
    onnx = "onnx"
    tflite = "tflite"
    coreml = "coreml"


class Integers(StrEnum):
    int32 = "int32"
    int64 = "int64"


class Clock(StrEnum):
    wall = "wall"
    cpu = "cpu"


Model = Annotated[str | None, typer.Option("--model", "-m", rich_help_panel=INPUT, help="Hugging Face folder or hub id. "
                                           "Default: all-MiniLM-L6-v2 from the `demo` extra.")]
Task = Annotated[str | None, typer.Option(rich_help_panel=INPUT, help="A demo task: snips (default) or clinc150. "
                                         "What kind of task your own data are: --task-type.")]
Data = Annotated[Path | None, typer.Option(rich_help_panel=INPUT, help="Your data: a folder with train/dev/test "
                                           ".jsonl(.gz), .csv, .tsv or .parquet, a `datasets` folder, a train file, "
                                           "or OWNER/NAME[:CONFIG] of the hub.")]
TaskType = Annotated[str | None, typer.Option(
    rich_help_panel=INPUT, help="single_label_classification, multi_label_classification, regression, "
    "token_classification or question_answering; or as pipelines and optimum say: text-classification, "
    "token-classification, question-answering. Default: what the columns and the first label look like.")]
MetricName = Annotated[str | None, typer.Option(
    rich_help_panel=INPUT, help="By kind of task, the default first: accuracy, macro_f1, matthews; micro_f1, macro_f1, "
    "accuracy; pearson, spearman; span_f1, accuracy; answer_f1, exact_match.")]
TextColumn = Annotated[str | None, typer.Option(rich_help_panel=INPUT, help="Column with the text, the list of tokens, "
                                                "or the question.")]
PairColumn = Annotated[str | None, typer.Option(rich_help_panel=INPUT, help="Column with the second text of a pair, or "
                                                "the context of a question.")]
LabelColumn = Annotated[str | None, typer.Option(rich_help_panel=INPUT, help="Column with the label or labels, the tags "
                                                 "or the answers.")]
Length = Annotated[int | None, typer.Option(rich_help_panel=INPUT, help="Tokens a row is cut to. Default: what holds "
                                            "99.5 % of the training rows.")]
Lengths = Annotated[str | None, typer.Option(rich_help_panel=INPUT, metavar="N,N,...", help="Lengths that a TFLite file "
                                             "is made for, such as 16,32,64; rows are cut to the last. Default: those "
                                             "that run the training rows fastest.")]
VOCABULARY = "Vocabulary"
Trim = Annotated[bool, typer.Option("--trim-vocabulary", rich_help_panel=VOCABULARY, help="Keep only the word pieces "
                                    "that the training texts use, and what new words fall back to.")]
Corpus = Annotated[list[Path] | None, typer.Option(rich_help_panel=VOCABULARY, help="Text files, one text a line, whose "
                                                   "word pieces stay, beside those of the training texts.")]
KeepLanguages = Annotated[str | None, typer.Option(rich_help_panel=VOCABULARY, help="Languages of which every piece "
                                                   "stays, such as en,de (by the scripts they are written in).")]
MinCount = Annotated[int | None, typer.Option(min=1, rich_help_panel=VOCABULARY, help="Pieces that occur less often go. "
                                              "Default: 1.")]
VocabularySize = Annotated[int | None, typer.Option(min=1, rich_help_panel=VOCABULARY, help="Fill up to so many "
                                                    "pieces with the first ones of the vocabulary, the usual ones.")]
TeacherEpochs = Annotated[int | None, typer.Option(min=1, rich_help_panel=RUN, help="Fine-tuning of a model that has no "
                                                   "classifier for these labels yet.")]
Criterion = Annotated[Importance, typer.Option(rich_help_panel=RUN, help="How heads and neurons are "
                                                      "ranked: by the inverse Hessian, with weight updates (obs), or by "
                                                      "gradients or sizes.")]
Seed = Annotated[int, typer.Option(min=0, rich_help_panel=RUN)]
CacheFolder = Annotated[Path | None, typer.Option(rich_help_panel=RUN, help="Default: $EDGEBERT_CACHE or "
                                                  "~/.cache/edgebert.")]
Resume = Annotated[bool, typer.Option("--resume", rich_help_panel=RUN, help="Continue the stage that a stopped run left "
                                      "half done. Finished stages are always kept.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", rich_help_panel=RUN, help="Replace an older one.")]
TensorBoard = Annotated[Path | None, typer.Option("--tensorboard", rich_help_panel=RUN, help="Folder for curves of all "
                                                  "training, as TensorBoard reads them.")]

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
ONNX, TFLITE, DEVICE = "ONNX files", "Lengths and TFLite files", "Where to run"
Device = Annotated[str, typer.Option(rich_help_panel=DEVICE, help="local, ssh:user@host[:port] or adb:SERIAL.")]
DevicePython = Annotated[str | None, typer.Option(rich_help_panel=DEVICE, help="The device's Python, a name or a path. "
                                                  "Default: $EDGEBERT_DEVICE_PYTHON, else python3.")]
Threads = Annotated[int | None, typer.Option(rich_help_panel=DEVICE, help="Of the runtime. Default: the plan's.")]
Affinity = Annotated[str | None, typer.Option(rich_help_panel=DEVICE, help="Cores to run on, a hexadecimal mask such as "
                                              "0xF0.")]
Runs = Annotated[int, typer.Option(help="Timed runs a file.")]


def profile_names(incomplete: str) -> list[str]:
    """What a shell completes the name of a device to."""
    from edgebert.device import list_profiles

    return [name for name in list_profiles() if name.startswith(incomplete)]


profile_option = functools.partial(typer.Option, "--profile", "-p", autocompletion=profile_names)
"""The flag --profile, to which each command gives its help."""


EVERYWHERE = "Every command"
LogJson = Annotated[bool, typer.Option("--log-json", rich_help_panel=EVERYWHERE, help="Events as JSON lines on stderr, "
                                       "in place of bars and lines.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", rich_help_panel=EVERYWHERE, help="Also cache keys, threads, "
                                       "the run's log file, and what libraries warn of.")]


def with_flags(run: Callable[..., None], own: inspect.Signature,
               more: Mapping[str, tuple[Any, Any]]) -> Callable[..., None]:
    """The function, which typer sees with more flags than it has itself. more: name -> annotation and default."""
    flags = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
             for name, (annotation, default) in more.items()]
    run.__signature__ = own.replace(parameters=[*own.parameters.values(), *flags])  # type: ignore[attr-defined]
    return run


def observed(command: Callable[..., None]) -> Callable[..., None]:
    """The command with `--log-json` and `-v` beside its own flags."""
    @functools.wraps(command)
    def run(*args: Any, log_json: bool, verbose: bool, **flags: Any) -> None:
        runlog.set_up(log_json, verbose)
        command(*args, **flags)

    own = inspect.signature(command, eval_str=True)  # typer does not evaluate a given signature
    return with_flags(run, own, {"log_json": (LogJson, False), "verbose": (Verbose, False)})


EVERY = "all"


def devices_named(names: str, threads: int | None) -> list[DeviceProfile]:
    """The profiles that --profiles names; "all": those that have cost rows for so many threads (each one's own number
    where None is asked for), the others being said on stderr. Raises UsageError for a name that is unknown or there
    twice, and where none is left."""
    from edgebert.device import list_profiles, load_profile

    every = names.strip() == EVERY
    found = [load_profile(name) for name in (list_profiles() if every else
                                             [name.strip() for name in names.split(",") if name.strip()])]
    named = [device.name for device in found]
    if twice := next((name for name in named if named.count(name) > 1), None):
        raise UsageError(f"--profiles names {twice} twice")
    priced = [device for device in found if device.runtimes(threads or device.threads)] if every else found
    if not priced:
        raise UsageError(f"--profiles {names}: no profile" + (f" has cost rows for {threads} threads" if every else ""))
    if left := [device.name for device in found if device not in priced]:
        print(f"without cost rows for {threads} threads, and left out: {', '.join(left)}", file=sys.stderr)
    return priced


def vocabulary_choice(wanted: bool, corpus: list[Path] | None, languages: str | None,
                      min_count: int | None, size: int | None) -> VocabularyChoice | None:
    """What the vocabulary is trimmed to, None where it is left whole. Raises UsageError for flags that say how to trim
    where nothing is trimmed."""
    from edgebert.trimming import VocabularyChoice

    given = {"--corpus": corpus, "--keep-languages": languages, "--min-count": min_count,
             "--vocabulary-size": size}
    if not wanted:
        flags = [flag for flag, value in given.items() if value is not None]
        if flags:
            raise UsageError(f"{', '.join(flags)}: say how to trim the vocabulary; ask for that with "
                             "--trim-vocabulary, or --methods vocabulary for fit-device")
        return None
    return VocabularyChoice(tuple(corpus or ()), tuple(name.strip() for name in (languages or "").split(",") if name),
                            min_count or 1, size or 0)


def onnx_form(integers: Integers, fixed: bool, opset: int | None) -> OnnxForm:
    """Raises UsageError for an opset that no file is written for."""
    from exporters.artifact import OnnxForm

    try:
        return OnnxForm(integers.value, fixed, opset)
    except ValueError as error:
        raise UsageError(f"--onnx-opset: {error}") from error


def check_out(out: Path, overwrite: bool) -> None:
    """Finds out before the work, not after it, that the result cannot be written, or that another run is making it."""
    if out.name in ("", "..") or out.is_file():
        raise UsageError(f"--out {out}: give the name of a folder to make")
    try:
        with claimed(out):
            if out.exists() and not overwrite:
                raise UsageError(f"{out} exists; pass --overwrite or another --out")
    except OSError as error:
        raise UsageError(f"--out {out}: cannot write there ({error.strerror})") from error
