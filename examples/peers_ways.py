"""Who is measured by bench_peers.py: what its user writes (the files in ways/), where that runs, and what ships."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from edgebert.errors import UsageError
from tests.peers.build import python_of, why_not

SNIPPETS = Path(__file__).with_name("ways")
OWN = "own"
"""Our own environment; the others are those of tests/peers."""
TELL = ("import json, sys; from importlib.metadata import metadata; found = metadata(sys.argv[1]); "
        "words = [one.rpartition(' :: ')[2] for one in found.get_all('Classifier', []) if one.startswith('License')]; "
        "print(json.dumps([found['Version'], found.get('License-Expression') or ' '.join(words) or found['License']]))")


class Absent(RuntimeError):
    """A way cannot be gone here; the message says why."""


@dataclass(frozen=True)
class Way:
    """name: as the table has it. steps: what the user writes, each as (environment, file in ways/), run one after the
    other in a folder that holds teacher/ and data/. serves: what of that folder answers, and `kind` by which of
    peers_worker.OPENERS. ships: patterns of the files that the app needs. package: whose version and licence are told.
    trained: what learns after the teacher, None for nothing."""

    name: str
    steps: tuple[tuple[str, str], ...]
    serves: str
    package: str
    kind: str = "encoder"
    ships: tuple[str, ...] = ("teacher/tokenizer.json",)
    trained: str | None = None
    answers_in: str = OWN

    @property
    def sha256(self) -> str:
        """Of what its user writes; of a bundle, of its model file."""
        words = [(SNIPPETS / name).read_bytes() for _, name in self.steps] or [Path(self.serves).read_bytes()]
        return hashlib.sha256(b"".join(words)).hexdigest()

    @property
    def lines(self) -> int:
        """That are not blank."""
        texts = ((SNIPPETS / name).read_text(encoding="utf-8") for _, name in self.steps)
        return sum(bool(line.strip()) for text in texts for line in text.splitlines())


REFERENCE = Way("torch.onnx, fp32", ((OWN, "torch_onnx.py"),), "raw.onnx", "onnxruntime")
BUNDLE = ("bundle/tokenizer.json",)
WAYS = (
    REFERENCE,
    Way("optimum-onnx, int8", (("optimum-onnx", "optimum_onnx.sh"),), "model_quantized.onnx", "optimum-onnx"),
    Way("OpenVINO + NNCF, int8", ((OWN, "torch_onnx.py"), ("openvino", "quantise_with_nncf.py")), "model.xml", "openvino",
        "openvino", ("teacher/tokenizer.json", "model.bin"), answers_in="openvino"),
    Way("litert-torch, int8", ((OWN, "convert_with_litert.py"),), "model.tflite", "litert-torch"),
    Way("edgebert export, TFLite int8", ((OWN, "edgebert_export_tflite.sh"),), "bundle/model_qint8.tflite", "edgebert",
        ships=BUNDLE),
    Way("edgebert export, ONNX int8", ((OWN, "edgebert_export_onnx.sh"),), "bundle/model_qint8.onnx", "edgebert",
        ships=BUNDLE),
    Way("Torch-Pruning, int8", (("torch-pruning", "cut_with_torch_pruning.py"),), "model.onnx", "torch-pruning"),
    Way("TextPruner, int8", (("textpruner", "cut_with_textpruner.py"),), "model.onnx", "textpruner"),
    Way("edgebert fit-device quick, TFLite int8", ((OWN, "edgebert_quick.sh"),), "bundle/model_qint8.tflite",
        "edgebert", ships=BUNDLE),
    Way("model2vec", (("model2vec", "distil_with_model2vec.py"),), "model", "model2vec", "static", ("model/**/*",),
        "all of it, on the labels", "model2vec"),
    Way("TF-IDF, logistic regression", ((OWN, "tfidf.py"),), "model.npz", "scikit-learn", "linear", (),
        "all of it, on the labels"),
)


def bundled(folder: Path) -> Way:
    """A bundle of fit-device that is there already, and whose student was trained. Raises UsageError where it is none."""
    files = [path for pattern in ("model_q*.tflite", "model_q*.onnx") for path in sorted(folder.glob(pattern))]
    if not files:
        raise UsageError(f"{folder} holds no int8 model file; give a bundle that fit-device wrote")
    return Way(f"edgebert bundle {folder.name}", (), str(files[0].resolve()), "edgebert",
               ships=(str(folder.resolve() / "tokenizer.json"),), trained="distilled from the teacher")


def python_for(environment: str) -> Path:
    """Raises Absent where it is not built."""
    if environment == OWN:
        return Path(sys.executable)
    if reason := why_not(environment):
        raise Absent(reason)
    return python_of(environment)


def made(way: Way, place: Path) -> Path:
    """The folder in `place`, which holds teacher/ and data/, where the way has been gone: now, or before with the same
    words. Its made.json: minutes of the processor, version, licence. Raises Absent with the last line that a failed step
    printed."""
    folder = place / f"{''.join(c if c.isalnum() else '-' for c in way.name.lower())}-{way.sha256[:8]}"
    if folder.exists():
        return folder
    unfinished = folder.with_name(f"unfinished-{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for name in ("teacher", "data"):
        (unfinished / name).symlink_to(Path("..") / name, target_is_directory=True)
    before = _children_seconds()
    for environment, name in way.steps:
        _gone(python_for(environment), SNIPPETS / name, unfinished)
    seconds = _children_seconds() - before
    told = subprocess.run([python_for(way.steps[-1][0] if way.steps else OWN), "-c", TELL, way.package],
                          capture_output=True, text=True, check=True)
    version, licence = json.loads(told.stdout)
    facts = {"cpu_minutes": seconds / 60 if way.steps else None, "version": version, "licence": licence}
    (unfinished / "made.json").write_text(json.dumps(facts), encoding="utf-8")
    os.replace(unfinished, folder)
    return folder


def _gone(python: Path, snippet: Path, folder: Path) -> None:
    """Runs a .py by that Python, a .sh with that environment's commands first on the path."""
    environment = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
                   "EDGEBERT_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [str(python), str(snippet)] if snippet.suffix == ".py" else ["sh", "-e", str(snippet)]
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        done = subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        said = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it failed"]
        raise Absent(f"{snippet.name}: {said[-1][:200]}")


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def shipped(way: Way, folder: Path) -> int:
    """Bytes of what answers and of what it needs beside it; no runtime is counted."""
    serves = folder / way.serves
    files = set() if serves.is_dir() else {serves.resolve()}
    for pattern in way.ships:
        found = [Path(pattern)] if Path(pattern).is_absolute() else list(folder.glob(pattern))
        files |= {path.resolve() for path in found if path.is_file()}
    return sum(path.stat().st_size for path in files)
