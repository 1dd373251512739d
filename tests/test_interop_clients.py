"""Programs of others open what we write: each runs in a process of its own, in its own environment where it needs one
(`python -m tests.peers build`), and must compute what torch computes here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from device_bench.runtimes import open_model
from edgebert.checkpoint import load_checkpoint
from edgebert.exporting import export
from edgebert.modeling import wrap
from edgebert.spec import EncoderShape, LayerSpec
from edgebert.tokenization import encode, load_tokenizer, write_tokenizer
from exporters.artifact import PRECISIONS, InputSpec, OnnxForm, Precision
from exporters.onnx_export import export_onnx
from exporters.parity import relative_rmse
from tests.conftest import KINDS, random_net
from tests.peers.build import folder_of, python_of, why_not

TEXTS = ("play some jazz music", "is it sunny today", "book a table for two", "what is the weather in paris")
QUIET = {**os.environ, "HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
LENGTH = 32


def needs(peer: str) -> pytest.MarkDecorator:
    reason = why_not(peer)
    return pytest.mark.skipif(reason is not None, reason=reason or "")


def run(command: Sequence[str | Path], cwd: Path, **more: str) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=cwd, timeout=600,
                          env={**QUIET, **more})
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def answer_of(printed: str) -> dict:
    """The last line of what a program printed; above it stands what its libraries say."""
    return json.loads(printed.strip().splitlines()[-1])


def torch_logits(checkpoint: Path, kind: str, texts: Sequence[str] = TEXTS) -> np.ndarray:
    """[N, labels], or [N, L, labels] with rows of zeros where a text has ended."""
    net = load_checkpoint(checkpoint, kind=kind).net
    encoded = encode(load_tokenizer(checkpoint), texts, max_length=LENGTH)
    mask = torch.from_numpy(encoded.attention_mask)
    with torch.no_grad():
        logits = net(torch.from_numpy(encoded.input_ids).long(), mask.long())
    return (logits if logits.ndim == 2 else logits * mask[:, :, None]).numpy()


@pytest.fixture(scope="module")
def exported(family_folder, tmp_path_factory):
    """A function: family, kind, precision -> (its checkpoint, the folder that `edgebert export` makes of it)."""
    made = {}

    def make(family: str = "bert", kind: str = "single_label_classification", precision: str = "int8",
             formats: tuple[str, ...] = ("onnx",)) -> tuple[Path, Path]:
        key = (family, kind, precision, formats)
        if key not in made:
            out = tmp_path_factory.mktemp("exported") / "files"
            export(str(family_folder(family, kind)), out, formats, precision, LENGTH)
            made[key] = out
        return family_folder(family, kind), made[key]

    return make


OPTIMUM = """
import json, sys
from optimum.onnxruntime import ORTModelForSequenceClassification, ORTModelForTokenClassification
from transformers import AutoTokenizer, pipeline
classes = {"text-classification": ORTModelForSequenceClassification,
           "token-classification": ORTModelForTokenClassification}
found = []
for task, folder in json.loads(sys.argv[1]):
    model, tokenizer = classes[task].from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = json.loads(sys.argv[2])
    encoded = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    logits = model(**encoded).logits
    if logits.ndim == 3:
        logits = logits * encoded["attention_mask"][:, :, None]
    said = pipeline(task, model=model, tokenizer=tokenizer)(texts)
    long = model(**tokenizer(texts[0] * 40, truncation=True, return_tensors="pt")).logits
    found.append({"logits": logits.tolist(), "labels": model.config.id2label, "cut_to": tokenizer.model_max_length,
                  "finite": bool(long.isfinite().all()),
                  "said": [one["label"] if isinstance(one, dict) else "" for one in said]})
print(json.dumps(found))
"""
OPENED = (("bert", "single_label_classification", "fp32"), ("bert", "single_label_classification", "int8"),
          ("roberta", "multi_label_classification", "int8"), ("distilbert", "token_classification", "fp32"))


@pytest.fixture(scope="module")
def opened_by_optimum(exported):
    """What one process of optimum-onnx finds in the folders of OPENED: its imports are most of the time."""
    tasks = ["token-classification" if kind == "token_classification" else "text-classification" for _, kind, _ in OPENED]
    folders = [str(exported(*one)[1]) for one in OPENED]
    words = [json.dumps(list(zip(tasks, folders))), json.dumps(TEXTS)]
    return dict(zip(OPENED, answer_of(run([python_of("optimum-onnx"), "-c", OPTIMUM, *words], Path.cwd()))))


@pytest.mark.slow
@needs("optimum-onnx")
@pytest.mark.parametrize("which", OPENED, ids="-".join)
def test_optimum_onnx_opens_an_exported_folder(exported, opened_by_optimum, which):
    """from_pretrained(folder) and nothing else: the family, the labels and the longest input come from config.json."""
    (_, kind, precision), found = which, opened_by_optimum[which]
    truth = torch_logits(exported(*which)[0], kind)
    labels = truth.shape[-1]
    error = relative_rmse(np.array(found["logits"]).reshape(-1, labels), truth.reshape(-1, labels))
    assert error < (1e-5 if precision == "fp32" else 0.25)
    assert tuple(found["labels"][str(i)] for i in range(len(KINDS[kind]))) == KINDS[kind]
    assert found["cut_to"] == LENGTH and found["finite"]
    if precision == "fp32" and truth.ndim == 2:
        assert found["said"] == [KINDS[kind][i] for i in truth.argmax(1)]


LOADED = """
import json, sys
import torch
from transformers import AutoConfig, AutoModelForQuestionAnswering, AutoTokenizer, pipeline
folders, texts = json.loads(sys.argv[1]), json.loads(sys.argv[2])
try:
    AutoConfig.from_pretrained(folders["question_answering"])
except ValueError as error:
    before = str(error)
import edgebert.modeling
answerer = AutoModelForQuestionAnswering.from_pretrained(folders["question_answering"])
tokenizer = AutoTokenizer.from_pretrained(folders["question_answering"])
with torch.no_grad():
    ends = [answerer(**tokenizer(text, return_tensors="pt")) for text in texts]
print(json.dumps({
    "before": before,
    "single_label_classification": pipeline("text-classification", folders["single_label_classification"])(texts),
    "token_classification": [[one["entity"] for one in row]
                             for row in pipeline("token-classification", folders["token_classification"])(texts)],
    "question_answering": [[one.start_logits[0].tolist(), one.end_logits[0].tolist()] for one in ends]}))
"""


@pytest.fixture(scope="module")
def compressed(family_folder, tmp_path_factory):
    """Kind of task -> the folder of an unevenly cut checkpoint, as a bundle's transformers/ holds it."""
    folders = {}
    for kind in ("single_label_classification", "token_classification", "question_answering"):
        source, out = family_folder("bert", kind), tmp_path_factory.mktemp("compressed")
        head = "sequence" if kind == "single_label_classification" else "tokens"
        vocabulary = load_tokenizer(source).get_vocab_size()
        shape = EncoderShape(24, 6, vocabulary, 42, 2, len(KINDS[kind]), (LayerSpec(1, 7), LayerSpec(3, 20)), head)
        wrap(random_net(shape, seed=3), KINDS[kind], kind=kind).save_pretrained(out)
        write_tokenizer(source, out)
        folders[kind] = out
    return folders


@pytest.mark.slow
def test_a_clean_process_loads_the_compressed_checkpoints(compressed, tmp_path):
    """Pipelines and Auto classes; importing edgebert.modeling is what it takes, no code is loaded from a folder."""
    words = [json.dumps({kind: str(folder) for kind, folder in compressed.items()}), json.dumps(TEXTS)]
    found = answer_of(run([sys.executable, "-c", LOADED, *words], tmp_path))
    assert "model type `edgebert`" in found["before"]
    logits = {kind: torch_logits(folder, kind) for kind, folder in compressed.items()}
    counts = [len(one.ids) for one in load_tokenizer(compressed["token_classification"]).encode_batch(list(TEXTS))]

    kind = "single_label_classification"
    odds = np.exp(logits[kind]) / np.exp(logits[kind]).sum(1, keepdims=True)
    assert [row["label"] for row in found[kind]] == [KINDS[kind][i] for i in odds.argmax(1)]
    assert [row["score"] for row in found[kind]] == pytest.approx(odds.max(1).tolist(), abs=1e-5)
    kind = "token_classification"
    tags = [[KINDS[kind][i] for i in row[1:count - 1].argmax(1)] for row, count in zip(logits[kind], counts)]
    assert found[kind] == [[tag for tag in row if tag != "O"] for row in tags]
    kind = "question_answering"
    for ends, row, count in zip(found[kind], logits[kind], counts, strict=True):
        assert np.abs(np.array(ends).T - row[:count]).max() < 1e-5


NODE = """
const ort = require(process.argv[1] + "/onnxruntime-node");
const {rows, types} = JSON.parse(require("fs").readFileSync(process.argv[2]));
(async () => {
  const session = await ort.InferenceSession.create(process.argv[3]);
  const answers = [];
  for (const row of rows) {
    const feeds = {};
    for (const name of session.inputNames) {
      const data = types[name] === "int64" ? BigInt64Array.from(row[name].map(BigInt)) : Int32Array.from(row[name]);
      feeds[name] = new ort.Tensor(types[name], data, [1, data.length]);
    }
    answers.push(Array.from((await session.run(feeds)).logits.data));
  }
  console.log(JSON.stringify({logits: answers}));
})();
"""


@pytest.mark.slow
@needs("node")
@pytest.mark.parametrize(("precision", "integers"), [("fp32", "int32"), ("int8", "int32"), ("int8", "int64")])
def test_onnxruntime_for_node_computes_the_same(family_folder, tmp_path, precision, integers):
    node = shutil.which("node")
    assert node, "the environment is there, so node was"
    checkpoint = family_folder("bert", "single_label_classification")
    net, tokenizer = load_checkpoint(checkpoint).net, load_tokenizer(checkpoint)
    model = export_onnx(net, tmp_path / "model.onnx", InputSpec((LENGTH,), True),
                        Precision.uniform(precision, len(net.layers)), form=OnnxForm(integers=integers)).path
    session = open_model(model)
    types = {one.name: one.dtype for one in session.inputs}
    assert set(types.values()) == {integers}
    rows, truth = [], []
    for text in TEXTS:
        encoded = encode(tokenizer, [text], max_length=LENGTH)
        feeds = {name: getattr(encoded, name).astype(kind) for name, kind in types.items()}
        rows.append({name: value[0].tolist() for name, value in feeds.items()})
        truth.append(session.run(feeds)["logits"][0])
    fed = tmp_path / "rows.json"
    fed.write_text(json.dumps({"rows": rows, "types": types}))
    found = answer_of(run([node, "-e", NODE, folder_of("node") / "node_modules", fed, model], tmp_path))
    # Another version of the runtime may round a sum the other way, which int8 carries on.
    assert np.abs(np.array(found["logits"]) - np.array(truth)).max() < (1e-5 if precision == "fp32" else 0.05)


LITERT = """
import sys
import numpy as np
from ai_edge_litert.tools import benchmark_litert_model as tool
if "--as-it-is" in sys.argv:
    sys.argv.remove("--as-it-is")
else:
    tool.fill_random_input = lambda buffer, details: buffer.write(np.ones(details["shape"], np.int32))
tool.main()
"""


@pytest.mark.slow
def test_litert_s_own_benchmark_times_our_file(exported, tmp_path):
    """ai_edge_litert.tools.benchmark_litert_model feeds random bytes, negative ones too, as token ids, which no look-up
    takes: it is given ones instead. Once the second half of this test fails, that can go."""
    _, folder = exported(formats=("onnx", "tflite"))
    model, = folder.glob("model*.tflite")
    words = ["--model", model, "--signature", f"seq_{LENGTH}", "--num_runs", "7", "--result_json", "timed.json"]
    printed = run([sys.executable, "-c", LITERT, *words], tmp_path)
    found = json.loads((tmp_path / "timed.json").read_text())
    assert "BENCHMARK RESULTS" in printed and found["signature"] == f"seq_{LENGTH}"
    assert found["latency"]["num_runs"] == 7 and 0 <= found["latency"]["min_ms"] <= found["latency"]["median_ms"]
    assert found["model_size_mb"] == round(model.stat().st_size / 2**20, 2) and found["num_threads"] == 1
    plain = subprocess.run([sys.executable, "-c", LITERT, "--as-it-is", *map(str, words)], capture_output=True, text=True,
                           cwd=tmp_path, env=QUIET)
    assert plain.returncode != 0 and "index out of bounds" in plain.stderr


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("head", ["sequence", "tokens"])
def test_the_checker_and_strict_inference_pass_every_onnx_file(tmp_path, precision, head):
    import onnx

    shape = EncoderShape(48, 12, 60, 40, 2, 3, (LayerSpec(1, 37), LayerSpec(4, 64)), head)
    artifact = export_onnx(random_net(shape), tmp_path / "model.onnx", InputSpec((LENGTH,), True),
                           Precision.uniform(precision, 2), {"labels": '["a", "b", "c"]'})
    onnx.checker.check_model(str(artifact.path), full_check=True)
    model = onnx.shape_inference.infer_shapes(onnx.load(artifact.path), strict_mode=True, data_prop=True)
    assert {one.key: one.value for one in model.metadata_props}["edgebert.labels"] == '["a", "b", "c"]'
    answers = [dim.dim_param or dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim]
    assert answers == (["batch", 3] if head == "sequence" else ["batch", "length", 3])
