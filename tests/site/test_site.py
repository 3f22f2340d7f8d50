"""The built site in a real browser: no complaints, no requests to other servers, and what axe says of its pages."""

import functools
import http.server
import json
import os
import shutil
import threading
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright
from visits import LOOKS, Visit

pytestmark = pytest.mark.filterwarnings("default")  # the browser tools' own warnings are no concern of ours

SITE = Path(__file__).parents[2] / "site"
PAGES = ["index", "start", "tutorials/own-photos", "migration", "comparison", "reference/schedules"]
SEARCHES = {"GradientClip": "reference/callbacks", "extend a run": "how-to/resume"}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    assert (SITE / "index.html").exists(), "`.ci/docs` builds the site first"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as tools:
        yield tools.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_asked_of_others_and_axe_finds_nothing(browser, address, page, width, scheme):
    with Visit(browser, f"{address}/{page}.html", width, scheme) as visit:
        visit.page.wait_for_load_state("networkidle")
        found, wide, ground = visit.find_violations(), visit.content_width(), visit.ground()
        if folder := os.environ.get("SCREENSHOTS"):
            visit.page.screenshot(path=Path(folder) / f"{page.replace('/', '_')}_{width}_{scheme}.png", full_page=True)
        assert visit.said == [] and [url for url in visit.requests if not url.startswith((address, "data:"))] == []
    assert not found, json.dumps(found, indent=1)
    assert wide <= width and (ground == "rgb(255, 255, 255)") == (scheme == "light")


def test_figures_are_shown_in_the_theme_of_the_page(browser, address):
    for scheme in ("light", "dark"):
        with Visit(browser, f"{address}/start.html", scheme=scheme) as visit:
            shown = visit.page.locator("article img:visible")
            assert shown.count() >= 2
            assert all(scheme in one for one in shown.evaluate_all("all => all.map(image => image.src)"))


@pytest.mark.parametrize(("query", "page"), SEARCHES.items())
def test_the_search_finds_names_and_phrases(browser, address, query, page):
    with Visit(browser, f"{address}/index.html") as visit:
        visit.page.locator("input[name=query]").fill(query)
        visit.page.locator(".md-search-result__link").first.wait_for()
        assert page in visit.page.locator(".md-search-result__link").first.get_attribute("href")
