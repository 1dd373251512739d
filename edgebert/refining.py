"""Plans tried for real: cut as `cutting` cuts them, but shared between plans, and held against the teacher's answers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgebert.cache import content_key
from edgebert.compress.moments import Moments, second_moments
from edgebert.compress.obs import CRITERION as OBS
from edgebert.compress.obs import head_columns
from edgebert.compress.refit import joined, reconstruct, refit
from edgebert.compress.subnet import extract
from edgebert.cutting import cut_of
from edgebert.errors import UsageError
from edgebert.material import Material
from edgebert.modeling import Encoder, Layer
from edgebert.origin import Origin
from edgebert.plan import CompressionPlan
from edgebert.refine import Ground, axes_of, refine
from edgebert.request import FitRequest
from edgebert.spec import LayerSpec, SubnetSpec
from edgebert.stages import Workplace, calibration, weights_hash
from edgebert.study import PATIENCE, Study, journal, open_storage
from edgebert.tables import ErrorTables
from edgebert.train.batches import Batch, Rows, in_order
from edgebert.train.objectives import OBJECTIVES, Objective

TRY_TOKENS = 8192
"""Tokens of the selection rows that every trial answers at most, and at most half of the rows: the finalists answer the
rest."""

REFIT_ROWS = 256
"""Training rows that a trial is refitted on where the plan will be: a quarter of those that the plan itself gets. Without
that, trials say little of what comes after it (docs/experiments.md)."""

Seen = Callable[[], list[dict[str, Moments]]]


def refined(first: CompressionPlan, request: FitRequest, material: Material, teacher: Encoder, origin: Origin,
            work: Workplace) -> CompressionPlan:
    """`first`, the additive optimum, or a plan of the same budget that answers more as the teacher does before recovery.

    Plans are searched on some rows of the selection split and judged on the others (docs/decisions/0003: by divergence).
    Raises UsageError where Optuna is not installed, or the study of the request cannot be opened."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise UsageError("--refine needs optuna; pip install 'edgebert[build]', or plan by the tables alone with "
                         "--refine 0") from error
    stream = first.subnet.hidden
    tables = replace(origin.tables, hidden={stream: origin.tables.hidden[stream]} if stream else {})
    depths = () if origin.space is None else tuple(map(origin.space.kept, origin.space.depths))
    ground = Ground(first, tables, request.profile, "both" if request.runtime == "both" else first.runtime, depths)
    inputs = {"plan": first.dumps(), "tables": origin.tables.sha256, "rows": list(map(asdict, request.profile.rows)),
              "model": weights_hash(origin.net), "teacher": weights_hash(teacher), "data": material.data.sha256,
              "runtime": ground.runtime, "methods": list(request.methods), "trials": request.refine, "seed": request.seed,
              "depths": [list(kept) for kept in depths], "rows_tried": [TRY_TOKENS, REFIT_ROWS]}

    def make(out: Path, partial: Path) -> None:
        seen = cache(lambda: second_moments(origin.net, calibration(material.train, work), ("output", "down")))
        tried, held = halves(material.select, work.seed)
        objective = OBJECTIVES[material.data.kind]
        refitted = calibration(material.train, work, REFIT_ROWS) if "refit" in request.methods else []
        trial = Tryout(Jury(teacher, tried, objective), origin.net, tables, seen, refitted)
        judge = Jury(teacher, held, objective)
        storage = open_storage(request.study) if request.study else journal(partial / "study.journal")
        study = Study(storage, f"edgebert {content_key('refined', 1, inputs)}", axes_of(tables), request.seed)
        with work.reporter.stage("refine the plan", request.refine) as tick:
            plan = refine(ground, study, request.refine, trial.divergence, lambda plan: judge.divergences(
                cut_of(plan, origin.net, material, request.methods, work, seen).net), tick,
                PATIENCE if request.study else 0.0)
        (out / "plan.json").write_text(plan.dumps(), encoding="utf-8")

    plan, found = work.cache.stage("refined", 1, inputs, make,
                                   lambda entry: CompressionPlan.loads((entry / "plan.json").read_text()))
    if found:
        work.reporter.reused("refine the plan", f"{request.refine} trials")
    work.reporter.say(f"  refined: {plan.provenance['refined']}")
    return plan


def halves(select: Rows, seed: int) -> tuple[Rows, Rows]:
    """Rows to search with, at most TRY_TOKENS tokens, and the others. Raises UsageError for fewer than 4 rows."""
    if len(select) < 4:
        raise UsageError(f"--refine needs at least 4 rows to select plans with, the data leave {len(select)}; give more "
                         "training rows, or --refine 0")
    order = np.random.default_rng(seed).permutation(len(select))
    fit = int(np.searchsorted(np.cumsum(select.lengths[order]), TRY_TOKENS, side="right"))
    count = max(2, min(fit, len(select) // 2))
    return select.take(np.sort(order[:count])), select.take(np.sort(order[count:]))


class Jury:
    """The teacher's answers to some rows, and how far those of other networks are from them."""

    def __init__(self, teacher: Encoder, rows: Rows, objective: Objective) -> None:
        self.batches, self.objective, self.rows = list(in_order(rows, 64)), objective, len(rows)
        with torch.no_grad():
            self.answers = [teacher.eval()(*batch.inputs) for batch in self.batches]

    @torch.no_grad()
    def divergences(self, net: Encoder) -> np.ndarray:
        """Of each row, [N]."""
        return self.of([net(*batch.inputs) for batch in self.batches])

    def of(self, answers: list[Tensor]) -> np.ndarray:
        found = np.zeros(self.rows)
        for own, whole, batch in zip(answers, self.answers, self.batches, strict=True):
            found[batch.index.numpy()] = self.objective.divergence(own, whole, batch).numpy()
        return found


class Tryout:
    """Networks of plans as `cutting.cut_of` cuts them before anything is stored as a product, without copies: rows of the
    origin with its units in the tables' order, and of `output` and `down` what makes up for the cut, solved once for each
    width. batches: training rows to refit them on, none for none."""

    def __init__(self, jury: Jury, origin: Encoder, tables: ErrorTables, seen: Seen,
                 batches: Sequence[Batch] = ()) -> None:
        self.jury, self.tables, self.origin, self.seen, self.batches = jury, tables, origin, seen, batches
        self.net = extract(origin, SubnetSpec.full(origin.shape), tables.head_order, tables.neuron_order)
        self.solved: dict[tuple[int, str, int], Tensor] = {}

    def divergence(self, plan: CompressionPlan) -> float:
        """Mean over the rows."""
        return max(0.0, float(self.jury.divergences(self.cut(plan)).mean()))

    def cut(self, plan: CompressionPlan) -> Encoder:
        """The plan's layers, heads and neurons; shares what it can with the origin."""
        subnet = plan.subnet.whole
        net = copy.copy(self.net)
        net._modules = dict(self.net._modules)
        net.layers = nn.ModuleList(self._layer(i, spec, subnet) for i, spec in zip(subnet.kept, subnet.layers))
        net.shape = subnet.shape(self.origin.shape)
        if self.batches and subnet != SubnetSpec.full(self.origin.shape):
            return refit(self.origin, net, subnet, self.batches)
        return net

    def _layer(self, index: int, spec: LayerSpec, subnet: SubnetSpec) -> Layer:
        whole, inner = self.net.layers[index], spec.heads * self.net.layers[index].head_dim
        updated = self.tables.criterion == OBS and subnet != SubnetSpec.full(self.origin.shape)
        with torch.device("meta"):
            layer = Layer(self.origin.shape, spec, self.origin.eps)
        for name, count in (("query", inner), ("key", inner), ("value", inner), ("up", spec.ffn)):
            source = getattr(whole, name)
            _give(getattr(layer, name), source.weight[:count], source.bias[:count])
        for name, count in (("output", inner), ("down", spec.ffn)):
            source = getattr(whole, name)
            if updated:
                both = self._updated(index, name, count, spec)
                _give(getattr(layer, name), both[:, :-1], both[:, -1])
            else:
                _give(getattr(layer, name), source.weight[:, :count], source.bias)
        layer.attention_norm, layer.ffn_norm = whole.attention_norm, whole.ffn_norm
        return layer.eval()

    def _updated(self, index: int, name: str, count: int, spec: LayerSpec) -> Tensor:
        """[weight, bias] of `output` or `down` for its first `count` inputs in the tables' order."""
        if (key := (index, name, count)) not in self.solved:
            kept = list(self.tables.neuron_order[index][:count])
            if name == "output":
                kept = head_columns(self.tables.head_order[index][: spec.heads], self.net.layers[index].head_dim)
            old = joined(getattr(self.origin.layers[index], name))
            self.solved[key] = reconstruct(old, self.seen()[index][name], kept).float()
        return self.solved[key]


def _give(linear: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    linear.weight, linear.bias = (nn.Parameter(value, requires_grad=False) for value in (weight, bias))
