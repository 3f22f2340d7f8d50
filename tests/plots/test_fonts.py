"""Names in any script are drawn with the fonts that are installed, and one warning says what to install."""

import io
import warnings

import matplotlib.pyplot as plt
import pytest
from matplotlib import font_manager

from minilearner.plots import fonts
from minilearner.plots.fonts import literal_text


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(fonts, "_warned", set())
    fonts._families_for.cache_clear()
    fonts._add_new_fonts.cache_clear()
    with warnings.catch_warnings():
        yield
    fonts._families_for.cache_clear()
    plt.close("all")


def font_named(name):
    return next(font for font in font_manager.fontManager.ttflist if font.name == name)


def test_a_font_that_was_installed_after_matplotlib_made_its_list_is_found(monkeypatch):
    ours, new = font_named("DejaVu Sans"), font_named("STIXGeneral")
    letter = chr(min(fonts._letters_of(new.fname) - fonts._letters_of(ours.fname)))
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [ours])
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [new.fname, "/nowhere/broken.ttf"])
    families = literal_text(letter)["fontfamily"]
    assert families[-1] == "STIXGeneral" and len(families) > 1


@pytest.mark.parametrize(
    ("letter", "font"),
    [
        ("\u732b", "fonts-noto-cjk"),
        ("\ud55c", "fonts-noto-cjk"),
        ("\u092c", "fonts-noto-core"),
        ("\U0001f408", "fonts-symbola"),
        ("\U0010fffd", "a font that has them"),
    ],
)
def test_a_letter_that_no_font_has_is_named_with_a_font_for_its_script(monkeypatch, letter, font):
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [font_named("DejaVu Sans")])
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    with pytest.warns(UserWarning, match=f"No installed font has the letters.*Install .*{font}"):
        assert "fontfamily" in literal_text(letter)


def test_a_missing_letter_is_reported_once_and_matplotlib_adds_nothing(recwarn, monkeypatch):
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [font_named("DejaVu Sans")])
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    warnings.simplefilter("always")
    for text in ("\u732b one", "\u732b two", "\u732b\u732b"):
        figure, ax = plt.subplots()
        ax.set_title(text, **literal_text(text))
        figure.savefig(io.BytesIO())
    assert [str(warning.message)[:33] for warning in recwarn] == ["No installed font has the letters"]


def test_plain_names_need_no_other_font():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert literal_text("caf\xe9", "plain") == {"parse_math": False, "usetex": False}
