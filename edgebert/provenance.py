"""Where a bundle comes from: hashes of everything it was made from, and a bill of materials. No torch here.

sbom.cdx.json is a CycloneDX 1.6 document (https://cyclonedx.org/docs/1.6/json/): the installed packages that made the
bundle with their licences, the checkpoint and the data with their hashes, and the model files as what was made.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from edgebert import __version__
from edgebert.bundle import PACKAGES, file_sha256, model_files
from edgebert.data_files import SUFFIXES
from edgebert.device import DeviceProfile

SBOM = "sbom.cdx.json"
CHECKPOINT_FILES = ("*.json", "*.safetensors", "*.txt")
LONGEST_LICENCE = 80
"""Characters of a licence's name; some packages put the whole text there."""


def hashes(source: Path, patterns: Iterable[str]) -> dict[str, str]:
    """File name -> sha256: of a file, or of the files of a folder that fit one of the patterns."""
    if source.is_file():
        return {source.name: file_sha256(source)}
    found = {path for pattern in patterns for path in source.rglob(pattern) if path.is_file()}
    return {path.relative_to(source).as_posix(): file_sha256(path) for path in sorted(found)}


def inputs_of(checkpoint: Path, data: Path, profile: DeviceProfile) -> dict[str, dict[str, str]]:
    """What a run reads, by kind: file -> sha256. A profile counts as the values that were read of it."""
    values = json.dumps(asdict(profile), sort_keys=True).encode()
    return {"checkpoint": hashes(checkpoint, CHECKPOINT_FILES),
            "data": hashes(data, (*(f"*{suffix}" for suffix in SUFFIXES), "*.arrow", "*.json")),
            "profile": {profile.name: hashlib.sha256(values).hexdigest()}}


def packages(roots: Iterable[str] = PACKAGES) -> dict[str, tuple[str, ...]]:
    """The installed packages among `roots` and all they need: name -> names of those it needs, without extras."""
    found: dict[str, tuple[str, ...]] = {}
    waiting = [_plain(name) for name in roots]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        names = (_plain(re.split(r"[^A-Za-z0-9._-]", one, maxsplit=1)[0]) for one in needs if "extra ==" not in one)
        found[name] = tuple(sorted(set(names)))
        waiting += found[name]
    return {name: tuple(need for need in needs if need in found) for name, needs in sorted(found.items())}


def _plain(name: str) -> str:
    """A project's name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _about(name: str) -> Message:
    """The package's metadata, which is a message, of whose methods the library's type names some."""
    return cast(Message, metadata.metadata(name))


def licence_of(name: str) -> str | None:
    """What a package says its licence is: an SPDX expression where it gives one (PEP 639), else its own words."""
    about = _about(name)
    if expression := about.get("License-Expression"):
        return str(expression)
    said = (about.get("License") or "").strip()
    if said and "\n" not in said and len(said) <= LONGEST_LICENCE and said.upper() != "UNKNOWN":
        return said
    named = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier") or () if line.startswith("License ::")]
    return "; ".join(named) or None


def bill(folder: Path, inputs: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """The CycloneDX document of a bundle: the same for the same files and the same packages. Paths are names alone."""
    needs = packages()
    libraries = [_library(name) for name in needs]
    read = [_file(kind, name, sha256) for kind in ("checkpoint", "data") for name, sha256 in inputs[kind].items()]
    made = [_file("model", path.name, file_sha256(path)) for path in model_files(folder)]
    graph = [{"ref": _purl(name), "dependsOn": [_purl(need) for need in found]} for name, found in needs.items()]
    made_from = [one["bom-ref"] for one in read] + [_purl(name) for name in needs]
    graph += [{"ref": one["bom-ref"], "dependsOn": made_from} for one in made]
    value = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
             "metadata": {"tools": {"components": [{"type": "application", "name": "edgebert", "version": __version__}]},
                          "component": {"type": "application", "name": "bundle", "bom-ref": "bundle"}},
             "components": [*made, *read, *libraries],
             "dependencies": [{"ref": "bundle", "dependsOn": [one["bom-ref"] for one in made]}, *graph]}
    text = json.dumps([value["components"], value["dependencies"]], sort_keys=True)
    return {**value, "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, text)}"}


def write_bill(folder: Path, inputs: Mapping[str, Mapping[str, str]]) -> None:
    """Writes sbom.cdx.json into a bundle that has its model files."""
    (folder / SBOM).write_text(json.dumps(bill(folder, inputs), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _purl(name: str) -> str:
    return f"pkg:pypi/{name}@{metadata.version(name).replace('+', '%2B')}"


def _library(name: str) -> dict[str, Any]:
    licence = licence_of(name)
    licences: list[dict[str, Any]] = []
    if licence is not None:
        spdx = _about(name).get("License-Expression") is not None
        licences = [{"expression": licence}] if spdx else [{"license": {"name": licence}}]
    return {"type": "library", "bom-ref": _purl(name), "name": name, "version": metadata.version(name),
            "purl": _purl(name), **({"licenses": licences} if licences else {})}


def _file(kind: str, name: str, sha256: str) -> dict[str, Any]:
    form = "data" if kind == "data" else "machine-learning-model" if name.endswith((".safetensors", ".onnx", ".tflite")) \
        else "file"
    return {"type": form, "bom-ref": f"{kind}/{name}", "name": name, "group": kind,
            "hashes": [{"alg": "SHA-256", "content": sha256}]}
