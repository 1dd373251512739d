"""The samples on a bundle of operating points: each answers with the point that is asked for."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from device_bench.points import golden_name
from edgebert import bundle
from edgebert.compress.subnet import extract
from edgebert.sampling import SOURCES, write_samples
from edgebert.spec import EncoderShape, LayerSpec, SubnetSpec
from edgebert.tokenization import encode, load_tokenizer
from exporters.artifact import InputSpec, Precision
from exporters.files import export_files
from exporters.points import export_points
from tests import sample_tools
from tests.conftest import KINDS, random_net
from tests.sample_material import BOUND, CASES, texts, vocabulary, write_wordpiece
from tests.test_samples import COMMANDS, NEEDS, SPEAKERS, TEXT, run

LENGTH = 32
KEPT = ((0, 1), (1,))


def write_points(folder: Path, formats: tuple[str, ...]) -> Path:
    """As much of a bundle of two points as a sample reads."""
    import torch

    folder.mkdir()
    case, some = CASES[0], texts()[:60]
    write_wordpiece(folder, case, vocabulary(texts()))
    tokenizer = load_tokenizer(folder)
    whole = random_net(EncoderShape(hidden=16, head_dim=4, vocab=tokenizer.get_vocab_size(), positions=40, token_types=2,
                                    labels=len(KINDS[case.kind]), layers=(LayerSpec(4, 24),) * 2))
    nets = [whole, extract(whole, SubnetSpec((1,), (LayerSpec(2, 16),)), ((0, 1),), (tuple(range(16)),))]
    bounds = {}
    for form in formats:
        alone = [export_files(form, net, {folder / f"alone{i}.{form}": Precision.uniform("fp32", len(net.layers))},
                              InputSpec((LENGTH,), True), {})[0] for i, net in enumerate(nets)]
        bounds |= {one.path.name: BOUND for one in export_points(alone, KEPT, folder / f"model.{form}")}
        for one in alone:
            one.path.unlink()
    (folder / "labels.json").write_text(json.dumps(KINDS[case.kind]), encoding="utf-8")
    encoded = encode(tokenizer, some, None, LENGTH, fixed=True)
    for point, net in enumerate(nets, 1):
        with torch.no_grad():
            logits = net(*(torch.from_numpy(each.astype(np.int64)) for each in (
                encoded.input_ids, encoded.attention_mask, encoded.token_type_ids))).numpy()
        arrays = (encoded.input_ids, encoded.attention_mask, encoded.token_type_ids)
        content = bundle.golden(some, None, *arrays, logits, bounds)
        (folder / golden_name(point)).write_text(content, encoding="utf-8")
    write_samples(folder, case.kind, False, LENGTH, 1, points=2)
    return folder


@pytest.fixture(scope="module")
def points(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("points")
    if sample_tools.node_modules().exists():
        (root / "node_modules").symlink_to(sample_tools.node_modules())
    return write_points(root / "bundle", ("onnx",))


@pytest.fixture(scope="module", params=SPEAKERS)
def words(request, points, tmp_path_factory) -> list[str | Path]:
    """What starts a sample, up to its arguments, and the language."""
    if reason := sample_tools.why_not(*NEEDS[request.param]):
        pytest.skip(f"the {request.param} sample cannot run: {reason}")
    return [request.param, *COMMANDS[request.param](points, tmp_path_factory.mktemp(request.param))]


def asked(words: list[str | Path], point: int, bundle: Path) -> list[str | Path]:
    """The words of a command for a point of a bundle: `--point N` stands before the bundle where that is no flag."""
    start = words[1:]
    flag = ["--point", str(point)]
    return [*start[:-1], *flag, start[-1], bundle] if start[-1] == "--bundle" else [*start, *flag, bundle]


def test_each_point_gives_its_golden_logits(words, points):
    for point in (1, 2):
        done = run(*asked(words, point, points), "--golden")
        assert done.stdout.startswith("60 golden rows: the same ids")
    done = run(*asked(words, 3, points), "--golden", check=False)
    assert done.returncode and "2 operating points, and no 3" in done.stderr


def test_points_answer_differently(words, points):
    if words[0] == "swift":
        pytest.skip("Swift has no runtime on Linux")
    one, two = (run(*asked(words, point, points), TEXT).stdout for point in (1, 2))
    assert one != two and sorted(line.split("\t")[0] for line in one.splitlines()) == sorted(KINDS[CASES[0].kind])


def test_app_json_names_the_file_of_each_point(points):
    app = json.loads((points / "samples/app.json").read_text())
    assert app["models"] == {"onnx": "model.onnx"}
    assert app["points"] == [{"onnx": "model.onnx"}, {"onnx": "model_point2.onnx"}]
    assert (points / "samples/kotlin/android/DeviceState.kt").is_file()


def test_python_runs_points_of_a_tflite_file(tmp_path):
    made = write_points(tmp_path / "bundle", ("tflite",))
    for point in (1, 2):
        words = [sys.executable, made / "samples/python/classify.py", "--bundle", made, "--point", str(point)]
        done = run(*words, "--golden")
        assert done.stdout.startswith("60 golden rows: the same ids")


def test_the_step_down():
    """By the Python sample; the other languages have the same line."""
    spec = importlib.util.spec_from_file_location("classify", SOURCES / "python/classify.py")
    sample = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sample)
    steps = {(heat, saving): sample.point_for(3, heat, saving) for heat in (0, 1, 2) for saving in (False, True)}
    assert steps == {(0, False): 1, (0, True): 2, (1, False): 2, (1, True): 3, (2, False): 3, (2, True): 3}
    assert sample.point_for(1, 2, True) == 1
