"""Each heading of the page about errors is what its code really says."""

import contextlib
import io
import re
from pathlib import Path

import pytest
from scenes import set_scene
from snippets import find_snippets

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
TEXT = PAGE.read_text(encoding="utf-8")
HEADINGS = re.findall(r"^### (.*)\n\n```python raises", TEXT, re.MULTILINE)


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("errors")
    names, said = {"__name__": "page"}, []
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.chdir(folder)
        set_scene("colors", folder)
        for snippet in find_snippets(TEXT, PAGE.name):
            try:
                snippet.run(names)
            except Exception as error:
                assert "raises" in snippet.words, f"line {snippet.line}: {error}"
                said.append(str(error))
            else:
                assert "raises" not in snippet.words, f"line {snippet.line} raises nothing"
    return dict(zip(HEADINGS, said, strict=True))


def test_there_are_the_twenty_that_people_meet_most():
    assert len(HEADINGS) >= 20 and len(set(HEADINGS)) == len(HEADINGS)


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_heading_is_what_the_error_says(messages, heading):
    pattern = ".*".join(map(re.escape, heading.split(" … ")))
    assert re.search(pattern, messages[heading], re.DOTALL), messages[heading]
