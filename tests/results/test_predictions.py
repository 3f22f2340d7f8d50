import copy

import pytest
import torch

from minilearner.errors import DataError
from minilearner.results.predictions import BatchPrediction, Prediction, Predictions, join_batches


@pytest.fixture
def batches():
    x, p, y = torch.randn(5, 2), torch.randn(5, 3).softmax(1), torch.randint(3, (5,))
    return [BatchPrediction(x[s], p[s], y[s], -p[s, 0].log(), s.stop - s.start) for s in (slice(0, 3), slice(3, 5))]


def test_predictions_unpack_to_preds_and_targets_in_order(batches):
    predictions = Predictions.from_batches(iter(batches))
    preds, targets = predictions
    assert torch.equal(preds, torch.cat([b.preds for b in batches]))
    assert torch.equal(targets, torch.cat([b.targets for b in batches]))
    assert predictions.inputs is None and predictions.losses is None and predictions.decoded is None


@pytest.mark.parametrize("n_items", [5, 4, 9, None])
def test_room_for_any_number_of_items_gives_the_same(batches, n_items):
    found = join_batches(iter(batches), n_items, with_input=True, with_loss=True)
    for name in ("x", "preds", "targets", "losses"):
        whole = torch.cat([getattr(batch, name) for batch in batches])
        assert torch.equal(getattr(found, "inputs" if name == "x" else name), whole)


def test_batches_go_straight_into_the_room_for_all(batches):
    found = join_batches(iter(batches), 5)
    assert found.preds.untyped_storage().nbytes() == found.preds.nbytes
    mixed = [batches[0], BatchPrediction(batches[1].x, batches[1].preds.double(), batches[1].targets, None, 2)]
    found = join_batches(mixed, 5)
    assert torch.equal(found.preds, torch.cat([batch.preds for batch in mixed])) and found.preds.dtype == torch.double


def test_inputs_losses_and_decoded_come_when_asked_for(batches):
    predictions = Predictions.from_batches(batches, with_input=True, with_loss=True, with_decoded=True)
    assert torch.equal(predictions.inputs, torch.cat([b.x for b in batches]))
    assert torch.equal(predictions.losses, torch.cat([b.losses for b in batches]))
    assert torch.equal(predictions.decoded, predictions.preds.argmax(1))
    named = Predictions.from_batches(batches, with_decoded=True, decode=lambda p: ["abc"[i] for i in p.argmax(1)])
    assert named.decoded == ["abc"[i] for i in predictions.decoded]


def test_nested_structures_are_joined_leaf_by_leaf():
    batches = [
        BatchPrediction(
            {"a": torch.ones(2), "name": "p"}, (torch.ones(2, 1), torch.zeros(2)), [torch.ones(2)], None, 2
        ),
        BatchPrediction(
            {"a": torch.ones(1), "name": "q"}, (torch.ones(1, 1), torch.zeros(1)), [torch.ones(1)], None, 1
        ),
    ]
    predictions = Predictions.from_batches(batches, with_input=True)
    assert predictions.preds[0].shape == (3, 1) and predictions.preds[1].shape == (3,)
    assert isinstance(predictions.targets, list) and predictions.targets[0].shape == (3,)
    assert predictions.inputs["a"].shape == (3,) and predictions.inputs["name"] == ["p", "q"]


def test_data_without_targets_or_predictions_gives_none():
    predictions = Predictions.from_batches([BatchPrediction(torch.ones(2), None, None, None, 2)])
    assert tuple(predictions) == (None, None)


def test_losses_without_targets_mixed_batches_and_no_batches_are_errors(batches):
    bare = BatchPrediction(batches[0].x, batches[0].preds, None, None, 3)
    with pytest.raises(DataError, match="needs a loss for each item"):
        Predictions.from_batches([bare], with_loss=True)
    with pytest.raises(DataError, match="same structure"):
        Predictions.from_batches([bare, batches[1]])
    with pytest.raises(DataError, match="no batch"):
        Predictions.from_batches([])


def test_a_prediction_unpacks_to_label_index_and_probabilities():
    label, index, probabilities = Prediction("cat", torch.tensor(1), torch.tensor([0.2, 0.8]))
    assert (label, int(index), probabilities[1]) == ("cat", 1, torch.tensor(0.8))


def test_a_prediction_can_be_copied_and_says_that_it_has_no_input():
    prediction = copy.deepcopy(Prediction("cat", torch.tensor(1), torch.tensor([0.2, 0.8])))
    assert (type(prediction), prediction.label, prediction.input) == (Prediction, "cat", None)


def test_predictions_are_on_the_cpu_whatever_the_default_device():
    batches = [BatchPrediction(None, torch.ones(2, 3), None, None, 2) for _ in range(2)]
    with torch.device("meta"):
        found = join_batches(iter(batches), 4)
    assert found.preds.device.type == found.indices.device.type == "cpu"


def test_sparse_predictions_stay_sparse():
    batches = [BatchPrediction(None, torch.eye(2).to_sparse(), None, None, 2) for _ in range(2)]
    found = join_batches(iter(batches), 4)
    assert torch.equal(found.preds.to_dense(), torch.eye(2).repeat(2, 1))
