import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib import cbook, rc_context
from matplotlib.text import Text
from torch import nn

from minilearner import ClassificationInterpretation, DataLoaders, Learner
from minilearner.plots.confusion import plot_confusion
from minilearner.plots.lines import plot_epochs, plot_series
from minilearner.plots.style import (
    check_save,
    clean_text,
    save_figure,
    shorten_middle,
    text_columns,
    wrap_name,
)

NAMES = [
    "$5_$10",
    "$x^$",  # as mathematics, an error
    "100%",
    "a_b",
    "<b>bold</b>",
    "two\nlines",
    "word " * 15 + "end",
    "\N{HEBREW LETTER SHIN}\N{HEBREW LETTER LAMED} 7",
    "\N{ARABIC LETTER MEEM}\N{ARABIC LETTER REH}",
    "_first",
    "\\frac{1}{2}",
]


def drawn(figure):
    """Draws a figure, and returns its texts; none of them may be taken for mathematics or TeX."""
    with rc_context({"text.usetex": False}):
        figure.savefig(io.BytesIO())
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    named = [
        text for text in texts if any(name.replace("\n", "") in text.get_text().replace("\n", "") for name in NAMES)
    ]
    assert not [text for text in named if text.get_parse_math() and cbook.is_math_text(text.get_text())]
    assert not [text for text in named if text.get_usetex()]
    return [text.get_text().replace("\n", "") for text in texts]


def check_all(texts, longest=100):
    shown = [shorten_middle(name, longest).replace("\n", "") for name in NAMES]
    assert [name for name in shown if not any(name in text for text in texts)] == []


def test_class_names_are_drawn_as_they_are_in_every_figure():
    n = len(NAMES)
    x = np.random.default_rng(0).random((n, 1, 8, 8), dtype=np.float32)
    with rc_context({"text.usetex": True}):  # as in somebody's settings; nothing may be drawn by it here
        dls = DataLoaders.from_arrays((x, NAMES), (x, NAMES), bs=n)
        figures = [dls.show_batch(max_n=n)]
        counts = np.eye(n, dtype=int)
        looks = {"title": "$t$", "cmap": "Blues", "norm_dec": 2, "plot_txt": False, "figsize": None, "ax": None}
        figures.append(plot_confusion(counts, NAMES, normalize=False, **looks))
        figures.append(plot_epochs({name: {"train": [1, 2], "_valid": [2, 1]} for name in NAMES}))
        figures.append(plot_series({name: [1, 2] for name in NAMES}, xlabel="$x_1$"))
        figures.append(plot_series({name: [1, 2] for name in NAMES}, xlabel="$x_1$", ax=plt.subplots()[1]))
    for figure in figures:
        longest = 30 if figure is figures[1] else 100
        check_all([text.get_text().replace("\n", "") for text in figure.findobj(Text)], longest)
    for text in figures[1].axes[0].get_xticklabels():
        assert not text.get_usetex() and not text.get_parse_math()


def test_figures_of_such_names_can_be_saved():
    n = len(NAMES)
    looks = {"title": "$t$", "cmap": "Blues", "norm_dec": 2, "plot_txt": True, "figsize": None, "ax": None}
    check_all(drawn(plot_confusion(np.eye(n, dtype=int), NAMES, normalize=True, **looks)), longest=30)
    check_all(drawn(plot_series({name: [1, 2] for name in NAMES}, xlabel="$x_1$", ax=plt.subplots()[1])))


def test_top_losses_shorten_only_long_names():
    x = np.random.default_rng(0).random((len(NAMES), 1, 8, 8), dtype=np.float32)
    dls = DataLoaders.from_arrays((x, NAMES), (x, NAMES), bs=4, drop_last=False)
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(64, len(NAMES))))
    with learn.no_logging():
        interp = ClassificationInterpretation.from_learner(learn)
    check_all(drawn(interp.plot_top_losses(len(NAMES))), longest=30)


def test_texts_are_made_fit_for_fonts():
    assert clean_text("a\r\nb\x0bc\u2028d") == "a\nb\nc\nd"
    assert clean_text("\ud800\x00\tx") == "\\ud800?    x"
    assert text_columns("ab\n\u732b\u72d7c") == 5


def test_a_wrapped_name_loses_no_letter_unless_it_is_very_long():
    assert wrap_name("aa  bb", 4).replace("\n", "") == "aa  bb"
    assert wrap_name("a" * 100, 10).endswith("\N{HORIZONTAL ELLIPSIS}")


def test_a_long_name_loses_its_middle():
    assert shorten_middle("short", 5) == "short"
    assert shorten_middle("Abyssinian_from_the_shelter_in_front.jpg", 13) == "Abyssi\N{HORIZONTAL ELLIPSIS}nt.jpg"
    wide = shorten_middle("\u732b" * 30, 11)
    assert text_columns(wide) <= 11 and "\N{HORIZONTAL ELLIPSIS}" in wide
    assert shorten_middle("abcdef", 1) == "a\N{HORIZONTAL ELLIPSIS}"


def test_a_figure_is_saved_and_an_unknown_format_is_refused_before(tmp_path):
    figure = plot_series({"a": [1, 2]}, xlabel="step")
    check_save(tmp_path / "new" / "a.png")
    assert save_figure(figure, tmp_path / "new" / "a.png") is figure
    assert (tmp_path / "new" / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"`save` must end in the suffix of a format: .*\.png.*Received.*a\.xyz'"):
        check_save(tmp_path / "a.xyz")
