"""The documentation site: it builds with every link checked, and works from a folder without a network."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.browser import CHROMIUM, browser

ROOT = Path(__file__).resolve().parent.parent
NO_MKDOCS = "mkdocs-material is not installed: pip install 'edgebert[docs]' brings it"
LOADED = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}


class Loads(HTMLParser):
    """What a page makes the browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag, attrs):
        value = dict(attrs).get(LOADED.get(tag, ""))
        if value:
            self.loaded.append(value)


def build(folder: Path, *more: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder), *more], cwd=ROOT,
                          capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    if find_spec("material") is None:
        pytest.skip(NO_MKDOCS)
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_it_builds_strictly_and_holds_every_page(site):
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert not {page for page in pages if not (site / page).is_file()}


@pytest.mark.parametrize("broken", ["[gone](gone.md)", "[gone](faq.md#no-such-heading)"])
def test_a_broken_link_ends_the_build(site, tmp_path, broken):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text(f"# One\n\n{broken}\n", encoding="utf-8")
    (docs / "faq.md").write_text("# Two\n", encoding="utf-8")
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    text = text[: text.index("nav:\n")].replace("hooks: [docs/assets/decisions_in_nav.py]\n", "")
    (tmp_path / "mkdocs.yml").write_text(text, encoding="utf-8")
    done = build(tmp_path / "out", "-f", str(tmp_path / "mkdocs.yml"))
    assert done.returncode != 0 and broken.split("(")[1].rstrip(")").split("#")[-1] in done.stderr


def test_no_page_and_no_style_loads_from_another_host(site):
    for page in site.rglob("*.html"):
        found = Loads()
        found.feed(page.read_text(encoding="utf-8"))
        assert found.loaded
        assert not [url for url in found.loaded if re.match(r"(https?:)?//", url)], page
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", style.read_text(encoding="utf-8")), style


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_it_is_whole_and_can_be_searched_from_the_folder_alone(site):
    with browser() as page:
        for name in ("index.html", "tutorial.html", "reference/cli.html", "howto/android.html"):
            for width in (360, 1280):
                page.open(site / name, width)
                page.ask("new Promise((resolve) => setTimeout(resolve, 300))")
                assert {url.split(":", 1)[0] for url in page.requested()} <= {"file", "data", "about", "blob"}, name
                wide = page.ask("document.documentElement.scrollWidth")
                assert wide <= width, f"{name} is {wide} pixels wide in a window of {width}"
                assert not [one for one in page.complaints() if "ERR_FILE_NOT_FOUND" in one], name
        page.open(site / "index.html", 1280)
        hits = page.ask("""new Promise(async (resolve) => {
            const field = document.querySelector('input[data-md-component="search-query"]');
            document.querySelector('label[for="__search"]').click();
            field.focus();
            for (let turn = 0; turn < 100; turn++) {
                field.value = 'knapsack';
                field.dispatchEvent(new Event('keyup', {bubbles: true}));
                field.dispatchEvent(new Event('input', {bubbles: true}));
                await new Promise((then) => setTimeout(then, 100));
                const found = [...document.querySelectorAll('.md-search-result__link')].map((link) => link.href);
                if (found.length) return resolve(JSON.stringify(found));
            }
            resolve('[]');
        })""")
    assert any("concepts/search.html" in url for url in json.loads(hits)), hits
