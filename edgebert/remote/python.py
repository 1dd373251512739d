"""Which Python a device has, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from device_bench.options import RUNTIMES
from device_bench.strict_json import strict_json
from edgebert.errors import DeviceError
from edgebert.remote.processes import Done

LEAST = (3, 9)
PIP_NAMES = {"ai_edge_litert": "ai-edge-litert", "tflite_runtime": "tflite-runtime"}
MODULES = ("numpy", *(name for names in RUNTIMES.values() for name in names))
_FACTS = """
import importlib.util, json, platform, sys
print(json.dumps({"version": list(sys.version_info[:3]), "machine": platform.machine(),
                  "modules": [name for name in sys.argv[1:] if importlib.util.find_spec(name)]}))
"""


@dataclass(frozen=True)
class PythonFacts:
    """A Python on a device. command: how it is started there. modules: which of MODULES it can import."""

    command: str
    version: tuple[int, ...]
    machine: str
    modules: tuple[str, ...]


def choose_python(device: str, commands: Sequence[str], needs: Sequence[str],
                  run: Callable[[list[str]], Done]) -> PythonFacts:
    """The first of `commands` that is a Python of version LEAST or newer and has all of `needs`.

    needs: module names; "onnx" or "tflite" stands for any runtime of that format. Raises DeviceError saying what to
    install, from the best that was found.
    """
    problem = (f"{device}: no Python {'.'.join(map(str, LEAST))} or newer answers as {' or '.join(commands)}; install "
               "one there, or name its command with --device-python")
    for command in commands:
        found = parse_facts(command, run([command, "-c", _FACTS, *MODULES]))
        if found is None or found.version < LEAST:
            continue
        missing = [need for need in needs if not set(RUNTIMES.get(need, (need,))) & set(found.modules)]
        if not missing:
            return found
        names = [RUNTIMES.get(need, (need,))[0] for need in missing]
        problem = (f"{device}: its {command} ({'.'.join(map(str, found.version))}, {found.machine}) lacks "
                   f"{' and '.join(names)}; install there with `{command} -m pip install "
                   f"{' '.join(PIP_NAMES.get(name, name) for name in names)}`, or name another Python with "
                   "--device-python")
        if found.machine.startswith("armv") and "ai_edge_litert" in names:
            problem += " (32-bit Arm has tflite-runtime only)"
    raise DeviceError(problem)


def parse_facts(command: str, done: Done) -> PythonFacts | None:
    """What the device's Python printed; None where there is no such command or it prints something else."""
    try:
        value = strict_json(done.stdout.strip().splitlines()[-1])
        return PythonFacts(command, tuple(int(part) for part in value["version"]), str(value["machine"]),
                           tuple(map(str, value["modules"])))
    except (IndexError, ValueError, KeyError, TypeError):
        return None
