import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn
from torchmetrics.functional.classification import binary_calibration_error

from minilearner import DataLoaders, Learner, MultiLabelInterpretation
from minilearner.data.targets import MultiCategory
from minilearner.errors import DataError
from minilearner.results.origins import Origins
from minilearner.results.predictions import Predictions

LABELS = ("haze", "road", "water", "never")


@pytest.fixture
def predictions():
    g = torch.Generator().manual_seed(0)
    actual = (torch.rand(80, 4, generator=g) < 0.4).float()
    actual[:, 3] = 0
    probs = (2 * torch.randn(80, 4, generator=g) + 2 * actual - 1).sigmoid()
    origins = Origins([f"{i}.jpg" for i in range(80)], {"site": ["a", "b"] * 40})
    return Predictions(probs, actual, vocab=LABELS, origins=origins)


@pytest.fixture
def interp(predictions):
    return MultiLabelInterpretation(predictions, thresh=0.6)


def test_scores_are_scikit_learns_and_errors_are_counted(interp, predictions):
    actual, predicted = predictions.targets.bool().numpy(), predictions.preds.numpy() > 0.6
    expected = metrics.precision_recall_fscore_support(actual, predicted, average=None, zero_division=0)
    found = interp.scores()
    assert list(found) == list(LABELS)
    assert np.array_equal(np.array(list(found.values())).T, np.array(expected))
    for i, row in enumerate(interp.errors()):
        (_, extra), (missed, _) = metrics.multilabel_confusion_matrix(actual, predicted)[i]
        assert (row["label"], row["missed"], row["extra"]) == (LABELS[i], missed, extra)


def test_curves_are_scikit_learns_and_the_best_thresholds_have_the_highest_f1(interp, predictions):
    actual, probs = predictions.targets.bool().numpy(), predictions.preds.numpy()
    for i, (label, best) in enumerate(interp.best_thresholds().items()):
        assert interp.roc_curves()[label].area == pytest.approx(metrics.roc_auc_score(actual[:, i], probs[:, i]))
        tried = [metrics.f1_score(actual[:, i], probs[:, i] >= p) for p in np.unique(probs[:, i])]
        assert metrics.f1_score(actual[:, i], probs[:, i] > best) == pytest.approx(max(tried))
    assert "never" not in interp.best_thresholds()


def test_losses_slices_and_calibration(interp, predictions):
    expected = nn.functional.binary_cross_entropy(predictions.preds, predictions.targets, reduction="none").mean(1)
    assert torch.allclose(interp.losses, expected, atol=1e-6)
    right = (interp.actual == interp.predicted).all(1)
    by_site = {row.value: row.score for row in interp.slices("site").rows}
    assert by_site == {"a": right[::2].mean(), "b": right[1::2].mean()}
    assert interp.calibration().accuracy == pytest.approx(interp.actual.mean())


def test_each_label_has_a_calibration_of_its_own(interp, predictions):
    actual, probs = predictions.targets, predictions.preds
    for i, label in enumerate(LABELS):
        expected = binary_calibration_error(probs[:, i].contiguous(), actual[:, i].long(), n_bins=10)
        assert interp.calibration(10, label=label).ece == pytest.approx(float(expected), abs=1e-5)
    legend = interp.plot_calibration(10, label=LABELS[0]).axes[0].get_legend()
    assert f"as predicted: ECE {interp.calibration(10, label=LABELS[0]).ece:.3f}" in str(
        [text.get_text() for text in legend.get_texts()]
    )
    with pytest.raises(ValueError, match="`label` must be one of .* Received: label='nothing'"):
        interp.calibration(label="nothing")


def test_figures_say_what_was_missed_and_made_up(interp):
    ax = interp.plot_errors().axes[0]
    rows = {row["label"]: row for row in interp.errors()}
    names = [text.get_text() for text in ax.get_yticklabels()]
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == [*(-rows[name]["missed"] for name in names), *(rows[name]["extra"] for name in names)]
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["missed", "made up"]
    assert len(interp.plot_per_class(most=2).axes[0].get_yticklabels()) == 2
    assert "1 class without a curve" in interp.plot_precision_recall().axes[0].get_title("left")


def test_a_learner_brings_its_threshold_and_its_images():
    x, y = torch.rand(8, 1, 4, 4), (torch.rand(8, 2) < 0.5).float()
    dls = DataLoaders.from_arrays((x, y), (x, y), bs=4, target=MultiCategory(["a", "b"], thresh=0.3))
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(16, 2)))
    with learn.no_logging():
        interp = MultiLabelInterpretation.from_learner(learn)
        assert interp.thresh == 0.3 and interp.vocab == ["a", "b"] and len(interp) == 8
        assert "loss: " in interp.plot_top_losses(2).axes[0].get_title()


def test_what_are_no_labels_is_refused(predictions):
    with pytest.raises(DataError, match=r"targets of zeros and ones.*targets of shape \(80,\)"):
        MultiLabelInterpretation(Predictions(predictions.preds, torch.zeros(80)))
    with pytest.raises(DataError, match="targets NoneType"):
        MultiLabelInterpretation(Predictions(predictions.preds, None))
    with pytest.raises(ValueError, match="each of 4 labels. Received: 1 name"):
        MultiLabelInterpretation(predictions, ["a"])
    with pytest.raises(ValueError, match="`thresh` must be in"):
        MultiLabelInterpretation(predictions, thresh=2)
