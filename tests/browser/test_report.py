"""The report in a real browser: no errors, no requests, tables that sort and search, and what axe says of it."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from playwright.sync_api import sync_playwright
from torch import nn
from visits import LOOKS, Visit

from minilearner import (
    ClassificationInterpretation,
    DataLoaders,
    Learner,
    MultiLabelInterpretation,
    Regression,
    RegressionInterpretation,
    accuracy,
)
from minilearner.data.targets import MultiCategory
from minilearner.results.predictions import Predictions

pytestmark = pytest.mark.filterwarnings("default")  # the browser tools' own warnings are no concern of ours

NAMES = ["<script>alert(1)</script>", "\"quotes\" 'single'", "</script><b>bold", "שלום עולם", "\u202eright to left"]
NAMES += ["x" * 90, "日本語 犬", "🐶 emoji", "plain", "a&amp;b"]


def images(n=120):
    y = torch.arange(n) % 10
    x = torch.rand(n, 3, 40, 40, generator=torch.Generator().manual_seed(0)) / 2
    for i, label in enumerate(y.tolist()):
        x[i, :, label // 4 * 12 : label // 4 * 12 + 10, label % 4 * 10 : label % 4 * 10 + 10] += 0.4
    return x, torch.where(torch.arange(n) % 17 == 0, (y + 1) % 10, y)


def train(y, n_out, **options):
    x = images()[0]
    net = nn.Sequential(nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, n_out))
    dls = DataLoaders.from_arrays((x, y), (x, y), bs=20, seed=1, device="cpu", **options)
    learn = Learner(dls, net, metrics=accuracy if "vocab" in options else None, device="cpu", seed=0)
    with learn.no_logging():
        learn.fit_one_cycle(2, 1e-2)
        learn.fit(1)
    return learn


def write_classes(path):
    return ClassificationInterpretation.from_learner(train(images()[1], 10, vocab=NAMES)).report(path, n_images=6)


def write_many(path):
    g = torch.Generator().manual_seed(1)
    y = torch.randint(117, (900,), generator=g)  # three classes are empty
    logits = 2 * torch.randn(900, 120, generator=g) + 9 * nn.functional.one_hot(y, 120)
    predictions = Predictions(logits.softmax(1), y, vocab=tuple(f"class {i}" for i in range(120)))
    return ClassificationInterpretation.from_predictions(predictions).report(path)


def write_labels(path):
    y = (images()[0].mean((2, 3)) > 0.3).float()
    target = MultiCategory(["<b>blue", "green", "red"])
    return MultiLabelInterpretation.from_learner(train(y, 3, target=target)).report(path, n_images=4)


def write_numbers(path):
    y = images()[0].mean((1, 2, 3))[:, None]
    return RegressionInterpretation.from_learner(train(y, 1, target=Regression(1))).report(path, n_images=4)


WRITERS = (write_classes, write_many, write_labels, write_numbers)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as tools:
        yield tools.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])


@pytest.fixture(scope="module", params=WRITERS, ids=lambda writer: writer.__name__.removeprefix("write_"))
def report(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("report") / "report.html")


def column(visit, table, place):
    script = "(t, i) => [...t.tBodies[0].rows].filter(r => !r.hidden).map(r => r.cells[i].textContent)"
    return table.evaluate(f"(t) => ({script})(t, {place})")


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_nothing_is_asked_for_and_axe_finds_nothing(browser, report, width, scheme):
    with Visit(browser, report.as_uri(), width, scheme) as visit:
        found, wide, ground = visit.find_violations(), visit.content_width(), visit.ground()
        if folder := os.environ.get("SCREENSHOTS"):
            name = f"{report.parent.name}_{width}_{scheme}.png"
            visit.page.screenshot(path=Path(folder) / name, full_page=True)
        assert visit.said == [] and [url for url in visit.requests if not url.startswith("data:")] == [report.as_uri()]
    assert not found, json.dumps(found, indent=1)
    assert wide <= width and (ground == "rgb(15, 19, 24)") == (scheme == "dark")


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    return write_classes(tmp_path_factory.mktemp("classes") / "report.html")


def test_a_head_sorts_its_table_by_mouse_and_by_key(browser, classes):
    with Visit(browser, classes.as_uri()) as visit:
        table, head = visit.page.locator("#classes table"), visit.page.locator("#classes th", has_text="recall")
        place = head.evaluate("head => head.cellIndex")
        head.locator("button").click()
        falling = [float(text) for text in column(visit, table, place)]
        assert falling == sorted(falling, reverse=True) and head.get_attribute("aria-sort") == "descending"
        head.locator("button").press("Enter")
        assert [float(text) for text in column(visit, table, place)] == sorted(falling)
        assert head.get_attribute("aria-sort") == "ascending"
        visit.page.locator("#classes th button").first.click()
        assert head.get_attribute("aria-sort") is None and sorted(column(visit, table, 0)) == sorted(NAMES)


def test_a_search_leaves_the_rows_with_all_words(browser, classes):
    with Visit(browser, classes.as_uri()) as visit:
        table, field = visit.page.locator("#classes table"), visit.page.locator("#classes input")
        field.fill("EMOJI 🐶")
        found = column(visit, table, 0)
        assert "🐶 emoji" in found and len(found) < 10
        assert visit.page.locator("#classes output").inner_text() == f"{len(found)} of 10 rows"
        field.fill("<script>alert")
        assert NAMES[0] in column(visit, table, 0)
        field.fill("")
        assert len(column(visit, table, 0)) == 10 and visit.said == []


def test_the_button_changes_the_theme(browser, classes):
    with Visit(browser, classes.as_uri(), scheme="dark") as visit:
        button = visit.page.locator("#theme")
        assert button.inner_text() == "Light colors"
        button.click()
        assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(245, 246, 248)"
        assert button.inner_text() == "Dark colors"


def test_without_scripts_the_page_says_the_same(browser, classes):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(classes.as_uri())
    assert page.locator("#classes tbody tr").count() == 10 and not page.locator("#classes input").is_visible()
    assert not page.locator("#theme").is_visible()
    context.close()


def test_images_are_shown(browser, classes):
    with Visit(browser, classes.as_uri()) as visit:
        widths = visit.page.locator("img").evaluate_all("all => all.map(image => image.naturalWidth)")
        assert len(widths) >= 12 and all(widths)
