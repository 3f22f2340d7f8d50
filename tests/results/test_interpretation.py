import gc
import os
import tempfile
import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics
from torch import nn

from minilearner.errors import DataError
from minilearner.results.interpretation import ClassificationInterpretation
from minilearner.results.origins import Origins
from minilearner.results.predictions import BatchPrediction, Predictions

VOCAB = ["cat", "dog", "cow"]


class TinyLearner:
    """The part of a learner that an interpretation uses. Runs a real model on real images, and counts the passes."""

    def __init__(self, n=50, bs=8, vocab=VOCAB):
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 4 * 4, 3)).eval()
        self.x, self.y = torch.rand(n, 2, 4, 4), torch.randint(3, (n,))
        self.dls = SimpleNamespace(vocab=vocab)
        self.bs, self.n_passes = bs, 0

    @torch.no_grad()
    def predict_batches(self, ds_idx=1, dl=None, act=None):
        self.n_passes += 1
        for x, y in dl or zip(self.x.split(self.bs), self.y.split(self.bs), strict=True):
            logits = 4 * self.model(x)
            yield BatchPrediction(x, logits.softmax(1), y, F.cross_entropy(logits, y, reduction="none"), len(y))

    def items(self, ds_idx, dl, indices):
        return [self.x[i, :1] for i in indices]

    def show_items(self, ds_idx, dl, indices, notes=None, **layout):
        raise AssertionError("a classifier's items have titles of their own")


@pytest.fixture
def learn():
    return TinyLearner()


@pytest.fixture
def interp(learn):
    return ClassificationInterpretation.from_learner(learn)


def all_of(learn):
    batches = list(learn.predict_batches())
    return torch.cat([b.preds for b in batches]), torch.cat([b.losses for b in batches])


def batch_of(counts):
    """Returns one batch whose confusion matrix is `counts`."""
    counts = torch.tensor(counts)
    actual, predicted = counts.nonzero().T.repeat_interleave(counts[counts > 0], dim=1)
    probs = torch.full((len(actual), len(counts)), 0.1 / len(counts)) + 0.9 * F.one_hot(predicted, len(counts))
    return BatchPrediction(actual, probs, actual, -probs.gather(1, actual[:, None])[:, 0].log(), len(actual))


def test_everything_comes_from_one_pass(learn, interp):
    interp.confusion_matrix(), interp.top_losses(), interp.most_confused(), interp.classification_report()
    interp.plot_confusion_matrix(), interp.plot_top_losses(4)
    assert learn.n_passes == 1


def test_the_confusion_matrix_is_scikit_learns(learn, interp):
    predicted = all_of(learn)[0].argmax(1)
    matrix = interp.confusion_matrix()
    assert matrix.dtype == np.int64 and np.array_equal(matrix, metrics.confusion_matrix(learn.y, predicted))
    matrix[:] = 0
    assert interp.confusion_matrix().sum() == 50


def test_each_item_has_its_loss_classes_and_both_probabilities(learn, interp):
    probs, losses = all_of(learn)
    assert interp.losses == pytest.approx(losses.numpy()) and np.array_equal(interp.actual, learn.y)
    assert np.array_equal(interp.predicted, probs.argmax(1))
    assert interp.predicted_probs == pytest.approx(probs.max(1).values.numpy())
    assert interp.actual_probs == pytest.approx(probs[torch.arange(50), learn.y].numpy())


def test_your_own_loader_is_interpreted(learn):
    interp = ClassificationInterpretation.from_learner(learn, dl=[(learn.x[:4], learn.y[:4])])
    assert len(interp) == 4 and "4 items, 3 classes" in repr(interp)


def test_top_losses_are_sorted_and_say_where(learn, interp):
    losses = all_of(learn)[1]
    top, indices = interp.top_losses(5)
    assert torch.allclose(top, losses.topk(5).values) and torch.allclose(losses[indices], top)
    assert torch.allclose(interp.top_losses(3, largest=False).losses, losses.topk(3, largest=False).values)
    assert len(interp.top_losses().losses) == 50


def test_equal_losses_keep_the_order_of_the_dataset():
    interp = ClassificationInterpretation([batch_of([[3, 0], [0, 2]])])
    assert interp.top_losses().indices.tolist() == interp.top_losses(largest=False).indices.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("k", [0, -1, 51])
def test_k_must_be_a_number_of_items(interp, k):
    with pytest.raises(ValueError, match=f"between 1 and the 50 items. Received: k={k}"):
        interp.top_losses(k)


def test_most_confused_lists_errors_from_the_commonest():
    interp = ClassificationInterpretation([batch_of([[5, 1, 3], [2, 4, 0], [3, 0, 9]])], VOCAB)
    pairs = [("cat", "cow", 3), ("cow", "cat", 3), ("dog", "cat", 2), ("cat", "dog", 1)]
    assert interp.most_confused() == pairs
    assert interp.most_confused(min_val=3) == pairs[:2] and interp.most_confused(min_val=4) == []
    with pytest.raises(ValueError, match="`min_val`"):
        interp.most_confused(0)


def test_without_labels_classes_are_called_by_their_numbers():
    assert ClassificationInterpretation([batch_of([[1, 2], [0, 3]])]).most_confused() == [(0, 1, 2)]


def test_the_report_is_scikit_learns(learn, interp, capsys):
    expected = metrics.classification_report(
        learn.y, all_of(learn)[0].argmax(1), labels=[0, 1, 2], target_names=VOCAB, zero_division=0
    )
    interp.print_classification_report()
    assert capsys.readouterr().out == expected + "\n"
    assert str(interp.classification_report()) == expected


def test_full_probabilities_are_mapped_from_a_file_that_goes_with_the_object(learn, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    interp = ClassificationInterpretation.from_learner(learn, keep_probs=True)
    assert isinstance(interp.probs, np.memmap)
    assert torch.equal(torch.tensor(interp.probs), all_of(learn)[0])
    del interp
    gc.collect()
    assert os.listdir(tmp_path) == []


def test_full_probabilities_that_were_not_kept_are_an_error(interp):
    with pytest.raises(ValueError, match="keep_probs=True"):
        _ = interp.probs


def test_memory_is_the_counts_and_at_most_32_bytes_an_item():
    n, c = 40_000, 300

    def batches():
        probs = torch.full((500, c), 1 / c)
        for _ in range(n // 500):
            y = torch.randint(c, (500,))
            yield BatchPrediction(None, probs, y, torch.rand(500), 500)

    tracemalloc.start()
    interp = ClassificationInterpretation(batches())
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(interp) == n and used < 8 * c * c + 32 * n


GOOD = BatchPrediction(torch.ones(2), torch.tensor([[0.5, 0.5], [0.1, 0.9]]), torch.tensor([0, 1]), torch.ones(2), 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preds": torch.tensor([0.5, 0.1])}, r"shape \(batch, classes\).*\(2,\)"),
        ({"preds": (GOOD.preds,)}, "Received: tuple"),
        ({"preds": torch.tensor([[0.9, 0.9], [0.1, 0.9]])}, "sum to 1"),
        ({"preds": torch.full((2, 2), torch.nan)}, "or are NaN"),
        ({"preds": torch.tensor([[1.5, -0.5], [0.1, 0.9]])}, "sum to 1"),
        ({"targets": None}, "needs targets"),
        ({"targets": torch.tensor([[1, 0], [0, 1]])}, "one class number"),
        ({"targets": torch.tensor([0.0, 1.0])}, "one class number"),
        ({"targets": torch.tensor([0, 2])}, "from 0 to 1. Received: 0 to 2"),
        ({"losses": None}, "loss of each item"),
        ({"losses": torch.tensor(1.0)}, "one loss for each of 2 items"),
    ],
)
def test_what_is_no_classification_is_refused(change, message):
    with pytest.raises(DataError, match=message):
        ClassificationInterpretation([replace(GOOD, **change)])


def test_no_item_and_wrong_labels_are_refused():
    with pytest.raises(DataError, match="no item"):
        ClassificationInterpretation([])
    with pytest.raises(ValueError, match=r"each class, 2\. Received: 3 labels"):
        ClassificationInterpretation([GOOD], VOCAB)
    with pytest.raises(DataError, match="must have 2 classes"):
        ClassificationInterpretation([GOOD, replace(GOOD, preds=torch.ones(2, 3) / 3)])


def test_half_precision_is_taken():
    assert len(ClassificationInterpretation([replace(GOOD, preds=GOOD.preds.half())])) == 2


def test_plot_top_losses_says_what_each_item_is_and_was_taken_for(learn, interp):
    figure = interp.plot_top_losses(3)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    i = int(interp.top_losses(1).indices[0])
    probs, losses = all_of(learn)
    assert len(titles) == 3
    assert titles[0].split("\n") == [
        f"actual: {VOCAB[learn.y[i]]} (prob. {probs[i, learn.y[i]]:.4f})",
        f"predicted: {VOCAB[probs[i].argmax()]} (prob. {probs[i].max():.4f})",
        f"loss: {losses[i]:.4f}",
    ]
    assert np.array_equal(figure.axes[0].images[0].get_array(), learn.x[i, 0])


def test_plot_top_losses_takes_a_grid_and_needs_images(interp):
    assert len(interp.plot_top_losses(3, nrows=1).axes) == 3
    with pytest.raises(ValueError, match="must hold 5 images"):
        interp.plot_top_losses(5, nrows=2, ncols=2)
    with pytest.raises(ValueError, match="no images to show"):
        ClassificationInterpretation([GOOD]).plot_top_losses(1)


def test_plot_confusion_matrix_draws_the_counts(interp):
    ax = interp.plot_confusion_matrix().axes[0]
    matrix = interp.confusion_matrix()
    assert [t.get_text() for t in ax.texts] == [str(n) for n in matrix.ravel()]
    assert [t.get_text() for t in ax.get_yticklabels()] == VOCAB and ax.get_title() == "Confusion matrix"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "actual")


def test_a_learner_is_sent_to_the_method_that_takes_it():
    class Learning:
        def predict_batches(self):
            """Yields nothing."""

    with pytest.raises(TypeError, match=r"Received: a learner\. Write `ClassificationInterpretation\.from_learner"):
        ClassificationInterpretation(Learning())


def test_a_model_with_one_output_is_refused_with_the_reason():
    predictions = Predictions(torch.randn(4, 1), torch.zeros(4, dtype=torch.long))
    with pytest.raises(DataError, match=r"one output for each of at least two classes. Received: .*\(4, 1\)"):
        ClassificationInterpretation.from_predictions(predictions)


def of_files(names, probs):
    predictions = Predictions(torch.tensor(probs), torch.tensor([0, 0, 1]), origins=Origins(names))
    return ClassificationInterpretation.from_predictions(predictions)


def test_only_predictions_of_the_same_files_are_compared():
    probs = [[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]]
    one = of_files(["old/a.png", "old/b.png", "old/c.png"], probs)
    assert one.compare(of_files(["new/a.png", "new/b.png", "new/c.png"], probs)).p_value == 1
    with pytest.raises(DataError, match="same items, in the same order. Received: file 'b.png' beside 'a.png' at posi"):
        one.compare(of_files(["old/b.png", "old/a.png", "old/c.png"], probs))
    with pytest.raises(TypeError, match="`other` must be a ClassificationInterpretation. Received: .* type int"):
        one.compare(3)
