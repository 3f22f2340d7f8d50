"""The pages of the site: all of their code runs, and what they include is tested where it stands."""

import re
from pathlib import Path

import pytest
from includes import expand_includes
from scenes import SCENES
from snippets import find_scene, find_snippets

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def ids(page):
    return page.relative_to(DOCS).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_code_of_a_page_runs_in_the_build(page):
    text = page.read_text(encoding="utf-8")
    scene = find_scene(text)
    code = [one for one in find_snippets(text, page.name) if one.language in ("python", "bash")]
    assert (scene in SCENES) if code else scene is None


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_what_a_page_includes_is_there(page):
    expand_includes(page.read_text(encoding="utf-8"), ids(page), {})


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_a_page_has_one_title_and_something_to_say(page):
    text = page.read_text(encoding="utf-8").split("---\n")[-1].strip()
    title, _, rest = text.partition("\n")
    assert title.startswith("# ") and rest.strip() and not re.search(r"coming soon|TODO|to be written", text, re.I)
