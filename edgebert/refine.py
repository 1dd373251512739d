"""A plan beyond the sum of errors: plans that the additive model thinks good are tried for real, and more are made from
what the trials say.

Every plan tried is an exact optimum, so it keeps the budget and spends all of it: of the tables as they are (the best
one, the next best ones), or of tables in which some errors count for more and others for less. By how much is what an
Optuna study looks for. How a plan is measured is the caller's; nothing here needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgebert.choice import choose_plan
from edgebert.device import DeviceProfile
from edgebert.plan import CompressionPlan
from edgebert.searching import Infeasible, ranked
from edgebert.study import GENERATION, PATIENCE, Parameters, Proposal, Study, Tried, fill
from edgebert.tables import ErrorTables, LayerErrors
from exporters.artifact import Precision

BEST = 4
"""Optima of the tables as they are that are tried, the first among them."""

SHALLOWER = (-0.5, -1.0, -1.5, -2.0)
"""Logarithms of factors on what leaving a layer out costs: the tables err against plans with fewer layers."""

FINALISTS = 3
"""Plans that are built to be judged, the additive optimum among them."""

DRAWS = 4
"""Points of the space that are drawn at most to find a plan that was not tried before."""


@dataclass(frozen=True)
class Ground:
    """What plans are searched in. first: the additive optimum. depths: sets of kept layers whose best plans are tried."""

    first: CompressionPlan
    tables: ErrorTables
    profile: DeviceProfile
    runtime: str
    depths: tuple[tuple[int, ...], ...] = ()

    def best(self, tables: ErrorTables) -> CompressionPlan:
        """The optimum of other tables for the same budget, priced by the true ones; its bound is that of the true
        optimum, so that its gap says by how much more it is predicted to lose. Raises searching.Infeasible."""
        first = self.first
        plan = choose_plan(tables, self.profile, first.budget, self.runtime, first.threads, first.length, first.shorter)
        return self.certified(plan)

    def certified(self, plan: CompressionPlan) -> CompressionPlan:
        error, dual = self.tables.error_of(plan.subnet, plan.precision), self.first.bound.dual
        bound = replace(self.first.bound, objective=error, gap=(error - dual) / abs(error) if error else 0.0)
        return replace(plan, predicted_error=error, bound=bound, provenance=self.first.provenance)


@dataclass(frozen=True)
class Verdict:
    """One finalist beside the additive optimum. value: its mean divergence; gain: by how much less that is than the
    optimum's; spread: the standard error of the gain, of the same rows."""

    plan: CompressionPlan
    value: float
    gain: float
    spread: float


def axes_of(tables: ErrorTables) -> dict[str, tuple[float, float]]:
    """The space of weights: logarithms of factors on the errors of each layer's heads and neurons, and of the layers'
    absence; and the power that errors are raised to, below 1 where many small cuts cost more than their sum."""
    blocks = {f"{part} {layer}": (-1.0, 1.0) for layer in range(len(tables.layers)) for part in ("heads", "neurons")}
    return {**blocks, "absence": (-2.0, 1.0), "power": (0.5, 1.5)}


def weighed(tables: ErrorTables, at: Parameters) -> ErrorTables:
    """The tables as a point of `axes_of` weighs them. A layer's absence counts with its blocks: halfway between them."""
    def powers(errors: Mapping[int, float], factor: float) -> dict[int, float]:
        return {width: factor * error ** at["power"] for width, error in errors.items()}

    def layer(index: int, errors: LayerErrors) -> LayerErrors:
        heads, neurons = at[f"heads {index}"], at[f"neurons {index}"]
        absent = math.exp(at["absence"] + (heads + neurons) / 2)
        return replace(errors, heads=powers(errors.heads, math.exp(heads)), ffn=powers(errors.ffn, math.exp(neurons)),
                       drop=absent * errors.drop ** at["power"])

    return replace(tables, layers=tuple(layer(i, errors) for i, errors in enumerate(tables.layers)))


def unmeasured(tables: ErrorTables, plan: CompressionPlan, built: bool) -> float:
    """What the tables say of all that a measurement of the plan in fp32 does not see. built: as it will be, but for its
    precision; otherwise its layers, heads and neurons alone."""
    plain = Precision.uniform("fp32", len(plan.subnet.kept))
    seen = plan.subnet if built else plan.subnet.whole
    return tables.error_of(plan.subnet, plan.precision) - tables.error_of(seen, plain)


class Proposer:
    """Proposals of each generation, and their plans by name."""

    def __init__(self, ground: Ground, study: Study) -> None:
        self.ground, self.study = ground, study
        self.plans: dict[str, CompressionPlan] = {}
        self._made: dict[int, dict[int, Proposal]] = {}

    def generation(self, slot: int, tried: Sequence[Tried]) -> dict[int, Proposal]:
        """Those of the generation that `slot` is in. The first one is the plans to start from."""
        if not self._made:
            self._made[0] = dict(enumerate(self._starts()))
        starts = len(self._made[0])
        first = 0 if slot < starts else starts + (slot - starts) // GENERATION * GENERATION
        if first not in self._made:
            self._made[first] = self._drawn(first, [trial for trial in tried if trial.slot < first])
        return self._made[first]

    def plan(self, proposal: Proposal) -> CompressionPlan:
        """Of a proposal of a process before this one it is found again."""
        if proposal.name not in self.plans:
            self._named(self.ground.best(weighed(self.ground.tables, proposal.parameters)))
        return self.plans[proposal.name]

    def _named(self, plan: CompressionPlan) -> str:
        name = name_of(plan)
        self.plans.setdefault(name, plan)
        return name

    def _starts(self) -> list[Proposal]:
        ground = self.ground
        middle = dict.fromkeys(axes_of(ground.tables), 0.0) | {"power": 1.0}
        found = [Proposal(middle, self._named(ground.first))]
        for plan in ranked(ground.first, ground.tables, ground.profile, BEST):
            found.append(Proposal({}, self._named(ground.certified(plan))))
        for point in ({**middle, "absence": factor} for factor in SHALLOWER):
            found.append(Proposal(point, self._named(ground.best(weighed(ground.tables, point)))))
        for kept in ground.depths:
            try:
                plan = ground.best(ground.tables.keeping(kept))
            except Infeasible:
                continue
            found.append(Proposal({}, self._named(plan)))
        different: dict[str, Proposal] = {}
        for proposal in found:
            different.setdefault(proposal.name, proposal)
        return list(different.values())

    def _drawn(self, first: int, history: list[Tried]) -> dict[int, Proposal]:
        known, found = {trial.proposal.name for trial in history}, {}
        for slot in range(first, first + GENERATION):
            for draw in range(DRAWS):
                point = self.study.suggest(history, slot, draw)
                found[slot] = Proposal(point, self._named(self.ground.best(weighed(self.ground.tables, point))))
                if found[slot].name not in known:
                    break
            known.add(found[slot].name)
        return found


def name_of(plan: CompressionPlan) -> str:
    """What tells a plan from others, for people too: "0 4x96 int8 int8; 2 ..."."""
    layers = "; ".join(" ".join([f"{index} {spec.heads}x{spec.ffn}", *([f"q{spec.qk_dim}"] if spec.qk_dim else []),
                                 *(f"{name}{rank}" for name, rank in spec.ranks), kind.attention, kind.ffn])
                       for index, spec, kind in zip(plan.subnet.kept, plan.subnet.layers, plan.precision.layers))
    frame = [plan.runtime, plan.precision.embedding, plan.precision.head, *(f"{name} {value}" for name in
             ("word_rank", "hidden") if (value := getattr(plan.subnet, name)))]
    return f"{layers}; {' '.join(frame)}"


def refine(ground: Ground, study: Study, trials: int, measure: Callable[[CompressionPlan], float],
           judge: Callable[[CompressionPlan], np.ndarray], tick: Callable[[int], None] = lambda trials: None,
           patience: float = PATIENCE) -> CompressionPlan:
    """The additive optimum, or a plan that is measured to be better by more than chance.

    trials: how many, plans that come up again among them. measure: mean divergence of a plan's answers from the
    teacher's, on rows to search with. judge: the divergence on each of other rows, for which no plan was chosen, of the
    finalists: the optimum, and those of FINALISTS - 1 best trials that beat it. The plan's provenance says what came of
    it.
    """
    proposer = Proposer(ground, study)

    def value(proposal: Proposal) -> float:
        known = {trial.proposal.name: trial.value for trial in study.tried().values()}
        if proposal.name in known:
            return known[proposal.name]
        plan = proposer.plan(proposal)
        return measure(plan) + unmeasured(ground.tables, plan, built=False)

    done = fill(study, trials, proposer.generation, value, tick, patience)
    best = {trial.proposal.name: trial for trial in sorted(done, key=lambda trial: (-trial.value, -trial.slot))}
    before = best[name_of(ground.first)].value
    ahead = sorted((trial for trial in best.values() if trial.value < before),
                   key=lambda trial: (trial.value, trial.slot))
    proposer.generation(0, done)  # a process that only finished others' trials has not made the plans to start from
    plans = [ground.first, *(proposer.plan(trial.proposal) for trial in ahead[: FINALISTS - 1])]
    verdicts = judged(plans, [judge(plan) + unmeasured(ground.tables, plan, built=True) for plan in plans])
    return settled(verdicts, ground, len(best))


def judged(plans: Sequence[CompressionPlan], rows: Sequence[np.ndarray]) -> list[Verdict]:
    """plans, and each plan's divergence on every row, [N]; the first is what the others are held against."""
    found = []
    for plan, own in zip(plans, rows):
        gains = rows[0] - own
        spread = float(gains.std(ddof=1) / math.sqrt(len(gains))) if len(gains) > 1 else math.inf
        found.append(Verdict(plan, float(own.mean()), float(gains.mean()), spread))
    return found


def settled(verdicts: Sequence[Verdict], ground: Ground, tried: int) -> CompressionPlan:
    """The best finalist where its gain is above its standard error; else the optimum."""
    first, *others = verdicts
    best = min(others, key=lambda verdict: verdict.value, default=first)
    others_tried = f"{tried - 1} other plan{'s' * (tried != 2)} tried"
    if best.gain <= best.spread or not others:
        margin = f"; the best gains {best.gain:.3g} +/- {best.spread:.2g}" if others else ""
        said = (f"not used: {others_tried}, none of which answers better than the additive optimum by more than chance"
                f"{margin}")
        return replace(ground.first, provenance={**ground.first.provenance, "refined": said})
    over = best.plan.predicted_error / ground.first.bound.dual if ground.first.bound.dual > 0 else math.inf
    said = (f"used: of {others_tried} this one's answers diverge by {best.value:.3g} from the teacher's where the "
            f"additive optimum's do by {first.value:.3g} (gain {best.gain:.3g} +/- {best.spread:.2g}, on selection rows "
            f"that were not searched on); the additive model predicts an error {over:.3g} times its proven bound for it")
    return replace(best.plan, provenance={**best.plan.provenance, "refined": said})
