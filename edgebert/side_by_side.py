"""Several bundles on one page: verdicts, figures and layers side by side, and what keeps them from being compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from edgebert import charts
from edgebert.charts_compare import BundlePoint, Front, bundles_chart, fronts_chart
from edgebert.cost import MB
from edgebert.report import RUNTIME_NAMES, environment, host_name, layer_rows, page_css
from edgebert.stored import Stored, renamed
from edgebert.verdict import There, Verdict, Versus, error_unit, primary, verdict
from edgebert.wording import spaced

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MOST = len(LETTERS)
SHORT = 12
"""Digits of a hash that a page shows."""

ACCURACY, SPEED = "accuracy", "speed"
"""What a difference keeps from being compared."""


class Side(NamedTuple):
    """One bundle. letter: what it is called on the page. best: the file that its headline speaks of. there: that file as
    timed on its target."""

    letter: str
    name: str
    stored: Stored
    judged: Verdict
    best: Versus
    there: There | None

    @property
    def points(self) -> tuple[float, float]:
        """Points of the file on the test split, of the torch student where it was not scored, and their plus-minus."""
        score = self.best.file.test or self.stored.evidence.model("student").test
        return score.points, score.plus_minus

    @property
    def drop(self) -> float:
        return self.stored.evidence.model("teacher").test.points - self.points[0]

    @property
    def checks(self) -> tuple[int, int]:
        """How many checks of the files hold, and how many there are."""
        rows = self.stored.evidence.parity
        return sum(row.ok for row in rows), len(rows)


class Difference(NamedTuple):
    """A fact that is not the same in all bundles. values: one for each. spoils: ACCURACY, SPEED or ""; whole: figures of
    that kind then measure different things, not only differently made ones."""

    name: str
    values: tuple[str, ...]
    spoils: str = ""
    whole: bool = False


def sides_of(found: Sequence[Stored]) -> tuple[Side, ...]:
    sides = []
    for letter, one in zip(LETTERS, renamed(found), strict=False):
        best, judged = primary(one.evidence, one.plan), verdict(one.evidence, one.plan, one.device, one.there)
        sides.append(Side(letter, one.folder.as_posix(), one, judged, best,
                          next((t for t in one.there if t.name == best.file.name), None)))
    return tuple(sides)


def differences(found: Sequence[Stored]) -> tuple[Difference, ...]:
    """What the bundles do not have in common of what they were made from and by."""
    packages = sorted({name for one in found for name in one.manifest.get("versions", {})})
    teachers = [one.evidence.model("teacher") for one in found]

    def row(name: str, values: Sequence[Any], spoils: str = "", whole: bool = False) -> Difference:
        return Difference(name, tuple("unknown" if value is None else str(value) for value in values), spoils, whole)

    def fact(name: str) -> list[Any]:
        return [one.manifest.get(name) for one in found]

    def sources(name: str) -> list[Any]:
        return [one.plan.provenance.get(name) for one in found]

    rows = (
        row("data", fact("data_sha256"), ACCURACY, True),
        row("metric", [one.evidence.metric for one in found], ACCURACY, True),
        row("teacher", [f"{made} scores {whole.dev.points:.2f} on dev, {whole.test.points:.2f} on test"
                        for made, whole in zip(fact("checkpoint_sha256"), teachers)], ACCURACY),
        row("seed", fact("seed"), ACCURACY),
        *(row(name, [one.manifest.get("versions", {}).get(name, "not installed") for one in found], ACCURACY)
          for name in packages),
        row("tokens of the longest input", [one.plan.length for one in found]),
        row("model that plans were cut from", sources("model_sha256")),
        row("error tables", sources("tables_sha256")),
        row("criterion", sources("criterion")),
        row("machine of the timings", [host_name(one.evidence) for one in found], SPEED, True),
        row("threads of the timings", [one.evidence.host.get("timed_threads", one.plan.threads) for one in found],
            SPEED, True),
        row("tokens of the timings", [one.evidence.length for one in found], SPEED, True))
    return tuple(one for one in rows if len(set(one.values)) > 1)


def spoilt(found: Sequence[Difference], kind: str) -> str:
    """Why figures of a kind are not to be compared, "" where they are: "not comparable: data, metric"."""
    of_kind = [one for one in found if one.spoils == kind]
    whole = [one.name for one in of_kind if one.whole]
    versions = [one.name for one in of_kind if not one.whole]
    if whole:
        return f"not comparable: other {', '.join(whole)}"
    return f"not like for like: other {', '.join(versions)}" if versions else ""


def render_comparison(found: Sequence[Stored], command: str) -> str:
    """One page that loads nothing from anywhere. found: two bundles or more, at most MOST. command: what made it."""
    sides, differ = sides_of(found), differences(found)
    together = not any(one.spoils == ACCURACY and one.whole for one in differ)
    metrics = {spaced(one.evidence.metric) for one in found}
    pictures = {"bundles": bundles_chart([_point(side, together) for side in sides], (
        f"test {metrics.pop()}, points" if together else "points above its own teacher"))}
    tables = {one.plan.provenance.get("tables_sha256") for one in found}
    same = len(tables) == 1 and None not in tables and all(one.evidence.front for one in found)
    if same:
        unit = error_unit(found[0].plan)
        pictures["fronts"] = fronts_chart([_front(side) for side in sides], f"predicted error ({unit})")
    return environment(html=True).get_template("compare.html.j2").render(
        sides=sides, differ=[one._replace(values=tuple(map(_short, one.values))) for one in differ], command=command,
        accuracy=spoilt(differ, ACCURACY), speed=spoilt(differ, SPEED), together=together, title=_title(sides),
        pictures=pictures, layers={side.letter: charts.layers_chart(layer_rows(side.stored.plan), side.letter)
                                   for side in sides},
        precision_roles=charts.PRECISION_ROLES, runtime_names=RUNTIME_NAMES, css=page_css())


def _title(sides: Sequence[Side]) -> str:
    """How many fit: "3 bundles: 1 fits, 1 should fit, 1 does not"."""
    kinds = {"fits": lambda v: v.fits and v.sure, "should fit": lambda v: v.fits and not v.sure,
             "does not fit": lambda v: v.fits is False and v.sure,
             "may not fit": lambda v: v.fits is False and not v.sure,
             "has no limits": lambda v: v.fits is None}
    plural = {"fits": "fit", "does not fit": "do not fit", "has no limits": "have no limits"}
    counts = {name: sum(bool(holds(side.judged)) for side in sides) for name, holds in kinds.items()}
    said = [f"{count} {name if count == 1 else plural.get(name, name)}" for name, count in counts.items() if count]
    return f"{len(sides)} bundles: {', '.join(said)}"


def _point(side: Side, together: bool) -> BundlePoint:
    points, plus_minus = side.points
    return BundlePoint(side.letter, side.stored.plan.estimate.tail_ms, points if together else -side.drop, plus_minus,
                       side.best.file.file_bytes / MB)


def _front(side: Side) -> Front:
    plan = side.stored.plan
    tail = plan.estimate.tail_ms / plan.estimate.latency_ms
    points = tuple(charts.Point(point.latency_ms * tail, point.error) for point in side.stored.evidence.front)
    return Front(side.letter, points, charts.Point(plan.estimate.tail_ms, plan.predicted_error))


def _short(text: str) -> str:
    """With the first digits only of a hash at its beginning."""
    first, space, rest = text.partition(" ")
    hashed = len(first) == 64 and all(digit in "0123456789abcdef" for digit in first)
    return f"{first[:SHORT]}…{space}{rest}" if hashed else text
