"""Signatures of bundles: Ed25519 (RFC 8032) over the bytes of manifest.json, which holds the hash of every other file.

The signature lies beside the manifest as 64 plain bytes, so that openssl can check it too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebert.bundle import MANIFEST, SIGNATURE, BrokenBundle, check_files, read_manifest
from edgebert.errors import UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

LONGEST_KEY = 1 << 16


def sign(folder: Path, key: Path) -> Path:
    """Signs a bundle whose files are as they were packed, and returns the file with the signature. key: a private Ed25519
    key in PEM without a passphrase.

    Raises UsageError for a key that is none, BrokenBundle for a bundle that was changed.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    private = _key(key, "private", lambda text: load_pem_private_key(text, None), Ed25519PrivateKey)
    check_files(folder, read_manifest(folder))
    target, partial = folder / SIGNATURE, folder / f"{SIGNATURE}.tmp"
    partial.write_bytes(private.sign((folder / MANIFEST).read_bytes()))
    os.replace(partial, target)
    return target


def require_signed(folder: Path, key: Path) -> None:
    """Raises BrokenBundle unless manifest.json carries a signature of it by the owner of the public key; UsageError for a
    key that is none, and for a folder that is no bundle."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    public: Ed25519PublicKey = _key(key, "public", load_pem_public_key, Ed25519PublicKey)
    if not (folder / MANIFEST).is_file():
        raise UsageError(f"{folder} is not a bundle: it has no {MANIFEST} (`edgebert fit-device --out {folder}` "
                         "makes one)")
    if not (folder / SIGNATURE).is_file():
        raise BrokenBundle(f"{folder} is not signed: it has no {SIGNATURE}; do not trust it, or verify it without --key")
    try:
        public.verify((folder / SIGNATURE).read_bytes(), (folder / MANIFEST).read_bytes())
    except InvalidSignature as error:
        raise BrokenBundle(f"{folder / SIGNATURE} is no signature of this {MANIFEST} by the owner of {key}: the bundle "
                           "was changed, or somebody else signed it") from error


def _key(path: Path, what: str, load: Any, kind: type) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        with path.open("rb") as file:
            found = load(file.read(LONGEST_KEY))
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(f"--key {path}: cannot be read as a {what} key without a passphrase ({error}); openssl genpkey "
                         "-algorithm ed25519 makes one") from error
    if not isinstance(found, kind):
        raise UsageError(f"--key {path}: is no {what} Ed25519 key; openssl genpkey -algorithm ed25519 makes one")
    return found
