"""A bundle on the Hugging Face hub: its files as they are in the folder `bundle`, and a model card that shows them.

The bundle stays byte for byte what `edgebert verify` and a signature are about; the card, which the hub wants at the root
under the name README.md, is made from the bundle's own when it is pushed.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from edgebert.bundle import MANIFEST, SIGNATURE, check_files, read_manifest
from edgebert.errors import UsageError
from edgebert.evidence import Evidence
from edgebert.layout import AUTO_CLASSES

PLACE = "bundle"
DEMO_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
"""What a run without --model is made from."""

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
_UNSTATED = "- No licence is stated here: that of the original checkpoint and of the data applies.\n"


@dataclass(frozen=True)
class Pushed:
    """What the hub has now. files: paths in the repository."""

    repo: str
    url: str
    private: bool
    files: tuple[str, ...]


def push(folder: Path, repo: str, public: bool = False, licence: str | None = None,
         base_model: str | None = None) -> Pushed:
    """Makes the repository where there is none, and puts bundle and card into it as one commit. The token is what
    `hf auth login` or HF_TOKEN gave the hub's client.

    Raises UsageError for names that the hub does not know as such, for a public repository without `public` (golden.json
    and results.json hold rows of the data), and with the client's first line where the hub does not take it; BrokenBundle
    (4) for a bundle whose files are not those of its manifest.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    if not _REPO.fullmatch(repo):
        raise UsageError(f"{repo}: a repository is named OWNER/NAME, of letters, digits, '-', '_' and '.'")
    card = model_card(folder, manifest, repo, licence, base_model)
    from huggingface_hub import CommitOperationAdd, HfApi

    names = sorted([MANIFEST, *manifest["files"], *([SIGNATURE] if (folder / SIGNATURE).is_file() else [])])
    operations = [CommitOperationAdd("README.md", card.encode()),
                  *(CommitOperationAdd(f"{PLACE}/{name}", folder / name) for name in names)]
    api = HfApi(library_name="edgebert")
    try:
        url = api.create_repo(repo, private=not public, exist_ok=True)
        private = bool(api.repo_info(repo).private)
        if not private and not public:
            raise UsageError(f"{repo} is public, and a bundle holds texts of its test data (golden.json, results.json); "
                             "pass --public if that is meant")
        api.create_commit(repo, operations, commit_message=f"edgebert bundle {manifest.get('name', folder.name)}")
    except UsageError:
        raise
    except Exception as error:  # the client raises many kinds: network, authentication, quota, a name that is taken
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UsageError(f"{repo}: the hub did not take the bundle ({type(error).__name__}: {reason[:200]}); log in with "
                         "`hf auth login` or set HF_TOKEN, and push again") from error
    return Pushed(repo, str(url), private, ("README.md", *(f"{PLACE}/{name}" for name in names)))


def model_card(folder: Path, manifest: dict[str, Any], repo: str, licence: str | None = None,
               base_model: str | None = None) -> str:
    """The bundle's MODEL_CARD.md with what only the hub asks for: licence and base model in the front matter, how to get
    the files, the other plans that were worth having, and how this one was made. Raises UsageError for a licence that is
    no identifier, and a base model that is no OWNER/NAME."""
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise UsageError(f"--license {licence}: give the hub's identifier, such as apache-2.0 or cc-by-4.0")
    if base_model is not None and not _REPO.fullmatch(base_model):
        raise UsageError(f"--base-model {base_model}: give the checkpoint's OWNER/NAME on the hub")
    text = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    start = "---\nlibrary_name: edgebert\n"
    if not text.startswith(start):
        raise UsageError(f"{folder}/MODEL_CARD.md has no front matter; was it made by this program?")
    base = base_model or base_of(manifest)
    more = (f"license: {licence}\n" if licence else "") + (f"base_model: {base}\n" if base else "")
    text = start + more + text[len(start):]
    if licence:
        text = text.replace(_UNSTATED, "")
    evidence = Evidence.loads((folder / "results.json").read_text(encoding="utf-8"))
    before, _, after = text.partition("\n## References\n")
    added = [*_getting(repo, evidence.kind), *_others(evidence), *_made(manifest)]
    return "\n".join([before, *added, "## References", after.lstrip("\n")])


def base_of(manifest: dict[str, Any]) -> str | None:
    """The checkpoint's name on the hub, as far as the command that made the bundle tells: what --model names, or the
    default; None for a folder, and where another source of weights was used."""
    words = shlex.split(str(manifest.get("command") or ""))
    given = dict(pairwise(words)) | dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
    if "--supernet" in given or words[:2] != ["edgebert", "fit-device"]:
        return None
    model = given.get("--model", given.get("-m", DEMO_MODEL))
    return model if _REPO.fullmatch(model) and not Path(model).exists() else None


def _getting(repo: str, kind: str) -> list[str]:
    loader = f"AutoModel{AUTO_CLASSES[kind]}"
    return ["", "## Files", "", f"The folder `{PLACE}` holds the model files, the tokenizer, samples in five languages, "
            "the plan and all measurements; its `README.md` says how to run them. Get and check it:", "", "```bash",
            f"hf download {repo} --local-dir model", f"edgebert verify model/{PLACE}", "```", "",
            "The PyTorch model:", "", "```python", "import edgebert.modeling  # registers the class",
            f"from transformers import {loader}", "",
            f'model = {loader}.from_pretrained("{repo}", subfolder="{PLACE}/transformers")', "```", ""]


def _others(evidence: Evidence) -> list[str]:
    """Plans around the chosen one, each the best for its latency."""
    if len(evidence.front) < 2:
        return []
    rows = [f"| {'**this one**' if one.chosen else ''} | {one.latency_ms:.3g} | {one.error:.4f} | "
            f"{one.file_mb:.1f} | {one.layers} |" for one in evidence.front]
    return ["## Other plans for this device", "", "Each has the least predicted error at its latency. The errors are "
            "those before recovery; latencies are estimates.", "",
            "| | ms | predicted error | MB | heads x neurons of each layer |", "|---|---:|---:|---:|---|", *rows, ""]


def _made(manifest: dict[str, Any]) -> list[str]:
    """The manifest's facts, and the command."""
    facts = {"made": manifest.get("created"), "profile": manifest.get("profile"), "task": manifest.get("task"),
             "seed": manifest.get("seed"), "sha256 of the checkpoint": manifest.get("checkpoint_sha256"),
             "sha256 of the data": manifest.get("data_sha256"),
             "versions": ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())}
    return ["## Made by", "", "```bash", *([str(manifest["command"])] if manifest.get("command") else []),
            f"edgebert reproduce model/{PLACE} --model PATH --data PATH", "```", "", "| | |", "|---|---|",
            *(f"| {name} | {value} |" for name, value in facts.items() if value is not None), ""]
