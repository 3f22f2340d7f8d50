"""`learn.check()` reports nothing above a note on healthy learners, and leaves no trace."""

import random

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from minilearner import (
    Callback,
    DataLoaders,
    EarlyStopping,
    GradientAccumulation,
    Learner,
    MiniGoogLeNet,
    MixUp,
    accuracy,
    error_rate,
    fashion_mnist,
)
from minilearner.data.targets import MultiCategory
from minilearner.vision.all import (
    CategoryBlock,
    DataBlock,
    ImageBlock,
    RandomSplitter,
    Resize,
    get_image_files,
    resnet18,
    vision_learner,
)


def vectors(n=100, n_columns=20):
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, n_columns, generator=g), torch.arange(n) % 3


def mlp(n_out=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, n_out))


def arrays(y=None, model=None, *, with_valid=True, **options):
    x, classes = vectors()
    y = classes if y is None else y
    valid = (x[80:], y[80:]) if with_valid else None
    dls = DataLoaders.from_arrays((x[:80], y[:80]), valid, bs=16, seed=0, **options)
    metrics = [accuracy, error_rate, f1] if y is classes else None
    return Learner(dls, mlp() if model is None else model, metrics=metrics)


def f1(pred, y):
    """A function that is known by its name, so it gets the whole set."""
    return f1_score(y.cpu(), pred.argmax(1).cpu(), average="macro")


def no_validation_set():
    return arrays(with_valid=False)


def a_linear_model():
    return arrays(model=nn.Linear(20, 3))


def multi_label():
    x, classes = vectors()
    y = torch.stack([classes == 0, x[:, 0] > 0, x[:, 1] > 1], 1).float()
    return arrays(y, target=MultiCategory(["a", "b", "c"]))


def regression():
    x, _ = vectors()
    return arrays(x[:, 0] + 0.5 * x[:, 1], mlp(1))


def regression_of_noise():
    return arrays(torch.randn(100, generator=torch.Generator().manual_seed(1)), nn.Linear(20, 1))


def two_logits_as_one():
    x, classes = vectors()
    y = (classes == 0).float()
    model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0))
    loaders = DataLoader(TensorDataset(x, y), 20, shuffle=True), DataLoader(TensorDataset(x + 1, y), 20)
    return Learner(DataLoaders(*loaders), model, nn.BCEWithLogitsLoss())


class Pairs(Dataset):
    def __init__(self, n):
        self.x, self.y = vectors(n)

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return (self.x[i, :10], self.x[i, 10:]), self.y[i]


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(10, 16), nn.Linear(10, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, a, b):
        return self.head(torch.relu(self.a(a) + self.b(b)))


def several_inputs():
    dls = DataLoaders(DataLoader(Pairs(96), 16, shuffle=True), DataLoader(Pairs(32), 16))
    return Learner(dls, TwoInputs(), nn.CrossEntropyLoss())


class Stream(IterableDataset):
    def __len__(self):
        return 96

    def __iter__(self):
        return zip(*vectors(96))


def a_stream():
    return Learner(DataLoaders(DataLoader(Stream(), 16)), mlp(), nn.CrossEntropyLoss())


def list_of_batches():
    x, y = vectors(96)
    return Learner(list(zip(x.split(16), y.split(16))), mlp(), nn.CrossEntropyLoss())


def tokens():
    x = torch.randint(0, 50, (100, 12), generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Embedding(50, 8), nn.Flatten(), nn.Linear(96, 3))
    dls = DataLoaders.from_arrays((x[:80], torch.arange(80) % 3), (x[80:], torch.arange(20) % 3), bs=16, seed=0)
    return Learner(dls, model)


def raw_columns_into_a_norm():
    x, y = vectors()
    model = nn.Sequential(nn.BatchNorm1d(20), mlp())
    return Learner(DataLoaders.from_arrays((1e4 * x, y), bs=20, seed=0), model)


def zero_branches():
    class Residual(nn.Module):
        """Its branch is 0 at the start, as in residual nets, so the branch's weights have no gradient at first."""

        def __init__(self):
            super().__init__()
            self.stem, self.branch, self.head = nn.Linear(20, 16), nn.Linear(16, 16), nn.Linear(16, 3)
            self.scale = nn.Parameter(torch.zeros(16))

        def forward(self, x):
            x = self.stem(x)
            return self.head(x + self.scale * torch.relu(self.branch(x)))

    return arrays(model=Residual())


def trained():
    learn = arrays()
    with learn.no_logging():
        learn.fit(3, 0.01)
    return learn


def mixed_and_accumulated():
    learn = arrays()
    return learn.add_cb([MixUp(), GradientAccumulation(n_batches=3), EarlyStopping()])


class Flattened(Callback):
    """In fastai's style, it gives the model what it takes."""

    def before_batch(self):
        self.learn.xb = (self.learn.xb[0].flatten(1),)


def batches_that_a_callback_changes():
    x, y = vectors()
    dls = DataLoaders.from_arrays((x.reshape(100, 4, 5), y), bs=20, seed=0)
    return Learner(dls, mlp(), cbs=Flattened())


HEALTHY = [
    arrays,
    no_validation_set,
    a_linear_model,
    multi_label,
    regression,
    regression_of_noise,
    two_logits_as_one,
    several_inputs,
    a_stream,
    list_of_batches,
    tokens,
    raw_columns_into_a_norm,
    zero_branches,
    trained,
    mixed_and_accumulated,
    batches_that_a_callback_changes,
]


@pytest.mark.parametrize("make", HEALTHY, ids=lambda make: make.__name__)
def test_a_healthy_learner_has_no_finding_above_a_note(make):
    checkup = make().check()
    assert checkup.worst in (None, "note"), checkup
    assert {"first batch", "gradients", "one batch"} <= {*checkup.passed, *(one.check for one in checkup.findings)}


def test_mini_googlenet_on_fashion_mnist_is_healthy():
    dls = fashion_mnist(seed=0)
    checkup = Learner(dls, MiniGoogLeNet(10), metrics=accuracy).check()
    assert checkup.worst in (None, "note"), checkup


@pytest.mark.parametrize("is_frozen", [False, True])
def test_a_vision_learner_on_small_photos_is_healthy(pets, is_frozen):
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=get_image_files,
        get_y=lambda path: path.name.rpartition("_")[0],
        splitter=RandomSplitter(seed=0),
        item_tfms=Resize(32),
    )
    learn = vision_learner(block.dataloaders(pets, bs=8, seed=0), resnet18, pretrained=False)
    if is_frozen:
        learn.freeze()
    checkup = learn.check()
    assert checkup.worst in (None, "note"), checkup
    assert "duplicates" in checkup.passed


def state_of(learn):
    model = learn.model
    return {
        "tensors": [t.clone() for t in model.state_dict().values()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "flags": [(m.training, [p.requires_grad for p in m.parameters()]) for m in model.modules()],
        "loader": learn.dls.train.state_dict(),
        "rng": [torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()],
        "optimizer": learn.optimizer,
    }


def assert_same(before, after):
    torch.testing.assert_close(before, after, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("make", [arrays, two_logits_as_one, list_of_batches, trained, mixed_and_accumulated])
def test_a_checkup_leaves_no_trace(make):
    learn = make()
    for parameter in learn.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    learn.model.train()
    before = state_of(learn)
    optimizer = before.pop("optimizer")
    moments = [] if optimizer is None else [t.clone() for s in optimizer.state.values() for t in s.values()]
    learn.check()
    after = state_of(learn)
    assert after.pop("optimizer") is optimizer
    assert repr(before) == repr(after)
    assert_same(before["tensors"], after["tensors"])
    assert_same(before["gradients"], after["gradients"])
    assert_same(moments, [] if optimizer is None else [t for s in optimizer.state.values() for t in s.values()])
    assert len(learn.recorder.runs) == (make is trained)


@pytest.mark.parametrize("make", [arrays, two_logits_as_one, mixed_and_accumulated])
def test_training_goes_as_without_a_checkup(make):
    ends = []
    for is_checked in (True, False):
        torch.manual_seed(0)
        learn = make()
        if is_checked:
            learn.check()
        with learn.no_logging():
            learn.fit(2, 0.01)
        ends.append([t.clone() for t in learn.model.state_dict().values()])
    assert_same(*ends)


def test_an_error_in_the_trial_leaves_no_trace():
    class Fails(nn.Linear):
        def forward(self, x):
            if self.training:
                self.weight.data.add_(1)
                raise RuntimeError
            return super().forward(x)

    learn = arrays(model=Fails(20, 3))
    before = learn.model.weight.clone()
    assert learn.check().worst == "error"
    assert_same(before, learn.model.weight)
