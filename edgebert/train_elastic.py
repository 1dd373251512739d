"""From a model and a task to a supernet on disk: the path of `edgebert train-elastic`, told by `train_elastic`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from edgebert.cache import Cache
from edgebert.claim import claiming, made_beside, move_into_place
from edgebert.compress.importance import IN_ORDER
from edgebert.crew import leave_to_main
from edgebert.elastic_stages import Elastic, ElasticSettings, elastic_of
from edgebert.material import Material, gather
from edgebert.modeling import Encoder, wrap
from edgebert.progress import Reporter
from edgebert.prove import evaluate
from edgebert.request import RunRequest
from edgebert.stages import Workplace, tables_of, teacher_of
from edgebert.supernet import (
    TEACHER,
    WEIGHTS,
    GridPoint,
    Supernet,
    TaskRecord,
    open_supernet,
    write_record,
)
from edgebert.tables import ErrorTables
from edgebert.tokenization import write_tokenizer
from edgebert.train.elastic import subnet_logits
from edgebert.train.teacher import logits_of


@dataclass(frozen=True)
class ElasticRequest(RunRequest):
    """One run of `train_elastic`."""

    settings: ElasticSettings
    out: Path
    criterion: str = "fisher"


@claiming
def train_elastic(request: ElasticRequest, cache: Cache, reporter: Reporter) -> Supernet:
    """Fine-tunes the teacher, trains the supernet, scores the grid of its subnets, and writes `request.out`."""
    work = Workplace(cache, reporter, request.seed, request.tensorboard)
    material = gather(request, reporter, cache)
    request.settings.space(material.checkpoint.net.shape)  # refuses widths that do not fit before anything is trained
    teacher = teacher_of(material.checkpoint, material.data, material.train, request.teacher_epochs, work)
    elastic = elastic_of(teacher, material, request.settings, request.criterion, work)
    leave_to_main()
    tables = tables_of(elastic.net, material.data, material.train, IN_ORDER, work)
    scores, grid = score_grid(teacher, elastic, material, work)
    with reporter.stage("write the supernet"):
        return write_supernet(request, material, teacher, elastic, tables, scores, grid)


def score_grid(teacher: Encoder, elastic: Elastic, material: Material, work: Workplace,
               precision: str = "fp32") -> tuple[tuple[float, float, float], tuple[GridPoint, ...]]:
    """Points of the teacher and of every subnet of the grid on (select, dev, test). precision: of the subnets'
    products."""
    points, found = list(elastic.space.grid()), []
    judged = evaluate("teacher", teacher, material, work)
    select = material.scorers["select"].points(logits_of(teacher, material.select))
    whole = (select, judged.dev.points, judged.test.points)
    with work.reporter.stage("score the grid", len(points)) as tick:
        for width, depth, subnet in points:
            scores = material.scores(lambda rows, subnet=subnet: subnet_logits(elastic.net, subnet, rows, precision))
            found.append(GridPoint(width, depth, subnet, *scores))
            tick(1)
    return whole, tuple(found)


def write_supernet(request: ElasticRequest, material: Material, teacher: Encoder, elastic: Elastic, tables: ErrorTables,
                   scores: tuple[float, float, float], grid: tuple[GridPoint, ...]) -> Supernet:
    """Writes everything into a temporary folder beside `request.out` and renames it."""
    from transformers.utils import logging

    data, folder = material.data, material.checkpoint.folder
    logging.disable_progress_bar()
    data_place = request.data and str(request.data.absolute() if request.data.exists() else request.data)
    with made_beside(request.out) as made:
        for name, net in ((WEIGHTS.parent, elastic.net), (TEACHER.parent, teacher)):
            wrap(net, data.labels, material.checkpoint.source_layers, kind=data.kind).save_pretrained(made / name)
        write_tokenizer(folder, made / TEACHER.parent)
        task = TaskRecord(data.name, data.kind, material.metric, data.sha256, material.inputs.max_length, request.task,
                          data_place, request.columns)
        write_record(made, elastic.space, task, scores, grid, tables,
                     {**asdict(request.settings), "seed": request.seed, "command": request.command})
        move_into_place(made, request.out, request.overwrite)
    return open_supernet(request.out)
