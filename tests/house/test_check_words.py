"""Each rule of `check_words.py` notices a file that breaks it, and lets the rest pass."""

import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("check_words", Path(__file__).with_name("check_words.py"))
check_words = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_words)


def found(text, path="minilearner/data/items.py", public=()):
    return check_words.check({path: text}, set(public))


@pytest.mark.parametrize(
    "text",
    [
        "def share_out(items):\n    return items",
        "def set_seed(): ...",
        "def cut_before_pooling(): ...",
        "position = file.tell()",
        "def __init__(self, pictures: str) -> None:\n        self.images = pictures",
        "class A:\n    @property\n    def drawn(self): ...",
        "class A:\n    def is_averaged(self): ...",
        "parser.add_argument('--pictures')",
        "folder = 'cache.pictures'",
        "masking = 1",
    ],
)
def test_what_keeps_the_rules_passes(text):
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# The caller is told.", "'told'"),
        ("_told = 1", "'told'"),
        ("# It tells which.", "'tells'"),
        ("# Of several processes the first writes.", "'of several processes'"),
        ("# The pictures of a batch.", "'picture'"),
        ("n_pictures = 1", "'picture'"),
        ("# Asking a model.", "'asking'"),
        ("x = [1,  2]  # fmt: skip", "formatter is switched off"),
        ("def shared_out(): ...", "`shared_out` is named by a participle"),
        ("def _buffers_kept(): ...", "`_buffers_kept` is named by a participle"),
        ("def evaluating(): ...", "`evaluating` is named by a participle"),
        ("x = 1\n" * 601, "601 lines"),
    ],
)
def test_what_breaks_a_rule_is_reported(text, message):
    (place,) = found(text)
    assert place.startswith("minilearner/data/items.py") and message in place


def test_public_names_stay_as_they_are():
    assert found("def drawn(): ...", public=["drawn"]) == [] != found("def drawn(): ...")


def test_a_module_has_a_name_of_its_own_that_says_something():
    files = dict.fromkeys(["minilearner/a/blocks.py", "minilearner/b/blocks.py", "minilearner/a/utils.py"], "")
    same, vague = sorted(check_words.check(files, set()), key=len, reverse=True)
    assert same.startswith("minilearner/b/blocks.py: minilearner/a/blocks.py has the same name")
    assert vague.startswith("minilearner/a/utils.py: the name says nothing")


def test_tests_may_lay_out_a_table():
    assert found("x = [1,  2]  # fmt: skip", path="tests/test_a.py") == []
