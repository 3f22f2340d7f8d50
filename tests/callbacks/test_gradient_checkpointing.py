"""Gradients and statistics are the same, and fewer tensors are stored for the backward pass."""

import copy

import pytest
import torch
from torch import nn

from minilearner import BnFreeze, Callback, DataLoaders, GradientCheckpointing, Learner


def block(n_in, n_out):
    return nn.Sequential(nn.Conv2d(n_in, n_out, 3), nn.BatchNorm2d(n_out), nn.ReLU(), nn.Dropout(0.3))


def learner(*cbs, **options):
    torch.manual_seed(0)
    body = nn.Sequential(block(1, 4), block(4, 4), nn.MaxPool2d(2))
    model = nn.Sequential(body, nn.Sequential(nn.Flatten(), nn.Linear(16, 2)))
    data = [(torch.randn(6, 1, 8, 8), torch.arange(6) % 2) for _ in range(3)]
    return Learner(DataLoaders(data, data[:1]), model, nn.CrossEntropyLoss(), torch.optim.SGD, 0.1, cbs=cbs, **options)


def train(*cbs):
    learn = learner(*cbs)
    torch.manual_seed(1)
    with learn.no_logging():
        learn.fit(2)
    return learn


def test_training_equals_training_without_it():
    a, b = train(GradientCheckpointing()), train()
    state, expected = a.model.state_dict(), b.model.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, atol=1e-6, rtol=1e-6, msg=name)
    assert state["0.0.1.num_batches_tracked"] == 6
    assert list(a.recorder.losses) == pytest.approx(list(b.recorder.losses), abs=1e-6)


def test_frozen_norms_stay_the_same_in_both_computations():
    learn = learner(GradientCheckpointing(), BnFreeze())
    learn.model[0][0][1].requires_grad_(False)
    before = copy.deepcopy(learn.model[0][0][1].state_dict())
    with learn.no_logging():
        learn.fit(1)
    assert all(torch.equal(v, before[k]) for k, v in learn.model[0][0][1].state_dict().items())


def test_only_the_input_of_each_layer_is_stored():
    kept = []

    class Weigh(Callback):
        part_of_step = True
        order = 1

        def before_batch(self, run):
            self.hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t)
            self.hooks.__enter__()

        def after_loss(self, run):
            self.hooks.__exit__()

    train(Weigh())
    plain = sum(kept)
    kept.clear()
    train(GradientCheckpointing(), Weigh())
    assert 0 < sum(kept) < plain / 2


def test_layers_compute_as_before_after_the_run():
    learn = train(GradientCheckpointing())
    assert not any("forward" in vars(module) for module in learn.model.modules())


def test_layers_can_be_given_and_must_be_without_a_sequential():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 3)

        def forward(self, x):
            return self.layer(x)

    model = Own()
    data = [(torch.randn(4, 2), torch.arange(4) % 3)]
    learn = Learner(DataLoaders(data), model, nn.CrossEntropyLoss(), torch.optim.SGD)
    with learn.no_logging(), pytest.raises(ValueError, match=r"`layers` is needed: neither the model \(Own\)"):
        learn.fit(1, cbs=GradientCheckpointing())
    with learn.no_logging():
        learn.fit(1, cbs=GradientCheckpointing([model.layer]))


def test_a_foreign_layer_is_refused_before_anything_changes():
    learn = learner()
    layers = [learn.model[0][0], nn.Linear(2, 2)]
    with learn.no_logging(), pytest.raises(ValueError, match=r"modules of the model \(Sequential\). Received: Linear"):
        learn.fit(1, cbs=GradientCheckpointing(layers))
    assert not any("forward" in vars(module) for module in learn.model.modules())
    with pytest.raises(TypeError, match="`layers` must be several modules. Received: ReLU"):
        GradientCheckpointing(nn.ReLU())


def test_a_body_that_begins_with_single_layers_trains_the_same():
    def weights(*cbs):
        torch.manual_seed(0)
        stem = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)  # as ResNets do
        model = nn.Sequential(nn.Sequential(*stem, block(4, 4)), nn.Sequential(nn.Flatten(), nn.Linear(64, 2)))
        data = [(torch.randn(6, 1, 8, 8), torch.arange(6) % 2) for _ in range(3)]
        learn = Learner(DataLoaders(data), model, nn.CrossEntropyLoss(), torch.optim.SGD, 0.1, cbs=cbs)
        with learn.no_logging():
            learn.fit(1)
        return model.state_dict()

    plain, checkpointed = weights(), weights(GradientCheckpointing())
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)
