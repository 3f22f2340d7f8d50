"""Blocks of code are found in a page, and run in one namespace with the page's lines in tracebacks."""

import traceback

import pytest
from snippets import find_snippets, run_snippets

PAGE = """# Page

```python
a = 1
```

```bash
ls
```

```python raises
a / 0
```
"""


def test_blocks_have_language_words_and_line():
    found = [(one.language, one.words, one.line, one.code) for one in find_snippets(PAGE, "page.md")]
    assert found == [("python", (), 3, "a = 1\n"), ("bash", (), 7, "ls\n"), ("python", ("raises",), 11, "a / 0\n")]


def test_an_error_names_the_line_of_the_page():
    python = [one for one in find_snippets(PAGE, "page.md") if one.language == "python"]
    assert run_snippets(python[:1])["a"] == 1
    with pytest.raises(ZeroDivisionError) as caught:
        run_snippets(python)
    frame = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (frame.filename, frame.lineno) == ("page.md", 12)
