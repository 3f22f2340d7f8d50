"""The section of a report on whether probabilities can be believed."""

from __future__ import annotations

from collections.abc import Sequence

from minilearner.errors import DataError
from minilearner.pages.content import Charts, Code, Numbers, Paragraph, Points, Section, Series
from minilearner.results.calibration import Bin, Calibration, check_temperature
from minilearner.results.sections import show_share

__all__ = ["calibration_section"]

_NOT_KEPT = "The probabilities of all classes were not kept, so the best temperature is unknown. "
_LEGEND = "The dotted line is where both agree. Larger dots stand for more items."


def calibration_section(found: Calibration, without_scaled: str = _NOT_KEPT) -> Section:
    """Returns the calibration error, the reliability plot, and the best temperature or why there is none.

    Args:
        found: what was measured.
        without_scaled: the sentence that says why no temperature was looked for.
    """
    rows = [
        ("calibration error (ECE)", f"{found.ece:.3f}", "0 is best"),
        ("largest error of a bin", f"{found.mce:.3f}", ""),
    ]
    curves = [("as predicted", "main", found.bins)]
    advice: list[str] = [without_scaled]
    if found.scaled is not None:
        scaled = found.scaled
        try:
            check_temperature(found)
            rows += [("best temperature", f"{scaled.temperature:.2f}", ""), ("ECE with it", f"{scaled.ece:.3f}", "")]
            curves.append((f"with temperature {scaled.temperature:.2f}", "other", scaled.bins))
            advice = [Code("learn.calibrate()"), " makes the model predict with that temperature. No class changes. "]
        except DataError as error:
            advice = [f"{error} "]
    return Section(
        "calibration",
        "Calibration",
        [Numbers(rows), Paragraph([_compare_means(found), *advice, _LEGEND]), Charts([_draw_reliability(curves)])],
    )


def _compare_means(found: Calibration) -> str:
    gap = found.confidence - found.accuracy
    verdict = "about as sure as it is right" if abs(gap) < 0.01 else "too sure of itself" if gap > 0 else "too modest"
    means = f"its mean confidence is {show_share(found.confidence)} and its accuracy {show_share(found.accuracy)}"
    return f"The model is {verdict}: {means}. "


def _draw_reliability(curves: Sequence[tuple[str, str, Sequence[Bin]]]) -> Points:
    series, sizes = [], []
    for name, look, bins in curves:
        filled = [one for one in bins if one.n_items]
        most = max(one.n_items for one in filled)
        series.append(Series(name, [one.confidence for one in filled], [one.accuracy for one in filled], look))
        sizes.append([one.n_items / most for one in filled])
    x_label = "confidence: probability of the prediction"
    return Points("Accuracy over confidence", x_label, "accuracy", series, sizes)
