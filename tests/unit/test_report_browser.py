"""Reports in headless Chromium: they load, show and play what they hold, on a desk and on a phone, by themselves."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Tab, browser, find_browser
from report_world import evaluation, make_run

from sqvae_speech.reporting.comparison_page import comparison_page
from sqvae_speech.reporting.page import write_page
from sqvae_speech.reporting.run_folder import read_run_folder
from sqvae_speech.reporting.run_page import run_page

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium here (bash tools/install_browser.sh, or apt-get)"
)
# of every player, once it knows how long its recording is
DURATIONS = """Promise.all([...document.querySelectorAll('audio')].map(a => a.readyState ? a.duration :
    new Promise((resolve, reject) => { a.onloadedmetadata = () => resolve(a.duration); a.onerror = reject; })))"""
# how far the first player gets, until something was heard
PLAY = """(async () => { const a = document.querySelector('audio'); await a.play();
    for (let n = 0; n < 600 && !a.currentTime; n++) await new Promise(r => setTimeout(r, 50));
    return a.currentTime; })()"""
# pictures that are drawn, and larger than nothing
PICTURES = """[...document.querySelectorAll('img, svg')].filter(p => !p.closest('details'))
    .map(p => [p.tagName, p.getBoundingClientRect().width, p.getBoundingClientRect().height, p.naturalWidth ?? 1])"""
# what sticks out of the page, but for what scrolls by itself
TOO_WIDE = """[...document.querySelectorAll('body *')].filter(e => !e.parentElement.closest('.scroll, pre, svg') &&
    e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.tagName + '.' + e.className)"""


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with browser(str(PROGRAM)) as tab:
        yield tab


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """The page of a run, with all its parts, and one of two runs."""
    root = tmp_path_factory.mktemp("pages")
    runs = [make_run(root / name, seed=seed) for seed, name in enumerate(("a-run-with-a-rather-long-name_x=1", "b"))]
    page = run_page(read_run_folder(runs[0]), [evaluation("log-mel", ("mel",), shift=0.05)])
    return {
        "run": write_page(root / "run.html", page),
        "comparison": write_page(root / "comparison.html", comparison_page(runs, "two runs")),
    }


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390, 320])
@pytest.mark.parametrize("name", ["run", "comparison"])
def test_a_page_loads_and_fits(tab, pages, name, width, dark):
    address = pages[name].as_uri()
    visit = tab.open(address, width=width, height=844, dark=dark)
    assert visit.problems == []
    elsewhere = [url for url in visit.requests if url != address and not url.startswith("data:")]
    assert elsewhere == [], "nothing is asked for but the page"
    pictures = visit.evaluate(PICTURES)
    assert len(pictures) > 5
    assert all(w > 100 and h > 20 and natural > 0 for _, w, h, natural in pictures), pictures
    assert visit.evaluate(TOO_WIDE) == []
    assert visit.evaluate("document.documentElement.scrollWidth") <= width
    background = visit.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background.removeprefix("rgb(").rstrip(")").split(","))) < 200) == dark


def test_players_play(tab, pages):
    visit = tab.open(pages["run"].as_uri())
    assert visit.evaluate(DURATIONS) == pytest.approx([1.0, 1.0], abs=0.01)
    assert visit.evaluate("[...document.querySelectorAll('audio')].every(a => a.getBoundingClientRect().height > 20)")
    assert 0 < visit.evaluate(PLAY) <= 1.01


def test_what_is_wrong_would_be_seen(tab, tmp_path):
    """The test's own eyes: a page with an error, a request, and something too wide."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><meta name=viewport content='width=device-width'><body>"
        "<script>console.error('broken')</script><img src='http://127.0.0.1:9/x.png'>"
        "<div style='width:2000px'>wide</div>"
    )
    visit = tab.open(page.as_uri(), width=390)
    assert any("broken" in problem for problem in visit.problems)
    assert "http://127.0.0.1:9/x.png" in visit.requests
    assert visit.evaluate(TOO_WIDE) == ["DIV."]
