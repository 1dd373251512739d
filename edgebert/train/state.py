"""A training run in a file, so that a killed one goes on where it stopped, bit for bit."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edgebert.errors import UsageError
from edgebert.train.batches import Source
from edgebert.train.schedule import Schedule

VERSION = 1


@dataclass(frozen=True)
class Best:
    """The validation so far. score: the highest; stale: validations since; weights: those that reached it."""

    score: float
    stale: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def after(self, score: float, net: nn.Module) -> Best:
        """This after one more validation; where scores are equal, the earlier weights stay."""
        if score > self.score:
            return Best(score, 0, {name: value.detach().cpu().clone() for name, value in net.state_dict().items()})
        return replace(self, stale=self.stale + 1)


@dataclass(frozen=True)
class Place:
    """How far a run is. done: optimisation steps; finished: the weights are the run's result."""

    done: int = 0
    best: Best | None = None
    finished: bool = False


def trained(net: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in net.named_parameters() if parameter.requires_grad]


def run_identity(net: nn.Module, rows: Source, schedule: Schedule) -> str:
    """The hash of what must be the same for a state to be gone on from: rows, schedule, parameters' names and shapes."""
    shapes = [(name, list(value.shape), str(value.dtype)) for name, value in net.state_dict().items()]
    record = [VERSION, asdict(schedule), shapes, [name for name, _ in trained(net)], rows.digest]
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()


def save_state(path: Path, run: str, place: Place, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Replaces the file at once, so that it holds a whole state at every moment."""
    tensors = {f"weight.{name}": value for name, value in net.state_dict().items()}
    if not place.finished:
        names = {parameter: name for name, parameter in net.named_parameters()}
        for parameter, moments in optimizer.state.items():
            tensors.update({f"{key}.{names[parameter]}": value for key, value in moments.items()})
        if place.best is not None:
            tensors.update({f"best.{name}": value for name, value in place.best.weights.items()})
    record = {"done": place.done, "finished": place.finished}
    if place.best is not None:
        record |= {"score": place.best.score, "stale": place.best.stale}
    partial = path.with_name(path.name + ".tmp")
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, partial,
              metadata={"run": run, "place": json.dumps(record)})
    with open(partial, "rb") as written:
        os.fsync(written.fileno())
    os.replace(partial, path)


def load_state(path: Path, run: str, net: nn.Module, optimizer: torch.optim.Optimizer) -> Place:
    """Puts weights and moments back.

    Raises UsageError where the file is damaged, or holds another run: that one may be worth hours, so that nothing is
    overwritten unasked.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found, record, names = file.metadata()["run"], json.loads(file.metadata()["place"]), file.keys()
            tensors = {name: file.get_tensor(name) for name in names} if found == run else {}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"the training state {path} is damaged ({error}); delete it to start anew") from error
    if found != run:
        raise UsageError(f"{path} is the state of another training run (other rows, schedule or network); delete it to "
                         "start anew")
    net.load_state_dict(dict(_under(tensors, "weight")))
    for name, parameter in trained(net):
        moments = {key: tensors[f"{key}.{name}"].to(parameter.device) for key in ("step", "exp_avg", "exp_avg_sq")
                   if f"{key}.{name}" in tensors}
        if moments:
            optimizer.state[parameter] = moments
    best = Best(record["score"], record["stale"], dict(_under(tensors, "best"))) if "score" in record else None
    return Place(record["done"], best, record["finished"])


def _under(tensors: dict[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    return ((name[len(prefix) + 1 :], value) for name, value in tensors.items() if name.startswith(f"{prefix}."))
