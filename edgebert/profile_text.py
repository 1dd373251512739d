"""A device profile as the text of a file: facts and measured rows; what can be derived is left to be derived."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from edgebert.claim import write_text
from edgebert.device import DeviceProfile


def profile_text(profile: DeviceProfile) -> str:
    """TOML that reads back as the same profile, as far as its rows are measured."""
    plain = ("name", "title", "machine", "isa", "ram_mb", "bandwidth_gbs", "threads", "p90_over_p50")
    tables = [("[sources]", dict(profile.sources)), ("[affinity]", {str(n): mask for n, mask in profile.affinity}),
              ("[budget]", _set(profile.budget)), *(("[[cluster]]", _set(cluster)) for cluster in profile.clusters),
              *(("[[cost]]", _set(row)) for row in profile.rows if row.provenance == "measured")]
    parts = ["\n".join(f"{name} = {_value(getattr(profile, name))}" for name in plain)]
    parts += ["\n".join([header, *(f"{name} = {_value(value)}" for name, value in table.items())])
              for header, table in tables if table]
    return "\n\n".join(parts) + "\n"


def write_profile(profile: DeviceProfile, path: Path) -> None:
    """Writes the file at once, or not at all."""
    write_text(path, profile_text(profile))


def _set(record: Any) -> dict[str, Any]:
    """The fields of a record that say something: neither None nor an empty text."""
    return {f.name: value for f in fields(record) if (value := getattr(record, f.name)) not in (None, "")}


def _value(value: Any) -> str:
    """JSON's texts, numbers and lists are TOML's too; characters beyond its basic plane are not, so none is escaped."""
    return json.dumps(value, ensure_ascii=False)
