"""A sweep's two files: the kit's list of what to time, and the results, one JSON line each."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from device_bench.errors import BadRequest
from device_bench.options import RUNTIMES
from device_bench.strict_json import bounded_text, strict_json

MOST_TOKENS = 1 << 16
KIT_NAME = "kit.json"
KIT_SCHEMA = 1
RESULTS_SCHEMA = 1
ENCODER = "encoder"
KINDS = (ENCODER, "linear", "attention", "ffn", "norm", "gelu", "embedding")
Item = dict[str, Any]


def read_kit(folder: Path) -> list[Item]:
    """The items of a kit in the order to be run, each checked. Raises BadRequest naming what is wrong."""
    path = Path(folder) / KIT_NAME
    try:
        kit = strict_json(bounded_text(path))
    except OSError as error:
        raise BadRequest(f"{path} cannot be read ({error.strerror}); make a kit: edgebert sweep --kit FOLDER") from error
    except ValueError as error:
        raise BadRequest(f"{path} is not JSON ({error}); make the kit again") from error
    if not isinstance(kit, dict) or kit.get("schema") != KIT_SCHEMA or not isinstance(kit.get("items"), list):
        raise BadRequest(f"{path} is no kit of schema {KIT_SCHEMA}; make it again with this version")
    return [_checked_item(item, f"{path}: item {number}") for number, item in enumerate(kit["items"])]


def _checked_item(item: Any, where: str) -> Item:
    """The item with the fields a sweep reads. A kit may come from anybody: its files lie in its own folder."""
    if not isinstance(item, dict):
        raise BadRequest(f"{where} is no object; make the kit again")
    rules: tuple[tuple[str, Callable[[Any], bool]], ...] = (
        ("id", lambda value: isinstance(value, str) and value.isprintable()),
        ("file", lambda value: isinstance(value, str) and value == os.path.basename(value) and value.isprintable()),
        ("sha256", lambda value: isinstance(value, str)),
        ("runtime", lambda value: isinstance(value, str) and value in RUNTIMES),
        ("kind", lambda value: value in KINDS),
        ("lengths", lambda value: isinstance(value, list) and len(value) > 0 and all(
            type(one) is int and 1 <= one <= MOST_TOKENS for one in value)),
    )
    for name, right in rules:
        if name not in item or not right(item[name]):
            raise BadRequest(f"{where}: {name} is {item.get(name)!r:.60}; make the kit again")
    if Path(item["file"]).suffix != f".{item['runtime']}":
        raise BadRequest(f"{where}: {item['file']} is no .{item['runtime']} file; make the kit again")
    return item


@dataclass(frozen=True)
class Measured:
    """One line of a results file: what tells whether a timing is there already, and under which conditions."""

    sha256: str
    length: int
    threads: int
    runtime: str
    version: str
    clock: str
    cores: Any
    device: tuple[Any, ...]
    valid: bool  # as a cost sample

    @property
    def key(self) -> tuple[str, int, int, str, str]:
        return self.sha256, self.length, self.threads, self.runtime, self.version


def identity(facts: dict[str, Any]) -> tuple[Any, ...]:
    """What stays the same of a device from one reading (DeviceFacts.to_dict) to the next; phones turn cores off."""
    return tuple(facts.get(name) for name in ("machine", "cpu_model", "architecture"))


def repair(path: Path) -> None:
    """Cuts off a last line that a killed sweep left unfinished; the lines before it stay as they are."""
    if not path.is_file():
        return
    content = path.read_bytes()
    kept = content[: content.rfind(b"\n") + 1]
    last = kept[kept[:-1].rfind(b"\n") + 1:]
    if last.strip() and not _is_json(last):
        kept = kept[: len(kept) - len(last)]
    if len(kept) < len(content):
        os.truncate(path, len(kept))


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def read_measured(path: Path) -> list[Measured]:
    """The sweep's lines in a results file; none if there is no file. Other records in it are passed over.

    Raises BadRequest naming a line that is not a sweep's.
    """
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            record = strict_json(line.decode("utf-8"))
            if "item" not in record:
                continue
            if record["schema"] != RESULTS_SCHEMA:
                raise ValueError(f"schema {record['schema']!r}")
            result = record["result"]
            found.append(Measured(
                result["sha256"], result["length"], result["threads"], result["runtime"], result["runtime_version"],
                result["clock"], result["affinity"]["asked"], identity(result["device_before"]),
                result["valid_as_cost"] is True))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadRequest(f"{path}, line {number} is no result of a sweep ({error}); give another --out") from error
    return found
