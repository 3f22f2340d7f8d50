"""Sections of pages that stand elsewhere in the repository: how a page of the site includes them, and their links."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["ROOT", "IncludeError", "expand_includes", "read_section"]

ROOT = Path(__file__).parents[2]

_DIRECTIVE = re.compile(r"^<!-- (?P<what>include|lead): (?P<file>\S+)(?: # (?P<heading>.+?))? -->$", re.MULTILINE)
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+) (.+)$")
_LINK = re.compile(r"(?<!!)\[(?P<text>(?:[^][`]|`[^`]*`)*)\]\((?P<target>[^)\s]+)\)")
_IMAGE = re.compile(r'src="(?P<target>[^":]+)"')


class IncludeError(Exception):
    """A page includes something that is not there."""


def expand_includes(text: str, page: str, places: Mapping[str, str]) -> str:
    """Returns a page of the site with the sections that it includes.

    `<!-- include: examples/README.md # Settings -->` stands for the text below that heading, without the heading.
    Without a heading it stands for the whole file below its title, and `<!-- lead: README.md -->` for its text above
    the second heading. Headings in it go below that of the page.

    Args:
        text: the page, in Markdown.
        page: its path below docs/.
        places: files of the repository -> the page of the site that shows them. Links to all other files become text.
    """

    def include(found: re.Match[str]) -> str:
        section, level = read_section(found["file"], found["heading"])
        if found["what"] == "lead":
            section = re.split(r"^#+ ", section, maxsplit=1, flags=re.MULTILINE)[0].strip()
        above = _headings(text[: found.start()].split("\n"))
        section = _shift_headings(section, (len(above[-1][1][1]) if above else 1) - level)
        return _rewrite_links(section, found["file"], page, places)

    return _DIRECTIVE.sub(include, text)


def read_section(file: str, heading: str | None) -> tuple[str, int]:
    """Returns the text below a heading of a file up to the next heading of its level, and that level.

    Raises:
        IncludeError: the file has no such heading, or several.
    """
    lines = (ROOT / file).read_text(encoding="utf-8").split("\n")
    headings = [(i, len(one[1]), one[2]) for i, one in _headings(lines)]
    wanted = [(i, level) for i, level, title in headings if title == heading or (heading is None and level == 1)]
    if len(wanted) != 1:
        known = ", ".join(title for _, _, title in headings)
        raise IncludeError(f"{file} has {len(wanted)} headings {heading or '# ...'!r}. Its headings: {known}.")
    ((start, level),) = wanted
    end = next((i for i, other, _ in headings if i > start and other <= level), len(lines))
    return "\n".join(lines[start + 1 : end]).strip(), level


def _headings(lines: list[str]) -> list[tuple[int, re.Match[str]]]:
    """Returns the headings among some lines with their places; comments in code are none."""
    found, in_code = [], False
    for i, line in enumerate(lines):
        in_code ^= line.startswith("```")
        if not in_code and (one := _HEADING.match(line)):
            found.append((i, one))
    return found


def _shift_headings(text: str, by: int) -> str:
    lines = text.split("\n")
    for i, one in _headings(lines):
        lines[i] = "#" * (len(one[1]) + by) + " " + one[2]
    return "\n".join(lines)


def _rewrite_links(text: str, file: str, page: str, places: Mapping[str, str]) -> str:
    """Makes the links and images of a file lead to the site's own."""

    def find_place(target: str) -> str | None:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(file), target))
        if not (ROOT / path).exists():
            raise IncludeError(f"{file} links to {target}, which is not there.")
        place = places.get(path)
        return place and posixpath.relpath(place, posixpath.dirname(page) or ".")

    def rewrite_link(found: re.Match[str]) -> str:
        target = found["target"].partition("#")[0]
        if not target or "://" in target:
            return found[0]
        # A section of the file may be on another page, so a link to a heading leads to the page.
        place = find_place(target)
        return found["text"] if place is None else f"[{found['text']}]({place})"

    def rewrite_text(prose: str) -> str:
        images = _IMAGE.sub(lambda found: f'src="{find_place(found["target"])}"', prose)
        return _LINK.sub(rewrite_link, images)

    parts, end = [], 0
    for code in _FENCE.finditer(text):
        parts += [rewrite_text(text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, rewrite_text(text[end:])])
