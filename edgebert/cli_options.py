"""Options that several commands share, each described once."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from edgebert.errors import UsageError

INPUT, RUN = "Model and data", "How to run"


class Importance(StrEnum):
    fisher = "fisher"
    taylor = "taylor"


Model = Annotated[str | None, typer.Option("--model", "-m", rich_help_panel=INPUT, help="Hugging Face folder or hub id. "
                                           "Default: all-MiniLM-L6-v2 from the `demo` extra.")]
Task = Annotated[str | None, typer.Option(rich_help_panel=INPUT, help="A demo task: snips (default) or clinc150.")]
Data = Annotated[Path | None, typer.Option(rich_help_panel=INPUT, help="Your data: a folder with train/dev/test "
                                           ".jsonl(.gz), .csv, .tsv or .parquet, a `datasets` folder, or a train file.")]
TaskType = Annotated[str | None, typer.Option(
    rich_help_panel=INPUT, help="single_label_classification, multi_label_classification, regression, "
    "token_classification or question_answering. Default: what the columns and the first label look like.")]
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
TeacherEpochs = Annotated[int | None, typer.Option(min=1, rich_help_panel=RUN, help="Fine-tuning of a model that has no "
                                                   "classifier for these labels yet.")]
Criterion = Annotated[Importance, typer.Option(rich_help_panel=RUN, help="How heads and neurons are ranked.")]
Seed = Annotated[int, typer.Option(min=0, rich_help_panel=RUN)]
CacheFolder = Annotated[Path | None, typer.Option(rich_help_panel=RUN, help="Default: $EDGEBERT_CACHE or "
                                                  "~/.cache/edgebert.")]
Resume = Annotated[bool, typer.Option("--resume", rich_help_panel=RUN, help="Continue the stage that a stopped run left "
                                      "half done. Finished stages are always kept.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", rich_help_panel=RUN, help="Replace an older one.")]
TensorBoard = Annotated[Path | None, typer.Option("--tensorboard", rich_help_panel=RUN, help="Folder for curves of all "
                                                  "training, as TensorBoard reads them.")]


def check_out(out: Path, overwrite: bool) -> None:
    """Finds out before the work, not after it, that the result cannot be written."""
    if out.name in ("", "..") or out.is_file():
        raise UsageError(f"--out {out}: give the name of a folder to make")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists; pass --overwrite or another --out")
    probe = out.absolute().parent / f".{out.name}.probe-{os.getpid()}"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"--out {out}: cannot write there ({error.strerror})") from error
