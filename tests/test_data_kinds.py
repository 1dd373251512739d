"""Kinds of task beside single labels: read from what stands in the files, refused by line where that makes no sense."""

import json
from pathlib import Path

import pytest

from edgebert.data import Columns, load_dataset
from edgebert.data_kinds import ANSWERS, MULTI, REGRESSION, SINGLE, TOKENS, Answer
from edgebert.errors import UsageError


def write(folder: Path, **splits: list[dict]) -> Path:
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def several(count: int) -> list[dict]:
    return [{"text": f"row {i}", "labels": [["b", "a"], ["c"], [], ["a"]][i % 4]} for i in range(count)]


def numbers(count: int) -> list[dict]:
    return [{"text_a": f"a{i}", "text_b": f"b{i}", "label": i / 4} for i in range(count)]


def tagged(count: int) -> list[dict]:
    return [{"tokens": ["play", f"song{i}", "now"], "tags": ["O", ("B-title", "B-artist")[i % 2], "O"]}
            for i in range(count)]


def asked(count: int, questions: int = 2) -> list[dict]:
    rows = []
    for i in range(count):
        context = f"The number {i} was drawn by Ada on day {i}."
        rows += [{"context": context, "question": f"who drew {i} {q}?", "answers": {
            "text": ["Ada", "by Ada"], "answer_start": [context.index("Ada"), context.index("by")]}, "id": str(i)}
            for q in range(questions)]
    return rows


# ---- what is read

def test_several_labels(tmp_path):
    data = load_dataset(write(tmp_path / "d", train=several(80), dev=several(8), test=several(8)))
    assert data.kind == MULTI and data.labels == ("a", "b", "c")
    assert set(zip(data.dev.texts, data.dev.labels)) == {
        (f"row {i}", [(0, 1), (2,), (), (0,)][i % 4]) for i in range(8)}
    turned = data.with_labels(("c", "b", "a"))
    assert turned.dev.labels[0] == (1, 2) and turned.sha256 != data.sha256
    assert load_dataset(tmp_path / "d", Columns(label="labels")).kind == MULTI


def test_numbers(tmp_path):
    data = load_dataset(write(tmp_path / "d", train=numbers(80)))
    assert data.kind == REGRESSION and data.labels == ("label",) and data.train.pairs is not None
    assert all(label == int(text[1:]) / 4 for text, label in zip(data.train.texts, data.train.labels))
    whole = [{"text": f"t{i}", "score": i} for i in range(40)]
    data = load_dataset(write(tmp_path / "w", train=whole), kind=REGRESSION)
    assert data.labels == ("score",) and isinstance(data.train.labels[0], float)
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "train.csv").write_text("text,label\n" + "".join(f"t{i},{i}.5\n" for i in range(40)))
    data = load_dataset(tmp_path / "csv")
    assert data.kind == REGRESSION and data.train.labels[0] % 1 == 0.5


def test_tags(tmp_path):
    rows = [*tagged(78), {"tokens": ["so", "", " ", "it", "is"], "tags": ["O", "O", "O", "I-title", "I-title"]},
            {"tokens": ["a b", "now"], "tags": ["B-title", "I-artist"]}]
    data = load_dataset(write(tmp_path / "d", train=rows, dev=tagged(6), test=tagged(6)))
    assert data.kind == TOKENS and data.labels == ("B-artist", "B-title", "I-artist", "I-title", "O")
    assert data.notes[:2] == ("2 empty tokens of train.jsonl are left out with their tags",
                              "2 spans of train.jsonl begin with an I- tag; they count as spans, as conlleval counts")
    content = {words: (text, label) for split in (data.train, data.select)
               for words, text, label in zip(split.words, split.texts, split.labels)}
    assert content["so", "it", "is"] == ("so it is", (4, 3, 3)) and content["a b", "now"] == ("a b now", (1, 2))
    turned = data.with_labels(("O", "B-artist", "B-title", "I-artist", "I-title"))
    assert turned.dev.labels[0] == (0, 2, 0) and turned.dev.words == data.dev.words


def test_questions_and_their_contexts_stay_together(tmp_path):
    data = load_dataset(write(tmp_path / "d", train=asked(60, questions=3), dev=asked(20)))
    assert data.kind == ANSWERS and data.labels == ("start", "end")
    sides = [set(getattr(data, split).pairs) for split in ("train", "select")]
    assert not sides[0] & sides[1] and len(data.select) == 18 and not set(data.dev.pairs) & set(data.test.pairs)
    text, context, answers = data.test.texts[0], data.test.pairs[0], data.test.labels[0]
    assert text.startswith("who drew") and answers == (Answer("Ada", context.index("Ada")),
                                                      Answer("by Ada", context.index("by")))


def test_token_files_with_an_intent_hold_two_tasks(tmp_path):
    rows = [{**row, "intent": f"intent {i % 2}"} for i, row in enumerate(tagged(60))]
    folder = write(tmp_path / "d", train=rows)
    intents = load_dataset(folder)
    assert intents.kind == SINGLE and intents.labels == ("intent 0", "intent 1") and intents.train.words is None
    assert intents.train.texts[0].startswith("play song")
    assert load_dataset(folder, kind=TOKENS).labels == load_dataset(folder, Columns(label="tags")).labels
    assert load_dataset(folder, Columns(text="tokens", label="tags")).kind == TOKENS


def test_class_names_of_lists_are_honoured(tmp_path):
    datasets = pytest.importorskip("datasets")
    names = ["O", "B-PER", "I-PER"]
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")),
                                  "ner_tags": datasets.List(datasets.ClassLabel(names=names))})
    rows = [{"tokens": ["it", f"Ada{i}"], "ner_tags": [0, 1]} for i in range(40)]
    train = datasets.Dataset.from_list(rows, features=features)
    train.save_to_disk(str(tmp_path / "saved"))
    train.to_parquet(str(tmp_path / "train.parquet"))
    for source in (tmp_path / "saved", tmp_path / "train.parquet"):
        data = load_dataset(source)
        assert (data.kind, data.labels) == (TOKENS, tuple(names)) and data.train.labels[0] == (0, 1)
    qa = datasets.Dataset.from_list(asked(30))
    qa.to_parquet(str(tmp_path / "qa.parquet"))
    assert load_dataset(tmp_path / "qa.parquet").kind == ANSWERS


def test_the_hash_knows_words_answers_and_kinds(tmp_path):
    one, two = (load_dataset(write(tmp_path / name, train=[
        {"tokens": [first, f"{second}w{i}"], "tags": ["O", "B-x"]} for i in range(40)]))
        for name, first, second in (("a", "a b", ""), ("b", "a", "b ")))
    assert set(one.train.texts) | set(one.select.texts) == set(two.train.texts) | set(two.select.texts)
    assert one.sha256 != two.sha256
    numbers_ = write(tmp_path / "n", train=[{"text": f"t{i}", "label": i % 2} for i in range(40)])
    assert load_dataset(numbers_).sha256 != load_dataset(numbers_, kind=REGRESSION).sha256


# ---- refusals

CONTEXT = {"question": "who?", "context": "It was Ada."}
BAD = {
    "lengths": ({"tokens": ["a", "b", "c"], "tags": ["O", "O"]}, None, "line 2: 3 tokens but 2 tags"),
    "no tokens": ({"tokens": [], "tags": []}, None, "line 2: 'tokens' is empty"),
    "blank tokens": ({"tokens": ["", " "], "tags": ["O", "O"]}, None, "line 2: 'tokens' is empty"),
    "token not text": ({"tokens": ["a", None], "tags": ["O", "O"]}, None,
                       r"line 2: entry 1 of 'tokens' must be text, found nothing \(null\)"),
    "tokens not a list": ({"tokens": "a b", "tags": ["O", "O"]}, TOKENS, "line 2: 'tokens' must be a list, found str"),
    "tag not a tag": ({"tokens": ["a"], "tags": [0.5]}, None, "line 2: entry 0 of 'tags' must be a tag, found float"),
    "empty tag": ({"tokens": ["a"], "tags": [""]}, None, "line 2: the label is empty"),
    "half character": ({"tokens": ["a\ud83d"], "tags": ["O"]}, None, "line 2: .*half of a character"),
    "labels not a list": ({"text": "x", "labels": "a"}, MULTI, "line 2: the labels must be a list, found str"),
    "a label in the list": ({"text": "x", "labels": ["a", None]}, None, r"line 2: a label must be text"),
    "not a number": ({"text": "x", "label": "much"}, REGRESSION, "line 2: a label must be a number, found 'much'"),
    "NaN": ({"text": "x", "label": float("nan")}, REGRESSION, "line 2: a label must be a number, found nan"),
    "true": ({"text": "x", "label": True}, REGRESSION, "line 2: a label must be a number, found True"),
    "answers form": ({**CONTEXT, "answers": ["Ada"]}, ANSWERS, "line 2: 'answers' must be an object with the lists"),
    "no answer": ({**CONTEXT, "answers": {"text": [], "answer_start": []}}, None,
                  "line 2: 'answers' is empty; questions without an answer cannot be used"),
    "blank answer": ({**CONTEXT, "answers": {"text": [" "], "answer_start": [2]}}, None, "line 2: an answer .* is empty"),
    "starts": ({**CONTEXT, "answers": {"text": ["Ada"], "answer_start": []}}, None, "line 2: .*1 texts but 0 starts"),
    "wrong start": ({**CONTEXT, "answers": {"text": ["Ada"], "answer_start": [6]}}, None,
                    "line 2: answer 'Ada' does not stand at character 6 of the context"),
    "negative start": ({**CONTEXT, "answers": {"text": ["a"], "answer_start": [-2]}}, None, "stand at character -2"),
    "no context": ({"question": "who?", "context": "", "answers": {"text": ["a"], "answer_start": [0]}}, None,
                   "line 2: 'context' is empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_refusals_name_the_line(tmp_path, case):
    bad, kind, message = BAD[case]
    good = {"tokens": tagged, "labels": several, "label": lambda n: [{"text": "x", "label": 1.0}], "answers": asked}
    first = next(rows for column, rows in good.items() if column in bad)(1)[0]
    with pytest.raises(UsageError, match=message) as caught:
        load_dataset(write(tmp_path / "d", train=[first, bad]), kind=kind)
    assert "\n" not in str(caught.value) and "train.jsonl line 2" in str(caught.value)


def test_refusals_of_whole_files(tmp_path):
    with pytest.raises(UsageError, match="--task-type 'chat' is not known, choose from single_label_class"):
        load_dataset(write(tmp_path / "a", train=several(9)), kind="chat")
    with pytest.raises(UsageError, match=r"no class in 9 rows; a classifier needs two"):
        load_dataset(write(tmp_path / "b", train=[{"text": f"{i}", "labels": []} for i in range(9)]))
    with pytest.raises(UsageError, match=r"dev.jsonl line 1: label 'd' is not in train.jsonl, which has 'a'"):
        load_dataset(write(tmp_path / "c", train=several(40), dev=[{"text": "x", "labels": ["a", "d"]}]))
    with pytest.raises(UsageError, match="'B-titel' is not in train.jsonl; did you mean 'B-title'"):
        load_dataset(write(tmp_path / "d", train=tagged(40), dev=[{"tokens": ["x"], "tags": ["B-titel"]}]))
    with pytest.raises(UsageError, match="--pair-column does not go with token classification"):
        load_dataset(tmp_path / "d", Columns(pair="tags"), TOKENS)
    with pytest.raises(UsageError, match="no context column: .*; name one with --pair-column"):
        load_dataset(write(tmp_path / "e", train=[{"question": "q", "answers": {}}]), kind=ANSWERS)
    with pytest.raises(UsageError, match="give at least four different contexts"):
        load_dataset(write(tmp_path / "f", train=asked(2)))
    with pytest.raises(UsageError, match="no label column: .*'tokens', 'pos'.*--label-column"):
        load_dataset(write(tmp_path / "g", train=[{"tokens": ["a"], "pos": ["X"]}]))


@pytest.mark.parametrize(("name", "rows", "kind"), [
    ("text-classification", several, MULTI), ("text-classification", numbers, REGRESSION),
    ("token-classification", tagged, TOKENS), ("question-answering", asked, ANSWERS)])
def test_tasks_go_by_optimum_s_names_too(tmp_path, name, rows, kind):
    found = load_dataset(write(tmp_path / "data", train=rows(40), dev=rows(8)), kind=name)
    assert found.kind == kind
    assert found == load_dataset(tmp_path / "data", kind=kind)


def test_a_task_s_name_that_the_rows_do_not_fit_is_refused(tmp_path):
    folder = write(tmp_path / "data", train=tagged(40), dev=tagged(8))
    with pytest.raises(UsageError, match="--task-type text-classification: .* looks like token classification; ask"):
        load_dataset(folder, kind="text-classification")
