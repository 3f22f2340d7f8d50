"""The sections of the report of several labels for each item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from minilearner.pages.content import Cards, Cell, Name, Numbers, Paragraph, Section, Table, Text
from minilearner.results.calibration import Calibration
from minilearner.results.calibration_section import calibration_section
from minilearner.results.item_cards import NO_IMAGES, NOTHING_SHOWN, Load, make_cards, name_item, read_images
from minilearner.results.origins import Origins
from minilearner.results.report import Scores
from minilearner.results.sections import (
    curves_section,
    data_section,
    enumerate_texts,
    number_cell,
    settings_section,
    share_cell,
    show_interval,
    show_share,
)
from minilearner.results.slices import wilson_interval
from minilearner.results.training_facts import TrainingFacts

__all__ = ["label_sections"]


class _LabelAnswers(Protocol):
    """The part of a `MultiLabelInterpretation` that its report shows."""

    @property
    def vocab(self) -> Sequence[Any]: ...
    @property
    def losses(self) -> Any: ...
    @property
    def actual(self) -> NDArray[np.bool_]: ...
    @property
    def predicted(self) -> NDArray[np.bool_]: ...
    @property
    def thresh(self) -> float: ...
    @property
    def origins(self) -> Origins | None: ...
    def scores(self) -> Mapping[str, Scores]: ...
    def errors(self) -> Sequence[Mapping[str, Any]]: ...
    def calibration(self) -> Calibration: ...
    def top_losses(self, k: int | None = None, largest: bool = True) -> tuple[Any, Any]: ...


def label_sections(
    answers: _LabelAnswers, facts: TrainingFacts | None, *, set_name: str, n_images: int, load: Load | None
) -> list[Section]:
    """Returns all sections of the report.

    Args:
        answers: the interpretation.
        facts: what is known of the learner; None without one.
        set_name: which set was predicted.
        n_images: how many items are shown with their images.
        load: returns the items at given positions as images.
    """
    names = [str(label) for label in answers.vocab]
    counts = answers.actual.sum(0).tolist()
    return [
        _summarize(answers),
        data_section(facts, set_name, len(answers.actual), counts, names),
        settings_section(facts),
        curves_section(facts),
        _list_labels(answers),
        _show_losses(answers, names, n_images, load),
        calibration_section(answers.calibration(), "It is measured over all labels together. "),
    ]


def _summarize(answers: _LabelAnswers) -> Section:
    is_right = (answers.actual == answers.predicted).all(1)
    low, high = wilson_interval(is_right)
    f1 = [scores.f1 for scores in answers.scores().values() if scores.support]
    rows = [
        (
            "items with all labels right",
            show_share(float(is_right.mean())),
            show_interval(low, high),
        ),
        ("items", f"{len(is_right):,}", f"{int((~is_right).sum()):,} with a wrong label"),
        ("labels", f"{len(answers.vocab):,}", f"from probability {answers.thresh:g} on"),
        ("mean F1 over labels", f"{float(np.mean(f1)) if f1 else 0:.3f}", ""),
        ("mean loss", f"{float(np.mean(np.asarray(answers.losses))):.4f}", ""),
    ]
    worst = sorted(answers.errors(), key=lambda row: -row["missed"] - row["extra"])[:3]
    parts: list[str] = []
    for row in worst:
        if row["missed"] or row["extra"]:
            start = "; " if parts else "The labels with most mistakes: "
            parts += [start, Name(row["label"]), f" (missed {row['missed']:,} times, made up {row['extra']:,} times)"]
    text = [*parts, "."] if parts else ["Every item got exactly its labels."]
    return Section("summary", "Summary", [Numbers(rows), Paragraph(text)])


def _list_labels(answers: _LabelAnswers) -> Section:
    has_predictions: list[bool] = np.any(answers.predicted, axis=0).tolist()
    rows = [
        (
            Cell(Name(row["label"])),
            number_cell(row["n_items"], ",d"),
            number_cell(row["missed"], ",d"),
            number_cell(row["extra"], ",d"),
            share_cell(scores.precision if is_predicted else None),
            share_cell(scores.recall if row["n_items"] else None),
            share_cell(scores.f1 if row["n_items"] or is_predicted else None),
        )
        for row, scores, is_predicted in zip(answers.errors(), answers.scores().values(), has_predictions, strict=True)
    ]
    columns = ("label", "items", "missed", "made up", "precision", "recall", "F1")
    table = Table("Mistakes and scores of each label", columns, rows, is_long=len(rows) > 5)
    return Section("labels", "Labels", [table])


def _show_losses(answers: _LabelAnswers, names: Sequence[str], n_images: int, load: Load | None) -> Section:
    shown: list[int] = answers.top_losses()[1].tolist()[:n_images]
    is_right = [bool((answers.actual[i] == answers.predicted[i]).all()) for i in shown]
    lines: list[list[tuple[str, Text]]] = [
        [
            ("actual", _list_names(answers.actual[i], names)),
            ("predicted", _list_names(answers.predicted[i], names)),
            ("loss", f"{float(answers.losses[i]):.4f}"),
            ("item", name_item(answers.origins, i)),
        ]
        for i in shown
    ]
    images = [NO_IMAGES] * len(shown) if load is None else read_images(load, shown)
    cards = make_cards(shown, images, lines, is_right, [None] * len(shown))
    return Section("losses", "Top losses", [Cards(cards)], "" if shown else NOTHING_SHOWN)


def _list_names(row: NDArray[np.bool_], names: Sequence[str]) -> Text:
    return enumerate_texts([names[i] for i in np.flatnonzero(row).tolist()]) or "none"
