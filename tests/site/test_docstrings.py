"""Code in docstrings is fenced for the pages of the reference, and all other text stays as it is."""

from docstrings import fence_code

DOCSTRING = """Does it.

Example::

    a = 1

    b = 2

As a formula::

    value = p

and more.

>>> f(1)
[1]

Args:
    x: a dictionary such as ``{1: 2}``.
"""


def test_code_is_fenced_where_it_stands():
    assert fence_code(DOCSTRING) == (
        "Does it.\n\n**Example**\n\n```python\na = 1\n\nb = 2\n```\n\nAs a formula:\n\n```python\nvalue = p\n```\n\n"
        "and more.\n\n```pycon\n>>> f(1)\n[1]\n```\n\n\nArgs:\n    x: a dictionary such as ``{1: 2}``.\n"
    )


def test_indented_code_keeps_its_place():
    text = fence_code("Attributes:\n    One of these::\n\n        a\n\n    and so on.")
    assert text == "Attributes:\n    One of these:\n\n    ```python\n    a\n    ```\n\n    and so on."
