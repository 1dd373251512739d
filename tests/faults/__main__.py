"""`python -m tests.faults kill --kills 200` and its kin."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

for name, value in {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
                    "ORT_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}.items():
    os.environ.setdefault(name, value)


def main() -> int:
    made = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    add = made.add_subparsers(dest="what", required=True).add_parser
    kill = add("kill", help="kill -9 at random moments, then --resume")
    kill.add_argument("--kills", type=int, default=200)
    kill.add_argument("--term", action="store_true", help="SIGTERM in place of SIGKILL")
    kill.add_argument("--only", nargs="*", default=(), help="names of commands")
    starve = add("starve", help="full and read-only disks, little memory, two runs at once")
    starve.add_argument("--times", type=int, default=6)
    soak = add("soak", help="the same runs again and again in one process")
    soak.add_argument("--benches", type=int, default=1000)
    soak.add_argument("--fits", type=int, default=50)
    for one in (kill, starve):
        one.add_argument("--seed", type=int, default=0)
    asked = made.parse_args()
    if asked.what == "starve" and may_mount() and "EDGEBERT_OWN_MOUNTS" not in os.environ:
        os.environ["EDGEBERT_OWN_MOUNTS"] = "1"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, "-m", "tests.faults", *sys.argv[1:]])
    with tempfile.TemporaryDirectory(prefix="edgebert-faults-") as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-c", "import sys; from pathlib import Path; from tests.faults.material import "
                        "make_material; make_material(Path(sys.argv[1]))", name], check=True, stderr=subprocess.DEVNULL)
        if asked.what == "soak":
            from tests.faults import soak as soaking

            return soaking.main(folder, asked.benches, asked.fits)
        from tests.faults.warm import warm_up

        warm_up()
        if asked.what == "kill":
            from tests.faults import kill as killing

            return killing.main(folder, asked.kills, asked.seed, asked.term, tuple(asked.only))
        return starved(folder, asked.times, asked.seed)


def may_mount() -> bool:
    """Whether this process can have a mount namespace of its own."""
    return os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL).returncode == 0


def starved(folder: Path, times: int, seed: int) -> int:
    from tests.faults import starve

    trials = {"two runs at once": lambda: starve.two_at_once(folder),
              "a benchmark killed": lambda: starve.benchmark_killed(folder),
              f"{times} limits of memory": lambda: starve.little_memory(folder, times, seed)}
    if "EDGEBERT_OWN_MOUNTS" in os.environ:
        trials |= {"a read-only disk": lambda: starve.read_only(folder),
                   f"{2 * times} full disks": lambda: starve.full_disk(folder, times, seed)}
    else:
        print("skipped: full and read-only disks need root and mount namespaces")
    found = 0
    for name, trial in trials.items():
        faults = trial()
        found += len(faults)
        print(f"{name}: {len(faults)} faults", *(f"FAULT {fault}" for fault in faults), sep="\n", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
