"""The sections that the report of any interpretation has: settings, training curves, and the sets."""

from __future__ import annotations

import contextlib
import math
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np
import torch

from minilearner.errors import plural
from minilearner.pages.content import Bars, Block, Cell, Charts, Lines, Name, Paragraph, Section, Series, Table
from minilearner.results.recorder import Recorder
from minilearner.results.run_record import RunRecord
from minilearner.results.training_facts import TrainingFacts

__all__ = [
    "curves_section",
    "data_section",
    "enumerate_texts",
    "number_cell",
    "settings_section",
    "share_cell",
    "show_interval",
    "show_share",
]

_MOST_POINTS = 400  # of a curve; a chart is hardly wider than that in pixels
_NO_LEARNER = "Unknown, because this interpretation was built from predictions alone and not with from_learner."
_OF_RUNS = ("n_epoch", "lr", "bs", "optimizer", "loss", "precision", "auto_precision", "device", "callbacks")
"""Settings of a run that have their own column, or stand among those of the learner."""


def settings_section(facts: TrainingFacts | None) -> Section:
    """Returns how the model was trained, run by run, and the versions of what wrote the page."""
    if facts is None:
        return Section("settings", "Settings and versions", [_versions()], _NO_LEARNER)
    rows = [(Cell("model"), Cell(Name(facts.model)))]
    rows += [(Cell(name), Cell(Name(text))) for name, text in facts.settings.items()]
    blocks: list[Block] = [Table("Settings of the learner", ("setting", "value"), rows), _versions()]
    if facts.recorder.runs:
        blocks.append(_runs(facts.recorder))
    return Section("settings", "Settings and versions", blocks)


def _versions() -> Table:
    versions = {"torch": str(torch.__version__), "numpy": np.__version__}
    for name in ("minilearner", "torchvision", "scikit-learn"):
        with contextlib.suppress(metadata.PackageNotFoundError):  # it runs from a folder
            versions[name] = metadata.version(name)
    rows = [(Cell(name), Cell(version)) for name, version in versions.items()]
    rows += [(Cell("Python"), Cell(platform.python_version())), (Cell("system"), Cell(platform.platform(terse=True)))]
    return Table("Versions that wrote this page", ("name", "version"), rows)


def _runs(recorder: Recorder) -> Table:
    rows = []
    for run in recorder.runs:
        seconds = sum(row.get("time_seconds", 0) for row in run.epochs)
        others = {name: value for name, value in run.settings.items() if name not in _OF_RUNS}
        others["callbacks"] = ", ".join(run.settings.get("callbacks", ()))
        rows.append(
            (
                Cell(str(run.number)),
                Cell(run.kind),
                Cell(run.phase),
                number_cell(run.settings.get("n_epoch"), "d"),
                Cell(_rate(run.settings.get("lr"))),
                Cell(_last_scores(run)),
                number_cell(seconds, ",.0f"),
                Cell(Name(", ".join(f"{name}: {value}" for name, value in others.items() if value not in (None, "")))),
            )
        )
    columns = ("run", "method", "phase", "epochs", "rate", "at the end", "seconds", "other settings")
    return Table("Runs", columns, rows)


def _last_scores(run: RunRecord) -> str:
    """Returns the losses and metrics of the last epoch, in words."""
    row = run.epochs[-1] if run.epochs else {}
    left_out = ("time_seconds", "smooth_loss")
    known = {name: value for name, value in row.items() if isinstance(value, float) and name not in left_out}
    return ", ".join(f"{name} {value:.4f}" for name, value in known.items())


def _rate(lr: Any) -> str:
    rates = lr if isinstance(lr, list) else [lr]
    return " to ".join(f"{rate:.3g}" if isinstance(rate, float) else str(rate) for rate in rates[:1] + rates[1:][-1:])


def curves_section(facts: TrainingFacts | None) -> Section:
    """Returns the loss over the batches, the rates, and the loss and each metric over the epochs."""
    key, heading = "curves", "Training curves"
    if facts is None:
        return Section(key, heading, missing=_NO_LEARNER)
    recorder = facts.recorder
    if not len(recorder.losses) and not recorder.epochs:
        return Section(key, heading, missing="This learner has not been trained, so there is no curve.")
    panels = recorder.epoch_panels()
    charts = [_loss_by_batch(recorder)] if len(recorder.losses) else []
    charts += [_by_epoch(name, panel) for name, panel in panels.items() if name != "loss" and panel]
    if len(recorder.losses):
        charts.append(_rates(recorder))
    return Section(key, heading, [Charts(charts)])


def _loss_by_batch(recorder: Recorder) -> Lines:
    raw, smoothed = recorder.losses, recorder.smoothed
    at, valid = recorder.at_batches("valid_loss")
    x = np.arange(1, len(raw) + 1, dtype=float)
    series = [
        Series("training, each batch", *_thin_out(x, raw), look="faint"),
        Series("training, smoothed", *_thin_out(x, smoothed)),
    ]
    if valid:
        series.append(Series("validation", at, valid, look="other", has_markers=len(valid) <= 60))
    starts = [(float(start), name) for start, name in recorder.starts().items()]
    return Lines("Loss", "batch", "loss", series, starts, has_whole_steps=True)


def _by_epoch(name: str, panel: dict[str, list[float]]) -> Lines:
    looks = {"training": "main", "validation": "other"}
    series = [
        Series(
            label,
            list(range(1, len(values) + 1)),
            [float(value) for value in values],
            looks[label],
            has_markers=len(values) <= 60,
        )
        for label, values in panel.items()
    ]
    title = name.replace("_", " ")
    return Lines(title[0].upper() + title[1:], "epoch", title, series, has_whole_steps=True)


def _rates(recorder: Recorder) -> Lines:
    x = np.arange(1, len(recorder.lrs) + 1, dtype=float)
    starts = [(float(start), name) for start, name in recorder.starts().items()]
    series = Series("", *_thin_out(x, recorder.lrs))
    return Lines("Learning rate", "batch", "rate of the last layer group", [series], starts, has_whole_steps=True)


def _thin_out(x: Any, y: Any) -> tuple[list[float], list[float]]:
    """Returns at most 400 points: the lowest and the highest of each stretch, so that no peak is lost."""
    n = len(y)
    if n <= _MOST_POINTS:
        return x.tolist(), y.tolist()
    kept = []
    for part in np.array_split(np.arange(n), _MOST_POINTS // 2):
        values = np.where(np.isfinite(y[part]), y[part], np.nan)
        if np.isnan(values).all():
            kept.append(int(part[0]))
        else:
            kept += sorted({int(part[np.nanargmin(values)]), int(part[np.nanargmax(values)])})
    return x[kept].tolist(), y[kept].tolist()


def data_section(
    facts: TrainingFacts | None, set_name: str, n_items: int, counts: Sequence[int] | None, names: Sequence[str]
) -> Section:
    """Returns how large the sets are, and how evenly the classes share them.

    Args:
        facts: what is known of the learner.
        set_name: which set was predicted.
        n_items: how many items it has.
        counts: how many of its items each class has; None if there are no classes.
        names: the classes.
    """
    rows = [] if facts is None else [(Cell(one.name), Cell(one.size)) for one in facts.sets]
    rows.append((Cell("interpreted here"), Cell(f"{set_name}, {plural(n_items, 'item')}")))
    blocks: list[Block] = [Table("Sets", ("set", "size"), rows)]
    known: list[tuple[str, Sequence[int], Sequence[str]]] = []
    for one in () if facts is None else facts.sets:
        if one.counts is not None:
            known.append((f"Items per class, {one.name}", one.counts, facts.classes))  # type: ignore[union-attr]
    if counts is not None and not any(list(of_classes) == list(counts) for _, of_classes, _ in known):
        known.append(("Items per class, interpreted here", counts, names))
    blocks += [Paragraph(_describe_balance(*one)) for one in known]
    charts = [Bars(title, "classes, the largest first", "items", sorted(n, reverse=True)) for title, n, _ in known]
    return Section("data", "Data", [*blocks, Charts(charts)] if charts else blocks)


def _describe_balance(title: str, counts: Sequence[int], names: Sequence[str]) -> list[str]:
    """Returns which class is largest and smallest, and which have no items, in words."""
    present = [(n, name) for n, name in zip(counts, names, strict=True) if n]
    missing = [name for n, name in zip(counts, names, strict=True) if not n]
    if not present:
        return [f"{title}: there are none."]
    (most, largest), (least, smallest) = max(present, key=lambda one: one[0]), min(present, key=lambda one: one[0])
    if most == least:
        text = [f"{title}: {plural(most, 'item')} in each of {plural(len(present), 'class')}."]
    else:
        text = [f"{title}: from {least:,} (", Name(smallest), f") to {most:,} (", Name(largest), ")."]
    if missing:
        text += [f" {plural(len(missing), 'class')} without any item: ", *enumerate_texts(missing), "."]
    return text


def enumerate_texts(names: Sequence[str], most: int = 8) -> list[str]:
    """Returns the first names with commas between them, and how many more there are."""
    parts: list[str] = []
    for name in names[:most]:
        parts += [", ", Name(name)] if parts else [Name(name)]
    return parts if len(names) <= most else [*parts, f" and {len(names) - most:,} more"]


def number_cell(value: float | None, form: str) -> Cell:
    """Returns a number, which sorts as one. None and NaN come last, as a dash."""
    if value is None or not math.isfinite(value):
        return Cell("\N{EN DASH}", order=-1.0)
    return Cell(format(value, form), order=float(value))


def share_cell(value: float | None) -> Cell:
    """Returns a share in [0, 1] with a bar, or a dash if there is nothing to divide by."""
    return Cell("\N{EN DASH}", order=-1.0) if value is None else Cell(f"{value:.3f}", order=value, share=value)


def show_share(value: float) -> str:
    """Returns a share as percent. It is not rounded up to 100 % or down to 0 %."""
    percent = 100 * value
    if 99.95 <= percent < 100 or 0 < percent < 0.05:
        return f"{'above 99.9' if percent > 50 else 'below 0.1'}\N{NO-BREAK SPACE}%"
    return f"{percent:.1f}\N{NO-BREAK SPACE}%"


def show_interval(low: float, high: float) -> str:
    """Returns an interval of shares in words."""
    return f"95\N{NO-BREAK SPACE}% interval {100 * low:.1f} to {100 * high:.1f}\N{NO-BREAK SPACE}%"
