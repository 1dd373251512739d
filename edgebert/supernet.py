"""The supernet on disk: one folder that holds every subnet, the teacher, the error tables, and how each subnet scores.

    supernet.json    the space of subnets, the task and its data's hash, scores of the grid, how it was trained
    supernet/        the elastic weights, as a transformers model
    teacher/         the model they were trained to answer as, with its tokenizer
    tables.json      the error of every single cut, for the search
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from device_bench.strict_json import bounded_text, strict_json
from edgebert import __version__
from edgebert.bundle import file_sha256
from edgebert.data import Columns
from edgebert.errors import UsageError
from edgebert.space import ElasticSpace
from edgebert.spec import SubnetSpec
from edgebert.tables import ErrorTables

SCHEMA = 1
WEIGHTS, TEACHER = Path("supernet/model.safetensors"), Path("teacher/model.safetensors")


@dataclass(frozen=True)
class TaskRecord:
    """What a supernet was trained on, so that the same data can be found again. task: a demo task; data: a file or
    folder; one of the two. sha256: of the data's content."""

    name: str
    kind: str
    metric: str
    sha256: str
    length: int
    task: str | None = None
    data: str | None = None
    columns: Columns = field(default_factory=Columns)


@dataclass(frozen=True)
class GridPoint:
    """One subnet of the grid and its points on the three splits that nothing was trained on."""

    width: float
    depth: float
    subnet: SubnetSpec
    select: float
    dev: float
    test: float


@dataclass(frozen=True)
class Supernet:
    """An opened supernet. teacher: its points on (select, dev, test). training: the settings it was made with.
    sha256: of the two weight files."""

    folder: Path
    space: ElasticSpace
    task: TaskRecord
    teacher: tuple[float, float, float]
    grid: tuple[GridPoint, ...]
    tables: ErrorTables
    training: dict[str, Any]
    sha256: dict[str, str]

    @property
    def weights_folder(self) -> Path:
        return self.folder / WEIGHTS.parent

    @property
    def teacher_folder(self) -> Path:
        return self.folder / TEACHER.parent


def write_record(folder: Path, space: ElasticSpace, task: TaskRecord, teacher: tuple[float, float, float],
                 grid: tuple[GridPoint, ...], tables: ErrorTables, training: dict[str, Any]) -> None:
    """Writes supernet.json and tables.json into a folder that holds the weights already."""
    value = {"schema": SCHEMA, "edgebert": __version__, "space": space.to_json(), "task": asdict(task),
             "teacher": list(teacher), "grid": [{**asdict(p), "subnet": p.subnet.to_json()} for p in grid],
             "training": training, "sha256": {p.as_posix(): file_sha256(folder / p) for p in (WEIGHTS, TEACHER)}}
    (folder / "tables.json").write_text(json.dumps(tables.to_json()) + "\n", encoding="utf-8")
    (folder / "supernet.json").write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def open_supernet(folder: Path) -> Supernet:
    """Reads and checks a supernet folder; the weights are hashed, not loaded.

    Raises UsageError where a part is missing, damaged, or written by a version with another format."""
    folder = Path(folder)
    path = folder / "supernet.json"
    try:
        value = strict_json(bounded_text(path))
        schema = value["schema"]
    except FileNotFoundError as error:
        raise UsageError(f"{folder}: no supernet.json; make a supernet with `edgebert train-elastic --out "
                         f"{folder}`") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: not readable as a supernet's record ({type(error).__name__})") from error
    if schema != SCHEMA:
        raise UsageError(f"{path}: written in format {schema} by edgebert {value.get('edgebert', '?')}, this is "
                         f"{__version__}, which reads format {SCHEMA}; train it again")
    try:
        expected = {part: value["sha256"][part.as_posix()] for part in (WEIGHTS, TEACHER)}
    except (KeyError, TypeError) as error:
        raise UsageError(f"{path}: does not say what its weights are ({error}); train it again") from error
    for part, sha256 in expected.items():
        if not (folder / part).is_file():
            raise UsageError(f"{folder}: {part} is missing")
        if file_sha256(folder / part) != sha256:
            raise UsageError(f"{folder}: {part} is not the file that was written (sha256 differs); train it again")
    try:
        task = value["task"]
        grid = tuple(GridPoint(**{**p, "subnet": SubnetSpec.from_json(p["subnet"])}) for p in value["grid"])
        select, dev, test = (float(score) for score in value["teacher"])
        return Supernet(folder, ElasticSpace.from_json(value["space"]),
                        TaskRecord(**{**task, "columns": Columns(**task["columns"])}), (select, dev, test), grid,
                        ErrorTables.loads((folder / "tables.json").read_text(encoding="utf-8")), value["training"],
                        dict(value["sha256"]))
    except (OSError, KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
        raise UsageError(f"{folder}: the supernet's record is damaged ({error}); train it again") from error
