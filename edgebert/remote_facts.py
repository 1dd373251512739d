"""What a device says about itself: by bench.pyz where it has Python, otherwise by the files its kernel shows."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from device_bench.device_facts import parse_getprop
from device_bench.facts import Found, find
from device_bench.packing import write_pyz
from edgebert.errors import DeviceError
from edgebert.remote import Device, Place

FACTS_S = 120.0
_FILES = r"""for file in /proc/cpuinfo /proc/meminfo /proc/device-tree/model /sys/devices/system/cpu/online \
/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor /sys/devices/system/cpu/cpu[0-9]*/cpufreq/*_freq \
/sys/devices/system/cpu/cpu[0-9]*/cache/index*/[lst]*; do
if [ -f "$file" ] && [ -r "$file" ]; then echo "=== $file"; cat "$file" 2> /dev/null; echo; fi; done
echo "=== /getprop"; getprop 2> /dev/null; echo "=== end"
"""


def facts_on(device: Device) -> Found:
    """Facts about the device, the runtimes its Python can import and how fast it copies memory; without Python these two
    are not known. Raises DeviceError where it cannot be reached or answers something else."""
    with device.workspace() as place:
        try:
            python = place.python(())
        except DeviceError:  # no Python there; a device that has gone says so again below
            return _checked(device.name, found_in(_text_of_files(place)).to_dict())
        with tempfile.TemporaryDirectory() as folder:
            place.push(write_pyz(Path(folder) / "bench.pyz"), "bench.pyz")
        done = place.run([python, "bench.pyz", "facts"], FACTS_S)
        try:
            record = json.loads(done.stdout.strip().splitlines()[-1])
        except (IndexError, ValueError, RecursionError) as error:
            raise DeviceError(f"{device.name}: {python} could not tell what the device is: "
                              f"{done.last_words or 'no answer'}") from error
        return _checked(device.name, record)


def _checked(name: str, record: dict[str, Any]) -> Found:
    """What a device sent, checked field by field."""
    try:
        return Found.from_dict(json.loads(json.dumps(record)))
    except ValueError as error:
        raise DeviceError(f"{name}: what it says about itself is not understood: {error}") from error


def _text_of_files(place: Place) -> str:
    done = place.run(["sh", "-c", _FILES], FACTS_S)
    if not done.stdout.rstrip().endswith("=== end"):
        raise DeviceError(f"{place.link.name}: its /proc and /sys cannot be read: {done.last_words or 'no answer'}")
    return done.stdout


def found_in(text: str) -> Found:
    """The facts in files that were printed one after the other, each below a line "=== PATH"."""
    pieces = re.split(r"^=== (/\S+|end)$", text, flags=re.MULTILINE)[1:]
    files = dict(zip(pieces[::2], pieces[1::2]))
    with tempfile.TemporaryDirectory() as folder:
        for path, content in files.items():
            if re.fullmatch(r"/(proc|sys)(/[A-Za-z0-9_-]+)+", path):
                target = Path(folder) / path[1:]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(content.strip(), encoding="utf-8")
        found = find(Path(folder))
    return replace(found, device=replace(found.device, android=parse_getprop(files.get("/getprop", "")) or None))
