"""A softmax before a loss that takes its own is found, as a layer and inside `forward`; sound models say nothing."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minilearner import DataLoaders, Learner
from minilearner.losses import CrossEntropyLossFlat, FocalLoss, LabelSmoothingCrossEntropy


class Net(nn.Module):
    """A linear layer and an activation inside `forward`."""

    def __init__(self, activate):
        super().__init__()
        self.layer, self.activate = nn.Linear(4, 3), activate

    def forward(self, x):
        return self.activate(self.layer(x))


class LightningModule(nn.Module):
    """Has the methods that Lightning's class of this name has."""

    def training_step(self, *args):
        """Does nothing."""

    def configure_optimizers(self):
        """Does nothing."""


class Lit(LightningModule):
    """Defines a step of its own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x)

    def training_step(self, batch, index):
        raise AssertionError


def loaders(several=False):
    x = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, :3] > 0).float() if several else torch.arange(24) % 3
    return DataLoaders.from_arrays((x, y), (x, y), bs=8, seed=1, device="cpu")


def softmax(x):
    return x.softmax(1)


def fit(model, loss_func=None, several=False):
    learn = Learner(loaders(several), model, loss_func, device="cpu")
    with learn.no_logging():
        learn.fit(1)
        learn.fit(1)  # the same parts are not examined twice
    return learn


@pytest.mark.parametrize(
    "loss_func", [None, nn.CrossEntropyLoss(), F.cross_entropy, CrossEntropyLossFlat(), FocalLoss()]
)
def test_a_softmax_under_cross_entropy_is_said(loss_func):
    for model in (Net(softmax), nn.Sequential(nn.Linear(4, 3), nn.Softmax(1))):
        with pytest.warns(UserWarning, match=r"the model returns probabilities.*F.nll_loss\(pred.log\(\), y\)") as said:
            fit(model, loss_func)
        assert len(said) == 1 and said[0].filename == __file__


def test_a_softmax_under_label_smoothing_is_said():
    with pytest.warns(UserWarning, match="takes a softmax of them once more"):
        fit(Net(softmax), LabelSmoothingCrossEntropy())


@pytest.mark.parametrize("activate", [softmax, nn.Identity()])
def test_outputs_that_are_no_logarithms_under_nll_loss_are_said(activate):
    with pytest.warns(UserWarning, match="`nll_loss` needs logarithms of probabilities"):
        fit(Net(activate), F.nll_loss)


def test_a_sigmoid_under_a_loss_of_logits_is_said():
    for activate in (torch.sigmoid, lambda x: x.sigmoid().reshape(-1, 3)):
        with pytest.warns(UserWarning, match="takes a sigmoid of them once more"):
            fit(Net(activate), nn.BCEWithLogitsLoss(), several=True)


@pytest.mark.parametrize(
    ("activate", "loss_func"),
    [
        (nn.Identity(), None),
        (nn.LogSoftmax(1), F.nll_loss),
        (nn.LogSoftmax(1), F.cross_entropy),
        (softmax, lambda pred, y: F.nll_loss(pred.log(), y)),
        (softmax, lambda pred, y: F.cross_entropy(pred.log(), y)),
        (nn.Tanh(), None),
    ],
)
def test_sound_models_say_nothing(activate, loss_func):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(Net(activate), loss_func)


def test_outputs_that_happen_to_lie_between_0_and_1_say_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(Net(lambda x: x.clamp(0, 1) + 0 * x), nn.BCEWithLogitsLoss(), several=True)


def test_a_model_whose_probabilities_are_meant_still_trains():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the model returns probabilities")
        assert len(fit(Net(softmax)).recorder.runs) == 2


def test_steps_of_a_lightning_module_that_nobody_calls_are_named():
    with pytest.warns(UserWarning, match="`model` defines training_step, which are not called"):
        fit(Lit())
