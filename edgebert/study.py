"""Trials of one search in an Optuna study: a journal file or a database, which several processes may share.

Trials come in generations. What a generation tries follows from the seed and from the generations before it alone, so
that one process and ten, undisturbed or killed, try the same plans and end with the same answer. A trial belongs to a
slot; a slot that a process took and never finished is taken again by another, which measures the same.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgebert.errors import UsageError

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage

GENERATION = 8
"""Trials that are drawn from the same knowledge: so many processes at once have work."""

PATIENCE = 3.0
"""How many times as long as one's own last trial another process may take before its trial counts as lost."""

POLL_S = 0.2

Parameters = dict[str, float]


@dataclass(frozen=True)
class Proposal:
    """What a slot is to try. parameters: where in the space it lies, empty where it is of no point of it. name: equal for
    equal things to try."""

    parameters: Parameters
    name: str


@dataclass(frozen=True)
class Tried:
    """A finished trial."""

    slot: int
    proposal: Proposal
    value: float


def journal(path: Path) -> BaseStorage:
    """Trials in a file that is only ever added to. What a process killed while it wrote left at the end is taken off."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if path.exists():
        with path.open("rb+") as file:
            text = file.read()
            if not text.endswith(b"\n"):
                file.truncate(text.rfind(b"\n") + 1)
    return JournalStorage(JournalFileBackend(str(path)))


def open_storage(where: str) -> BaseStorage:
    """where: a database as SQLAlchemy names it, such as postgresql+psycopg://user@host/name, or the path of a journal.

    Raises UsageError where it cannot be reached."""
    if "://" not in where:
        path = Path(where)
        if not path.absolute().parent.is_dir():
            raise UsageError(f"--study {where}: there is no folder {path.absolute().parent}; make it, or name another "
                             "file")
        return journal(path)
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        return RDBStorage(where, engine_kwargs={"pool_pre_ping": True})
    except ImportError as error:
        raise UsageError("--study: a database needs its driver: pip install 'edgebert[study]' for PostgreSQL "
                         f"({error})") from error
    except ArgumentError as error:
        raise UsageError("--study: not the address of a database; give postgresql+psycopg://user@host/name or the path "
                         "of a journal file") from error
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise UsageError(f"--study: the database cannot be used ({reason}); is the server running, and may this user "
                         "make tables in it?") from error


class Study:
    """One search's trials. axes: parameter -> its least and its greatest value."""

    def __init__(self, storage: BaseStorage, name: str, axes: Mapping[str, tuple[float, float]], seed: int) -> None:
        import optuna
        from optuna.distributions import FloatDistribution

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.axes = {axis: FloatDistribution(low, high) for axis, (low, high) in axes.items()}
        self.seed = seed
        self._study: optuna.Study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)

    def tried(self) -> dict[int, Tried]:
        """Finished trials by slot; of two of one slot the earlier."""
        from optuna.trial import TrialState

        found: dict[int, Tried] = {}
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            slot = trial.user_attrs["slot"]
            found.setdefault(slot, Tried(slot, Proposal(dict(trial.params), trial.user_attrs["plan"]), trial.values[0]))
        return found

    def taken(self) -> set[int]:
        """Slots that a process has begun, finished or not."""
        return {trial.user_attrs["slot"] for trial in self._study.get_trials(deepcopy=False)
                if "slot" in trial.user_attrs}

    def run(self, slot: int, proposal: Proposal, measure: Callable[[Proposal], float]) -> None:
        """Takes the slot, measures, and writes the value down, in six digits: all that machines agree on."""
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # its interface may change
            given = optuna.samplers.PartialFixedSampler(proposal.parameters, optuna.samplers.RandomSampler(0))
        self._study.sampler = given
        trial = self._study.ask(dict(self.axes) if proposal.parameters else {})
        trial.set_user_attr("plan", proposal.name)
        trial.set_user_attr("slot", slot)
        self._study.tell(trial, float(f"{measure(proposal):.6g}"))

    def suggest(self, history: Sequence[Tried], slot: int, draw: int) -> Parameters:
        """A point to try next, from what `history` says alone: tree-structured Parzen estimators (Bergstra et al. 2011)
        over all axes together; at random while little is known. draw: how often this slot was drawn for before."""
        import numpy as np
        import optuna

        known = [trial for trial in history if trial.proposal.parameters]
        seed = int(np.random.SeedSequence((self.seed, slot, draw)).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=GENERATION)
        study = optuna.create_study(sampler=sampler)
        study.add_trials([optuna.trial.create_trial(params=trial.proposal.parameters, distributions=dict(self.axes),
                                                    value=trial.value) for trial in known])
        return dict(study.ask(dict(self.axes)).params)


def fill(study: Study, slots: int, propose: Callable[[int, Sequence[Tried]], Mapping[int, Proposal]],
         measure: Callable[[Proposal], float], tick: Callable[[int], None] = lambda trials: None,
         patience: float = PATIENCE) -> list[Tried]:
    """Fills `slots` slots, beside other processes that may do the same, and gives back all trials by slot.

    propose: the first slot that is not filled, and all trials -> proposals for its generation, which may depend on trials
    of earlier slots alone. measure: a value to be made small, the same whoever measures. tick is told of slots filled.
    patience: see PATIENCE; 0 where no other process can be there.
    """
    said, last_s = 0, 0.0
    while True:
        done = study.tried()
        tick(len(done) - said)
        said = len(done)
        missing = [slot for slot in range(slots) if slot not in done]
        if not missing:
            return [done[slot] for slot in range(slots)]
        proposals = propose(missing[0], [done[slot] for slot in sorted(done)])
        taken = study.taken()
        wanted = [slot for slot in missing if slot in proposals]
        free = [slot for slot in wanted if slot not in taken]
        if not free and _finished_elsewhere(study, wanted, patience * last_s):
            continue
        some = free or wanted  # not the first for everyone: two processes that start together would take it both
        slot = some[os.getpid() % len(some)]
        began = time.monotonic()
        study.run(slot, proposals[slot], measure)
        last_s = time.monotonic() - began


def _finished_elsewhere(study: Study, slots: Sequence[int], patience_s: float) -> bool:
    """Whether one of the slots that others have taken is finished before patience ends."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        if study.tried().keys() & set(slots):
            return True
        time.sleep(POLL_S)
    return False
