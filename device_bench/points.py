"""Operating points: subnets of one network that share their weights, 1 the largest.

A TFLite file has the signatures of all: "seq_64" is of point 1, "point2_seq_64" of point 2. Of ONNX each point is a file,
model.onnx, model_point2.onnx ..., and the weights of all lie in model.onnx.data beside them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Optional

SIGNATURE = r"(?:point(\d{1,3})_)?seq_(\d+)"  # the point, if it is not the largest, and the length
_FILE = re.compile(r"_point(\d{1,3})(?=\.onnx$)")


def signature_of(point: int, length: int) -> str:
    """The name of the signature of a TFLite file that runs a point on rows of that length."""
    return f"seq_{length}" if point == 1 else f"point{point}_seq_{length}"


def point_of_signature(name: str) -> int:
    """Which point a signature is of: 1 where its name says nothing."""
    named = re.fullmatch(SIGNATURE, name)
    return int(named[1]) if named and named[1] else 1


def file_of(path: Path, point: int) -> Path:
    """The file of a point. path: that of point 1."""
    return path if point == 1 or path.suffix != ".onnx" else path.with_name(f"{path.stem}_point{point}.onnx")


def point_of_file(path: Path) -> int:
    """Which point an ONNX file is; 1 for any other file."""
    named = _FILE.search(Path(path).name)
    return int(named[1]) if named else 1


def weights_name(path: Path) -> str:
    """What the file is called that the weights of an ONNX file of several points lie in."""
    return _FILE.sub("", Path(path).name) + ".data"


def weights_beside(path: Path) -> Optional[Path]:
    """That file, None where there is none."""
    found = Path(path).with_name(weights_name(path))
    return found if Path(path).suffix == ".onnx" and found.is_file() else None


def golden_name(point: int) -> str:
    """What the golden rows of a point are called."""
    return "golden.json" if point == 1 else f"golden_point{point}.json"
