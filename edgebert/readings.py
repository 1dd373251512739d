"""How people and apps read the logits of each kind of task: the words and the code in the bundle's texts."""

from __future__ import annotations

from dataclasses import dataclass

from edgebert.data_kinds import ANSWERS, MULTI, REGRESSION, SINGLE, TOKENS


@dataclass(frozen=True)
class AppCode:
    """An app's function from logits to the answer: the type it returns and its body, in one language."""

    type: str
    body: str


@dataclass(frozen=True)
class Reading:
    """One kind of task. tag: what the Hugging Face Hub calls it. purpose: what the model does, as the start of a
    sentence. shape: of the logits beside the batch. how: what the logits mean. python: lines that print the answer,
    from `text`, `encoded`, `labels` and `logits`. kotlin, swift: None where an answer is not one value a text."""

    tag: str
    purpose: str
    shape: str
    how: str
    python: str
    kotlin: AppCode | None
    swift: AppCode | None


READINGS = {
    SINGLE: Reading(
        "text-classification", "Gives a text one of the labels", "labels",
        "The largest logit is the answer; the softmax of the logits gives probabilities.",
        "print(labels[int(logits[0].argmax())])",
        AppCode("String", "labels[logits.indices.maxByOrNull { logits[it] }!!]"),
        AppCode("String", "labels[logits.indices.max { logits[$0] < logits[$1] }!]")),
    MULTI: Reading(
        "text-classification", "Gives a text any number of the labels", "labels",
        "Each label stands for itself: it applies where its logit is above 0, which is where the sigmoid of the logit, "
        "its probability, is above one half.",
        "print([label for label, logit in zip(labels, logits[0]) if logit > 0])",
        AppCode("List<String>", "labels.filterIndexed { index, _ -> logits[index] > 0f }"),
        AppCode("[String]", "zip(labels, logits).filter { $0.1 > 0 }.map { $0.0 }")),
    REGRESSION: Reading(
        "text-classification", "Gives a text a number", "1",
        "The one logit is the number itself, on the scale of the training labels.",
        "print(float(logits[0][0]))",
        AppCode("Float", "logits[0]"), AppCode("Float", "logits[0]")),
    TOKENS: Reading(
        "token-classification", "Gives each word of a text one of the tags", "L, labels",
        "The largest logit at a word's first token is the word's tag; the logits at its other tokens, at special tokens "
        "and at padding say nothing. Spans are read from the tags: B- begins one, I- goes on with it.",
        "for (start, end), row in zip(encoded.offsets, logits[0]):\n"
        "    start += len(text[start:end]) - len(text[start:end].lstrip())\n"
        "    if start < end and (start == 0 or text[start - 1].isspace()):  # the first token of a word\n"
        "        print(text[start:].split()[0], labels[int(row.argmax())])",
        None, None),
    ANSWERS: Reading(
        "question-answering", "Finds the answer to a question in a text", "L, 2",
        "The first number of a token says how likely the answer starts there, the second how likely it ends there. The "
        "answer is the pair of tokens of the text, not of the question, with the largest sum, the end not before the "
        "start and at most 30 tokens long. A text that is longer than the model takes is read in overlapping windows, of "
        "which the largest sum decides.",
        "start, end = logits[0][: len(encoded.ids)].T\n"
        "inside = [i for i, part in enumerate(encoded.sequence_ids) if part == 1]\n"
        "pairs = ((i, j) for i in inside for j in inside if i <= j < i + 30)\n"
        "first, last = max(pairs, key=lambda pair: start[pair[0]] + end[pair[1]])\n"
        "print(second[encoded.offsets[first][0]:encoded.offsets[last][1]])",
        None, None),
}
