"""Whether probabilities can be believed: the calibration error, and the temperature that mends it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minilearner.checks import check_count
from minilearner.errors import DataError
from minilearner.glance import AtAGlance, Glance
from minilearner.plots.curves import plot_reliability

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Bin", "Calibration", "check_temperature", "fit_temperature", "measure_calibration", "scale_probabilities"]

_RANGE = (0.05, 20.0)  # of temperatures; beyond, probabilities are 0 and 1, or all alike
_PIECE = 1 << 22  # numbers that are computed at once


class Bin(NamedTuple):
    """The items whose confidence lies in (low, high]. `confidence` and `accuracy` are means, NaN without items."""

    low: float
    high: float
    confidence: float
    accuracy: float
    n_items: int


@dataclass(frozen=True, repr=False)
class Calibration(AtAGlance):
    """How far confidence is from accuracy. The confidence of a prediction is its probability.

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017.
    """

    ece: float
    """The expected calibration error: the mean distance of confidence and accuracy over bins, weighted by items."""
    mce: float
    """The largest distance of confidence and accuracy in a bin."""
    accuracy: float
    """The share of right predictions."""
    confidence: float
    """The mean confidence. Above the accuracy, the model is overconfident."""
    bins: tuple[Bin, ...]
    """The bins, from low to high confidence."""
    scaled: Scaled | None = None
    """What temperature scaling gives; None if the probabilities of all classes were not kept."""
    is_of_labels: bool = False
    """Whether items have several labels each. The probability of each label then takes the place of the confidence,
    and the share of items that have it the place of the accuracy."""

    @property
    def temperature(self) -> float:
        """The temperature with the smallest cross-entropy: logits are divided by it. Above 1, confidence falls.

        If none fits, it is an end of the range, 0.05 or 20. `learn.calibrate` then refuses it.

        Raises:
            ValueError: the probabilities of all classes were not kept, or items have several labels.
        """
        if self.is_of_labels:
            raise ValueError("A temperature needs one class for each item. These items have several labels.")
        if self.scaled is None:
            raise ValueError(
                "The temperature needs the probabilities of all classes, which were not kept: build the interpretation "
                "with `keep_probs=True`."
            )
        return self.scaled.temperature

    def plot(
        self,
        figsize: tuple[float, float] | None = None,
        ax: Axes | None = None,
        *,
        save: str | os.PathLike[str] | None = None,
    ) -> Figure:
        """Draws the accuracy over the confidence, which agree on the diagonal, and how many items are in each bin.

        Args:
            figsize: width and height in inches.
            ax: where to draw; None makes a new figure.
            save: a file to write the figure to, such as "calibration.png".
        """
        scaled = None if _find_misfit(self) else self.scaled
        after = None if scaled is None else (f"with temperature {scaled.temperature:.2f}", scaled.ece, scaled.bins)
        series = [("as predicted", self.ece, self.bins), after]
        return plot_reliability(series, names=self._names, figsize=figsize, ax=ax, save=save)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain numbers, for JSON. The means of a bin without items are None."""
        return {**asdict(self), "bins": _bins_as_data(self.bins), "scaled": _as_data(self.scaled)}

    @property
    def _names(self) -> tuple[str, str]:
        return ("probability of a label", "share of items with it") if self.is_of_labels else ("confidence", "accuracy")

    def glance(self) -> Glance:
        """Returns the calibration error, before and after temperature scaling, and the bins that hold items."""
        share = f"{self._names[1]} {self.accuracy:.4f}, mean {self._names[0]} {self.confidence:.4f}"
        scaled = None if _find_misfit(self) else self.scaled
        after = "" if scaled is None else f"; {scaled.ece:.4f} with temperature {scaled.temperature:.3f}"
        rows = [
            (f"{one.low:.2f} to {one.high:.2f}", f"{one.confidence:.4f}", f"{one.accuracy:.4f}", f"{one.n_items:,}")
            for one in self.bins
            if one.n_items
        ]
        title = f"Expected calibration error {self.ece:.4f}{after} ({share})"
        return Glance(title, {}, ("bin", *self._names, "items"), rows)


@dataclass(frozen=True)
class Scaled:
    """The same items after temperature scaling."""

    temperature: float
    """What logits are divided by."""
    ece: float
    """The expected calibration error afterwards."""
    cross_entropy: tuple[float, float]
    """The mean cross-entropy before and after."""
    bins: tuple[Bin, ...]
    """The bins afterwards."""


def measure_calibration(
    confidence: NDArray[Any],
    is_right: NDArray[np.bool_],
    *,
    n_bins: int = 15,
    probs: NDArray[Any] | None = None,
    actual: NDArray[Any] | None = None,
) -> Calibration:
    """Compares confidence with accuracy in bins of equal width.

    Args:
        confidence: (items,), in [0, 1].
        is_right: (items,).
        n_bins: how many bins.
        probs: (items, classes), to find the temperature.
        actual: (items,) class numbers, to find the temperature.

    Raises:
        ValueError: `n_bins` is below 1.
    """
    check_count(n_bins, "n_bins")
    bins = _fill_bins(confidence, is_right, n_bins)
    gaps = [abs(one.confidence - one.accuracy) for one in bins if one.n_items]
    scaled = None if probs is None or actual is None else _scale(probs, actual, n_bins)
    mean = float(np.mean(confidence, dtype=np.float64))
    return Calibration(_ece(bins), max(gaps), float(np.mean(is_right)), mean, bins, scaled)


def fit_temperature(probs: NDArray[Any], actual: NDArray[Any]) -> float:
    """Returns the temperature with the smallest mean cross-entropy, between 0.05 and 20.

    Args:
        probs: (items, classes).
        actual: (items,) class numbers.
    """
    from scipy.optimize import minimize_scalar  # takes a second to load

    def loss(log_t: float) -> float:
        return _cross_entropy(probs, actual, float(np.exp(log_t)))

    found = minimize_scalar(loss, bounds=np.log(_RANGE), method="bounded", options={"xatol": 1e-5})
    return float(np.exp(found.x))


def check_temperature(found: Calibration) -> None:
    """Checks that a temperature which was found is a real minimum, not an end of the range.

    Raises:
        DataError: all items are right, so that no confidence is too high; or the model knows nothing of the classes.
    """
    why = _find_misfit(found)
    if why:
        raise DataError(f"No temperature fits this set, because {why}. Calibrate on other items, with `dl=`.")


def _find_misfit(found: Calibration) -> str:
    """Returns why the temperature that was found is no real minimum; "" if it is one, or if none was looked for."""
    low, high = _RANGE
    if found.scaled is None or (found.accuracy < 1 and low * 1.01 < found.scaled.temperature < high * 0.99):
        return ""
    return "all its items are right" if found.accuracy == 1 else "its predictions have nothing to do with the classes"


def scale_probabilities(probs: NDArray[Any], temperature: float) -> NDArray[np.float64]:
    """Returns softmax(log(probs) / temperature): what the model gives if its logits are divided by `temperature`."""
    logits = _logits(probs) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def _scale(probs: NDArray[Any], actual: NDArray[Any], n_bins: int) -> Scaled:
    temperature = fit_temperature(probs, actual)
    parts = [scale_probabilities(piece, temperature) for piece in _pieces(probs)]
    confidence = np.concatenate([part.max(1) for part in parts])
    predicted = np.concatenate([part.argmax(1) for part in parts])
    bins = _fill_bins(confidence, predicted == actual, n_bins)
    losses = _cross_entropy(probs, actual, 1.0), _cross_entropy(probs, actual, temperature)
    return Scaled(temperature, _ece(bins), losses, bins)


def _cross_entropy(probs: NDArray[Any], actual: NDArray[Any], temperature: float) -> float:
    total, at = 0.0, 0
    for piece in _pieces(probs):
        logits = _logits(piece) / temperature
        top = logits.max(1)
        chosen = logits[np.arange(len(piece)), actual[at : at + len(piece)]]
        total += float((top + np.log(np.exp(logits - top[:, None]).sum(1)) - chosen).sum())
        at += len(piece)
    return total / len(probs)


def _pieces(probs: NDArray[Any]) -> list[NDArray[Any]]:
    step = max(1, _PIECE // probs.shape[1])
    return [probs[i : i + step] for i in range(0, len(probs), step)]


def _logits(probs: NDArray[Any]) -> NDArray[np.float64]:
    return np.log(np.maximum(np.asarray(probs, dtype=np.float64), float(np.finfo(np.float32).tiny)))


def _fill_bins(confidence: NDArray[Any], is_right: NDArray[np.bool_], n_bins: int) -> tuple[Bin, ...]:
    edges = np.linspace(0, 1, n_bins + 1)
    place = np.searchsorted(edges[1:-1], confidence)
    n = np.bincount(place, minlength=n_bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 in an empty bin is NaN
        means = np.bincount(place, confidence, n_bins) / n, np.bincount(place, is_right, n_bins) / n
    columns: Sequence[Any] = (edges[:-1], edges[1:], *means, n)
    return tuple(Bin(*values) for values in zip(*(column.tolist() for column in columns), strict=True))


def _ece(bins: Sequence[Bin]) -> float:
    total = sum(one.n_items for one in bins)
    return sum(one.n_items * abs(one.confidence - one.accuracy) for one in bins if one.n_items) / total


def _as_data(scaled: Scaled | None) -> dict[str, Any] | None:
    return None if scaled is None else {**asdict(scaled), "bins": _bins_as_data(scaled.bins)}


def _bins_as_data(bins: Sequence[Bin]) -> list[dict[str, Any]]:
    none = {"confidence": None, "accuracy": None}  # NaN is no JSON
    return [one._asdict() if one.n_items else one._asdict() | none for one in bins]
