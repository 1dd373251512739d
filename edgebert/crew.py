"""The processes that make one run together, as a launcher such as `accelerate launch` starts them.

Every process walks the same path. Process 0, the main one, alone prints and writes; the others wait for what it makes,
and read it. Where a stage trains, each process computes its share of every batch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from edgebert.errors import UsageError


@dataclass(frozen=True)
class Crew:
    """rank: this process's number, from 0; count: how many there are."""

    rank: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        return self.rank == 0


def crew() -> Crew:
    """From the launcher's environment variables RANK and WORLD_SIZE; one process without them."""
    return Crew(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


def refuse_single_launch() -> None:
    """`accelerate launch --cpu --num_processes 2` starts one process that knows of no other, or several under MPI, whose
    variables are not read here. Raises UsageError for either."""
    if os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_PORT" in os.environ and "WORLD_SIZE" not in os.environ:
        raise UsageError("accelerate launch --cpu starts only one process; for several on CPUs, use --multi_gpu "
                         "--num_processes N, which needs no GPU")


def leave_to_main() -> None:
    """Ends every process but the main one, as a success, because what is left of the run is one process's work. The
    main one goes on as if it had been alone, and so do the programs that it starts."""
    if not crew().main:
        raise SystemExit(0)
    for name in ("RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)
