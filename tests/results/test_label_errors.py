import csv

import numpy as np
import pytest
import torch

from minilearner import DataLoaders, Learner
from minilearner.results.confident_learning import count_confident, estimate_joint, guess_classes, rate_labels
from minilearner.results.interpretation import ClassificationInterpretation
from minilearner.results.label_errors import find_label_errors
from minilearner.results.multi_label import MultiLabelInterpretation
from minilearner.results.origins import Origins
from minilearner.results.predictions import Predictions

LABELS = ["cat", "dog", "cow", "yak"]

PROBS = np.array([
    [0.684, 0.278, 0.038, 0.0], [0.282, 0.605, 0.027, 0.086], [0.289, 0.438, 0.04, 0.233], [0.903, 0.07, 0.013, 0.014],
    [0.0, 0.497, 0.275, 0.228], [0.134, 0.06, 0.73, 0.076], [0.156, 0.138, 0.32, 0.386], [0.092, 0.697, 0.044, 0.167],
    [0.017, 0.077, 0.66, 0.246], [0.084, 0.559, 0.349, 0.008], [0.029, 0.786, 0.057, 0.128],
    [0.018, 0.348, 0.536, 0.098], [0.685, 0.086, 0.22, 0.009], [0.017, 0.24, 0.674, 0.069],
    [0.088, 0.081, 0.777, 0.054], [0.267, 0.095, 0.515, 0.123], [0.268, 0.078, 0.471, 0.183],
    [0.081, 0.402, 0.517, 0.0], [0.77, 0.006, 0.074, 0.15], [0.147, 0.521, 0.325, 0.007],
    [0.0, 0.312, 0.1, 0.588], [0.549, 0.057, 0.152, 0.242],
    [0.014, 0.276, 0.709, 0.001], [0.046, 0.165, 0.451, 0.338],
])  # fmt: skip
GIVEN = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2])  # no item is a yak

# cleanlab 2.9 on these numbers: get_label_quality_scores, find_label_issues(filter_by="confident_learning"),
# compute_confident_joint(calibrate=False) and estimate_joint
BY_CONFIDENCE = [2, 16, 9, 20, 6, 13, 15, 22, 23, 4, 17, 19, 11, 21, 1, 8, 0, 12, 7, 5, 18, 14, 10, 3]
BY_MARGIN = [20, 9, 13, 22, 2, 16, 15, 6, 23, 17, 11, 19, 4, 21, 1, 0, 8, 12, 7, 5, 18, 10, 14, 3]
MARGINS = [0.703, 0.6615, 0.301, 0.9165, 0.611, 0.798, 0.385, 0.765, 0.707, 0.2625, 0.829, 0.594]
ERRORS = [9, 13, 15, 22]
CONFIDENT = [[5, 1, 1, 0], [0, 5, 2, 0], [0, 0, 5, 0], [0, 0, 0, 1]]
JOINT = [[0.25, 0.04167, 0.04167, 0], [0, 0.25, 0.08333, 0], [0, 0, 0.33333, 0], [0, 0, 0, 0]]


@pytest.fixture
def found():
    return find_label_errors(PROBS, GIVEN, LABELS)


def interpretation(**parts):
    probs, given = torch.tensor(PROBS, dtype=torch.float32), torch.tensor(GIVEN)
    return ClassificationInterpretation.from_predictions(Predictions(probs, given, vocab=tuple(LABELS), **parts))


def test_the_ranking_is_cleanlabs(found):
    assert found.order.tolist() == BY_CONFIDENCE
    by_margin = find_label_errors(PROBS, GIVEN, LABELS, "normalized_margin")
    assert by_margin.order.tolist() == BY_MARGIN
    np.testing.assert_allclose(by_margin.quality[:12], MARGINS, atol=1e-12)
    np.testing.assert_array_equal(found.quality, PROBS[np.arange(24), GIVEN])


def test_the_errors_are_cleanlabs(found):
    assert np.flatnonzero(found.is_error).tolist() == ERRORS
    assert [row.item for row in found.errors] == [9, 13, 15, 22]
    assert found.n_errors == 4


def test_the_confident_joint_is_cleanlabs():
    guesses = guess_classes(PROBS, GIVEN)
    counts = count_confident(GIVEN, guesses, 4)
    counts[3, 3] = 1  # cleanlab counts at least one item of each class as right
    assert counts.tolist() == CONFIDENT
    np.testing.assert_allclose(estimate_joint(GIVEN, guesses, 4), JOINT, atol=1 / 24)  # cleanlab rounds to whole items
    assert estimate_joint(GIVEN, guesses, 4).sum() == pytest.approx(1)


def test_rows_say_what_a_label_should_be(found):
    worst = found[0]
    assert (worst.item, worst.given, worst.suggested, worst.is_error) == (2, "cow", "dog", False)
    assert worst.suspicion == pytest.approx(0.96) and worst.suggested_prob == pytest.approx(0.438)
    assert [row.item for row in found[:3]] == BY_CONFIDENCE[:3] == [row.item for row in found][:3]
    assert len(found) == 24 and found[-1].item == 3


def test_an_interpretation_finds_them():
    found = interpretation(origins=Origins([f"a/{i}.png" for i in range(24)])).label_errors()
    assert found.order.tolist() == BY_CONFIDENCE and np.flatnonzero(found.is_error).tolist() == ERRORS
    assert found[0].path == "a/2.png"
    assert interpretation().label_errors("normalized_margin").order.tolist() == BY_MARGIN


def test_it_shows_itself(found):
    text = str(found)
    assert text.startswith("4 of 24 labels are probably wrong\n  estimated share of wrong labels: 19.0 %")
    assert "item 9" in text and "... and 4 labels that are less suspicious" in text
    assert "<td>item 9</td>" in found._repr_html_()


def test_a_weak_model_is_no_witness():
    given = np.arange(24) % 3
    text = str(find_label_errors(PROBS, given[::-1].copy(), LABELS))
    assert "So many errors mean a weak model more often than wrong labels" in text
    assert "weak model" not in str(find_label_errors(PROBS, GIVEN, LABELS))


def test_items_of_the_training_set_are_pointed_out(blobs, net):
    learn = Learner(DataLoaders.from_arrays(*blobs, bs=16), net())
    hint = "The model was trained on these items, so it hides wrong labels."
    assert hint in str(ClassificationInterpretation.from_learner(learn, 0).label_errors())
    assert hint not in str(ClassificationInterpretation.from_learner(learn).label_errors())


def test_other_kinds_of_targets_are_refused():
    several = MultiLabelInterpretation(Predictions(torch.rand(4, 2), torch.ones(4, 2)))
    with pytest.raises(ValueError, match="`label_errors` needs items of one class each. Received: a MultiLabelInterp"):
        several.label_errors()


def test_the_table_is_a_csv_to_review(found, tmp_path):
    with found.to_csv(tmp_path / "review.csv", most=3).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[2] == {
        "path": "",
        "item": "9",
        "given_label": "cat",
        "suggested_label": "dog",
        "suspicion": "0.916",
        "problem": "label error",
        "action": "",
        "new_label": "",
    }
    assert [row["problem"] for row in rows] == ["", "", "label error"]
    with pytest.raises(ValueError, match="`most` must be at least 1"):
        found.to_csv(tmp_path / "other.csv", most=0)


def test_a_spreadsheet_runs_no_label(tmp_path):
    labels, origins = ["=cmd()", "+1", "'-x", "@a"], Origins([f"=a{i}.png" for i in range(24)])
    path = find_label_errors(PROBS, GIVEN, labels, origins=origins).to_csv(tmp_path / "review.csv")
    with path.open(newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["path"], row["given_label"], row["suggested_label"]) == ("'=a2.png", "''-x", "'+1")


def test_the_encoding_fits_the_labels(tmp_path):
    found = find_label_errors(PROBS, GIVEN, ["Käse", "dog", "cow", "yak"])
    assert found.to_csv(tmp_path / "a.csv", encoding="utf-8-sig").read_bytes().startswith(b"\xef\xbb\xbfpath,")
    with pytest.raises(ValueError, match="`encoding` must fit the labels and paths. Received: encoding='ascii'"):
        found.to_csv(tmp_path / "b.csv", encoding="ascii")


def test_data_are_plain(found):
    data = found.to_dict()
    assert data["n_errors"] == 4 and data["rows"][0]["item"] == 2 and data["rows"][0]["is_error"] is False
    assert data["noise"] == pytest.approx(1 - np.trace(found.joint))


def test_the_plot_draws_the_most_suspicious_images():
    figure = interpretation(inputs=torch.rand(24, 3, 8, 8)).label_errors().plot(4)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[0] == "given: cow (prob. 0.0400)\nsuggested: dog (prob. 0.4380)"
    colors = [ax.title.get_color() for ax in figure.axes]
    assert colors == ["#222222", "#222222", "#c62828", "#222222"]


def test_wrong_arguments_are_errors(found):
    with pytest.raises(ValueError, match="`rank_by` must be one of 'self_confidence', 'normalized_margin'"):
        interpretation().label_errors("margin")
    with pytest.raises(ValueError, match="`k` must be between 1 and the 24 items. Received: k=25."):
        found.plot(25)
    with pytest.raises(ValueError, match="There are no images to show"):
        found.plot(2)


def test_one_class_has_no_errors():
    found = find_label_errors(np.ones((3, 1)), np.zeros(3, dtype=np.int64), ["cat"], "normalized_margin")
    assert found.n_errors == 0 and found.noise == 0
    assert rate_labels(np.ones((3, 1)), np.zeros(3, dtype=np.int64), "normalized_margin").tolist() == [1, 1, 1]
