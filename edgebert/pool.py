"""Calls run by Ray's workers, on this machine or on a cluster that is there already. Ray is imported here alone."""

from __future__ import annotations

import os
import re
import secrets
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType
from typing import Any, TypeVar

from edgebert.crew import crew
from edgebert.errors import DeviceError, UsageError

Value = TypeVar("Value")

RETRIES = 3
"""How often a call whose worker was lost is given to another one."""

ANSWER_S = 5.0
"""How long a cluster may take to take a connection."""

STORE_BYTES = 80 * 2 ** 20
"""Shared memory of a local cluster; nothing but paths and settings goes through it. Ray wants no less."""

AUTO = "auto"
ADDRESS = re.compile(r"(ray://)?(?P<host>[\w.-]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})")


@dataclass(frozen=True)
class Lost:
    """A call whose workers were lost RETRIES + 1 times."""

    text: str


def require_workers(where: str) -> None:
    """Raises UsageError for what names no workers, or where Ray is not installed; DeviceError where no cluster answers.

    where: "3", so many workers on this machine; "host:port" or "ray://host:port", a cluster; "auto", the cluster that
    this machine is part of.
    """
    if crew().count > 1:
        raise UsageError("--workers starts processes itself: run the command without accelerate launch")
    if not _here(where) and where != AUTO and not ADDRESS.fullmatch(where):
        raise UsageError(f"--workers {where}: give a number of workers on this machine (at least 1), host:port of a Ray "
                         "cluster, or auto")
    if find_spec("ray") is None:
        raise UsageError("--workers needs Ray: pip install 'edgebert[ray]'")
    if place := ADDRESS.fullmatch(where):
        try:  # Ray itself asks for minutes, and then ends the process
            socket.create_connection((place["host"].strip("[]"), int(place["port"])), ANSWER_S).close()
        except (OSError, OverflowError) as error:
            raise DeviceError(f"no Ray cluster answers at {where} ({error}): start one with `ray start --head`, or give "
                              "a number for workers on this machine") from error


def spread(task: Callable[..., Value], calls: Sequence[tuple[Any, ...]], where: str, threads: int,
           ended: Callable[[Value | Lost], None] = lambda found: None) -> list[Value | Lost]:
    """What `task` gives for each tuple of arguments. threads: that a call computes with. ended: told of each at once.

    A call whose worker dies is given to another one, RETRIES times; `task` must bear to be begun again. What it raises is
    raised here. A local cluster ends with the last call, or with the caller, and leaves no file. Ray writes to stdout of
    workers that were lost; during the calls that is stderr.
    Raises as `require_workers` does.
    """
    require_workers(where)
    found: dict[int, Value | Lost] = {}
    with redirect_stdout(sys.stderr), ExitStack() as ending:
        ray = _join(where, threads, ending)
        from ray.exceptions import RayError, RayTaskError

        largest = int(max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0))
        if not largest:
            raise DeviceError(f"the Ray cluster {where} has no CPUs to run anything on")
        remote = ray.remote(task).options(num_cpus=min(threads, largest), max_retries=RETRIES)
        pending = {remote.remote(*call): index for index, call in enumerate(calls)}
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            index = pending.pop(done)
            try:
                found[index] = ray.get(done)
            except RayTaskError:
                raise
            except RayError as error:
                found[index] = Lost(f"its worker was lost {RETRIES + 1} times ({type(error).__name__})")
            ended(found[index])
    return [found[index] for index in range(len(calls))]


def _here(where: str) -> int:
    """How many workers on this machine, 0 where a cluster is meant."""
    return int(where) if where.isdecimal() and len(where) < 4 else 0


def _join(where: str, threads: int, ending: ExitStack) -> ModuleType:
    """Starts a cluster that nobody else can use, or joins one; `ending` leaves it. Gives Ray, which reads some of its
    settings from the environment when it is imported."""
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_DEDUP_LOGS="0")  # what is held back is written after the end
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if count := _here(where):
        # Its ports listen on every network; without the token they answer to nobody.
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
        short = "/tmp" if os.path.isdir("/tmp") else None  # names of sockets are limited to some 100 characters
        folder = ending.enter_context(tempfile.TemporaryDirectory("", "edgebert-", short, ignore_cleanup_errors=True))
        settings |= {"num_cpus": count * threads, "include_dashboard": False, "object_store_memory": STORE_BYTES,
                     "_temp_dir": folder}
    else:
        settings["address"] = where
    import ray

    library: ModuleType = ray
    ending.callback(ray.shutdown)
    try:
        ray.init(**settings)
    except (ConnectionError, RuntimeError, ValueError) as error:
        said = str(error).strip().splitlines()[0]
        raise DeviceError(f"no Ray cluster at {where}: {said}; one that asks for a token wants RAY_AUTH_MODE=token and "
                          "its token here too") from error
    return library
