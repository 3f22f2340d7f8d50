#!/usr/bin/env python3
"""Checks the pages of the built site: every link leads somewhere, and no page loads anything from another server.

    python docs/workshop/links.py site

Prints each broken link and each outside load; exit status 1 if there is one. Links to other sites are listed, not
followed.
"""

from __future__ import annotations

import posixpath
import sys
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}


@dataclass
class PageLinks(HTMLParser):
    """What one page links to, loads and can be jumped to."""

    links: set[str] = field(default_factory=set)
    loads: set[str] = field(default_factory=set)
    anchors: set[str] = field(default_factory=lambda: {""})

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors.update(given[name] for name in ("id", "name") if name in given)
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        elif tag in LOADS and LOADS[tag] in given and given.get("rel") != "canonical":
            self.loads.add(given[LOADS[tag]])


@cache
def read_page(file: Path) -> PageLinks:
    page = PageLinks()
    page.feed(file.read_text(encoding="utf-8"))
    return page


def check_site(site: Path) -> tuple[list[str], set[str]]:
    """Returns what is wrong, and the links to other sites."""
    wrong, outside = [], set()
    for file in sorted(site.rglob("*.html")):
        page, name = read_page(file), file.relative_to(site)
        for target in sorted(page.links | page.loads):
            parts = urlsplit(target)
            if parts.scheme == "data":
                continue
            if parts.scheme or parts.netloc:
                outside.add(target)
                wrong += [f"{name} loads {target}"] if target in page.loads else []
            elif not leads_somewhere(file, parts.path, unquote(parts.fragment), site):
                wrong.append(f"{name} links to {target}, which is not there")
    return wrong, outside


def leads_somewhere(file: Path, path: str, anchor: str, site: Path) -> bool:
    if path.startswith("/"):
        found = site / unquote(path).lstrip("/")  # only the page for lost visitors has such links
    else:
        found = Path(posixpath.normpath(file.parent / unquote(path))) if path else file
    found = found / "index.html" if found.is_dir() else found
    is_theme = anchor.startswith("only-") or anchor == "__tabbed"
    return found.is_file() and (found.suffix != ".html" or is_theme or anchor in read_page(found).anchors)


def main(site: Path) -> int:
    wrong, outside = check_site(site)
    print("Links to other sites, which nothing follows here:", *sorted(outside), sep="\n  ")
    print(*(wrong or [f"All links within {len(list(site.rglob('*.html')))} pages lead somewhere."]), sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
