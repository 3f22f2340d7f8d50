import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from IPython.utils.capture import capture_output

from minilearner import ImageCleaner
from minilearner.plots.cleaner_view import CleanerView, show_cleaner
from minilearner.results.label_errors import find_label_errors
from minilearner.results.origins import Origins


@pytest.fixture
def cleaner():
    """Thirty images; the last one's file is not there."""
    rng = np.random.default_rng(0)
    probs, given = rng.dirichlet(np.ones(3), 30), rng.integers(0, 3, 30)
    images = [*torch.rand(29, 3, 20, 30), "file not found"]
    origins = Origins([f"a/<b>{i}.png" for i in range(30)])
    labels = ["cat", "dog", "<script>"]
    found = find_label_errors(probs, given, labels, origins=origins, images=lambda chosen: [images[i] for i in chosen])
    return ImageCleaner(found)


def test_without_ipywidgets_a_table_says_how_to_get_them(cleaner, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with capture_output() as seen:
        show_cleaner(cleaner)
    assert "30 images to review" in seen.stdout and "pip install minilearner[notebook]" in seen.stdout
    with pytest.raises(ModuleNotFoundError):
        CleanerView(cleaner)


if find_spec("ipywidgets"):  # the extra `notebook`, which the extra `test` has too

    @pytest.fixture
    def view(cleaner):
        return CleanerView(cleaner)

    def test_a_page_shows_its_images_with_a_menu_each(cleaner, view):
        assert view.n_pages == 3 and len(view.menus) == 12
        names = [name for name, _ in view.menus[0].options]
        assert names[:3] == ["to be decided", "keep", "delete"]
        assert names[3] == f"\N{RIGHTWARDS ARROW} {cleaner[0].suggested_label}"
        assert f"\N{RIGHTWARDS ARROW} {cleaner[0].given_label}" not in names
        view.turn_to(99)
        assert len(view.menus) == 6 and view.forward.disabled and not view.back.disabled

    def test_the_menu_decides_and_undo_takes_it_back(cleaner, view):
        view.menus[0].value = ("delete", "")
        view.menus[1].value = view.menus[1].options[3][1]
        assert cleaner[0].action == "delete" and cleaner[1].new_label == cleaner[1].suggested_label
        assert "1 delete, 1 relabel, 28 open" in view.state.value
        view.forward.click()
        view.undo.click()  # back on the page of the item
        assert "page 1 of 3" in view.state.value and view.menus[1].value is None
        view.menus[0].value = None
        assert cleaner.counts["open"] == 30

    def test_saving_says_where_or_why_not(view, tmp_path):
        view.file.value = str(tmp_path / "review.csv")
        view.save.click()
        assert f"Saved {tmp_path}/review.csv" in view.state.value and (tmp_path / "review.csv").exists()
        view.file.value = str(tmp_path)
        view.save.click()
        assert "Not saved: `path` must name a file" in view.state.value

    def test_names_are_escaped(view):
        captions = [card.children[1].value for page in range(3) for card in _cards(view, page)]
        assert all("<b>" not in text and "<script>" not in text for text in captions)
        assert any("&lt;script&gt;" in text for text in captions)

    def _cards(view, page):
        view.turn_to(page)
        return view.box.children[1].children
