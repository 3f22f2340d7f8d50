"""The sections of the report of predicted numbers, and of any other predictions that have losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from minilearner.pages.content import Cards, Charts, Numbers, Paragraph, Points, Section, Series, Text
from minilearner.results.item_cards import NO_IMAGES, NOTHING_SHOWN, Load, make_cards, name_item, read_images
from minilearner.results.origins import Origins
from minilearner.results.sections import curves_section, data_section, settings_section
from minilearner.results.training_facts import TrainingFacts

__all__ = ["loss_sections", "number_sections"]

_MOST_POINTS = 1500  # of a chart; more only hide each other
_MOST_NUMBERS = 12  # with a chart of their own


class _NumberAnswers(Protocol):
    """The part of a `RegressionInterpretation` that its report shows."""

    @property
    def losses(self) -> Any: ...
    @property
    def actual(self) -> NDArray[np.float64]: ...
    @property
    def predicted(self) -> NDArray[np.float64]: ...
    @property
    def origins(self) -> Origins | None: ...
    def scores(self, number: int = 0) -> Any: ...
    def top_losses(self, k: int | None = None, largest: bool = True) -> tuple[Any, Any]: ...


def number_sections(
    answers: _NumberAnswers, facts: TrainingFacts | None, *, set_name: str, n_images: int, load: Load | None
) -> list[Section]:
    """Returns all sections of the report.

    Args:
        answers: the interpretation.
        facts: what is known of the learner; None without one.
        set_name: which set was predicted.
        n_images: how many items are shown with their images.
        load: returns the items at given positions as images.
    """
    n, n_numbers = answers.actual.shape
    shown = answers.top_losses()[1].tolist()[:n_images]
    lines: list[list[tuple[str, Text]]] = [
        [("actual", _list_numbers(answers.actual[i])), ("predicted", _list_numbers(answers.predicted[i]))]
        for i in shown
    ]
    return [
        Section("summary", "Summary", [_number_scores(answers, number) for number in range(min(n_numbers, 4))]),
        data_section(facts, set_name, n, None, ()),
        settings_section(facts),
        curves_section(facts),
        _show_predictions(answers),
        _show_losses(answers.losses, shown, answers.origins, load, lines),
    ]


def loss_sections(
    losses: Any, order: Sequence[int], facts: TrainingFacts | None, *, set_name: str, n_images: int, load: Load | None
) -> list[Section]:
    """Returns the sections of a report for predictions of which only the losses are known.

    Args:
        losses: (items,).
        order: the positions of the items, the largest loss first.
        facts, set_name, n_images, load: as for `number_sections`.
    """
    rows = [("mean loss", f"{float(np.mean(np.asarray(losses))):.4f}", ""), ("items", f"{len(losses):,}", "")]
    return [
        Section("summary", "Summary", [Numbers(rows)]),
        data_section(facts, set_name, len(losses), None, ()),
        settings_section(facts),
        curves_section(facts),
        _show_losses(losses, order[:n_images], None, load, [[] for _ in order[:n_images]]),
    ]


def _number_scores(answers: _NumberAnswers, number: int) -> Numbers:
    found = answers.scores(number)
    named = "" if answers.actual.shape[1] == 1 else f" of number {number}"
    return Numbers(
        [
            (f"mean absolute error{named}", f"{found.mae:.4g}", ""),
            ("root mean squared error", f"{found.rmse:.4g}", ""),
            ("R\N{SUPERSCRIPT TWO}", f"{found.r2:.3f}", "share of the variance that is explained"),
            ("bias", f"{found.bias:.4g}", "mean of predicted minus actual"),
            ("items", f"{len(answers.actual):,}", ""),
        ]
    )


def _show_predictions(answers: _NumberAnswers) -> Section:
    n, n_numbers = answers.actual.shape
    step = -(-n // _MOST_POINTS)
    charts = [
        Points(
            "Predicted over actual" if n_numbers == 1 else f"Predicted over actual, number {number}",
            "actual",
            "predicted",
            [Series("", answers.actual[::step, number].tolist(), answers.predicted[::step, number].tolist())],
            in_unit_range=False,
        )
        for number in range(min(n_numbers, _MOST_NUMBERS))
    ]
    remark = "" if step == 1 else f" Every {step}th item is shown."
    text = f"On the dotted line, both agree.{remark}"
    return Section("predictions", "Predictions", [Paragraph(text), Charts(charts)])


def _show_losses(
    losses: Any,
    shown: Sequence[int],
    origins: Origins | None,
    load: Load | None,
    lines: Sequence[Sequence[tuple[str, Text]]],
) -> Section:
    said: list[list[tuple[str, Text]]] = [
        [*before, ("loss", f"{float(losses[i]):.4f}"), ("item", name_item(origins, i))]
        for i, before in zip(shown, lines, strict=True)
    ]
    nothing = [None] * len(shown)
    images = [NO_IMAGES] * len(shown) if load is None else read_images(load, shown)
    cards = make_cards(shown, images, said, nothing, nothing)
    return Section("losses", "Top losses", [Cards(cards)], "" if shown else NOTHING_SHOWN)


def _list_numbers(row: NDArray[np.float64]) -> str:
    shown = ", ".join(f"{value:.4g}" for value in row[:8].tolist())
    return shown if len(row) <= 8 else f"{shown}, ... ({len(row)})"
