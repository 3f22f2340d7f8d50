"""A step costs few Python calls, reads from the device and calls of the model. They are counted, not timed."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import minilearner
from minilearner import ClassificationInterpretation, DataLoaders, Learner, accuracy, error_rate
from minilearner.data.batch_transforms import train_only

N_BATCHES = 20


class Plain(nn.Module):
    """A linear layer that calls nothing in Python, and counts how often it is called."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 3))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x @ self.weight


def batches(n=N_BATCHES):
    return [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(n)]


def learner(n=N_BATCHES, valid=None, **options):
    options = {"opt_func": torch.optim.SGD, "lr": 0.1, "device": "cpu"} | options
    return Learner(DataLoaders(batches(n), valid), Plain(), nn.CrossEntropyLoss(), **options)


def own_calls(function):
    """Returns how many functions of minilearner are called while `function` runs."""
    count, own = 0, str(Path(minilearner.__file__).parent)

    def watch(frame, event, arg):
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith(own)

    sys.setprofile(watch)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(("metrics", "most"), [([], 26), ([accuracy, error_rate], 30)])
def test_a_step_makes_few_python_calls(metrics, most):
    def calls(n):
        learn = learner(n, metrics=metrics)
        learn.recorder.train_metrics = True
        with learn.no_logging():
            learn.fit(1)  # the first fit also checks all the data
            return own_calls(lambda: learn.fit(1))

    assert 0 < (calls(3 * N_BATCHES) - calls(N_BATCHES)) / (2 * N_BATCHES) <= most


class Frames(Plain):
    """Records how many functions of minilearner lie between the call of `fit` and the model."""

    deepest = 0

    def forward(self, x):
        frame, n, own = sys._getframe(1), 0, str(Path(minilearner.__file__).parent)
        while frame is not None:
            n += frame.f_code.co_filename.startswith(own)
            frame = frame.f_back
        self.deepest = max(self.deepest, n * self.training)
        return super().forward(x)


def test_few_frames_lie_between_fit_and_the_model():
    learn = Learner(DataLoaders(batches(2)), Frames(), nn.CrossEntropyLoss(), device="cpu")
    with learn.no_logging():
        learn.fit(1)
    assert 0 < learn.model.deepest <= 13


class Reads(TorchDispatchMode):
    """Counts reads of a tensor's value in Python, which make a program wait for the device."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


class Lists(TorchFunctionMode):
    """Counts reads of many values at once, which wait in the same way."""

    count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.Tensor.tolist
        return function(*args, **(kwargs or {}))


def test_values_are_read_once_an_epoch_and_never_in_a_step():
    def reads(n):
        learn = learner(n, valid=batches(n), metrics=[accuracy, error_rate])
        learn.recorder.train_metrics = True
        with learn.no_logging():
            learn.fit(1)  # the first fit also checks all the data
            with Reads() as values, Lists() as lists:
                learn.fit_one_cycle(2)
        return values.count, lists.count

    # For each epoch: two metrics of two passes, and the loss.
    assert reads(N_BATCHES) == reads(3 * N_BATCHES) == (0, 2 * 5)


class Operations(TorchDispatchMode):
    """Counts the tensor operations that compute: each costs microseconds, however small the tensors.

    `detach` is not counted, because older versions of torch call it twice.
    """

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is not torch.ops.aten.detach.default
        return function(*args, **(kwargs or {}))


def test_training_metrics_add_few_operations_to_a_step():
    def operations(n, metrics):
        learn = learner(n, metrics=metrics)
        learn.recorder.train_metrics = True
        with learn.no_logging():
            learn.fit(1)
            with Operations() as mode:
                learn.fit(1)
        return mode.count

    more, fewer = ([operations(n, metrics) for n in (340, 20)] for metrics in ([accuracy, error_rate], []))
    per_step = [(many - few) / 320 for many, few in (more, fewer)]
    assert per_step[0] - per_step[1] < 3


@pytest.mark.parametrize(
    ("ask", "calls"),
    [
        (lambda learn: learn.validate(), 5),
        (lambda learn: learn.get_preds(with_loss=True, with_decoded=True), 5),
        (lambda learn: ClassificationInterpretation.from_learner(learn).top_losses(3), 5),
        (lambda learn: learn.tta(n=2, batch_tfms=train_only(torch.neg)), 15),
        (lambda learn: learn.predict(torch.zeros(4)), 1),
    ],
)
def test_the_model_is_called_once_for_each_batch_of_a_pass(ask, calls):
    x, y = torch.randn(40, 4), torch.arange(40) % 3
    learn = Learner(DataLoaders.from_arrays((x, y), (x, y), bs=8), Plain(), device="cpu")
    with learn.no_logging():
        ask(learn)
    assert learn.model.calls == calls
