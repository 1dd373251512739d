"""Every kind of task goes the whole way, from files of text to a verified bundle for both runtimes."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgebert import stages
from edgebert.bundle import verify
from edgebert.cache import Cache
from edgebert.data_kinds import ANSWERS, MULTI, REGRESSION, TOKENS
from edgebert.device import Budget, load_profile
from edgebert.evidence import Evidence
from edgebert.pipeline import fit_device
from edgebert.progress import Reporter
from edgebert.request import FitRequest

pytestmark = pytest.mark.slow
TUNE, SKY, NOISE = ["play", "music", "jazz"], ["sunny", "rain", "weather"], list("abcdefgh")


def several_labels(draw: random.Random) -> dict:
    names = [name for name in ("tune", "sky") if draw.random() < 0.5]
    words = [draw.choice({"tune": TUNE, "sky": SKY}[name]) for name in names for _ in range(2)]
    words += draw.choices(NOISE, k=draw.randint(1, 4))
    draw.shuffle(words)
    return {"text": " ".join(words), "labels": names}


def number(draw: random.Random) -> dict:
    tune, sky = draw.randint(0, 3), draw.randint(0, 3)
    words = draw.choices(TUNE, k=tune) + draw.choices(SKY, k=sky) + draw.choices(NOISE, k=2)
    draw.shuffle(words)
    return {"text": " ".join(words), "label": (tune - sky) / 2}


def tags(draw: random.Random) -> dict:
    """Spans: one word of the sky, or two of music; words outside have several pieces."""
    tokens, tags = [], []
    for _ in range(draw.randint(2, 4)):
        for _ in range(draw.randint(0, 2)):
            tokens.append("".join(draw.choices("abcdefgh", k=2)))
            tags.append("O")
        if draw.random() < 0.5:
            tokens.append(draw.choice(SKY))
            tags.append("B-sky")
        else:
            tokens += draw.sample(TUNE, 2)
            tags += ["B-tune", "I-tune"]
    return {"tokens": tokens, "tags": tags}


def question(draw: random.Random) -> dict:
    """The answer is the two words of music that stand together. Contexts need several windows."""
    answer = " ".join(draw.sample(TUNE, 2))
    words = draw.choices(NOISE + SKY, k=draw.randint(4, 20))
    words.insert(draw.randint(0, len(words)), answer)
    context = " ".join(words)
    return {"question": "is it " + draw.choice(NOISE), "context": context,
            "answers": {"text": [answer], "answer_start": [context.index(answer)]}}


TASKS = {MULTI: several_labels, REGRESSION: number, TOKENS: tags, ANSWERS: question}
EXPECTED = {MULTI: ("micro_f1", 90), REGRESSION: ("pearson", 85), TOKENS: ("span_f1", 80), ANSWERS: ("answer_f1", 70)}
"""The usual metric, and points that a model which has learnt nothing does not reach."""


def write_task(folder: Path, kind: str) -> Path:
    draw = random.Random(0)
    folder.mkdir()
    for split, count in (("train", 400), ("dev", 60), ("test", 60)):
        rows = [TASKS[kind](draw) for _ in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=list(TASKS))
def fitted(request, tmp_path_factory, bert_folder):
    """kind, the folder of its data, and the result of a run with a size that needs int8."""
    root = tmp_path_factory.mktemp(request.param)
    data = write_task(root / "task", request.param)
    wanted = FitRequest(profile=load_profile("pixel6"), budget=Budget(max_latency_ms=None, max_size_mb=0.2),
                        out=root / "bundle", model=str(bert_folder), task=None, data=data, runtime="both", length=24,
                        effort="standard", teacher_epochs=14)
    with pytest.MonkeyPatch.context() as patch:  # a tiny network learns fast
        patch.setattr(stages, "TEACHER", replace(stages.TEACHER, learning_rate=3e-3))
        return request.param, data, fit_device(wanted, Cache(root / "cache"), Reporter(quiet=True))


def test_it_learns_and_both_files_score_as_torch_does(fitted):
    kind, _, result = fitted
    evidence = result.evidence
    metric, least = EXPECTED[kind]
    assert (evidence.kind, evidence.metric) == (kind, metric)
    for score in (evidence.model("teacher").test, evidence.model("student").test,
                  *(file.test for file in evidence.files if file.role == "student")):
        assert score.points > least and 0 < score.plus_minus < 20 and score.rows == 60
    assert {file.format for file in evidence.files if file.role == "student"} == {"onnx", "tflite"}
    assert all(row.ok for row in evidence.parity) and any(row.bound == 1e-5 for row in evidence.parity)


def test_the_bundle_verifies_and_tells_what_it_is(fitted):
    kind, _, result = fitted
    folder = result.bundle
    assert len(verify(folder).checks) == 4
    assert Evidence.loads((folder / "results.json").read_text()) == result.evidence
    assert json.loads((folder / "labels.json").read_text()) == list(result.evidence.labels)
    golden = json.loads((folder / "golden.json").read_text())["rows"][0]
    real = sum(golden["attention_mask"])
    assert np.shape(golden["logits"]) == ((real, len(result.evidence.labels)) if kind in (TOKENS, ANSWERS)
                                          else (len(result.evidence.labels),))
    page, readme, card = ((folder / name).read_text(encoding="utf-8") for name in (
        "report.html", "README.md", "MODEL_CARD.md"))
    words = {MULTI: "sigmoid", REGRESSION: "number itself", TOKENS: "first token", ANSWERS: "answer starts"}[kind]
    assert words in page and words in readme and words in card
    samples = {path.name for path in (folder / "samples").iterdir()}
    assert samples == {"app.json", "python", "kotlin", "swift", "javascript", "cpp"}
    assert "samples/kotlin/" in readme and "There is no" not in readme


def test_the_readme_s_python_gives_the_answer(fitted):
    kind, _, result = fitted
    snippets = re.findall(r"```python\n(.*?)```", (result.bundle / "README.md").read_text(encoding="utf-8"), re.S)
    assert len(snippets) == 2
    text, pair, answer = result.evidence.examples[0]
    for snippet in snippets:
        done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, cwd=result.bundle)
        assert done.returncode == 0, done.stderr
        said = done.stdout.strip()
        if kind == MULTI:
            assert sorted(eval(said)) == sorted(part for part in answer.split(", ") if part != "(none)")
        elif kind == REGRESSION:
            assert float(said) == pytest.approx(float(answer), abs=0.1)
        elif kind == TOKENS:
            assert [line.split() for line in said.splitlines()] == [list(p) for p in zip(text.split(), answer.split())]
        else:
            assert said and said in pair


def test_transformers_loads_it_as_its_kind(fitted):
    import transformers

    kind, data, result = fitted
    ending = {TOKENS: "ForTokenClassification", ANSWERS: "ForQuestionAnswering"}.get(kind, "ForSequenceClassification")
    folder = result.bundle / "transformers"
    model = getattr(transformers, f"AutoModel{ending}").from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    row = json.loads((data / "test.jsonl").read_text().splitlines()[0])
    if kind == TOKENS:
        said = transformers.pipeline("token-classification", model=model, tokenizer=tokenizer,
                                     aggregation_strategy="first")(" ".join(row["tokens"]))
        assert {span["entity_group"] for span in said} <= {"tune", "sky"}
    elif kind == ANSWERS:
        inputs = tokenizer(row["question"], row["context"], return_tensors="pt", truncation=True, max_length=24)
        assert model(**inputs).start_logits.shape == inputs["input_ids"].shape
    else:
        assert model(**tokenizer(row["text"], return_tensors="pt")).logits.shape == (1, len(result.evidence.labels))
        assert model.config.problem_type == kind


def test_the_score_of_the_tags_is_what_the_file_scores_by_hand(fitted):
    """Nothing of ours in the loop: onnxruntime, tokenizers and seqeval, over words that are tokenised one by one."""
    kind, data, result = fitted
    if kind != TOKENS:
        return
    import onnxruntime
    from seqeval.metrics import f1_score
    from tokenizers import Tokenizer

    file = next(f for f in result.evidence.files if f.role == "student" and f.format == "onnx")
    session = onnxruntime.InferenceSession(str(result.bundle / file.name), providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(result.bundle / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(24)
    truth, said = [], []
    for line in (data / "test.jsonl").read_text().splitlines():
        row = json.loads(line)
        encoded = tokenizer.encode(row["tokens"], is_pretokenized=True)
        ids = np.array([encoded.ids], np.int32)
        logits = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0]
        best = ["O"] * len(row["tokens"])
        for position in reversed(range(len(encoded.ids))):
            if encoded.word_ids[position] is not None:
                best[encoded.word_ids[position]] = result.evidence.labels[int(logits[position].argmax())]
        truth.append(row["tags"])
        said.append(best)
    assert file.test.points == pytest.approx(100 * f1_score(truth, said))
