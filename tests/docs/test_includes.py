"""A page of the site includes sections of other pages, with headings and links that fit it."""

import includes
import pytest
from includes import IncludeError, expand_includes

GUIDE = """# Guide

Lead with a [page](api.md#names) and a [folder](code).

## First

One, see [there](#second) and [elsewhere](https://example.org/a#b).

```python
# a comment
a[0](api.md)
```

### Part

Two. <img src="a.png">

## Second

Three.
"""


@pytest.fixture(autouse=True)
def repository(tmp_path, monkeypatch):
    monkeypatch.setattr(includes, "ROOT", tmp_path)
    (tmp_path / "code").mkdir()
    for name, text in {"guide.md": GUIDE, "api.md": "# A", "a.png": ""}.items():
        (tmp_path / name).write_text(text)


PLACES = {"api.md": "reference/index.md", "a.png": "images/a.png"}


def test_a_section_ends_at_the_next_heading_of_its_level_and_its_headings_go_below_the_page():
    text = expand_includes("# Page\n\n## Here\n\n<!-- include: guide.md # First -->\n\nEnd", "how/page.md", PLACES)
    assert text.startswith("# Page\n\n## Here\n\nOne, see [there](#second) and [elsewhere](https://example.org/a#b).")
    assert "\n### Part\n" in text and "# a comment\na[0](api.md)\n" in text
    assert text.endswith('Two. <img src="../images/a.png">\n\nEnd')


def test_a_lead_is_the_text_above_the_second_heading_and_links_lead_to_pages_or_become_text():
    text = expand_includes("# Page\n\n<!-- lead: guide.md -->", "page.md", PLACES)
    assert text == "# Page\n\nLead with a [page](reference/index.md) and a folder."


def test_a_whole_page_is_all_below_its_title():
    text = expand_includes("# Page\n\n<!-- include: guide.md -->", "page.md", PLACES)
    assert "# Guide" not in text and "## First\n" in text and text.endswith("Three.")


def test_a_heading_that_is_not_there_is_an_error_with_those_that_are():
    with pytest.raises(IncludeError, match=r"guide.md has 0 headings 'Fir'. Its headings: Guide, First, Part, Second"):
        expand_includes("<!-- include: guide.md # Fir -->", "page.md", PLACES)


def test_a_link_to_nothing_is_an_error(tmp_path):
    (tmp_path / "bad.md").write_text("# Bad\n\n[away](gone.md)")
    with pytest.raises(IncludeError, match=r"bad.md links to gone.md"):
        expand_includes("<!-- include: bad.md -->", "page.md", PLACES)
