"""Files of several subnets: what they share, what they weigh, and that each answers as it does alone."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from device_bench.errors import BadRequest
from device_bench.points import file_of, point_of_file, point_of_signature, signature_of, weights_beside, weights_name
from device_bench.runtimes import open_model
from edgebert.compress.subnet import extract
from edgebert.spec import EncoderShape, LayerSpec, SubnetSpec
from exporters.artifact import Artifact, ExportError, InputSpec, Precision
from exporters.files import export_files
from exporters.onnx_nodes import onnx_execution
from exporters.parity import check_logits
from exporters.points import export_points, shared_bytes
from exporters.tflite_metadata import About
from exporters.tflite_nodes import tflite_nodes
from exporters.tflite_tree import read_tree
from tests.conftest import random_net, random_rows

pytestmark = pytest.mark.slow

SHAPE = EncoderShape(hidden=48, head_dim=12, vocab=3000, positions=40, token_types=2, labels=5,
                     layers=(LayerSpec(4, 256),) * 3)
POINTS = (SubnetSpec((0, 1, 2), (LayerSpec(4, 256), LayerSpec(3, 192), LayerSpec(4, 256))),
          SubnetSpec((0, 1, 2), (LayerSpec(4, 256), LayerSpec(2, 160), LayerSpec(2, 128))),
          SubnetSpec((1, 2), (LayerSpec(1, 96), LayerSpec(2, 128))))
INPUTS = InputSpec((8, 16))


def cut(net, subnet: SubnetSpec):
    return extract(net, subnet, tuple(tuple(range(layer.heads)) for layer in subnet.layers),
                   tuple(tuple(range(layer.ffn)) for layer in subnet.layers))


@pytest.fixture(scope="module")
def source():
    return random_net(SHAPE)


@pytest.fixture(scope="module")
def made(tmp_path_factory, source):
    """(format, kind) -> nets, artifacts of the points alone, artifacts of the points that share."""
    folder, done = tmp_path_factory.mktemp("points"), {}

    def make(format: str, kind: str):
        if (format, kind) not in done:
            nets = [cut(source, subnet) for subnet in POINTS]
            for kinds in ([("int8", "fp32")] if format == "tflite" else [(kind,)]):  # one conversion for both
                alone = {name: [] for name in kinds}
                for number, net in enumerate(nets):
                    files = {folder / f"alone{number}_{name}.{format}": Precision.uniform(name, len(net.layers))
                             for name in kinds}
                    for name, one in zip(kinds, export_files(format, net, files, INPUTS, {"labels": "[]"},
                                                             about=About("a title", ("x",) * 5, None))):
                        alone[name].append(one)
                for name in kinds:
                    path = folder / f"model_{name}.{format}"
                    shared = export_points(alone[name], [subnet.kept for subnet in POINTS], path,
                                           About("a title", ("x",) * 5, None))
                    done[format, name] = nets, tuple(alone[name]), shared
        return done[format, kind]

    return make


def onnx_alone(net, path: Path) -> Artifact:
    return export_files("onnx", net, {path: Precision.uniform("int8", len(net.layers))}, INPUTS, {})[0]


def feeds(session, length: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(length)
    ids, mask = random.integers(5, SHAPE.vocab, (1, length)), np.ones((1, length))
    mask[0, length // 2:] = 0
    return {spec.name: (ids if spec.name == "input_ids" else mask).astype(spec.dtype) for spec in session.inputs}


@pytest.mark.parametrize("format", ["onnx", "tflite"])
@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_every_point_computes_what_torch_does(made, format, kind):
    nets, _, shared = made(format, kind)
    rows = random_rows(SHAPE, 8, 14)
    for net, artifact in zip(nets, shared):
        checks = check_logits(artifact, net, rows.ids, rows.mask, int8_bound=0.1)
        assert all(check.ok for check in checks), (artifact.point, checks)


@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_points_of_a_tflite_file_answer_to_the_bit_as_alone(made, kind):
    _, alone, shared = made("tflite", kind)
    for own, one in zip(alone, shared):
        a, b = open_model(own.path), open_model(one.path, point=one.point)
        assert (b.point, b.points, b.lengths) == (one.point, 3, (8, 16))
        for length in INPUTS.lengths:
            assert np.array_equal(a.run(feeds(a, length))["logits"], b.run(feeds(b, length))["logits"])


@pytest.mark.parametrize("format, most", [("onnx", 1.10), ("tflite", 1.30)])
def test_a_tiny_file_of_three_points_is_little_larger_than_the_largest(made, format, most):
    """Tiny networks are mostly graph; docs/elastic.md has the ratio of a real one."""
    _, alone, shared = made(format, "fp32")
    assert shared_bytes(shared) <= most * alone[0].file_bytes < 0.7 * sum(one.file_bytes for one in alone)


def test_a_depth_alone_costs_its_graph_only(tmp_path, source):
    """The weights of two depths are those of one: the files hold no constant of more than a graph's small ones twice."""
    shallow = SubnetSpec((0, 2), (SHAPE.layers[0],) * 2)
    nets, kept = [source, cut(source, shallow)], [(0, 1, 2), (0, 2)]
    alone = [onnx_alone(net, tmp_path / f"{i}.onnx") for i, net in enumerate(nets)]
    shared = export_points(alone, kept, tmp_path / "model.onnx")
    (tmp_path / "one").mkdir()
    whole = export_points(alone[:1], kept[:1], tmp_path / "one" / "model.onnx")
    assert weights_beside(shared[0].path).stat().st_size == weights_beside(whole[0].path).stat().st_size


def test_narrower_matrices_are_rows_of_wider_ones_in_a_tflite_file(made):
    """Counted in the file: of the constants of points 2 and 3 only those with fewer inputs are stored again."""
    _, alone, shared = made("tflite", "int8")
    constants = [{np.asarray(b.data).tobytes() for b in read_tree(one.path.read_bytes()).buffers
                  if b.data is not None and len(b.data) >= 2048} for one in alone]
    again = [value for found in constants[1:] for value in found
             if not any(other.startswith(value) for other in constants[0])]
    inputs = {layer.ffn for subnet in POINTS[1:] for layer in subnet.layers} - {256}
    assert again and {len(value) for value in again} <= {48 * count for count in inputs}
    stored = shared[0].path.stat().st_size - alone[0].path.stat().st_size
    assert stored < sum(map(len, again)) + 0.4 * sum(one.file_bytes for one in alone[1:])


def test_runtimes_run_shared_files_as_they_run_files_alone(made):
    _, alone, shared = made("onnx", "int8")
    for own, one in zip(alone, shared):
        assert onnx_execution(one.path).nodes == onnx_execution(own.path).nodes  # a Slice of constants is gone
    _, alone, shared = made("tflite", "int8")
    together = tflite_nodes(shared[0].path)
    for own, one in zip(alone, shared):
        for name, found in tflite_nodes(own.path).items():
            same = together[signature_of(one.point, int(name.removeprefix("seq_")))]
            assert (same.nodes, same.delegated) == (found.nodes, found.delegated)


def test_a_matrix_of_another_network_is_not_taken_for_a_corner(tmp_path, source):
    """Equal names and fitting sizes, other numbers: nothing is shared, and both files are right."""
    other = cut(random_net(SHAPE, seed=9), POINTS[1])
    nets, kept = [source, other], [(0, 1, 2), POINTS[1].kept]
    alone = [onnx_alone(net, tmp_path / f"{i}.onnx") for i, net in enumerate(nets)]
    shared = export_points(alone, kept, tmp_path / "model.onnx")
    assert shared_bytes(shared) > 0.95 * sum(one.file_bytes for one in alone)
    rows = random_rows(SHAPE, 8, 14)
    assert all(check.ok for check in check_logits(shared[1], other, rows.ids, rows.mask, int8_bound=0.1))


def test_points_that_are_not_there_and_files_that_do_not_fit_are_refused(made, tmp_path):
    _, alone, shared = made("tflite", "int8")
    with pytest.raises(BadRequest, match="has no point 4; it has 1 to 3"):
        open_model(shared[0].path, point=4)
    with pytest.raises(BadRequest, match="has no point 2; it has 1 alone"):
        open_model(alone[0].path, point=2)
    _, onnx, files = made("onnx", "int8")
    with pytest.raises(BadRequest, match="is point 2 alone; of ONNX each point has a file of its own"):
        open_model(files[1].path, point=1)
    with pytest.raises(ExportError, match="take the same inputs"):
        export_points([alone[0], onnx[1]], [(0,), (0,)], tmp_path / "model.tflite")
    with pytest.raises(ExportError, match="take the same inputs"):
        export_points([onnx[0], replace(onnx[1], inputs=InputSpec((8,)))], [(0,), (0,)], tmp_path / "model.onnx")


def test_names_of_points():
    path = Path("a/model_qint8.onnx")
    assert [str(file_of(path, point)) for point in (1, 3)] == ["a/model_qint8.onnx", "a/model_qint8_point3.onnx"]
    assert [point_of_file(file_of(path, point)) for point in (1, 3)] == [1, 3]
    assert weights_name(file_of(path, 3)) == weights_name(path) == "model_qint8.onnx.data"
    assert (signature_of(1, 64), signature_of(2, 64)) == ("seq_64", "point2_seq_64")
    assert [point_of_signature(name) for name in ("seq_64", "point2_seq_64", "main")] == [1, 2, 1]
    assert file_of(Path("m.tflite"), 2) == Path("m.tflite") and point_of_file(Path("x_point2.tflite")) == 1


def test_bench_times_every_point_of_a_tflite_file(made):
    _, _, shared = made("tflite", "int8")
    words = [sys.executable, "-m", "device_bench", "--runs=3", "--max-seconds=1", "--no-golden", str(shared[0].path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(one["point"], one["points"]) for one in records] == [(1, 3), (2, 3), (3, 3)], done.stderr
    one = subprocess.run([*words[:-1], "--point", "3", words[-1]], capture_output=True, text=True, timeout=120)
    assert [json.loads(line)["point"] for line in one.stdout.splitlines()] == [3]


def test_the_size_of_an_onnx_point_counts_its_weights(made):
    _, _, shared = made("onnx", "int8")
    data = weights_beside(shared[1].path).stat().st_size
    assert shared[1].file_bytes == shared[1].path.stat().st_size + data
    assert isinstance(shared[1], Artifact)
