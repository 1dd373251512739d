"""The report as a browser shows it: on a phone and on a desk, in the light and in the dark, without a network."""

from __future__ import annotations

import itertools
import re

import pytest

from edgebert.report import render_report
from edgebert.side_by_side import render_comparison
from tests.browser import CHROMIUM, browser
from tests.test_report import CASES, COMMAND
from tests.test_side_by_side import three_bundles

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")

WIDTHS = (360, 768, 1280)
LEAST_CONTRAST = 4.5
"""Of text against what is behind it: WCAG 2.2, success criterion 1.4.3."""

CONTRASTS = """(() => {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const shares = [0.2126, 0.7152, 0.0722];
  const light = (colour) => parts(colour).slice(0, 3).map((v) => v / 255).map(
    (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * shares[i], 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (!/, 0\\)$/.test(colour) && colour !== 'transparent') return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const holder = walk.currentNode.parentElement, style = getComputedStyle(holder);
    const hidden = holder.closest('style, script') || !holder.getClientRects().length;
    if (hidden || !walk.currentNode.textContent.trim()) continue;
    const colour = holder.closest('svg') ? style.fill : style.color;
    if (!/^rgb/.test(colour)) continue;
    const [a, b] = [light(colour), light(behind(holder))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), walk.currentNode.textContent.trim().slice(0, 40)]);
  }
  return found.sort((x, y) => x[0] - y[0]);
})()"""


@pytest.fixture(scope="module")
def page():
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module", params=[*CASES, "three bundles side by side"])
def report(request, tmp_path_factory):
    place = tmp_path_factory.mktemp("report")
    if request.param in CASES:
        evidence, plan, profile = CASES[request.param]()
        page = render_report(evidence, plan, profile, COMMAND)
    else:
        page = render_comparison(three_bundles(place), COMMAND)
    (place / "report.html").write_text(page, encoding="utf-8")
    return place / "report.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_quiet_fits_the_window_and_can_be_read(page, report, width, scheme) -> None:
    page.open(report, width, scheme)
    assert page.complaints() == []
    assert page.requested() == [report.resolve().as_uri()], "nothing but the page itself is asked for"
    assert page.ask("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    wide = page.ask("[...document.querySelectorAll('table')].filter(e => e.getClientRects().length && "
                    "e.getBoundingClientRect().right > e.parentElement.getBoundingClientRect().right + 1).length")
    assert wide == 0, "a table is wider than its column"
    worst = page.ask(CONTRASTS)
    assert len(worst) > 50 and worst[0][0] >= LEAST_CONTRAST, worst[:3]
    assert page.ask("Math.min(...[...document.querySelectorAll('main p, main td, main th')].map("
                    "e => parseFloat(getComputedStyle(e).fontSize)))") >= 12


def test_what_can_be_reached_by_keyboard_has_a_name(page, report) -> None:
    page.open(report, 1280)
    for node in page.ask("[...document.querySelectorAll('a[href], summary, button, input')].map("
                         "e => [e.tagName, e.textContent.trim(), e.getAttribute('tabindex')])"):
        assert node[1] and node[2] != "-1", node
    opened = page.ask("(() => { const all = [...document.querySelectorAll('summary')]; all.forEach(e => e.focus());"
                      "return all.every(e => document.activeElement === all[all.length - 1]); })()")
    assert opened or page.ask("document.querySelectorAll('summary').length") == 0


def test_pictures_and_headings_are_told_to_screen_readers(page, report) -> None:
    page.open(report, 1280)
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")]
    pictures = [name for role, name in named if role in ("image", "img")]
    shown = page.ask("[...document.querySelectorAll('svg')].filter(e => e.getClientRects().length).length")
    assert len(pictures) == shown and all(len(name) > 15 for name in pictures), pictures
    levels = page.ask("[...document.querySelectorAll('h1, h2, h3, h4')].map(e => Number(e.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert page.ask("document.documentElement.lang") and page.ask("document.title")
    assert not re.search(r"undefined|NaN|None", page.ask("document.body.innerText"))
