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

from device_bench.strict_json import bounded_text, strict_json
from edgebert.errors import EdgeBertError, UsageError

SCHEMA = 1
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
VERIFY_S = 600.0
"""For opening one model file and running its golden rows."""
PACKAGES = ("edgebert", "numpy", "scipy", "torch", "transformers", "tokenizers", "onnx", "onnxruntime", "litert-torch",
            "ai-edge-litert", "ai-edge-quantizer")


class BrokenBundle(EdgeBertError):
    """A file of the bundle is missing, changed or computes something else."""

    exit_code = 4
    code = "EB-BUNDLE"


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
    own = (folder / MANIFEST, folder / SIGNATURE)
    return sorted(p for p in folder.rglob("*") if p.is_file() and p not in own)


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


def pack(folder: Path, name: str, target: Path) -> None:
    """The files of `folder` into the archive `target`, below `name`, with fixed times, so that equal bundles give equal
    archives. A file is never whole in memory."""
    partial = folder.with_name(folder.name + ".zip")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                info = zipfile.ZipInfo(f"{name}/{path.relative_to(folder).as_posix()}", (2020, 1, 1, 0, 0, 0))
                info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                info.file_size = path.stat().st_size
                with path.open("rb") as file, archive.open(info, "w") as entry:
                    shutil.copyfileobj(file, entry, 1 << 20)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises UsageError where there is none, BrokenBundle where it is damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(f"{folder} is not a bundle: it has no {MANIFEST} (`edgebert fit-device --out {folder}` "
                         "makes one)")
    try:
        value: dict[str, Any] = strict_json(bounded_text(path))
        if value["schema"] != SCHEMA:
            raise BrokenBundle(f"{path}: schema {value['schema']}; this version reads {SCHEMA}")
        for name, entry in value["files"].items():
            if not (isinstance(entry["sha256"], str) and isinstance(entry["bytes"], int) and name.isprintable()):
                raise BrokenBundle(f"{path}: the entry of {name!r} is damaged")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenBundle(f"{path} is damaged: {error}") from error
    return value


def changed(path: Path, entry: dict[str, Any]) -> bool:
    """Whether a file is not the one of that entry of the manifest."""
    return bool(path.stat().st_size != entry["bytes"]) or file_sha256(path) != entry["sha256"]


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Every listed file is there with its bytes, and nothing else is. Raises BrokenBundle naming the first fault."""
    root = folder.resolve()
    for name, entry in manifest["files"].items():
        path = (folder / name).resolve()
        if not path.is_relative_to(root) or (folder / name).is_symlink():
            raise BrokenBundle(f"{name!r} in {MANIFEST} points outside the bundle")
        if not path.is_file():
            raise BrokenBundle(f"{name} is missing from {folder}")
        if changed(path, entry):
            raise BrokenBundle(f"{name} is not the file that was packed (its sha256 differs from {MANIFEST}); "
                               "make the bundle again")
    unlisted = [p.relative_to(folder).as_posix() for p in _contents(folder)
                if p.relative_to(folder).as_posix() not in manifest["files"]]
    if unlisted:
        raise BrokenBundle(f"{unlisted[0]} is in {folder} but not in {MANIFEST}")


def model_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("model*.onnx"), *folder.glob("model*.tflite")])


def verify(folder: Path, key: Path | None = None) -> Verification:
    """Checks hashes, token ids and logits of a bundle. Needs a runtime for its files, and `tokenizers`; no torch. Each
    file is run in a process of its own: a runtime that a damaged file crashes takes nothing along. key: a public key that
    must have signed the manifest (`signing.require_signed`).

    Raises UsageError (no bundle), BrokenBundle (exit code 4), or a device_bench error where a runtime is missing.
    """
    folder, signed = Path(folder), []
    if key is not None:
        from edgebert.signing import require_signed

        require_signed(folder, key)  # before anything in the manifest is believed
        signed = [("signature", f"the manifest is signed by the owner of {key}")]
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    checks = [*signed, ("files", f"{len(manifest['files'])} files have the bytes that were packed")]
    files = model_files(folder)
    if not files:
        raise BrokenBundle(f"{folder} holds no model file")
    checks.append(("tokens", f"{_check_tokens(folder, files[0])} golden texts give their ids"))
    return Verification(folder, (*checks, *((path.name, _check_logits(path)) for path in files)))


def _check_tokens(folder: Path, model: Path) -> int:
    """How many golden texts the packaged tokenizer gives their ids. Raises BrokenBundle where it gives others."""
    from device_bench.inputs import find_golden
    from edgebert.tokenization import encode, load_tokenizer

    known = find_golden(model)
    if known is None:
        raise BrokenBundle(f"{folder} has no golden.json")
    rows = strict_json(bounded_text(folder / "golden.json"))["rows"]
    pairs = [row.get("pair") for row in rows] if "pair" in rows[0] else None
    texts = [row["text"] for row in rows]
    if not all(isinstance(text, str) for text in (*texts, *(pairs or ()))):
        raise BrokenBundle(f"{folder / 'golden.json'}: a row's text is no text; make the bundle again")
    encoded = encode(load_tokenizer(folder), texts, pairs, known.length, fixed=True)
    for text, row, ids in zip(texts, rows, encoded.input_ids.tolist()):
        if ids != row["input_ids"]:
            raise BrokenBundle(f"the packaged tokenizer gives other ids than golden.json for {text!r:.80}")
    return len(rows)


def _check_logits(path: Path) -> str:
    """How near a file comes to its golden logits, in words. Raises BrokenBundle where it is not near enough."""
    from device_bench.child import bench_in_child
    from device_bench.options import Options

    done = bench_in_child(path, Options(runs=1, warmup=0), timeout_s=VERIFY_S)
    if not done.line and done.exit_code == BrokenBundle.exit_code:
        raise BrokenBundle(done.stderr.strip().splitlines()[-1])
    records, said = done.results(), []
    for record in records:
        found, runtime = record.golden, f"{record.runtime} {record.runtime_version}"
        point = f", point {record.point}," if len(records) > 1 else ""
        if found is None or not found.ok:
            raise BrokenBundle(f"{path.name}{point} with {runtime} differs from its golden logits: relative RMSE "
                               f"{found and found.relative_rmse}; do not ship it with this runtime")
        said.append(f"{found.relative_rmse:.2g}")
    assert found is not None, "a child that ended well leaves a record"
    return f"{found.rows} golden rows, relative RMSE {' and '.join(said)} ({runtime})"
