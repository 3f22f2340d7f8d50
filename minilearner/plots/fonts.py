"""Text drawn exactly as it is written, in any script, with the fonts that are installed."""

from __future__ import annotations

import functools
import re
import unicodedata
import warnings
from collections.abc import Iterator
from typing import Any

from minilearner.tracebacks import stacklevel_of_user

__all__ = ["literal_text"]

_MANY_SCRIPTS = re.compile("Noto Sans|CJK|Unicode|YaHei|Sim(Hei|Sun)|PingFang|Hiragino|WenQuanYi|Malgun|Gothic|Heiti")
_ADVICE = (
    ("CJK|HIRAGANA|KATAKANA|HANGUL|BOPOMOFO", "Noto Sans CJK (Debian and Ubuntu: fonts-noto-cjk)"),
    ("[A-Z]", "one of Google's Noto fonts (Debian and Ubuntu: fonts-noto-core)"),
)
"""Which font has letters whose Unicode names begin like this."""
_EMOJI = "Symbola (Debian and Ubuntu: fonts-symbola); Matplotlib cannot draw emoji in colours"

_warned: set[int] = set()


def literal_text(*texts: str) -> dict[str, Any]:
    """Returns properties of a Matplotlib text that draw these texts as they are, in any script.

    Dollar signs do not start mathematics, nor is TeX used. If Matplotlib's font lacks a letter, an installed font that
    has it is added. If none has, one warning names a font to install, and the letter becomes a box.
    """
    properties: dict[str, Any] = {"parse_math": False, "usetex": False}
    # Matplotlib's own font has all of Latin, Greek, Cyrillic, Hebrew and Arabic.
    letters = frozenset(letter for text in texts for letter in text if ord(letter) > 0x7E and not letter.isspace())
    if letters and (families := _families_for(letters)):
        properties["fontfamily"] = families
    return properties


@functools.lru_cache(maxsize=64)
def _families_for(letters: frozenset[str]) -> list[str]:
    """Returns the default font families, and those of installed fonts that have the other letters."""
    from matplotlib import rcParams  # heavy
    from matplotlib.font_manager import FontProperties, findfont

    families = list(rcParams["font.family"])
    missing = {ord(letter) for letter in letters} - _letters_of(findfont(FontProperties(family=families)))
    if not missing:
        return []
    for name, path in _list_fonts():
        if found := missing & _letters_of(path):
            families.append(name)
            missing -= found
        if not missing:
            return families
    _warn_once(missing - _warned)
    return families


def _list_fonts() -> Iterator[tuple[str, str]]:
    """Yields the name and the path of one font of each family: first those Matplotlib knows, then new ones.

    Matplotlib keeps its list for ever, so that a font which was installed later is not in it.
    """
    from matplotlib.font_manager import fontManager  # heavy

    # Fonts for many scripts first; a font for symbols alone, or in bold, would look odd.
    entries = sorted(fontManager.ttflist, key=lambda font: (not _MANY_SCRIPTS.search(font.name), str(font.weight)))
    families: dict[str, str] = {}
    for font in entries:
        if not font.name.startswith("Last Resort"):
            families.setdefault(font.name, font.fname)
    yield from families.items()
    known = len(fontManager.ttflist)
    _add_new_fonts()
    for font in fontManager.ttflist[known:]:
        if font.name not in families:
            families[font.name] = font.fname
            yield font.name, font.fname


@functools.cache
def _add_new_fonts() -> None:
    from matplotlib.font_manager import findSystemFonts, fontManager  # heavy

    for path in sorted(set(findSystemFonts()) - {font.fname for font in fontManager.ttflist}):
        try:
            fontManager.addfont(path)
        except (OSError, RuntimeError, ValueError):  # one broken font must not stop the others
            continue


def _warn_once(missing: set[int]) -> None:
    """Warns about letters that no font has. Matplotlib's own warnings about each of them are switched off."""
    if not missing:
        return
    _warned.update(missing)
    fonts = " and ".join(dict.fromkeys(map(_font_for, sorted(missing))))
    shown = "".join(chr(code) for code in sorted(missing)[:10])
    warnings.warn(
        f"No installed font has the letters {shown!r}, so they become boxes in figures. Install {fonts}.",
        UserWarning,
        stacklevel=stacklevel_of_user(),
    )
    warnings.filterwarnings("ignore", r"(Matplotlib currently|Glyph \d+ .* missing from)", UserWarning)


def _font_for(code: int) -> str:
    name = unicodedata.name(chr(code), "")
    if not name:  # a letter that somebody defined for their own font
        return "a font that has them"
    if unicodedata.category(chr(code)) == "So":
        return _EMOJI
    return next((font for pattern, font in _ADVICE if re.match(pattern, name)), _ADVICE[-1][1])


@functools.lru_cache(maxsize=256)
def _letters_of(path: str) -> frozenset[int]:
    from matplotlib.font_manager import get_font  # heavy

    try:
        return frozenset(get_font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
