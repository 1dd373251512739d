"""A bundle on a hub: the real client against a server of this test, the card that people see, and what is refused."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from edgebert import hub
from edgebert.bundle import BrokenBundle, read_manifest
from edgebert.errors import UsageError
from tests.docs_material import edgebert, make_place

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, bert_folder) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_place(folder, bert_folder)
    return folder / "edgebert-bundle"


@dataclass
class Hub:
    """The part of the hub's interface that a push uses. private: of the repository, once it is there."""

    private: bool | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[dict] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    url: str = ""


@pytest.fixture
def server() -> Iterator[Hub]:
    state = Hub()

    class Answers(BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

        def _say(self, value: object, code: int = 200) -> None:
            content = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            if state.private is None or self.headers.get("Authorization") != "Bearer hf_right":
                return self._say({"error": "Repository not found"}, 404)
            return self._say({"id": "me/tiny", "private": state.private, "siblings": [], "sha": "0" * 40})

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            state.tokens.add(self.headers.get("Authorization", ""))
            if self.headers.get("Authorization") != "Bearer hf_right":
                return self._say({"error": "Invalid username or password."}, 401)
            if self.path == "/api/repos/create":
                if state.private is None:
                    asked = json.loads(content)  # older clients say "private", newer ones "visibility"
                    state.private = asked.get("private") is True or asked.get("visibility") == "private"
                return self._say({"url": f"{state.url}/me/tiny", "id": "me/tiny"})
            if self.path == "/api/validate-yaml":
                front = json.loads(content)["content"].split("---\n")[1]
                return self._say({"warnings": [], "errors": [] if "pipeline_tag" in yaml.safe_load(front) else ["none"]})
            if "/preupload/" in self.path:
                files = json.loads(content)["files"]
                return self._say({"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                                            for one in files]})
            if "/commit/" in self.path:
                lines = [json.loads(line) for line in content.splitlines()]
                state.commits.append(next(one["value"] for one in lines if one["key"] == "header"))
                state.files |= {one["value"]["path"]: base64.b64decode(one["value"]["content"])
                                for one in lines if one["key"] == "file"}
                return self._say({"commitUrl": f"{state.url}/me/tiny/commit/1", "commitOid": "1" * 40})
            return self._say({"error": f"unknown {self.path}"}, 404)

    running = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    state.url = f"http://127.0.0.1:{running.server_port}"
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield state
    running.shutdown()
    running.server_close()


def pushed(state: Hub, *words: str, token: str = "hf_right", **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, since the client reads its settings when it is imported."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": state.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": token,
           "HF_HUB_DISABLE_XET": "1", **environment}
    return subprocess.run([sys.executable, "-m", "edgebert", "push", *words], capture_output=True, text=True, env=env)


def test_a_push_is_one_private_commit_of_the_bundle_as_it_is_and_a_card(bundle, server, tmp_path):
    done = pushed(server, str(bundle), "me/tiny", "--json")
    assert done.returncode == 0, done.stderr
    names = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()}
    assert set(server.files) == {"README.md", *(f"bundle/{name}" for name in names)}
    assert all(server.files[f"bundle/{name}"] == path.read_bytes() for name, path in names.items())
    assert server.private is True and len(server.commits) == 1 and server.tokens == {"Bearer hf_right"}
    said = json.loads(done.stdout)
    assert said["private"] is True and set(said["files"]) == set(server.files) and said["repo"] == "me/tiny"
    for name, content in server.files.items():  # what somebody downloads
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert edgebert("verify", str(tmp_path / "bundle")).exit_code == 0


def test_a_public_repository_needs_the_word(bundle, server):
    server.private = False
    done = pushed(server, str(bundle), "me/tiny")
    assert done.returncode == 2 and "--public" in done.stderr and not server.files
    assert pushed(server, str(bundle), "me/tiny", "--public").returncode == 0 and server.files


@pytest.mark.parametrize(("token", "environment", "expected"), [
    ("hf_wrong", {}, "hf auth login"), ("hf_right", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "hf auth login"),
    ("hf_right", {"HF_HUB_OFFLINE": "1"}, "offline")])
def test_a_hub_that_refuses_or_is_not_there_is_one_line(bundle, server, token, environment, expected):
    done = pushed(server, str(bundle), "me/tiny", token=token, **environment)
    assert done.returncode == 2 and not server.files, done.stdout
    last = done.stderr.splitlines()[-1]
    assert last.startswith("edgebert: me/tiny: the hub did not take") and expected in last, done.stderr
    assert "Traceback" not in done.stderr


def test_the_card_has_front_matter_that_the_hub_reads_and_what_the_run_found(bundle):
    manifest = read_manifest(bundle)
    text = hub.model_card(bundle, manifest, "me/tiny", "apache-2.0", "google-bert/bert-base-uncased")
    _, front, body = text.split("---\n", 2)
    facts = yaml.safe_load(front)
    assert (facts["license"], facts["base_model"]) == ("apache-2.0", "google-bert/bert-base-uncased")
    assert facts["pipeline_tag"] == "text-classification" and {"edgebert", "onnx"} <= set(facts["tags"])
    results = json.loads((bundle / "results.json").read_text())
    values = {row["value"] for row in facts["model-index"][0]["results"][0]["metrics"]}
    student = next(one for one in results["models"] if one["role"] == "student")
    assert round(student["test"]["points"] / 100, 4) in values
    assert manifest["command"] in body and "hf download me/tiny" in body and manifest["data_sha256"] in body
    assert body.count("**this one**") == 1 and f"| {results['front'][0]['error']:.4f} |" in body
    assert "No licence is stated" not in body and "No licence is stated" in hub.model_card(bundle, manifest, "me/tiny")
    assert "AutoModelForSequenceClassification.from_pretrained(\"me/tiny\", subfolder=\"bundle/transformers\")" in body


def test_the_card_s_lines_load_the_model(bundle):
    from transformers import AutoModelForSequenceClassification

    import edgebert.modeling  # noqa: F401

    model = AutoModelForSequenceClassification.from_pretrained(str(bundle.parent / "edgebert-bundle"),
                                                               subfolder="transformers")
    assert model.config.num_labels == 2


@pytest.mark.parametrize(("command", "expected"), [
    ("edgebert fit-device --profile pixel6", hub.DEMO_MODEL), ("edgebert fit-device -m google-bert/bert-base-uncased",
                                                               "google-bert/bert-base-uncased"),
    ("edgebert fit-device --model=a/b -p pixel6", "a/b"), ("edgebert fit-device --model ./my-bert", None),
    ("edgebert fit-device --model my-bert", None), ("edgebert fit-device --model /data/bert", None),
    ("edgebert fit-device --supernet s", None), ("edgebert build plan.json", None), (None, None)])
def test_the_base_model_is_what_the_command_names(command, expected):
    assert hub.base_of({"command": command}) == expected


@pytest.mark.parametrize(("repo", "flags", "expected"), [
    ("tiny", {}, "OWNER/NAME"), ("me/../tiny", {}, "OWNER/NAME"),
    ("me/tiny", {"licence": "Apache 2.0\nx: y"}, "--license"), ("me/tiny", {"base_model": "bert\n- x"}, "--base-model")])
def test_names_that_the_hub_does_not_know_are_refused(bundle, repo, flags, expected):
    with pytest.raises(UsageError, match=expected):
        hub.push(bundle, repo, **flags)


def test_a_bundle_that_was_changed_is_not_pushed(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "b")
    (tmp_path / "b" / "labels.json").write_text('["x", "y"]\n')
    with pytest.raises(BrokenBundle, match="labels.json"):
        hub.push(tmp_path / "b", "me/tiny")


def test_the_card_alone_is_written_without_a_server(bundle, tmp_path):
    done = edgebert("push", str(bundle), "me/tiny", "--card", str(tmp_path / "README.md"))
    assert done.exit_code == 0 and (tmp_path / "README.md").read_text(encoding="utf-8").startswith("---\n")
    done = edgebert("push", str(bundle), "me/tiny", "--card", str(tmp_path / "README.md"))
    assert isinstance(done.exception, UsageError)
