"""What a run starts from: the checkpoint, the data, and the rows of its four splits."""

from __future__ import annotations

from dataclasses import dataclass

from edgebert.checkpoint import Checkpoint, load_checkpoint, resolve
from edgebert.data import Dataset, load_dataset
from edgebert.demo import demo_model_folder, demo_task_folder
from edgebert.errors import UsageError
from edgebert.progress import Reporter
from edgebert.request import FitRequest
from edgebert.spec import input_lengths
from edgebert.stages import rows_of
from edgebert.tokenization import choose_length, lengths, load_tokenizer
from edgebert.train.batches import Rows
from exporters.artifact import InputSpec


@dataclass(frozen=True)
class Material:
    """checkpoint: with a classifier for the data's labels. inputs: the lengths the files are made for. train: weights
    learn from it; select: choices are made on it; dev: passes or fails the result; test: only reported."""

    checkpoint: Checkpoint
    data: Dataset
    inputs: InputSpec
    train: Rows
    select: Rows
    dev: Rows
    test: Rows


def gather(request: FitRequest, reporter: Reporter) -> Material:
    """Loads the data, then the checkpoint with a classifier for the data's labels, and encodes the rows.

    The length is the request's, or the shortest usual one that holds 99.5 % of the training rows uncut.
    """
    folder = resolve(request.model) if request.model else demo_model_folder()
    data = load_dataset(request.data or demo_task_folder(request.task or ""), request.columns)
    tokenizer = load_tokenizer(folder)
    with reporter.stage("load the checkpoint"):
        checkpoint = load_checkpoint(folder, data.labels, request.seed)
    if checkpoint.labels is not None:
        data = data.with_labels(checkpoint.labels)
    limit = checkpoint.net.shape.positions
    if request.length is not None and not 8 <= request.length <= limit:
        raise UsageError(f"--length {request.length}: this checkpoint takes 8 to {limit} tokens")
    length = request.length or choose_length(lengths(tokenizer, data.train.texts, data.train.pairs), limit)
    inputs = InputSpec(input_lengths(length), data.train.pairs is not None)
    for note in request.notes:
        reporter.say(f"  note: {note}")
    for note in data.notes:
        reporter.say(f"  data: {note}")
    reporter.say(f"  data: {data.name}: {len(data.train)} training rows, {len(data.labels)} labels, rows cut to "
                 f"{length} tokens")
    train, select, dev, test = (rows_of(split, tokenizer, length)
                                for split in (data.train, data.select, data.dev, data.test))
    return Material(checkpoint, data, inputs, train, select, dev, test)
