"""The sections of a classifier's report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from minilearner.errors import plural, portion
from minilearner.pages.content import (
    Block,
    Cards,
    Cell,
    Code,
    Matrix,
    Name,
    Numbers,
    Paragraph,
    Section,
    Table,
    Text,
)
from minilearner.plots.confusion import find_worst_classes, order_by_confusion
from minilearner.results.calibration import Calibration
from minilearner.results.calibration_section import calibration_section
from minilearner.results.evidence import Evidence
from minilearner.results.item_cards import NO_IMAGES, Load, find_evidence, make_cards, name_item, read_images
from minilearner.results.label_errors import LabelError, LabelErrors
from minilearner.results.origins import Origins
from minilearner.results.report import ClassificationReport
from minilearner.results.sections import (
    curves_section,
    data_section,
    number_cell,
    settings_section,
    share_cell,
    show_interval,
    show_share,
)
from minilearner.results.slices import wilson_interval
from minilearner.results.training_facts import TrainingFacts

__all__ = ["class_sections"]

_MOST_DRAWN = 500  # classes; a cell of 4.5 pixels cannot be smaller, and the order takes time as their cube
_FEW = 25  # classes; of more, the most confused ones get a matrix of their own
_MOST_PAIRS, _MOST_ITEMS = 200, 500  # rows of tables


class _ClassAnswers(Protocol):
    """The part of a `ClassificationInterpretation` that its report shows."""

    @property
    def vocab(self) -> Sequence[Any]: ...
    @property
    def losses(self) -> Any: ...
    @property
    def actual(self) -> NDArray[Any]: ...
    @property
    def predicted(self) -> NDArray[Any]: ...
    @property
    def actual_probs(self) -> NDArray[Any]: ...
    @property
    def predicted_probs(self) -> NDArray[Any]: ...
    @property
    def origins(self) -> Origins | None: ...
    def confusion_matrix(self) -> NDArray[np.int64]: ...
    def classification_report(self) -> ClassificationReport: ...
    def calibration(self) -> Calibration: ...
    def label_errors(self) -> LabelErrors: ...
    def top_losses(self, k: int | None = None, largest: bool = True) -> tuple[Any, Any]: ...


def class_sections(
    answers: _ClassAnswers,
    facts: TrainingFacts | None,
    *,
    set_name: str,
    n_images: int,
    load: Load | None,
    explain: Callable[..., Evidence] | None,
) -> list[Section]:
    """Returns all sections of the report.

    Args:
        answers: the interpretation.
        facts: what is known of the learner; None without one.
        set_name: which set was predicted.
        n_images: how many items are shown with their images, in each of two sections.
        load: returns the items at given positions as images.
        explain: returns the evidence in items for classes.
    """
    counts, report = answers.confusion_matrix(), answers.classification_report()
    names, calibration = report.labels, answers.calibration()
    of_items = counts.sum(1).tolist()
    return [
        _summarize(answers, counts, report, calibration),
        data_section(facts, set_name, len(answers.actual), of_items, names),
        settings_section(facts),
        curves_section(facts),
        _show_confusion(counts, names),
        _list_classes(counts, report, facts),
        _show_losses(answers, names, n_images, load, explain),
        calibration_section(calibration),
        _show_label_errors(answers, n_images, load),
    ]


def _summarize(
    answers: _ClassAnswers, counts: NDArray[Any], report: ClassificationReport, calibration: Calibration
) -> Section:
    is_right = answers.predicted == answers.actual
    low, high = wilson_interval(is_right)
    rows = [
        ("accuracy", show_share(report.accuracy), show_interval(low, high)),
        ("items", f"{len(is_right):,}", f"{int((~is_right).sum()):,} wrong"),
        ("classes", f"{len(counts):,}", ""),
        ("mean F1 over classes", f"{report.macro_avg.f1:.3f}", ""),
        ("mean loss", f"{float(np.mean(answers.losses)):.4f}", ""),
        ("calibration error", f"{calibration.ece:.3f}", "0 is best"),
    ]
    blocks: list[Block] = [Numbers(rows), Paragraph(_say_confusions(counts, report.labels))]
    worst = [(name, recall) for name, recall in _by_recall(report) if recall < 1][:3]
    if worst and len(counts) > 2:
        parts: list[str] = ["The classes that are found least often: "]
        for i, (name, recall) in enumerate(worst):
            parts += [", " if i else "", Name(name), f" ({show_share(recall)} of its items)"]
        blocks.append(Paragraph([*parts, "."]))
    return Section("summary", "Summary", blocks)


def _by_recall(report: ClassificationReport) -> list[tuple[str, float]]:
    named = zip(report.labels, report.scores, strict=True)
    return sorted(((name, s.recall) for name, s in named if s.support), key=lambda one: one[1])


def _pairs(counts: NDArray[Any]) -> list[tuple[int, int, int]]:
    """Returns (actual, predicted, count) of all confusions, the commonest first."""
    errors = counts.copy()
    np.fill_diagonal(errors, 0)
    found = [(a, p, int(errors[a, p])) for a, p in np.argwhere(errors).tolist()]
    return sorted(found, key=lambda pair: -pair[2])


def _say_confusions(counts: NDArray[Any], names: Sequence[str]) -> list[str]:
    pairs = _pairs(counts)[:5]
    if not pairs:
        return ["Every item got the right class."]
    parts = ["The commonest mistakes: " if len(pairs) > 1 else "The only mistake: "]
    for i, (a, p, n) in enumerate(pairs):
        share = show_share(n / counts[a].sum())
        how_often = "once" if n == 1 else f"{n:,} times"
        parts += ["; " if i else "", Name(names[a]), " was taken for ", Name(names[p])]
        parts.append(f" {how_often} ({share} of its items)")
    return [*parts, "."]


def _show_confusion(counts: NDArray[Any], names: Sequence[str]) -> Section:
    n, totals = len(counts), counts.sum(1)
    blocks: list[Block] = [Paragraph(_MATRIX_KEY)]
    if n <= _MOST_DRAWN:
        order = list(range(n)) if n <= _FEW else order_by_confusion(counts)
        caption = f"Items by actual and predicted class{'' if n <= _FEW else _ORDERED}"
        blocks.append(_matrix(counts, names, order, caption))
    else:
        blocks.append(Paragraph(f"The whole matrix of {n:,} classes would be too large for a page."))
    if n > _FEW:
        worst = find_worst_classes(counts, 20)
        blocks.append(_matrix(counts, names, worst, f"The {len(worst)} classes with the commonest mistakes"))
    pairs = _pairs(counts)
    if pairs:
        rows = [
            (Cell(Name(names[a])), Cell(Name(names[p])), number_cell(c, ",d"), share_cell(c / int(totals[a])))
            for a, p, c in pairs[:_MOST_PAIRS]
        ]
        caption = f"Mistakes, the commonest first{_first(rows, pairs)}"
        columns = ("actual", "predicted", "items", "share of the actual class")
        blocks.append(Table(caption, columns, rows, is_long=len(rows) > 5))
    return Section("confusion", "Confusion matrix", blocks)


_MATRIX_KEY = (
    "Rows are actual classes, columns predicted ones. Blue is right and orange wrong; a stronger color is a larger "
    "share of the actual class."
)
_ORDERED = ", so ordered that classes which are taken for each other are neighbors"


def _matrix(counts: NDArray[Any], names: Sequence[str], chosen: list[int], caption: str) -> Matrix:
    return Matrix(caption, [names[i] for i in chosen], counts[np.ix_(chosen, chosen)], counts.sum(1)[chosen])


def _first(shown: Sequence[Any], every: Sequence[Any]) -> str:
    return "" if len(shown) == len(every) else f": {len(shown):,} of {len(every):,}"


def _list_classes(counts: NDArray[Any], report: ClassificationReport, facts: TrainingFacts | None) -> Section:
    n_predicted = counts.sum(0).tolist()
    training = next((one.counts for one in facts.sets if one.name == "training"), None) if facts is not None else None
    if training is not None and len(training) != len(counts):
        training = None  # the interpretation has other classes
    rows = []
    for i, (name, scores) in enumerate(zip(report.labels, report.scores, strict=True)):
        cells = [Cell(Name(name)), number_cell(scores.support, ",d")]
        if training is not None:
            cells.append(number_cell(training[i], ",d"))
        has_items, is_predicted = bool(scores.support), bool(n_predicted[i])
        cells.append(share_cell(scores.precision if is_predicted else None))
        cells.append(share_cell(scores.recall if has_items else None))
        cells.append(share_cell(scores.f1 if has_items or is_predicted else None))
        cells.append(Cell(_most_often(counts[i], i, report.labels)))
        rows.append(cells)
    columns = ["class", "items", *(["training items"] if training is not None else []), "precision", "recall", "F1"]
    table = Table("Scores of each class", [*columns, "taken most often for"], rows, is_long=len(rows) > 5)
    return Section("classes", "Classes", [Paragraph(_SCORES_KEY), table])


_SCORES_KEY = (
    "Precision is the share of right ones among the items predicted as a class. Recall is the share of its items that "
    "are found. F1 is their harmonic mean. A dash means that there is nothing to divide by."
)


def _most_often(row: NDArray[Any], own: int, names: Sequence[str]) -> Text:
    errors = row.copy()
    errors[own] = 0
    most = int(errors.argmax())
    return [Name(names[most]), f" ({int(errors[most]):,})"] if errors[most] else ""


def _show_losses(
    answers: _ClassAnswers,
    names: Sequence[str],
    n_images: int,
    load: Load | None,
    explain: Callable[..., Evidence] | None,
) -> Section:
    order: list[int] = answers.top_losses()[1].tolist()
    blocks: list[Block] = []
    shown = order[:n_images]
    if load is None:
        blocks.append(Paragraph(NO_IMAGES))
    elif shown:
        images = read_images(load, shown)
        heats, remark = find_evidence(explain, shown, answers.predicted[shown].tolist(), images)
        lines = [_describe_item(answers, names, i) for i in shown]
        is_right = [bool(answers.predicted[i] == answers.actual[i]) for i in shown]
        blocks.append(Paragraph(f"The {plural(len(shown), 'item')} with the largest loss. {remark}"))
        blocks.append(Cards(make_cards(shown, images, lines, is_right, heats)))
    listed = order[:_MOST_ITEMS]
    rows = [
        (
            Cell(name_item(answers.origins, i)),
            Cell(Name(names[answers.actual[i]])),
            Cell(Name(names[answers.predicted[i]])),
            number_cell(float(answers.actual_probs[i]), ".4f"),
            number_cell(float(answers.predicted_probs[i]), ".4f"),
            number_cell(float(answers.losses[i]), ".4f"),
        )
        for i in listed
    ]
    columns = ("item", "actual", "predicted", "probability of actual", "of predicted", "loss")
    blocks.append(Table(f"Items by loss, the largest first{_first(rows, order)}", columns, rows, is_long=len(rows) > 5))
    return Section("losses", "Top losses", blocks)


def _describe_item(answers: _ClassAnswers, names: Sequence[str], i: int) -> list[tuple[str, Text]]:
    actual, predicted = names[answers.actual[i]], names[answers.predicted[i]]
    return [
        ("actual", [Name(actual), f" ({show_share(float(answers.actual_probs[i]))})"]),
        ("predicted", [Name(predicted), f" ({show_share(float(answers.predicted_probs[i]))})"]),
        ("loss", f"{float(answers.losses[i]):.4f}"),
        ("item", name_item(answers.origins, i)),
    ]


def _show_label_errors(answers: _ClassAnswers, n_images: int, load: Load | None) -> Section:
    key, heading = "label-errors", "Label errors"
    try:
        found = answers.label_errors()
    except ValueError as error:
        return Section(key, heading, missing=str(error))
    blocks: list[Block] = [Paragraph(caveat) for caveat in found.caveats]
    errors = found.errors
    share = portion(found.n_errors, len(found), "label", "is", "are")
    if not errors:
        return Section(key, heading, [*blocks, Paragraph(f"{share} probably wrong, by confident learning.")])
    noise = f"An estimated {show_share(found.noise)} of all labels are wrong."
    said = f"{share} probably wrong, by confident learning. {noise} "
    call = Code('interp.label_errors().to_csv("review.csv")')
    blocks.append(Paragraph([said, call, " writes them to a table for a review."]))
    shown = [row.item for row in errors[:n_images]]
    if shown and load is not None:
        lines = [_describe_error(answers, row) for row in errors[:n_images]]
        nothing = [None] * len(shown)
        blocks.append(Cards(make_cards(shown, read_images(load, shown), lines, nothing, nothing)))
    rows = [
        (
            Cell(name_item(answers.origins, row.item)),
            Cell(Name(row.given)),
            Cell(Name(row.suggested)),
            number_cell(row.suspicion, ".4f"),
        )
        for row in errors[:_MOST_ITEMS]
    ]
    caption = f"Labels that are probably wrong, the most suspicious first{_first(rows, errors)}"
    blocks.append(Table(caption, ("item", "given", "suggested", "suspicion"), rows, is_long=len(rows) > 5))
    return Section(key, heading, blocks)


def _describe_error(answers: _ClassAnswers, row: LabelError) -> list[tuple[str, Text]]:
    return [
        ("given", [Name(row.given), f" ({show_share(row.given_prob)})"]),
        ("suggested", [Name(row.suggested), f" ({show_share(row.suggested_prob)})"]),
        ("suspicion", f"{row.suspicion:.4f}"),
        ("item", name_item(answers.origins, row.item)),
    ]
