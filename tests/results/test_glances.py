"""What an analysis shows as the last line of a cell: a few lines in a terminal, an escaped table in a notebook."""

import numpy as np
import pytest
import torch

from minilearner.results.interpretation import ClassificationInterpretation
from minilearner.results.predictions import Predictions


@pytest.fixture
def interp():
    y = torch.arange(60) % 3
    probs = 0.8 * torch.eye(3)[torch.where(torch.arange(60) < 12, 0, y)] + 0.2 / 3
    return ClassificationInterpretation.from_predictions(Predictions(probs, y, vocab=("cat", "dog", "<b>")))


def test_each_analysis_shows_its_table(interp):
    analyses = {
        "slices": interp.slices(np.where(np.arange(60) < 12, "<i>", "day")),
        "compare": interp.compare(interp),
        "calibration": interp.calibration(),
        "report": interp.classification_report(),
    }
    for name, found in analyses.items():
        text, html = " ".join(repr(found).split()), found._repr_html_()  # long lines are wrapped
        assert "array(" not in text and len(text) < 700, name
        assert "accuracy 0.8667" in text or "over all items 0.8667" in text, name
        assert "<b>" not in html.replace("<div><b>", "") and "<i>" not in html, name
        assert ("<table>" in html) is (name != "compare"), name  # nothing changed
    (day,) = (line for line in repr(analyses["slices"]).splitlines() if "<i>" in line)
    assert day.split() == ["<i>", "0.3333", "0.1381", "to", "0.6094", "12", "worse", "than", "the", "rest"]


def test_a_comparison_lists_the_classes_that_changed(interp):
    y = torch.as_tensor(interp.actual).long()
    perfect = ClassificationInterpretation.from_predictions(Predictions(torch.eye(3)[y], y, vocab=interp.vocab))
    lines = repr(interp.compare(perfect)).splitlines()
    assert "fixed 8, broken 0" in " ".join(lines)
    assert [line.split() for line in lines[-2:]] == [[name, "20", "4", "0", "+0.2000"] for name in ("dog", "<b>")]
