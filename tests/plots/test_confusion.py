import matplotlib.pyplot as plt
import numpy as np
import pytest

from minilearner.plots.confusion import plot_confusion


def confusion(counts, labels, **kw):
    options = {
        "normalize": False,
        "title": "t",
        "cmap": "Blues",
        "norm_dec": 2,
        "plot_txt": True,
        "figsize": None,
        "ax": None,
    }
    return plot_confusion(np.array(counts), labels, **{**options, **kw})


def test_an_absent_class_has_a_row_of_zeros_when_normalized():
    ax = confusion([[3, 1], [0, 0]], ["a", "b"], normalize=True, norm_dec=1).axes[0]
    assert [t.get_text() for t in ax.texts] == ["0.8", "0.2", "0.0", "0.0"]
    assert ax.images[0].get_array().tolist() == [[0.75, 0.25], [0, 0]]


@pytest.mark.parametrize("cmap", ["Blues", "Greys", "viridis"])
def test_numbers_are_readable_on_dark_cells_of_any_colour_map(cmap):
    ax = confusion([[100, 0], [0, 100]], ["a", "b"], cmap=cmap).axes[0]
    image = ax.images[0]
    for text in ax.texts:
        column, row = text.get_position()
        value = image.get_array()[int(row), int(column)]
        brightness = np.dot(image.to_rgba(value)[:3], [0.299, 0.587, 0.114])
        assert text.get_color() == ("white" if brightness < 0.55 else "black")
    assert {t.get_color() for t in ax.texts} == {"white", "black"}


@pytest.mark.parametrize("n", [2, 10, 37])
def test_no_label_is_cut_off_and_numbers_stay_in_their_cells(n):
    rng = np.random.default_rng(0)
    labels = [f"american pit bull terrier {i}"[: 8 + i] for i in range(n)]
    figure = confusion(rng.integers(0, 1000, (n, n)), labels)
    assert drawn_outside(figure) == []
    ax = figure.axes[0]
    cell = ax.transData.transform((1, 0))[0] - ax.transData.transform((0, 0))[0]
    assert max(t.get_window_extent().width for t in ax.texts) < cell


def test_with_many_classes_zeros_show_no_number():
    counts = np.eye(21, dtype=int)
    assert len(confusion(counts, list("abcdefghijklmnopqrstu")).axes[0].texts) == 21
    assert len(confusion(counts, list("abcdefghijklmnopqrstu"), plot_txt=False).axes[0].texts) == 0


def test_a_figure_size_or_axes_are_respected():
    assert confusion(np.eye(2), ["a", "b"], figsize=(3, 4)).get_size_inches().tolist() == [3, 4]
    figure, ax = plt.subplots()
    assert confusion(np.eye(2), ["a", "b"], ax=ax) is figure


def drawn_outside(figure):
    """Returns the texts that a saved figure would cut off."""
    figure.canvas.draw()
    texts = [t for ax in figure.axes for t in (*ax.get_xticklabels(), *ax.get_yticklabels(), *ax.texts, ax.title)]
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts if t.get_text() and t.get_visible()]
    frame = figure.bbox
    return [text for text, b in boxes if b.x0 < frame.x0 or b.y0 < frame.y0 or b.x1 > frame.x1 or b.y1 > frame.y1]
