"""Files for tflite-runtime 2.14.0, computed by tflite-runtime 2.14.0.

That runtime needs numpy 1 and Python 3.11 or older, so it lives in an environment of its own: set
EDGEBERT_TFLITE214_PYTHON to a Python that has it, or the test makes one with pip in pytest's cache folder.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgebert.spec import EncoderShape, LayerSpec
from exporters.artifact import InputSpec, LayerPrecision, Precision
from exporters.tflite_export import convert_tflite, write_tflite

torch = pytest.importorskip("torch", reason="the TFLite exporter reads torch modules")
if importlib.util.find_spec("litert_torch") is None:
    pytest.skip("install the tflite extra to test the TFLite exporter", allow_module_level=True)

SHAPE = EncoderShape(48, 12, 500, 24, 2, 5, (LayerSpec(1, 37), LayerSpec(4, 130), LayerSpec(3, 61)))
TOKENS = replace(SHAPE, head="tokens", embedding=20)
LENGTHS = (8, 16)
RUN = """
import sys
import numpy as np
from tflite_runtime.interpreter import Interpreter
feeds, results = np.load(sys.argv[1]), {}
for path in sys.argv[3:]:
    interpreter = Interpreter(model_path=path)
    interpreter.allocate_tensors()
    for key in interpreter.get_signature_list():
        run = interpreter.get_signature_runner(key)
        ids, masks = feeds["ids_" + key], feeds["mask_" + key]
        logits = [run(input_ids=i, attention_mask=m)["logits"] for i, m in zip(ids[:, None], masks[:, None])]
        results[path + ":" + key] = np.concatenate(logits)
np.savez(sys.argv[2], **results)
"""


def has_runtime(python: str | Path) -> bool:
    check = ("import tflite_runtime, tflite_runtime.interpreter as i; "
             "assert tflite_runtime.__version__ == '2.14.0'")
    return subprocess.run([python, "-c", check], capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def python214(pytestconfig) -> str:
    """A Python with tflite-runtime 2.14.0."""
    given = os.environ.get("EDGEBERT_TFLITE214_PYTHON")
    if given:
        assert has_runtime(given), f"EDGEBERT_TFLITE214_PYTHON={given} has no working tflite-runtime 2.14.0"
        return given
    folder = pytestconfig.cache.mkdir("tflite214")
    python = folder / "bin" / "python"
    if python.exists() and has_runtime(python):
        return str(python)
    found = [path for path in map(shutil.which, ("python3.11", "python3.10", "python3.9")) if path]
    if sys.version_info[:2] <= (3, 11):
        found.insert(0, sys.executable)
    if not found:
        pytest.skip("tflite-runtime 2.14.0 needs Python 3.11 or older and there is none on the path")
    subprocess.run([found[0], "-m", "venv", "--clear", folder], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "tflite-runtime==2.14.0", "numpy<2"]
    subprocess.run(install, check=True)
    return str(python)


@pytest.fixture(scope="module")
def results(python214, tmp_path_factory) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """File name -> (logits of tflite-runtime 2.14.0, logits of torch), both [n, labels]."""
    from tests.test_tflite_export import build, masks

    folder, nets = tmp_path_factory.mktemp("compat"), {"": build(SHAPE), "_tokens": build(TOKENS)}
    layers = (LayerPrecision("int8", "fp32"), LayerPrecision("fp32", "int8"), LayerPrecision())
    mixed = Precision(layers, head="fp32")
    wanted = {"compat": (Precision.uniform("int8", 3), "2.14"), "compat_mixed": (mixed, "2.14"),
              "dynamic": (Precision.uniform("int8", 3), None)}
    paths = {}
    for ending, net in nets.items():
        model = convert_tflite(net, InputSpec(LENGTHS), {"made": "by a test"})
        paths |= {write_tflite(model, folder / f"{name}{ending}.tflite", precision, compat).path: net
                  for name, (precision, compat) in wanted.items()}
    random, feeds = np.random.default_rng(1), {}
    for length in LENGTHS:
        mask = np.concatenate(list(masks(length).values()) * 3)
        ids = random.integers(0, SHAPE.vocab, mask.shape).astype(np.int32)
        feeds[f"ids_seq_{length}"], feeds[f"mask_seq_{length}"] = ids, mask
    np.savez(folder / "feeds.npz", **feeds)
    subprocess.run([python214, "-c", RUN, folder / "feeds.npz", folder / "logits.npz", *paths], check=True,
                   capture_output=True)
    logits = np.load(folder / "logits.npz")

    def truth(net: torch.nn.Module, length: int) -> np.ndarray:
        with torch.no_grad():
            return net(*(torch.from_numpy(feeds[f"{name}_seq_{length}"]) for name in ("ids", "mask"))).numpy()

    def flat(parts: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts])

    return {path.stem: (flat([logits[f"{path}:seq_{length}"] for length in LENGTHS]),
                        flat([truth(net, length) for length in LENGTHS])) for path, net in paths.items()}


@pytest.mark.parametrize("name", ["compat", "compat_mixed", "compat_tokens", "compat_mixed_tokens"])
def test_compat_files_are_right_in_tflite_runtime_214(results, name):
    got, wanted = results[name]
    rmse = np.sqrt(((got - wanted) ** 2).mean()) / wanted.std()
    assert 0 < rmse < 0.03


def test_dynamic_files_are_wrong_there(results):
    """Why compat exists. Once this fails, it can go."""
    got, wanted = results["dynamic"]
    assert np.sqrt(((got - wanted) ** 2).mean()) / wanted.std() > 0.5
