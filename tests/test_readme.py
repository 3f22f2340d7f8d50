"""The Python of the README and of the guide runs unchanged, on fewer images."""

import re
from pathlib import Path

import pytest
from snippets import python_of, run_snippets

import minilearner
from minilearner import MLP, DataLoaders

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# The code about pets and about photos runs in test_examples, which serves an archive and weights, and in test_using.
SNIPPETS = [
    snippet
    for snippet in python_of(ROOT / "examples" / "README.md")
    if "URLs.PETS" not in snippet.code and "new.jpg" not in snippet.code
]


def test_there_are_snippets_to_run():
    assert len(SNIPPETS) == 9


@pytest.mark.slow
def test_the_snippets_run_one_after_the_other(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def few():
        dls = full()
        return DataLoaders.from_arrays(
            dls.train.items(range(128)), dls.valid.items(range(64)), bs=16, vocab=dls.vocab, seed=0
        )

    full = minilearner.fashion_mnist
    monkeypatch.setattr(minilearner, "fashion_mnist", few)
    monkeypatch.setattr(minilearner, "MiniGoogLeNet", lambda n: MLP((32 * 32, 16, n)))
    names = run_snippets(SNIPPETS)
    assert names["label"] in ("a", "b", "c")
    assert "weighted avg" in capsys.readouterr().out


@pytest.mark.parametrize(
    "page", ["README.md", "examples/README.md", "tests/benchmarks/README.md", "examples/migration.md"]
)
def test_links_and_images_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", text):
        assert ((ROOT / page).parent / "".join(target)).exists(), target


def test_the_test_command_is_where_ci_looks_for_it_and_runs_the_quick_tests():
    (command,) = re.findall(r"^.*pip install .*\[test\].*&& (python -m pytest.*)$", README, re.M)
    quick = (ROOT / ".ci" / "test").read_text(encoding="utf-8")
    assert f'{command} "$@"\n' in quick


def test_ci_runs_every_test():
    """`.ci/run` runs in later steps what the quick command leaves out."""
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.findall(r"pytest .*-m (.*)$", gate, re.M) == ['"slow and not alone"', "alone"]


def test_a_test_that_runs_alone_is_slow_too(request):
    marked = [item for item in request.session.items if item.get_closest_marker("alone")]
    assert all(item.get_closest_marker("slow") for item in marked)
