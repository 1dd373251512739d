"""The bundle: a folder that an app can ship and a person can check. No torch here."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from edgebert.errors import EdgeBertError, UsageError

SCHEMA = 1
MANIFEST = "manifest.json"
PACKAGES = ("edgebert", "numpy", "scipy", "torch", "transformers", "tokenizers", "onnx", "onnxruntime", "litert-torch",
            "ai-edge-litert", "ai-edge-quantizer")


class BrokenBundle(EdgeBertError):
    """A file of the bundle is missing, changed or computes something else."""

    exit_code = 4


@dataclass(frozen=True)
class Verification:
    """What `verify` looked at. checks: (what, detail) of everything that was found right."""

    folder: Path
    checks: tuple[tuple[str, str], ...]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that make a bundle, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _contents(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Writes manifest.json over everything in `folder`. facts: JSON values put beside the list of files."""
    files = {path.relative_to(folder).as_posix(): {"sha256": file_sha256(path), "bytes": path.stat().st_size}
             for path in _contents(folder)}
    value = {"schema": SCHEMA, **facts, "versions": versions(), "files": files}
    (folder / MANIFEST).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def golden(texts: Sequence[str], pairs: Sequence[str] | None, ids: Any, mask: Any, types: Any, logits: Any,
           bounds: dict[str, float]) -> str:
    """golden.json: texts, their ids [N, L] padded on the right, and the torch model's logits, [N, labels] or
    [N, L, labels], of which those of real tokens are kept. bounds: the relative RMSE each file may be off."""
    rows = []
    for i, text in enumerate(texts):
        said = logits[i] if logits.ndim == 2 else logits[i][: int(mask[i].sum())]
        row: dict[str, Any] = {"text": text, "input_ids": ids[i].tolist(), "attention_mask": mask[i].tolist(),
                               "logits": said.tolist()}
        if pairs is not None:
            row["pair"] = pairs[i]
        if types is not None:
            row["token_type_ids"] = types[i].tolist()
        rows.append(row)
    return json.dumps({"schema": 1, "length": int(ids.shape[1]), "rows": rows,
                       "bounds": {name: {"relative_rmse": bound} for name, bound in bounds.items()}},
                      ensure_ascii=False) + "\n"


def pack(folder: Path) -> Path:
    """folder -> folder.zip beside it, with fixed times, so that equal bundles give equal archives."""
    target = folder.with_name(folder.name + ".zip")
    partial = target.with_name(target.name + ".tmp")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            info = zipfile.ZipInfo(f"{folder.name}/{path.relative_to(folder).as_posix()}", (2020, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, path.read_bytes())
    os.replace(partial, target)
    return target


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises UsageError where there is none, BrokenBundle where it is damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(f"{folder} is not a bundle: it has no {MANIFEST}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["schema"] != SCHEMA:
            raise BrokenBundle(f"{path}: schema {value['schema']}; this version reads {SCHEMA}")
        for name, entry in value["files"].items():
            if not (isinstance(entry["sha256"], str) and isinstance(entry["bytes"], int)):
                raise BrokenBundle(f"{path}: the entry of {name!r} is damaged")
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise BrokenBundle(f"{path} is damaged: {error}") from error
    return value


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Every listed file is there with its bytes, and nothing else is. Raises BrokenBundle naming the first fault."""
    root = folder.resolve()
    for name, entry in manifest["files"].items():
        path = (folder / name).resolve()
        if not path.is_relative_to(root) or (folder / name).is_symlink():
            raise BrokenBundle(f"{name!r} in {MANIFEST} points outside the bundle")
        if not path.is_file():
            raise BrokenBundle(f"{name} is missing from {folder}")
        if path.stat().st_size != entry["bytes"] or file_sha256(path) != entry["sha256"]:
            raise BrokenBundle(f"{name} is not the file that was packed (its sha256 differs from {MANIFEST}); "
                               "make the bundle again")
    unlisted = [p.relative_to(folder).as_posix() for p in _contents(folder)
                if p.relative_to(folder).as_posix() not in manifest["files"]]
    if unlisted:
        raise BrokenBundle(f"{unlisted[0]} is in {folder} but not in {MANIFEST}")


def model_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("model*.onnx"), *folder.glob("model*.tflite")])


def verify(folder: Path) -> Verification:
    """Checks hashes, token ids and logits of a bundle. Needs a runtime for its files, and `tokenizers`; no torch.

    Raises UsageError (no bundle), BrokenBundle (exit code 4), or a device_bench error where a runtime is missing.
    """
    from device_bench.inputs import check_golden, find_golden
    from device_bench.runtimes import open_model
    from edgebert.tokenization import encode, load_tokenizer

    folder = Path(folder)
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    checks = [("files", f"{len(manifest['files'])} files have the bytes that were packed")]
    files = model_files(folder)
    if not files:
        raise BrokenBundle(f"{folder} holds no model file")
    known = find_golden(files[0])
    if known is None:
        raise BrokenBundle(f"{folder} has no golden.json")
    raw = json.loads((folder / "golden.json").read_text(encoding="utf-8"))["rows"]
    pairs = [row["pair"] for row in raw] if raw and "pair" in raw[0] else None
    encoded = encode(load_tokenizer(folder), [row["text"] for row in raw], pairs, known.length, fixed=True)
    for i, row in enumerate(raw):
        if encoded.input_ids[i].tolist() != row["input_ids"]:
            raise BrokenBundle(f"the packaged tokenizer gives other ids than golden.json for {row['text']!r:.80}")
    checks.append(("tokens", f"{len(raw)} golden texts give their ids"))
    for path in files:
        session = open_model(path)
        result = check_golden(session, known)
        if not result.ok:
            raise BrokenBundle(f"{path.name} with {session.name} {session.version} differs from its golden logits: "
                               f"relative RMSE {result.relative_rmse}; do not ship it with this runtime")
        checks.append((path.name, f"{result.rows} golden rows, relative RMSE {result.relative_rmse:.2g} "
                                  f"({session.name} {session.version})"))
    return Verification(folder, tuple(checks))


def move_into_place(made: Path, out: Path, overwrite: bool) -> None:
    """Renames the finished folder to `out`; an older bundle there is removed only then."""
    if out.exists():
        if not overwrite:
            raise UsageError(f"{out} exists; pass --overwrite or another --out")
        old = out.with_name(f"{out.name}.old-{os.getpid()}")
        os.replace(out, old)
        os.replace(made, out)
        shutil.rmtree(old)
    else:
        os.replace(made, out)
