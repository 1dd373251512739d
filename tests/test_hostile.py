"""Files that a stranger may hand over: what fuzzing has found, each as the smallest file that showed it, and limits that
no file may pass. `python -m tests.fuzz` looks for more."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from device_bench.errors import LONGEST, BadGolden, BadRequest, told
from device_bench.inputs import find_golden
from device_bench.kit import read_kit
from device_bench.strict_json import bounded_text, nested_too_deeply, strict_json
from edgebert.bundle import BrokenBundle, check_files, read_manifest, verify
from edgebert.checkpoint_files import INDEX, require_plain
from edgebert.data import load_dataset
from edgebert.device import read_profile
from edgebert.elf import libraries
from edgebert.errors import EdgeBertError, UsageError, failure
from edgebert.inspecting import inspect
from edgebert.plan import CompressionPlan
from edgebert.results import read_results
from edgebert.supernet import open_supernet
from edgebert.tables import ErrorTables
from edgebert.tokenization import load_tokenizer
from tests.fuzz import kinds, seeds
from tests.fuzz.__main__ import main as fuzz

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(("text", "words"), [
    ("[1e999]", "too large"), ("[NaN]", "NaN"), ("[-Infinity]", "Infinity"), ("9" * 6000, "too large"),
    (str(2**63), "too large"), ("[" * 200 + "]" * 200, "brackets"), ('{"a": 1, "a": 2}', "'a' stands twice"),
    (r'"\ud800"', "half of a character"), (r'{"\udfff": 1}', "half of a character"), ("[1,", "line 1"),
    ('"' + r"\"" * 300_000 + "[" * 200, "brackets|Unterminated")])
def test_json_that_no_one_of_ours_writes(text, words):
    with pytest.raises(ValueError, match=words):
        strict_json(text)


def test_strict_json_reads_what_plain_json_does():
    value = {"a": [1, -2.5, None, True, "\u00e9\U0001f600"], "b": {"c": 2**63 - 1, "d": 1e300}}
    assert strict_json(json.dumps(value)) == strict_json(json.dumps(value, ensure_ascii=False)) == value
    assert not nested_too_deeply('"' + "[" * 1000 + '"') and not nested_too_deeply("[]" * 1000)


def test_a_file_is_read_up_to_its_bound(tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 11)
    assert bounded_text(tmp_path / "f", 11) == "x" * 11
    with pytest.raises(ValueError, match="more than 10 bytes"):
        bounded_text(tmp_path / "f", 10)


def test_a_message_is_one_line_that_a_terminal_may_show():
    assert told("a\nb\x1b[2Jc \ud800") == "a b\\x1b[2Jc \\ud800"
    assert len(told("x" * 10**6)) == LONGEST + 3
    assert failure(UsageError("no\nway")) == ("no way", 2)


def change(text: str, **values) -> str:
    return json.dumps({**json.loads(text), **values})


PLAN = seeds.plan()
TABLES = seeds.small_tables()


@pytest.mark.parametrize("text", [
    change(PLAN, threads=10**400), change(PLAN, predicted_error=10**400), change(PLAN, lengths=[2**62]),
    PLAN.replace('"12x1536"', '"12x\u00b2"', 1), PLAN.replace('"12x1536"', '"12x999999999"', 1),
    re.sub(r'"kept_neurons": "[^"]*"', '"kept_neurons": "0-999999"', PLAN), '{"schema": 1e999}', "[" * 10_000,
    change(PLAN, layers=json.loads(PLAN)["layers"] * 100)])
def test_plans_that_claim_too_much(text):
    with pytest.raises(UsageError):
        CompressionPlan.loads(text)


@pytest.mark.parametrize("changes", [
    {"rows": float("inf")}, {"int8_embedding": float("nan")}, {"head_order": [[0, 1], [0, 0]]},
    {"source": {**json.loads(TABLES)["source"], "layers": [[2, 10**12]] * 2}},
    {"source": {**json.loads(TABLES)["source"], "layers": [[10**9, 12]] * 2}},
    {"source": {**json.loads(TABLES)["source"], "vocab": 10**15}}, {"neuron_order": None}])
def test_tables_that_claim_too_much(changes):
    with pytest.raises(UsageError):
        ErrorTables.loads(change(TABLES, **changes))


PROFILE = (ROOT / "profiles" / "pixel6.toml").read_text(encoding="utf-8").replace('name = "pixel6"', 'name = "device"')


@pytest.mark.parametrize(("old", "new"), [
    ("ram_mb = ", "ram_mb = " + "9" * 5000 + " # "), ("ram_mb = ", f"ram_mb = {10**400} # "),
    ("bandwidth_gbs = ", f"bandwidth_gbs = {10**400} # "), ("[affinity]\n", '[affinity]\n"\u00b2" = "0x80"\n'),
    ("[affinity]\n", '[affinity]\n"' + "9" * 5000 + '" = "0x80"\n'), ("isa = ", "isa = " + "[" * 10_000 + " # "),
    ("count = ", f"count = {10**14} # "), ("isa = ", "isa = 2026-01-01 # ")])
def test_profiles_that_claim_too_much(tmp_path, old, new):
    assert old in PROFILE
    (tmp_path / "device.toml").write_text(PROFILE.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UsageError) as refused:
        read_profile(tmp_path / "device.toml")
    assert "\n" not in told(str(refused.value))


def golden(folder: Path, **changes) -> Path:
    (folder / "golden.json").write_text(change(seeds.golden(), **changes))
    return folder / "model.onnx"


@pytest.mark.parametrize("changes", [
    {"length": 10**12}, {"length": 1e308}, {"length": "8"}, {"rows": [{}] * 2000},
    {"rows": [{"text": "a", "input_ids": [10**15], "attention_mask": [1], "logits": [1.0]}]},
    {"rows": [{"text": "a", "input_ids": [1], "attention_mask": [-5], "logits": [1.0]}]},
    {"rows": [{"text": "a", "input_ids": [1], "attention_mask": [1], "logits": [float("nan")]}]}])
def test_golden_rows_that_claim_too_much(tmp_path, changes):
    with pytest.raises(BadGolden):
        find_golden(golden(tmp_path, **changes))


@pytest.mark.parametrize("changes", [{"runtime": []}, {"runtime": {}}, {"lengths": [10**12]}, {"id": "x" * 10**6 + "\n"},
                                     {"file": "../gelu.onnx"}, {"file": "/etc/passwd"}])
def test_kits_that_claim_too_much(tmp_path, changes):
    item = json.loads((seeds.kit(tmp_path) / "kit.json").read_text())["items"][0]
    (tmp_path / "kit.json").write_text(json.dumps({"schema": 1, "items": [{**item, **changes}]}))
    with pytest.raises(BadRequest) as refused:
        read_kit(tmp_path)
    assert len(str(refused.value)) < 400 + len(str(tmp_path))


def test_results_and_supernets_with_a_number_of_6000_digits(tmp_path):
    (tmp_path / "r.jsonl").write_text("9" * 6000 + "\n{}\n")
    with pytest.raises(UsageError, match="line 1"):
        read_results([tmp_path / "r.jsonl"])
    record = seeds.supernet(tmp_path) / "supernet.json"
    record.write_text(record.read_text().replace('"schema": 1', '"schema": ' + "9" * 6000))
    with pytest.raises(UsageError):
        open_supernet(tmp_path)


# Bundles


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    return seeds.bundle(folder)


def test_the_bundle_that_is_damaged_here_is_whole(bundle):
    assert [what for what, _ in verify(bundle).checks] == ["files", "tokens", "model_fp32.onnx"]


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a\0b", "x\n", "", ".", "link", "folder/outside"])
def test_paths_in_a_manifest_stay_in_the_bundle(bundle, name):
    outside = bundle.parent / "outside"
    outside.write_text("secret")
    (bundle / "link").symlink_to(outside)
    (bundle / "folder").symlink_to(bundle.parent)
    value = json.loads((bundle / "manifest.json").read_text())
    value["files"][name] = {"sha256": "0" * 64, "bytes": 6}
    (bundle / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(BrokenBundle):
        check_files(bundle, read_manifest(bundle))


def test_a_model_that_crashes_its_runtime_takes_nothing_along(bundle, monkeypatch):
    """Any crash of C++ code, stood in for by a process that kills itself while the file is opened."""
    from device_bench import child

    monkeypatch.setattr(child, "_START", "import os; os.kill(os.getpid(), 11)")
    with pytest.raises(Exception, match="model_fp32.onnx: killed by signal 11") as caught:
        verify(bundle)
    assert failure(caught.value)[1] == 6


def test_what_a_runtime_prints_is_no_record(bundle, monkeypatch):
    """ONNX Runtime announces on standard output that it tries a file again whose names are no UTF-8."""
    from device_bench import child

    model = bundle / "model_fp32.onnx"
    model.write_bytes(model.read_bytes().replace(b"input_ids", b"\xeenput_ids"))
    seeds.write_manifest(bundle)
    with pytest.raises(Exception, match="onnxruntime .* refuses it") as caught:
        verify(bundle)
    assert failure(caught.value)[1] == 6
    monkeypatch.setattr(child, "_START", "import sys; print('*** noise'); sys.exit('bench: no')")
    with pytest.raises(Exception, match="bench: no"):
        verify(bundle)


def test_a_model_may_not_take_all_memory(bundle):
    """A file of 300 bytes that asks for a tensor of 2 TB."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("ConstantOfShape", ["size"], ["big"]), helper.make_node("ReduceSum", ["big"], ["sum"]),
         helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
         helper.make_node("Add", ["mask", "sum"], ["logits"])], "bomb",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "l"]) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([1 << 39]), "size")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9),
              bundle / "model_fp32.onnx")
    done = subprocess.run([sys.executable, "-m", "device_bench", str(bundle / "model_fp32.onnx")], cwd=ROOT,
                          capture_output=True, text=True, timeout=100)
    assert done.returncode == 6 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr


# Data


def test_a_number_that_no_float_holds(tmp_path):
    rows = [{"text": f"t{i}", "label": 0.5} for i in range(9)] + [{"text": "u", "label": 10**400}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UsageError, match="line 10: a label must be a number"):
        load_dataset(tmp_path / "train.jsonl")


def test_a_gzip_bomb_is_refused_by_its_ratio(tmp_path):
    line = json.dumps({"text": "a" * 10_000, "label": "x"}).encode() + b"\n"
    bomb = tmp_path / "train.jsonl.gz"
    bomb.write_bytes(gzip.compress(line * 7_000, 6))  # 70 MB in less than 300 kB
    assert bomb.stat().st_size < 300_000
    with pytest.raises(UsageError, match="expands to more than 67108864 bytes"):
        load_dataset(bomb)


@pytest.mark.parametrize(("part", "value"), [
    ("state.json", {"_data_files": [{"filename": "../../secret.arrow"}]}),
    ("state.json", {"_data_files": [{"filename": "/etc/passwd"}]}), ("state.json", {"_data_files": 3}),
    ("dataset_dict.json", {"splits": ["../.."]}), ("dataset_dict.json", {"splits": [["train"]]})])
def test_a_saved_dataset_reads_its_own_folder(tmp_path, part, value):
    pytest.importorskip("datasets", reason="datasets is not installed")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / part).write_text(json.dumps(value))
    with pytest.raises(UsageError, match="not a readable saved dataset"):
        load_dataset(tmp_path / "d")


# Checkpoints


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    return seeds.checkpoint(folder)


def configured(folder: Path, **values) -> Path:
    (folder / "config.json").write_text(json.dumps({**seeds.config(), **values}))
    return folder


@pytest.mark.parametrize("values", [
    {"num_attention_heads": 0}, {"hidden_size": 10**12, "num_attention_heads": 7}, {"num_hidden_layers": 10**9},
    {"vocab_size": "many"}, {"vocab_size": -1}, {"id2label": 3}, {"intermediate_size": 10**18},
    {"architectures": 3}, {"model_type": ["bert"]}, {"max_position_embeddings": 1e9}])
def test_configs_that_claim_too_much(checkpoint, values):
    with pytest.raises(UsageError):
        inspect(configured(checkpoint, **values), 8)


@pytest.mark.parametrize("values", [
    {"vocab_size": 2_000_000_000}, {"hidden_size": 1_000_000}, {"num_labels": 10**9}, {"id2label": {"x": "y"}},
    {"id2label": [1]}, {"hidden_dropout_prob": "much"}, {"quantization_config": {"quant_method": "bitsandbytes"}},
    {"layer_norm_eps": []}])
def test_a_checkpoint_takes_no_more_memory_than_its_files(checkpoint, values):
    """What the config claims is held against the size of the files before anything is allocated."""
    import resource

    from edgebert.checkpoint import load_checkpoint

    load_checkpoint(checkpoint)
    with pytest.raises(EdgeBertError) as refused:
        load_checkpoint(configured(checkpoint, **values))
    assert refused.value.exit_code == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 8 << 20  # KiB


def test_tensors_lie_in_the_folder_of_the_checkpoint(checkpoint):
    for name in ("../elsewhere.safetensors", "/tmp/x.safetensors", "a\\b", 3):
        (checkpoint / INDEX).write_text(json.dumps({"weight_map": {"bert.x": name}}))
        with pytest.raises(UsageError, match="no file of this folder"):
            require_plain(checkpoint, seeds.config())
    (checkpoint / INDEX).unlink()
    (checkpoint / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/else"}')
    with pytest.raises(UsageError, match="adapter"):
        require_plain(checkpoint, seeds.config())


@pytest.mark.parametrize("values", [{"tokenizer_class": []}, {"do_lower_case": [0] * 10**5}, {"cls_token": 5}])
def test_settings_of_a_tokenizer_are_of_their_kinds(checkpoint, values):
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(values))
    with pytest.raises(UsageError, match="must be") as refused:
        load_tokenizer(checkpoint)
    assert len(str(refused.value)) < 300 + len(str(checkpoint))


class Harmful:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "training_args.bin", "tokenizer.pkl", "vocab.pkl"])
@pytest.mark.parametrize("beside", [True, False], ids=["beside safetensors", "alone"])
def test_a_pickle_is_never_opened(checkpoint, tmp_path, name, beside):
    from edgebert.checkpoint import load_checkpoint

    mark = tmp_path / "ran"
    (checkpoint / name).write_bytes(pickle.dumps(Harmful(mark)))
    pickle.loads((checkpoint / name).read_bytes())
    assert mark.exists(), "the file does what it is feared for"
    mark.unlink()
    if beside:
        load_checkpoint(checkpoint)
        load_tokenizer(checkpoint)
    else:
        (checkpoint / "model.safetensors").unlink()
        with pytest.raises(UsageError, match="pickled .bin files are not read: they can run code"):
            load_checkpoint(checkpoint)
    (checkpoint / "model.safetensors").write_bytes((checkpoint / name).read_bytes() + bytes(10_000))  # by another name
    with pytest.raises(UsageError, match="cannot be loaded"):
        load_checkpoint(checkpoint)
    assert not mark.exists()


def test_code_of_a_checkpoint_is_never_run(checkpoint, tmp_path):
    """config.json and tokenizer_config.json that name classes in files beside them, as trust_remote_code would load."""
    from edgebert.checkpoint import load_checkpoint
    from edgebert.prove import prove_tokens

    mark = tmp_path / "ran"
    (checkpoint / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    auto_map = {"AutoConfig": "evil.Evil", "AutoModelForSequenceClassification": "evil.Evil",
                "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    configured(checkpoint, auto_map=auto_map)
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "BertTokenizer", "do_lower_case": True, "auto_map": auto_map}))
    load_checkpoint(checkpoint)
    assert prove_tokens(checkpoint, checkpoint, 8).ok
    configured(checkpoint, auto_map=auto_map, model_type="evil")
    with pytest.raises(UsageError, match="'evil' checkpoint is not supported"):
        load_checkpoint(checkpoint)
    assert not mark.exists()


FILES = [path for name in ("edgebert", "exporters", "device_bench", "optimum", "examples") for path in
         sorted((ROOT / name).rglob("*.py"))]


def test_the_tree_opens_no_pickle_and_unpacks_no_archive():
    """torch.load, np.load with pickles, extractall: each would let a file write or run what it likes."""
    forbidden = (r"\bimport pickle\b", r"torch\.load\(", r"allow_pickle=True", r"extractall\(", r"\btarfile\b",
                 r"trust_remote_code=True", r"(?<![.\w])eval\(", r"(?<![.\w])exec\(", r"yaml\.load\(", r"shell=True",
                 r"os\.system", r"unpack_archive", r"\bshelve\b")
    found = [f"{path.relative_to(ROOT)}:{number}: {line.strip()}" for path in FILES
             for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
             if any(re.search(one, line) for one in forbidden)]
    assert found == []


# Archives


def test_an_archive_is_looked_at_and_never_unpacked(tmp_path):
    library, = kinds._library(tmp_path)
    with zipfile.ZipFile(tmp_path / "evil.apk", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../evil.so", library)
        archive.writestr("bomb.so", library + bytes(500 << 20))
    before = set(tmp_path.parent.rglob("*"))
    assert [one.machine for one in libraries(tmp_path / "evil.apk")] == ["arm64", "arm64"]
    assert set(tmp_path.parent.rglob("*")) == before


def test_a_library_without_alignment_is_described(tmp_path):
    library, = kinds._library(tmp_path)
    (tmp_path / "x.so").write_bytes(library[:-8] + bytes(8))  # the last field of the one segment
    found, = libraries(tmp_path / "x.so")
    assert found.alignment == 0 and not found.fits and "no 16 KB pages" in found.text()


def test_a_damaged_archive_is_one_line(tmp_path):
    import struct

    with zipfile.ZipFile(tmp_path / "a.apk", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("libx.so", b"\x7fELF" + bytes(1000))
    content = bytearray((tmp_path / "a.apk").read_bytes())
    start = content.index(b"libx.so") + 7
    content[start:start + 8] = struct.pack("<Q", 2**64 - 1)
    (tmp_path / "a.apk").write_bytes(content)
    with pytest.raises(UsageError):
        list(libraries(tmp_path / "a.apk"))


# The fuzzer itself, at small size: light kinds here, all of them by the command


@pytest.mark.parametrize(("kind", "engine"), [*((kind, "structure") for kind in (
    "profile", "plan", "tables", "manifest", "records", "JSON lines", "config")), ("records", "bytes")])
def test_a_few_hundred_inputs_find_nothing(kind, engine, tmp_path, capsys):
    if engine == "bytes":
        pytest.importorskip("atheris", reason="atheris is not installed")
    code = fuzz(["--inputs", "80", "--seed", "7", "--engines", engine, "--kinds", kind, "--keep", str(tmp_path)])
    assert code == 0, capsys.readouterr().out
