"""How long a run will take: what is left to do, times what this machine takes for it. Arithmetic over facts; nothing is
measured here (see `probing`), and nothing heavy is imported.

What has a number of steps, rows or products is counted, and multiplied with what some of them took just before. What has
none (a converter, a report) takes as many times a fixed chore of the interpreter as it did where it was measured
(docs/experiments.md, "Expected and actual time").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from edgebert import cost
from edgebert.spec import EncoderShape
from edgebert.tables import ErrorTables, LayerErrors, ffn_levels, head_levels
from edgebert.wording import duration

OBS, IN_ORDER = "obs", "in order"
"""Criteria that cost other work than gradients do; see `compress.obs` and `compress.importance`."""

BACKWARD = 3.0
"""A row's gradients over its answer."""

CORNER = 0.5
"""Mean size of the corners of a supernet's grid."""

ORDER_ROWS = 512
"""Rows that the order of layers is measured on (`elastic_stages`)."""

REMOVAL, SOLUTION = 3.0, 2.5
"""What a multiply-add costs in `compress.obs`, where vectors are multiplied and triangles solved, over one in a product
of two large matrices."""

AROUND = 6
"""Plans that a run looks for beside its own, for the report: more than these, but under one runtime alone."""

CONVERTED = {"onnx": (2.0, 0.6), "tflite": (24.0, 0.5)}
"""Format -> chores of one file of one length: for each layer, and for each million parameters."""

ANSWERS = {"onnx": 1700, "tflite": 950}
"""Format -> rows that the student could answer in torch while its files are held against it in every form."""

FILE_ROW = 0.5
"""A row answered by a file over one answered in torch."""

TIMED, BUNDLE = 90.0, 115.0
"""Chores of timing a format's files, and of writing everything, with the report."""


@dataclass(frozen=True)
class Pace:
    """What this machine takes, in seconds of one clock, on rows of the training data's lengths. fine_tune: a step that
    trains the source on labels; recover: one that teaches the student; elastic: one that teaches subnets of the source,
    0 where none is trained. row, student_row: answering one row in torch. product: 10^9 multiply-adds in float64. chore:
    see `probing.chore`. search: finding one plan."""

    fine_tune: float
    recover: float
    row: float
    student_row: float
    product: float
    chore: float
    search: float
    elastic: float = 0.0


@dataclass(frozen=True)
class Work:
    """What is left to do; what is in the cache counts nothing.

    source, student: shapes of what is cut, and of what it becomes. fine_tune, elastic, recover: steps of training,
    the last None where the effort has none.
    checks: how often a supernet in training is scored. tables: whether errors are still to be measured; criterion: how
    units are ranked for that, or for a supernet. calibration, table: rows that closed forms are solved on, and that cuts
    are measured on; tokens: of a row in the mean. cuts: how many networks are cut; refit: whether they are solved anew.
    searches: plans that are looked for. select, judged, test: rows of select, of dev and test together, of test; scored:
    how often those of dev and test are answered by the source, and by the student. converted: format -> files to be
    made for it, each length of a file counted; a format that is there is proved.
    """

    source: EncoderShape
    student: EncoderShape
    fine_tune: int = 0
    elastic: int = 0
    recover: int | None = 0
    checks: int = 0
    tables: bool = False
    criterion: str = OBS
    calibration: int = 0
    table: int = 0
    tokens: float = 0.0
    cuts: int = 0
    refit: bool = False
    searches: int = 0
    select: int = 0
    judged: int = 0
    test: int = 0
    scored: tuple[int, int] = (0, 0)
    converted: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Expected:
    """Seconds of each part of a run, in order; 0 where it is in the cache."""

    parts: dict[str, float]

    @property
    def seconds(self) -> float:
        return sum(self.parts.values())

    def text(self, without: tuple[str, ...] = ()) -> str:
        """Such as "about 6 min 10 s (teacher from the cache, tables 40 s, recovery 4 min 02 s, files and proof 50 s)".
        without: what is not counted."""
        said = ", ".join(f"{name} {duration(seconds) if seconds else 'from the cache'}"
                         for name, seconds in self.parts.items())
        left_out = f"; not counted: {', '.join(without)}" if without else ""
        return f"about {duration(self.seconds)} ({said}{left_out})"


def expected(work: Work, pace: Pace) -> Expected:
    """The time that is left. Parts that this run does not have, such as a supernet, are not named."""
    parts = {"teacher": work.fine_tune * pace.fine_tune}
    if work.elastic:
        parts["supernet"] = supernet_s(work, pace)
    parts["tables"] = tables_s(work, pace)
    parts["plan"] = work.searches * pace.search
    parts["cut"] = work.cuts * cut_s(work, pace)
    if work.recover is not None:
        parts["recovery"] = work.recover * pace.recover
    parts["scores"] = work.judged * (work.scored[0] * pace.row + work.scored[1] * pace.student_row)
    parts["files and proof"] = files_s(work, pace)
    return Expected(parts)


def supernet_s(work: Work, pace: Pace) -> float:
    """Ranking units by gradients and layers by leaving them out, training, and scoring the four corners of the grid."""
    layers = len(work.source.layers)
    ranking = work.calibration * BACKWARD * pace.row + ORDER_ROWS * layers * (layers + 1) / 2 * pace.row
    return ranking + work.elastic * pace.elastic + work.checks * 4 * CORNER * work.select * pace.row


def tables_s(work: Work, pace: Pace) -> float:
    """Every single cut is answered by the layers above it; the inverse Hessian solves each cut's weights first."""
    if not work.tables:
        return 0.0
    layers = len(work.source.layers)
    options = [len(head_levels(layer.heads)) + len(ffn_levels(layer.ffn)) + 1 for layer in work.source.layers]
    answers = 2 + sum(count * (layers - index - 1 / 2) / layers for index, count in enumerate(options))
    seconds = work.table * answers * pace.row
    if work.criterion != OBS:
        return seconds + work.calibration * BACKWARD * pace.row * (work.criterion != IN_ORDER)
    solved = sum(removal(layer.ffn, work.source.hidden) + removal(layer.heads * work.source.head_dim, work.source.hidden)
                 + sum(solution(level, layer.ffn, work.source.hidden) for level in ffn_levels(layer.ffn))
                 for layer in work.source.layers)
    return seconds + moments_s(work, pace) + solved * pace.product


def moments_s(work: Work, pace: Pace) -> float:
    """One pass over the calibration rows, with the products of what enters `output` and `down`."""
    squares = sum((layer.heads * work.source.head_dim) ** 2 + layer.ffn**2 for layer in work.source.layers)
    return work.calibration * (pace.row + work.tokens * squares / 1e9 * pace.product)


def cut_s(work: Work, pace: Pace) -> float:
    """Moments of the source, one solution for each matrix of the student; refitted, both networks once more, and the
    selection split twice."""
    inverse = work.criterion == OBS
    solved = sum(solution(layer.ffn, layer.ffn, work.source.hidden) for layer in work.student.layers)
    seconds = (moments_s(work, pace) + solved * pace.product) * inverse
    if work.refit:
        squares = sum((layer.heads * work.source.head_dim) ** 2 + layer.ffn * (layer.ffn + work.source.hidden)
                      for layer in work.student.layers)
        seconds += work.calibration * (pace.row + pace.student_row + work.tokens * squares / 1e9 * pace.product)
        seconds += solved * pace.product + 2 * work.select * pace.student_row
    return seconds


def removal(inputs: int, outputs: int) -> float:
    """10^9 multiply-adds of taking all inputs of a matrix out, one after another (`compress.obs`): a Cholesky inverse, a
    product of each block, and what each step changes."""
    return REMOVAL * (4 / 3 * inputs**3 + 2 * inputs**2 * (outputs + 64)) / 1e9


def solution(kept: int, inputs: int, outputs: int) -> float:
    """10^9 multiply-adds of the best weights of `kept` inputs."""
    return SOLUTION * (kept**3 / 3 + outputs * kept * (kept + inputs)) / 1e9


def files_s(work: Work, pace: Pace) -> float:
    """Converting, running the test split, timing, and the bundle with its report."""
    nets = (work.source, work.student)
    layers = sum(len(net.layers) for net in nets) / 2
    params = sum(cost.params(net) for net in nets) / 2 / 1e6
    chores = BUNDLE + sum(count * (CONVERTED[form][0] * layers + CONVERTED[form][1] * params) + TIMED
                          for form, count in work.converted.items())
    answers = sum(ANSWERS[form] + FILE_ROW * work.test for form in work.converted)
    return chores * pace.chore + answers * pace.student_row


def likely_tables(source: EncoderShape, length: int) -> ErrorTables:
    """Tables such as measured ones are like: a unit costs the more the fewer stay, a layer more than any of its widths.
    The plan they lead to is about as large as the real one."""
    def rising(levels: tuple[int, ...]) -> dict[int, float]:
        return {level: (1 - level / levels[-1]) ** 2 for level in levels}

    blank = ErrorTables.blank(source, length)
    return replace(blank, layers=tuple(LayerErrors(rising(head_levels(layer.heads)), rising(ffn_levels(layer.ffn)), 2.5,
                                                   0.001, 0.001) for layer in source.layers))
