"""Where a bundle comes from: every changed byte is found, signatures bind the manifest, the bill of materials is one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgebert.bundle import MANIFEST, SIGNATURE, BrokenBundle, changed, check_files, read_manifest, verify
from edgebert.device import load_profile
from edgebert.errors import UsageError
from edgebert.provenance import SBOM, bill, hashes, inputs_of, licence_of, packages, write_bill
from edgebert.signing import require_signed, sign
from tests.fuzz import seeds

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A small bundle with its bill of materials."""
    root = tmp_path_factory.mktemp("provenance")
    (root / "checkpoint").mkdir()
    (root / "bundle").mkdir()
    seeds.checkpoint(root / "checkpoint")
    (root / "train.jsonl").write_text('{"text": "a", "label": "x"}\n')
    seeds.bundle(root / "bundle")
    inputs = inputs_of(root / "checkpoint", root / "train.jsonl", load_profile("pixel6"))
    write_bill(root / "bundle", inputs)
    from edgebert.bundle import write_manifest

    write_manifest(root / "bundle", {"name": "bundle", "inputs": inputs})
    return root


@pytest.fixture
def bundle(original, tmp_path):
    return Path(shutil.copytree(original / "bundle", tmp_path / "bundle"))


def test_a_change_of_any_byte_of_any_file_is_found(bundle):
    """One bit of every byte of every file, and files cut short, longer and empty."""
    manifest, flipped = read_manifest(bundle), 0
    for name, entry in manifest["files"].items():
        path = bundle / name
        content = bytearray(path.read_bytes())
        assert not changed(path, entry)
        with path.open("r+b", buffering=0) as file:
            for place, byte in enumerate(content):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << place % 8]), place)
                assert changed(path, entry), (name, place)
                os.pwrite(file.fileno(), bytes([byte]), place)
                flipped += 1
        for wrong in (content[:-1], content + b"\0", b""):
            path.write_bytes(wrong)
            assert changed(path, entry)
        path.write_bytes(content)
    check_files(bundle, manifest)
    assert flipped == sum(entry["bytes"] for entry in manifest["files"].values()) > 40_000


@pytest.mark.parametrize("damage", ["byte", "missing", "new", "renamed", "link"])
def test_verify_finds_what_happened_to_a_file(bundle, damage):
    path = bundle / "labels.json"
    if damage == "byte":
        path.write_bytes(path.read_bytes().replace(b"x", b"y"))
    elif damage == "missing":
        path.unlink()
    elif damage == "new":
        (bundle / "transformers").mkdir()
        (bundle / "transformers" / "new.py").write_text("")
    elif damage == "renamed":
        path.rename(bundle / "Labels.json")
    else:
        shutil.copyfile(path, bundle.parent / "outside")
        path.unlink()
        path.symlink_to(bundle.parent / "outside")
    with pytest.raises(BrokenBundle):
        verify(bundle)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """(private, public) PEM files of two owners."""
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519",
                                  reason="cryptography is not installed")
    from cryptography.hazmat.primitives import serialization as forms

    folder = tmp_path_factory.mktemp("keys")
    for name in ("mine", "other"):
        key = ed25519.Ed25519PrivateKey.generate()
        (folder / f"{name}.pem").write_bytes(key.private_bytes(
            forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()))
        (folder / f"{name}.pub").write_bytes(key.public_key().public_bytes(
            forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo))
    return folder


def test_a_signature_holds_for_one_key_and_one_manifest(bundle, keys):
    sign(bundle, keys / "mine.pem")
    assert [what for what, _ in verify(bundle, keys / "mine.pub").checks][:2] == ["signature", "files"]
    assert "signature" not in dict(verify(bundle).checks), "the signature itself is no stray file"
    with pytest.raises(BrokenBundle, match="no signature of this"):
        verify(bundle, keys / "other.pub")
    (bundle / SIGNATURE).unlink()
    with pytest.raises(BrokenBundle, match="is not signed"):
        verify(bundle, keys / "mine.pub")


def test_a_change_of_any_byte_of_manifest_or_signature_is_found_with_the_key(bundle, keys):
    """Also a change that leaves a valid manifest of the files as they are, which hashes alone cannot find."""
    sign(bundle, keys / "mine.pem")
    for name in (MANIFEST, SIGNATURE):
        content = bytearray((bundle / name).read_bytes())
        for place in range(len(content)):
            content[place] ^= 1 << place % 8
            (bundle / name).write_bytes(content)
            with pytest.raises(BrokenBundle):
                require_signed(bundle, keys / "mine.pub")
            content[place] ^= 1 << place % 8
        (bundle / name).write_bytes(content)
    require_signed(bundle, keys / "mine.pub")


def test_somebody_elses_files_do_not_pass_under_an_old_signature(bundle, keys):
    from edgebert.bundle import write_manifest

    sign(bundle, keys / "mine.pem")
    (bundle / "labels.json").write_text('["y", "x", "z"]')
    write_manifest(bundle, {"name": "bundle"})
    assert verify(bundle).checks, "hashes alone are satisfied"
    with pytest.raises(BrokenBundle, match="no signature of this"):
        verify(bundle, keys / "mine.pub")


def test_a_changed_bundle_is_not_signed(bundle, keys):
    (bundle / "labels.json").write_text("[]")
    with pytest.raises(BrokenBundle, match="labels.json is not the file"):
        sign(bundle, keys / "mine.pem")
    assert not (bundle / SIGNATURE).exists()


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key_is_refused(bundle, keys, tmp_path, content):
    (tmp_path / "k").write_bytes(content)
    for call in (sign, require_signed):
        with pytest.raises(UsageError, match="--key"):
            call(bundle, tmp_path / "k")
        with pytest.raises(UsageError, match="--key"):
            call(bundle, tmp_path / "not-there")
    with pytest.raises(UsageError, match="--key"):
        sign(bundle, keys / "mine.pub")


def test_a_key_of_another_kind_is_refused(bundle, keys, tmp_path):
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric import ec

    (tmp_path / "ec.pem").write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(
        forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()))
    with pytest.raises(UsageError, match="no private Ed25519 key"):
        sign(bundle, tmp_path / "ec.pem")


def test_openssl_makes_the_keys_and_checks_the_signature(bundle, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on this machine")
    pytest.importorskip("cryptography", reason="cryptography is not installed")

    def run(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)

    if run("openssl", "genpkey", "-algorithm", "ed25519", "-out", "private.pem").returncode:
        pytest.skip("this openssl knows no Ed25519")
    run("openssl", "pkey", "-in", "private.pem", "-pubout", "-out", "public.pem")
    edgebert = [sys.executable, "-m", "edgebert"]
    signing = [*edgebert, "sign", str(bundle), "--key", str(tmp_path / "private.pem")]
    assert subprocess.run(signing, cwd=ROOT).returncode == 0
    good = run("openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "public.pem", "-rawin", "-in",
               str(bundle / MANIFEST), "-sigfile", str(bundle / SIGNATURE))
    assert "Signature Verified Successfully" in good.stdout, good.stderr
    checked = [*edgebert, "verify", str(bundle), "--key", str(tmp_path / "public.pem")]
    assert subprocess.run(checked, cwd=ROOT, capture_output=True).returncode == 0
    (bundle / MANIFEST).write_bytes((bundle / MANIFEST).read_bytes().replace(b'"name": "bundle"', b'"name": "bumble"'))
    done = subprocess.run(checked, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 4 and "no signature of this manifest.json" in done.stderr


# Inputs and the bill of materials


def test_every_input_is_in_the_manifest_with_its_hash(original):
    inputs = read_manifest(original / "bundle")["inputs"]
    assert set(inputs["checkpoint"]) == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    for name, sha256 in inputs["checkpoint"].items():
        assert sha256 == hashlib.sha256((original / "checkpoint" / name).read_bytes()).hexdigest()
    assert inputs["data"] == {"train.jsonl": hashlib.sha256((original / "train.jsonl").read_bytes()).hexdigest()}
    assert list(inputs["profile"]) == ["pixel6"]
    assert hashes(original, ("*.nothing",)) == {}


def test_the_bill_is_what_cyclonedx_allows(original):
    validation = pytest.importorskip("cyclonedx.validation.json", reason="cyclonedx-python-lib is not installed")
    schema = pytest.importorskip("cyclonedx.schema", reason="cyclonedx-python-lib is not installed")
    text = (original / "bundle" / SBOM).read_text()
    problem = validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(text)
    assert problem is None, problem
    wrong = text.replace('"type": "library"', '"type": "something"', 1)
    assert validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(wrong) is not None


def test_the_bill_lists_what_made_the_bundle(original):
    from importlib import metadata

    value = json.loads((original / "bundle" / SBOM).read_text())
    found = {(one.get("group", "library"), one["name"]): one for one in value["components"]}
    torch, model = found["library", "torch"], found["checkpoint", "model.safetensors"]
    assert torch["version"] == metadata.version("torch") and torch["purl"].startswith("pkg:pypi/torch@2.")
    assert torch["licenses"], "torch says what its licence is"
    made = hashlib.sha256((original / "bundle" / "model_fp32.onnx").read_bytes()).hexdigest()
    assert found["model", "model_fp32.onnx"]["hashes"] == [{"alg": "SHA-256", "content": made}]
    assert model["type"] == "machine-learning-model" and found["data", "train.jsonl"]["type"] == "data"
    references = [one["bom-ref"] for one in value["components"]]
    assert len(set(references)) == len(references)
    assert {one for row in value["dependencies"] for one in row["dependsOn"]} <= {*references, "bundle"}
    assert str(original) not in json.dumps(value), "names alone, no places of this machine"


def test_the_bill_is_the_same_for_the_same_files(original):
    inputs = read_manifest(original / "bundle")["inputs"]
    assert bill(original / "bundle", inputs) == json.loads((original / "bundle" / SBOM).read_text())


def test_packages_are_followed_to_what_they_need():
    found = packages(("transformers",))
    assert {"transformers", "tokenizers", "numpy", "safetensors"} <= set(found) and "torch" not in found
    assert packages(("no-such-package",)) == {}
    assert licence_of("numpy").startswith("BSD")
