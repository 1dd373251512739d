"""Datasets in: every format gives the same rows, every refusal names its line, every cut is fair."""

import csv
import gzip
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from edgebert import data_files
from edgebert.data import Columns, load_dataset
from edgebert.data_kinds import Row
from edgebert.data_splits import CUT_MAX_ROWS, cut_splits
from edgebert.errors import UsageError

ROWS = [{"text": f"{word} \u00e9t\u00e9, \"{number}\" times", "label": label}
        for number in range(12) for word, label in (("yes", "good"), ("no", "bad"), ("hm", "unsure"))]
TEST_ROWS = [{"text": f"test {number}", "label": label} for number in range(4) for label in ("good", "bad")]


def json_lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_split(path: Path, rows: list[dict]) -> None:
    """Write rows in the format of the suffix, with the plainest writer there is."""
    if path.name.endswith(".jsonl"):
        path.write_text(json_lines(rows))
    elif path.name.endswith(".jsonl.gz"):
        path.write_bytes(gzip.compress(json_lines(rows).encode()))
    elif path.name.endswith(".csv"):
        with open(path, "w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.name.endswith(".tsv"):
        lines = ["\t".join(rows[0])] + ["\t".join(row.values()) for row in rows]
        path.write_bytes("\r\n".join(lines).encode())
    else:
        pyarrow = pytest.importorskip("pyarrow")
        pyarrow.parquet = pytest.importorskip("pyarrow.parquet")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def write_folder(folder: Path, suffix: str = ".jsonl", **splits: list[dict]) -> Path:
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items():
        write_split(folder / f"{split}{suffix}", rows)
    return folder


def refused(message: str):
    return pytest.raises(UsageError, match=message)


def contents(split) -> list[tuple]:
    return list(zip(split.texts, split.pairs or split.texts, split.labels, strict=True))


# ---- formats

@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("dev", ["dev", "valid", "validation"])
def test_every_format_and_name_gives_the_same_dataset(tmp_path, suffix, dev):
    plain = load_dataset(write_folder(tmp_path / "a", train=ROWS, dev=TEST_ROWS, test=TEST_ROWS))
    other = load_dataset(write_folder(tmp_path / "b", suffix, train=ROWS, **{dev: TEST_ROWS}, test=TEST_ROWS))
    assert plain.labels == other.labels == ("bad", "good", "unsure")
    assert contents(plain.train) == contents(other.train) and contents(plain.dev) == contents(other.dev)
    assert plain.sha256 == other.sha256
    assert set(contents(plain.train) + contents(plain.select)) == {
        (row["text"], row["text"], plain.labels.index(row["label"])) for row in ROWS}


def test_saved_dataset_honours_class_names(tmp_path):
    datasets = pytest.importorskip("datasets")
    names = ["zeta", "alpha", "unused"]
    features = datasets.Features({"sentence": datasets.Value("string"),
                                  "label": datasets.ClassLabel(names=names)})
    rows = [{"sentence": f"row {number}", "label": number % 2} for number in range(20)]
    train = datasets.Dataset.from_list(rows, features=features)
    datasets.DatasetDict(train=train, validation=train.select(range(4))).save_to_disk(str(tmp_path / "both"))
    train.save_to_disk(str(tmp_path / "alone"))
    train.to_parquet(str(tmp_path / "train.parquet"))
    both, alone = load_dataset(tmp_path / "both"), load_dataset(tmp_path / "alone")
    one_file = load_dataset(tmp_path / "train.parquet")
    assert both.labels == alone.labels == one_file.labels == ("zeta", "alpha", "unused")
    assert len(both.dev) + len(both.test) == 4
    assert both.notes[0] == "4 of 4 dev rows also stand in train"
    assert alone.sha256 == one_file.sha256
    for split in (both.train, alone.test, one_file.select):
        assert all(int(text.split()[1]) % 2 == label for text, _, label in contents(split))

    unlabelled = datasets.Dataset.from_list([{"sentence": "x", "label": -1}], features=features)
    datasets.DatasetDict(train=train, test=unlabelled).save_to_disk(str(tmp_path / "glue"))
    with refused(r"glue/test row 1: label -1 is outside the 3 declared classes"):
        load_dataset(tmp_path / "glue")


def test_columns_and_labels(tmp_path):
    rows = [{"text_a": f"a{n}", "text_b": f"b{n}", "intent": n % 11, "extra": None} for n in range(110)]
    whole = load_dataset(write_folder(tmp_path / "ints", train=rows))
    assert whole.labels == tuple(str(number) for number in range(11)), "whole numbers sort as numbers"
    assert all(f"b{text[1:]}" == pair for text, pair, _ in contents(whole.train))
    single = load_dataset(tmp_path / "ints", Columns(text="text_a"))
    assert single.train.pairs is None, "who names the text column names the pair too"
    swapped = load_dataset(tmp_path / "ints", Columns(text="text_b", pair="text_a", label="intent"))
    assert swapped.train.texts[0].startswith("b") and swapped.train.pairs[0].startswith("a")
    with open(tmp_path / "ints" / "task.json", "w") as file:
        json.dump({"name": "ordered", "labels": [str(n) for n in reversed(range(12))]}, file)
    ordered = load_dataset(tmp_path / "ints")
    assert ordered.name == "ordered" and ordered.labels[0] == "11" and ordered.sha256 != whole.sha256


# ---- refusals

BAD_TRAIN = {
    "missing columns": ("a.jsonl", '{"body": 1, "label": 2}\n', r"no text column: .*'body', 'label'"),
    "two text columns": ("a.csv", "text,sentence,label\n1,2,3\n", "the text column, text or sentence"),
    "no label column": ("a.csv", "text,class\nx,y\n", r"no label column: .*'class'.*--label-column"),
    "two label columns": ("a.csv", "text,label,intent\nx,y,z\n", "label or intent"),
    "no header": ("a.tsv", "great film\t1\nbad\t0\n", "no text column: .*'great film', '1'"),
    "empty file": ("a.jsonl", "", r"a\.jsonl: no rows"),
    "header alone": ("a.csv", "text,label\n", r"a\.csv: no rows"),
    "blank lines alone": ("a.jsonl", "\n\n", r"a\.jsonl: no rows"),
    "column lost later": ("a.jsonl", '{"text": "x", "label": 1}\n{"text": "y"}\n', "line 2: no column"),
    "null text": ("a.jsonl", '\n{"text": null, "label": 1}\n', r"line 2: 'text' must be text, found nothing"),
    "number as text": ("a.jsonl", '{"text": 5, "label": 1}\n', r"line 1: 'text' must be text, found int"),
    "blank text": ("a.csv", "text,label\nfine,a\n  ,b\n", r"line 3: 'text' is empty"),
    "empty pair": ("a.csv", "text_a,text_b,label\nx,y,a\nx,,b\n", r"line 3: 'text_b' is empty"),
    "empty label": ("a.csv", "text,label\nx,\n", r"line 2: the label is empty"),
    "null label": ("a.jsonl", '{"text": "x", "label": null}\n', r"line 1: a label must .* nothing \(null\)"),
    "float label": ("a.jsonl", '{"text": "x", "label": 1}\n{"text": "x", "label": 0.5}\n',
                    r"line 2: .*whole number, found 0\.5; --task-type regression predicts numbers"),
    "list label": ("a.jsonl", '{"text": "x", "label": 1}\n{"text": "x", "label": ["a"]}\n',
                   r"line 2: .*found list; --task-type multi_label_classification takes"),
    "true label": ("a.jsonl", '{"text": "x", "label": true}\n', r"line 1: .*found bool"),
    "half character": ("a.jsonl", '{"text": "x\\ud83d", "label": 1}\n', r"line 1: .*half of a char.*ud83d"),
    "single class": ("a.csv", "text,label\nx,a\ny,a\n", r"a\.csv: a single class \('a'\) in 2 rows"),
    "broken JSON": ("a.jsonl", '{"text": "x", "label": 1}\n{"text": \n', r"line 2: not JSON"),
    "deep JSON among strings": ("a.jsonl", '{"text": "]]]]", "label": ' + "[" * 200 + "\n", r"line 1: not JSON rows"),
    "deep JSON": ("a.jsonl", "[" * 200_000 + "\n", r"line 1: not JSON"),
    "JSON list": ("a.jsonl", "[1]\n", r"line 1: expected a JSON object, found list"),
    "ragged": ("a.csv", 'text,label\n"two\nlines",a\nx,b,c\n', r"line 4: 3 fields where the header has 2"),
    "ragged tsv": ("a.tsv", "text\tlabel\nx\n", r"line 2: 1 fields where the header has 2"),
    "open quote": ("a.csv", 'text,label\nx,a\n"y,b\nz,c\n', r"line 3: not valid CSV"),
    "column twice": ("a.csv", "text,text,label\nx,y,a\n", r"line 1: the column 'text' stands twice"),
    "not UTF-8": ("a.csv", b"text,label\nx,a\ncaf\xe9,b\n", r"line 3: byte 4 is not UTF-8"),
    "UTF-16": ("a.csv", "text,label\nx,a\n".encode("utf-16"), r"line 1: byte 1 is not UTF-8"),
    "not gzip": ("a.jsonl.gz", b"{}", r"a\.jsonl\.gz: not a whole gzip file"),
    "cut gzip": ("a.jsonl.gz", gzip.compress(json_lines(ROWS).encode())[:-9], "not a whole gzip file"),
    "broken Parquet": ("a.parquet", b"PAR1 no PAR1", r"a\.parquet: not a readable Parquet file"),
    "unknown type": ("a.xlsx", b"x", r"a\.xlsx: unknown file type; write one of \.jsonl"),
    "too few rows": ("a.csv", "text,label\nx,a\ny,b\n", "too few rows to cut test from train"),
}


@pytest.mark.parametrize("case", BAD_TRAIN)
def test_refusals_name_the_line(tmp_path, case):
    name, content, message = BAD_TRAIN[case]
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with refused(message) as caught:
        load_dataset(tmp_path / name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_refusals_of_folders(tmp_path):
    rows = ROWS
    unknown = [*TEST_ROWS, {"text": "x", "label": "godo"}]
    numbers = [TEST_ROWS[0], {"text": "x", "label": 7}]
    with refused("no such file or folder"):
        load_dataset(tmp_path / "nowhere")
    with refused(r"no train file; .* found no table file"):
        load_dataset(write_folder(tmp_path / "empty"))
    with refused(r"no train file; .* found test\.csv"):
        load_dataset(write_folder(tmp_path / "only_test", ".csv", test=rows))
    with refused(r"dev\.jsonl and valid\.jsonl are both the dev split"):
        load_dataset(write_folder(tmp_path / "twice", train=rows, dev=rows, valid=rows))
    with refused(r"dev\.jsonl line 9: label 'godo' is not in .*; did you mean 'good'"):
        load_dataset(write_folder(tmp_path / "unknown", train=rows, dev=unknown))
    with refused(r"test\.csv line 3: label '7' is not in .*, which has 'bad', 'good'"):
        load_dataset(write_folder(tmp_path / "numbers", ".csv", train=rows, test=numbers))
    renamed = [{"sentence": row["text"], "label": row["label"]} for row in TEST_ROWS]
    with refused(r"dev\.jsonl: no column 'text'; it has 'sentence', 'label'"):
        load_dataset(write_folder(tmp_path / "renamed", train=rows, dev=renamed))
    with refused(r"no column 'txt': train\.jsonl has .*--text-column"):
        load_dataset(write_folder(tmp_path / "flag", train=rows), Columns(text="txt"))
    with refused("must be different columns"):
        load_dataset(tmp_path / "flag", Columns(text="text", pair="text"))
    (tmp_path / "flag" / "task.json").write_text('{"labels": ["good", "bad"]}')
    with refused(r"train\.jsonl line 3: label 'unsure' is not in the declared labels"):
        load_dataset(tmp_path / "flag")
    (tmp_path / "flag" / "task.json").write_text('{"name": 1}')
    with refused(r"task\.json: expected an object whose `name`"):
        load_dataset(tmp_path / "flag")
    (tmp_path / "flag" / "task.json").write_text('{"labels": "good"}')
    with refused(r"task\.json: expected an object whose `labels`"):
        load_dataset(tmp_path / "flag")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with refused("not a readable saved dataset"):
        load_dataset(tmp_path / "broken")


def test_size_bounds_hold_while_reading(tmp_path, monkeypatch):
    bomb = tmp_path / "train.jsonl.gz"
    row = json.dumps({"text": "a" * 1000, "label": "b"}) + "\n"
    bomb.write_bytes(gzip.compress(row.encode() * 20_000))
    monkeypatch.setattr(data_files, "MAX_EXPANDED_BYTES", 10_000_000)
    with refused("expands to more than 10000000 bytes"):
        load_dataset(bomb)
    bomb.write_bytes(gzip.compress(b" " * 30_000_000))
    with refused("line 1: longer than 16777216 bytes"):
        load_dataset(bomb)
    write_split(tmp_path / "big.parquet", [{"text": f"{n}" * 1000, "label": "b"} for n in range(100)])
    monkeypatch.setattr(data_files, "MAX_EXPANDED_BYTES", 50_000)
    with refused("expands to more than 50000 bytes"):
        load_dataset(tmp_path / "big.parquet")


def test_a_data_set_of_the_hub_is_read_by_its_name(monkeypatch, tmp_path):
    """By the library's own function, which is all that differs from a saved one; a folder of that name comes first."""
    datasets = pytest.importorskip("datasets")
    names, asked = ["go", "no"], []
    features = datasets.Features({"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    rows = [{"sentence": f"text {i}", "label": i % 2} for i in range(60)]
    held = datasets.DatasetDict(train=datasets.Dataset.from_list(rows[:40], features=features),
                                validation=datasets.Dataset.from_list(rows[40:], features=features))
    monkeypatch.setattr(datasets, "load_dataset", lambda *words: asked.append(words) or held)
    found = load_dataset(Path("nyu-mll/glue:sst2"))
    assert asked == [("nyu-mll/glue", "sst2")] and found.labels == ("go", "no") and found.name == "glue:sst2"
    assert len(found.train) + len(found.select) == 40 and len(found.dev) + len(found.test) == 20
    held.save_to_disk(str(tmp_path / "saved"))
    assert load_dataset(tmp_path / "saved").sha256 == found.sha256
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nyu-mll").mkdir()
    with refused("no such file or folder"):
        load_dataset(Path("nyu-mll/glue"))
    for name in ("nyu", "a/b/c", "../data/x", "data/x?y", "a/b:"):
        with refused("no such file or folder"):
            load_dataset(Path(name))
    assert len(asked) == 1


def test_a_hub_that_is_not_there_is_one_line(monkeypatch):
    pytest.importorskip("datasets")
    with refused("as a data set of the hub not to be had .*save_to_disk") as caught:
        load_dataset(Path("nobody/nothing-of-this-name"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("module, suffix, install", [("pyarrow", ".parquet", "pyarrow"),
                                                     ("datasets", "", r"'edgebert\[data\]'")])
def test_missing_readers_are_named(tmp_path, monkeypatch, module, suffix, install):
    monkeypatch.setitem(sys.modules, module, None)
    source = tmp_path / f"train{suffix}"
    if suffix:
        source.write_bytes(b"PAR1")
    else:
        source.mkdir()
        (source / "state.json").write_text("{}")
    with refused(f"pip install {install}"):
        load_dataset(source)


# ---- cuts

def test_cuts_are_stratified_disjoint_and_independent_of_order(tmp_path):
    rows = [{"text": f"row {number}", "label": f"class {number % 7}"} for number in range(700)]
    shuffled = random.Random(0).sample(rows, len(rows))
    one = load_dataset(write_folder(tmp_path / "one", train=rows))
    two = load_dataset(write_folder(tmp_path / "two", train=shuffled))
    assert [len(split) for split in (one.test, one.dev, one.select, one.train)] == [70, 63, 57, 510]
    for split in ("train", "select", "dev", "test"):
        assert sorted(getattr(one, split).texts) == sorted(getattr(two, split).texts)
    for split in (one.test, one.dev, one.select):
        sizes = Counter(split.labels)
        assert len(sizes) == 7 and max(sizes.values()) - min(sizes.values()) <= 1
    everything = one.train.texts + one.select.texts + one.dev.texts + one.test.texts
    assert sorted(everything) == sorted(row["text"] for row in rows)
    assert one.notes == ("test: 70 of 700 train rows, cut by content",
                         "dev: 63 of 630 train rows, cut by content",
                         "select: 57 of 567 train rows, cut by content")


def test_missing_test_is_half_of_dev(tmp_path):
    dev = [{"text": f"dev {number}", "label": "good" if number % 4 else "bad"} for number in range(40)]
    halves = load_dataset(write_folder(tmp_path / "d", train=ROWS, dev=dev))
    assert len(halves.dev) == len(halves.test) == 20
    assert Counter(halves.dev.labels) == Counter(halves.test.labels)
    assert not set(halves.dev.texts) & set(halves.test.texts)
    only_test = load_dataset(write_folder(tmp_path / "t", train=ROWS, test=TEST_ROWS))
    assert len(only_test.test) == len(TEST_ROWS) and set(only_test.dev.texts) <= {row["text"] for row in ROWS}


def test_no_input_is_on_both_sides_and_the_limit_holds():
    copies = [Row(f"text {number % 900}", None, f"class {number % 3}") for number in range(2700)]
    torn = [Row("torn", None, "class 0"), Row("torn", None, "class 1")]
    splits = {"train": copies + torn, "dev": torn, "test": torn}
    notes = cut_splits(splits, "train.csv")
    assert not {row[:2] for row in splits["train"]} & {row[:2] for row in splits["select"]}
    assert notes == ["select: 270 of 2702 train rows, cut by content"]
    big = [Row(f"text {number}", None, f"class {number % 1500}") for number in range(30_000)]
    splits = {"train": big, "dev": torn, "test": torn}
    cut_splits(splits, "train.csv")
    assert len(splits["select"]) == CUT_MAX_ROWS
    rare = [Row(f"text {number}", None, "common") for number in range(98)]
    rare += [Row("r1", None, "rare"), Row("r2", None, "rare"), Row("s", None, "single")]
    splits = {"train": rare, "dev": torn, "test": torn}
    cut_splits(splits, "train.csv")
    assert Counter(row.label for row in splits["select"]) == {"common": 9, "rare": 1}


def test_many_brackets_in_a_text_are_just_text(tmp_path):
    rows = [{"text": "[{" * 300 + str(i), "label": str(i % 2)} for i in range(40)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_dataset(tmp_path / "train.jsonl").train.texts[0].startswith("[{[{")


def test_deep_json_is_refused_even_where_a_library_has_raised_the_recursion_limit(tmp_path):
    """In a process of its own: a failure here is a crash of the interpreter."""
    (tmp_path / "train.jsonl").write_text("[" * 200_000 + "\n")
    script = ("import sys; sys.setrecursionlimit(10**6)\nfrom pathlib import Path\n"
              "from edgebert.data import load_dataset\n"
              f"from edgebert.errors import UsageError\ntry: load_dataset(Path({str(tmp_path)!r}) / 'train.jsonl')\n"
              "except UsageError as error: print(error)")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and "line 1: not JSON rows" in done.stdout, done.stderr
