"""The page of examples/browser in headless Chromium, served from this machine: it answers as torch did."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from tests.browser import CHROMIUM, Page, browser
from tests.peers.build import why_not
from tests.sample_material import BOUND, CASES, write_bundle
from tests.sample_tools import node_modules

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "browser"

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
              pytest.mark.skipif(why_not("node") is not None, reason=str(why_not("node")))]

LOGITS = """import('./app.mjs').then(async ({ ready }) => {
  const classifier = await ready, found = [];
  const { rows } = await (await fetch('bundle/golden.json')).json();
  for (const { text, pair } of rows) {
    const row = classifier.tokenizer.encode(text, pair, classifier.app.length);
    found.push([row.ids, Array.from(await classifier.logits(row))]);
  }
  return found;
})"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """The address of the page, and the folder it is served from, which a test may change."""
    place = tmp_path_factory.mktemp("page") / "browser"
    shutil.copytree(EXAMPLE, place)
    (place / "node_modules").symlink_to(node_modules())
    assert not write_bundle(place / "bundle", CASES[0]).left_out
    golden = json.loads((place / "bundle/golden.json").read_text(encoding="utf-8"))
    golden["rows"] = golden["rows"][::9]
    (place / "bundle/golden.json").write_text(json.dumps(golden), encoding="utf-8")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(place)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", place
    server.shutdown()
    thread.join()


@pytest.fixture(scope="module")
def page(served) -> Iterator[Page]:
    with browser() as opened:
        opened.visit(served[0], 400)
        yield opened


def until(page: Page, condition: str) -> None:
    """Waits for an expression to be true in the page."""
    end = time.monotonic() + 30
    while not page.ask(condition):
        assert time.monotonic() < end, page.ask("document.body.innerText")
        time.sleep(0.05)


def test_the_runtime_is_the_one_that_the_tests_have():
    pinned = json.loads((EXAMPLE / "package.json").read_text())["dependencies"]["onnxruntime-web"]
    assert json.loads((node_modules() / "onnxruntime-web/package.json").read_text())["version"] == pinned


def test_its_logits_are_the_golden_ones(page, served):
    found = page.ask(LOGITS)
    rows = json.loads((served[1] / "bundle/golden.json").read_text(encoding="utf-8"))["rows"]
    assert len(found) == len(rows) > 80
    for (ids, logits), row in zip(found, rows):
        assert ids == row["input_ids"][: sum(row["attention_mask"])]
        assert np.allclose(logits, row["logits"], rtol=0, atol=20 * BOUND), row["text"]


def test_a_typed_text_is_answered(page):
    page.ask("""(() => { for (const [id, text] of [['text', 'play some jazz'], ['pair', 'in Paris']]) {
      const box = document.getElementById(id);
      box.value = text;
      box.dispatchEvent(new Event('input'));
    } })()""")
    until(page, "document.querySelectorAll('#answers li').length === 3")
    lines = page.ask("[...document.querySelectorAll('#answers li')].map("
                     "e => [e.children[0].textContent, e.children[2].textContent])")
    assert sorted(label for label, _ in lines) == ["a", "b", "c"]
    scores = [float(score) for _, score in lines]
    assert scores == sorted(scores, reverse=True) and abs(sum(scores) - 1) < 0.01
    assert "from text to answer" in page.ask("document.getElementById('state').textContent")


def test_the_button_checks_the_bundle(page):
    page.ask("document.getElementById('golden').click()")
    until(page, "document.getElementById('state').textContent.includes('the same ids')")
    assert "too far off" not in page.ask("document.getElementById('state').textContent")


def test_it_asks_this_server_alone_and_complains_of_nothing(page, served):
    assert page.complaints() == []
    assert {url.split("/")[2] for url in page.requested() if url.startswith("http")} == {served[0].split("/")[2]}
    assert page.ask("document.documentElement.scrollWidth") <= 400


def test_a_missing_bundle_is_told(served):
    address, place = served
    (place / "bundle/labels.json").rename(place / "labels.away")
    try:
        with browser() as page:
            page.visit(address, 400)
            until(page, "document.getElementById('state').textContent.includes('labels.json: 404')")
    finally:
        (place / "labels.away").rename(place / "bundle/labels.json")
