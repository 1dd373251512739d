"""What a run starts from: the checkpoint, the data, and the rows of its four splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from edgebert.cache import Cache, default_cache
from edgebert.checkpoint import Checkpoint, load_checkpoint, resolve
from edgebert.compress.vocabulary import trimmed
from edgebert.coverage import Coverage
from edgebert.data import Dataset, Split, load_dataset
from edgebert.data_kinds import ANSWERS
from edgebert.demo import demo_model_folder, demo_task_folder
from edgebert.errors import UsageError
from edgebert.evidence import Score
from edgebert.lengths import Cut, count_lengths, cuts_text
from edgebert.progress import Reporter
from edgebert.request import RunRequest
from edgebert.rows import rows_of
from edgebert.tasks import Scorer, choose_metric
from edgebert.tokenization import choose_length, lengths, load_tokenizer
from edgebert.train.batches import Rows
from exporters.artifact import InputSpec

LONGEST_WINDOW = 384
"""Tokens of a window for question answering, unless a length is asked for (Devlin et al. 2019, for SQuAD)."""


@dataclass(frozen=True)
class Material:
    """checkpoint: with a classifier for the data's labels. inputs: the longest input, and whether there are token
    types. tokens: of a training row, nothing cut off -> how many rows have so many. cuts: what cutting rows takes
    from train, dev and test. train: weights learn from it; select: choices are made on it; dev: passes or fails the
    result; test: only reported. scorers: what judges the answers to the last three, by name. read_from: the
    checkpoint's folder and the data's file or folder, as they were given. coverage: of the trimmed
    vocabulary, None where it is whole; the checkpoint, its folder and the rows are then those of the trimmed one, and
    `gather` of the same request with vocabulary None gives what it was before."""

    checkpoint: Checkpoint
    data: Dataset
    inputs: InputSpec
    tokens: Mapping[int, int]
    cuts: tuple[Cut, ...]
    train: Rows
    select: Rows
    dev: Rows
    test: Rows
    scorers: Mapping[str, Scorer]
    read_from: tuple[Path, Path]
    coverage: Coverage | None = None

    @property
    def metric(self) -> str:
        return self.scorers["test"].metric

    def score(self, split: str, answer: Callable[[Rows], np.ndarray]) -> Score:
        """The score, with its interval, of a model on "select", "dev" or "test". answer: rows -> logits."""
        return self.scorers[split](answer(getattr(self, split)))

    def scores(self, answer: Callable[[Rows], np.ndarray]) -> tuple[float, float, float]:
        """Points of a model on select, dev and test. answer: rows -> logits."""
        select, dev, test = (self.scorers[split].points(answer(getattr(self, split)))
                             for split in ("select", "dev", "test"))
        return select, dev, test


def gather(request: RunRequest, reporter: Reporter, cache: Cache | None = None) -> Material:
    """Loads the data, then the checkpoint with a classifier for the data's labels, and encodes the rows.

    The length is the request's, or the shortest usual one that holds 99.5 % of the training rows uncut.
    cache: where a checkpoint with a trimmed vocabulary is kept; None is the usual one.
    """
    folder = given = resolve(request.model) if request.model else demo_model_folder()
    source = request.data or demo_task_folder(request.task or "")
    data = load_dataset(source, request.columns, request.kind)
    metric = choose_metric(data.kind, data.labels, request.metric)
    coverage = None
    if request.vocabulary is not None:
        folder, coverage = trimmed(folder, data, request.vocabulary, cache or Cache(default_cache()), reporter)
    tokenizer = load_tokenizer(folder)
    with reporter.stage("load the checkpoint"):
        checkpoint = load_checkpoint(folder, data.labels, request.seed, data.kind)
    if checkpoint.labels is not None:
        data = data.with_labels(checkpoint.labels)
    limit = checkpoint.net.shape.positions
    if request.length is not None and not 8 <= request.length <= limit:
        raise UsageError(f"--length {request.length}: this checkpoint takes 8 to {limit} tokens")
    usual = min(limit, LONGEST_WINDOW) if data.kind == ANSWERS else limit
    found = {name: lengths(tokenizer, split.texts, split.pairs) for name, split in
             (("train", data.train), ("dev", data.dev), ("test", data.test))}
    length = request.length or choose_length(found["train"], usual)
    inputs = InputSpec((length,), data.train.pairs is not None and checkpoint.net.shape.token_types > 1)
    for note in request.notes:
        reporter.say(f"  note: {note}")
    for note in data.notes:
        reporter.say(f"  data: {note}")
    outputs = f"{len(data.labels)} labels, " if len(data.labels) > 2 else ""
    reporter.say(f"  data: {data.name}: {data.kind.replace('_', ' ')}, {len(data.train)} training rows, {outputs}rows "
                 f"cut to {length} tokens, judged by {metric.replace('_', ' ')}")
    cuts = tuple(_cut(name, counts, getattr(data, name), data.kind, tokenizer, length) for name, counts in found.items())
    reporter.say(f"  {cuts_text(cuts, 'questions' if data.kind == ANSWERS else 'rows')}")
    for line in [] if coverage is None else coverage.text().splitlines():
        reporter.say(f"  {line}")
    rows, scorers = {}, {}
    for name in ("train", "select", "dev", "test"):
        rows[name], truth = rows_of(getattr(data, name), data, tokenizer, length)
        if not inputs.token_types:  # a tokenizer may count types that the family does not have
            rows[name] = replace(rows[name], types=None)
        if name != "train":
            scorers[name] = Scorer(data.kind, metric, data.labels, truth)
    tokens = count_lengths(rows["train"].lengths if data.kind == ANSWERS else found["train"])
    return Material(checkpoint, data, inputs, tokens, cuts, **rows, scorers=scorers, read_from=(given, source),
                    coverage=coverage)


def _cut(name: str, counts: np.ndarray, split: Split, kind: str, tokenizer: Tokenizer, length: int) -> Cut:
    """What a split loses. Of question answering that is the end of questions longer than half of a window, without
    special tokens; their contexts are read in as many windows as they need."""
    if kind != ANSWERS:
        return Cut.of(name, count_lengths(counts), length)
    special = tokenizer.num_special_tokens_to_add(False)
    return Cut.of(name, count_lengths(lengths(tokenizer, split.texts) - special), length // 2)
