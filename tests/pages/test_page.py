"""The HTML of a page: whole, escaped, without any address, and readable in both themes."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch

import minilearner.pages.page
from minilearner.pages.charts import draw_chart
from minilearner.pages.content import (
    Bars,
    Card,
    Cards,
    Cell,
    Charts,
    Code,
    FileName,
    Lines,
    Matrix,
    Name,
    Numbers,
    Page,
    Paragraph,
    Points,
    Section,
    Series,
    Table,
)
from minilearner.pages.matrices import draw_matrix, find_shades
from minilearner.pages.page import check_page_path, render_page, write_page
from minilearner.pages.pixels import blend_heat, make_thumbnail

HOSTILE = (
    "<script>alert(1)</script>",
    "\"quotes\" & 'single'",
    "</script><b>",
    "a\0b\x1b[1m",
    "\u202erl",
    "שלום",
    "🐶" * 9,
)
VOID = {"meta", "link", "img", "input", "br"}


class Elements(HTMLParser):
    """Lists all elements with their attributes, and checks that they close in order."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.found, self.open, self.texts = [], [], []
        self.feed(html)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def page_of(*blocks, title="A page"):
    return Elements(render_page(Page(title, "two words", [Section("one", "One", blocks)])))


def every_block(name):
    series = [Series("train", [1, 2, 3], [2.0, float("nan"), 1.0]), Series("valid", [2], [1.5], "other", True)]
    charts = [
        Lines(name, "batch", "loss", series, [(0, name), (2, name)], has_whole_steps=True),
        Points(name, "x", "y", [Series(name, [0.2], [0.4])], [[1.0]]),
        Bars(name, "classes", "items", [3, 1]),
    ]
    cell = Cell([Name(name), " (3)"])
    return [
        Paragraph([Name(name), Code("f()")]),
        Numbers([(name, name, name)]),
        Table(name, ("a", name), [(cell, Cell("0.5", 0.5, 0.5))] * 6, is_long=True),
        Charts(charts),
        Matrix(name, [name, "b"], np.array([[1, 2], [0, 0]]), np.array([3, 0])),
        Matrix(name, [name] * 30, np.eye(30, dtype=int), np.ones(30, dtype=int)),
        Cards([Card([(torch.rand(3, 9, 9), name)], "", [(name, Name(name))], True), Card((), name, [], None)]),
    ]


@pytest.mark.parametrize("name", HOSTILE)
def test_all_text_is_escaped_wherever_it_stands(name):
    html = render_page(Page(name, name, [Section("one", name, every_block(name), name)]))
    found = Elements(html)
    assert len(found.all("script")) == 1 and len(found.all("style")) == 1 and not found.all("b")
    assert not any(key.startswith("on") for _, attributes in found.found for key in attributes)
    shown = "".join(found.texts)
    assert shown.count(name.replace("\0", "?").replace("\x1b", "?")) >= 10
    assert "\0" not in html and "\x1b" not in html


def test_no_address_leads_out_of_the_page():
    html = render_page(Page("A", "b", [Section("one", "One", every_block("cat"))]))
    assert not re.findall(r"https?://(?!www\.w3\.org)|@import|url\(", html)
    sources = [value for _, a in Elements(html).found for key, value in a.items() if key in ("src", "href")]
    assert sources and all(source.startswith(("data:", "#")) for source in sources)


def test_the_policy_allows_only_what_stands_in_the_page():
    html = render_page(Page("A", "b"))
    policy = next(m["content"] for m in Elements(html).all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    for tag in ("style", "script"):
        text = re.search(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)[1]
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy


def test_headings_landmarks_and_tables_have_names():
    found = page_of(*every_block("cat"))
    assert [len(found.all(tag)) for tag in ("h1", "h2", "main", "nav", "header")] == [1] * 5
    assert len(found.all("caption")) == 2 and all("scope" in head for head in found.all("th"))
    assert all(image["alt"] for image in found.all("img")) and len({a["id"] for _, a in found.found if "id" in a}) > 4
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in found.all("svg"))


def test_numbers_sort_by_their_value_and_text_by_itself():
    found = page_of(Table("t", ("a", "b"), [(Cell("x"), Cell("1,000", 1000.0))]))
    assert [cell.get("data-order") for cell in [*found.all("th")[2:], *found.all("td")]] == [None, "1000.0"]


def test_a_few_classes_make_a_table_and_many_a_drawing():
    counts = np.array([[3, 1], [0, 0]])
    found = page_of(Matrix("m", ["a", "b"], counts, counts.sum(1)))
    assert [cell.get("class") for cell in found.all("td")] == [None, "ok5", "err3", None, None]
    assert "".join(found.texts).count("·") == 0  # the row of a class without items is empty
    svg = ET.fromstring(draw_matrix(Matrix("m", list(map(str, range(60))), np.eye(60, dtype=int) * 2, np.full(60, 2))))
    paths = list(svg.iter("path"))
    assert [path.get("class") for path in paths] == ["ok5"] and paths[0].get("d").count("h1v1h-1z") == 60
    assert "60 classes: 120 items on the diagonal, 0 beside it" in svg.get("aria-label")


def test_a_shade_grows_with_the_share_of_the_actual_class():
    counts = np.array([[90, 10], [1, 99]])
    assert find_shades(Matrix("m", ["a", "b"], counts, counts.sum(1))) == [["ok5", "err2"], ["err1", "ok5"]]


def test_a_chart_has_a_gap_where_a_value_is_missing():
    y = [1.0, 2.0, float("nan"), 4.0, float("inf"), 5.0, 6.0]
    svg = ET.fromstring(draw_chart(Lines("t", "x", "y", [Series("s", list(range(7)), y)])))
    (path,) = svg.iter("path")
    assert path.get("d").count("M") == 2 and "s from 1 to 6" in svg.get("aria-label")
    assert "nan" not in draw_chart(Lines("t", "x", "y", [Series("s", [1, 2], [float("nan")] * 2)]))


@pytest.mark.parametrize("values", [[3.0], [2.0, 2.0], [0.0, 1e-7], [-1e9, 1e9], []])
def test_a_chart_takes_any_range(values):
    chart = draw_chart(Lines("t", "x", "y", [Series("s", list(range(len(values))), values)], has_whole_steps=True))
    ticks = [text for text in ET.fromstring(chart).iter("text") if "tick" in text.get("class", "")]
    assert 2 <= len(ticks) <= 14 and len({t.text for t in ticks if "end" in t.get("class")}) > 0


def test_thumbnails_are_small_and_keep_small_images_to_the_bit():
    uri, width, height = make_thumbnail(torch.rand(3, 400, 200))
    assert (width, height) == (88, 176) and uri.startswith("data:image/jpeg;base64,") and len(uri) < 20_000
    uri, width, height = make_thumbnail(torch.rand(1, 28, 28))
    assert (width, height) == (28, 28) and uri.startswith("data:image/png;base64,")
    assert make_thumbnail(torch.full((2, 5, 4), float("nan")))[1:] == (4, 5)


def test_heat_covers_only_where_it_is():
    image, heat = torch.full((3, 4, 4), 0.5), torch.zeros(4, 4)
    heat[0, 0] = 1
    mixed = blend_heat(image, heat)
    assert np.allclose(mixed[:, 1:], 0.5) and mixed[2, 0, 0] > mixed[2, 1, 1] and mixed.shape == (3, 4, 4)


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write_page(check_page_path(tmp_path / "new" / "page.html"), Page("first", ""))
    assert "first" in path.read_text(encoding="utf-8")
    write_page(path, Page("second", ""))
    assert "second" in path.read_text(encoding="utf-8") and [f.name for f in path.parent.iterdir()] == ["page.html"]

    def fail(*_):
        raise OSError("disk is full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk is full"):
        write_page(path, Page("third", ""))
    assert "second" in path.read_text(encoding="utf-8") and [f.name for f in path.parent.iterdir()] == ["page.html"]


def test_a_path_that_no_page_can_have_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`path` must end in '.html'.*Received: path=.*report.pdf"):
        check_page_path(tmp_path / "report.pdf")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(ValueError, match="`path` must name a file"):
        check_page_path(tmp_path / "folder.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="`path` must name a file"):
        check_page_path(tmp_path / "file" / "page.html")


def contrast(first, second):
    def luminance(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_can_be_read_on_every_ground(theme):
    style = (Path(minilearner.pages.page.__file__).parent / "report.css").read_text()
    colors = {name: pair[theme] for name, *pair in re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\);", style)}
    pairs = [(text, ground) for text in ("text", "muted", "link") for ground in ("ground", "surface")]
    pairs += [("text", f"{kind}{step}") for kind in ("ok", "err") for step in (1, 2, 3)]
    pairs += [(f"{kind}-dark", f"{kind}{step}") for kind in ("ok", "err") for step in (4, 5)]
    low = {pair: contrast(*(colors[name] for name in pair)) for pair in pairs}
    assert min(low.values()) >= 4.5, low
    assert min(contrast(colors[name], colors["surface"]) for name in ("main", "other", "focus")) >= 3


def test_a_path_is_drawn_from_left_to_right_and_a_name_in_its_own_direction():
    hebrew = "\N{HEBREW LETTER SHIN}"
    blocks = [Paragraph([Name(hebrew), FileName(f"{hebrew}/1.png")])]
    html = render_page(Page("A page", "two words", [Section("one", "One", blocks)]))
    assert f"<bdi>{hebrew}</bdi>" in html and f'<bdi dir="ltr">{hebrew}/1.png</bdi>' in html
