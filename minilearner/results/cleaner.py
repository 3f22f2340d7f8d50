"""`ImageCleaner`: what a person decides about suspicious images, one by one. `plots.cleaner_view` shows it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from minilearner.checks import check_choice, check_count
from minilearner.errors import closest, plural
from minilearner.glance import AtAGlance, Glance
from minilearner.keywords import suggest_keywords
from minilearner.plots.style import shorten_middle
from minilearner.review_file import ACTIONS, Suspect, write_review

__all__ = ["ImageCleaner", "Reviewable"]

_MOST_ROWS = 20
_LONGEST_CELL = 60


class Reviewable(Protocol):
    """What a cleaner takes: label errors or image problems."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes. Empty if they are unknown."""

    def suspects(self, most: int | None = None) -> list[Suspect]:
        """Returns the first `most` items to review, or all."""

    def load_images(self, items: Sequence[int]) -> Sequence[Tensor | str]:
        """Returns the images of items, (channels, height, width) in [0, 1], or a text that says what is missing."""


@suggest_keywords
class ImageCleaner(AtAGlance):
    """Suspicious images to keep, delete or relabel, one by one.

    As the last line of a notebook's cell it shows the images with a menu each (with ipywidgets: ``pip install
    minilearner[notebook]``). In a script, call its methods. Nothing changes on disk: `to_csv` writes the decisions, and
    ``relabel=`` of the loaders goes by them.

    Example::

        cleaner = ImageCleaner(interp.label_errors())
        cleaner                                    # in a notebook
        cleaner.relabel(0, "cat")                  # in a script
        cleaner.to_csv("review.csv")
        dls = ImageDataLoaders.from_folder(path, valid_pct=0.2, relabel="review.csv")

    Args:
        found: what `interp.label_errors()` or `find_image_problems(...)` returned.
        most: how many of the items, the most suspicious first.

    Raises:
        TypeError: `found` is something else, such as a learner.
        ValueError: `most` is below 1.
    """

    def __init__(self, found: Reviewable, most: int = 100) -> None:
        check_count(most, "most")
        if not hasattr(found, "suspects"):
            raise TypeError(
                "`found` must be interp.label_errors() or find_image_problems(...). "
                f"Received: a {type(found).__name__}."
            )
        self._found = found
        self._given = tuple(found.suspects(most))
        self._decisions: dict[int, tuple[str, str]] = {}
        self._history: list[tuple[int, tuple[str, str] | None]] = []

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, for `relabel`. Empty if they are unknown."""
        return self._found.labels

    @property
    def suspects(self) -> list[Suspect]:
        """The items in order, with the decisions so far."""
        return [self[i] for i in range(len(self))]

    @property
    def counts(self) -> dict[str, int]:
        """How many items are to be kept, deleted and relabelled, and how many are open."""
        made = Counter(action for action, _ in self._decisions.values())
        return {**{action: made[action] for action in ACTIONS}, "open": len(self) - len(self._decisions)}

    def __len__(self) -> int:
        return len(self._given)

    def __getitem__(self, place: int) -> Suspect:
        """Returns an item with its decision so far."""
        action, new = self._decisions.get(place, ("", ""))
        return replace(self._given[place], action=action, new_label=new)

    def keep(self, place: int) -> None:
        """Decides that an item is fine."""
        self.decide(place, "keep")

    def delete(self, place: int) -> None:
        """Decides to leave an item out. Its file stays on disk."""
        self.decide(place, "delete")

    def relabel(self, place: int, label: str | None = None) -> None:
        """Decides on another label.

        Args:
            place: the place of the item in the list.
            label: the new label. None takes the one that the model suggests.
        """
        self.decide(place, "relabel", self._given[self._check(place)].suggested_label if label is None else label)

    def decide(self, place: int, action: str, new_label: str = "") -> None:
        """Decides about an item. An earlier decision is replaced.

        Args:
            place: the place of the item in the list.
            action: "keep", "delete" or "relabel".
            new_label: the label for "relabel".

        Raises:
            ValueError: there is no such place, action or class, or the item has that label already.
        """
        check_choice(action, "action", ACTIONS)
        if action == "relabel":
            self._check_label(self._given[self._check(place)], new_label)
        self._set(self._check(place), (action, new_label if action == "relabel" else ""))

    def reset(self, place: int) -> None:
        """Makes an item open again."""
        self._set(self._check(place), None)

    def undo(self) -> int | None:
        """Takes the latest decision back, and returns the place of its item. None if there is none."""
        if not self._history:
            return None
        place, before = self._history.pop()
        self._put(place, before)
        return place

    def image(self, place: int) -> Tensor | str:
        """Returns an item's image, or a text that says what is missing."""
        item = self._given[self._check(place)].item
        return "no image" if item is None else self._found.load_images([item])[0]

    def to_csv(self, path: str | os.PathLike[str], *, encoding: str = "utf-8") -> Path:
        """Writes the items with the decisions to a CSV file for `relabel=` of the loaders, and returns its path.

        Args:
            path: the file.
            encoding: "utf-8-sig" adds the mark by which Excel knows UTF-8.
        """
        return write_review(path, self.suspects, encoding)

    def glance(self) -> Glance:
        """Returns how far the review is, and the first items."""
        rows = [
            (str(i), one.path or f"item {one.item}", one.given_label, one.suggested_label, one.problem, _decision(one))
            for i, one in enumerate(self.suspects[:_MOST_ROWS])
        ]
        shown = [tuple(shorten_middle(cell, _LONGEST_CELL) for cell in row) for row in rows]
        rest = len(self) - len(rows)
        after = (f"... and {plural(rest, 'item')} more",) if rest else ()
        counts = ", ".join(f"{n:,} {name}" for name, n in self.counts.items())
        columns = ("place", "item", "given", "suggested", "problem", "decision") if rows else ()
        return Glance(f"{plural(len(self), 'image')} to review: {counts}", {}, columns, shown, after)

    def _ipython_display_(self) -> None:
        from minilearner.plots.cleaner_view import show_cleaner  # only notebooks need it

        show_cleaner(self)

    def _check(self, place: int) -> int:
        check_count(place, "place", least=0)
        if place >= len(self):
            raise ValueError(f"`place` must be below the number of items, {len(self)}. Received: place={place}.")
        return int(place)

    def _check_label(self, item: Suspect, label: Any) -> None:
        if not label or (self.classes and label not in self.classes):
            known = ", ".join(self.classes[:20]) + (", ..." if len(self.classes) > 20 else "")
            raise ValueError(
                f"`label` must be one of the classes, {known or 'as text'}.{closest(str(label), self.classes)} "
                f"Received: {label!r}."
            )
        if label == item.given_label:
            raise ValueError(f"`label` must differ from the label that the item has. Received: {label!r}.")

    def _set(self, place: int, decision: tuple[str, str] | None) -> None:
        before = self._decisions.get(place)
        if decision != before:
            self._history.append((place, before))
            self._put(place, decision)

    def _put(self, place: int, decision: tuple[str, str] | None) -> None:
        if decision is None:
            self._decisions.pop(place, None)
        else:
            self._decisions[place] = decision


def _decision(item: Suspect) -> str:
    return f"relabel: {item.new_label}" if item.action == "relabel" else item.action
