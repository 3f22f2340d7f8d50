"""Colours suit the theme of the figure, and text in them can be read."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from minilearner.plots.palette import palette

THEMES = {"default": "white", "dark_background": "black"}


def luminance(color):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one, other):
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("style", THEMES)
def test_text_and_lines_stand_out_from_the_ground(style):
    with plt.style.context(style):
        look, ground = palette(), THEMES[style]
    for text in (look.ink, look.muted, look.right, look.wrong):
        assert contrast(text, ground) >= 4.5  # WCAG AA for text
    for line in (look.smooth, look.accent, look.changed):
        assert contrast(line, ground) >= 3  # for marks
    assert len(set(look.lines)) == 8 and all(contrast(line, ground) >= 1.9 for line in look.lines)


def test_axes_keep_the_theme_that_they_were_made_in():
    with plt.style.context("dark_background"):
        ax = plt.figure().subplots()
    assert palette(ax) != palette() and luminance(palette(ax).ink) > 0.5
    plt.close("all")
