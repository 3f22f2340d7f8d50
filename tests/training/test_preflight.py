"""The check before training refuses what certainly fails, and nothing that model and loss can take."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from minilearner import Callback, DataLoaders, Learner
from minilearner.data.targets import ClassNumbers
from minilearner.errors import DataError

SGD = torch.optim.SGD


def seeded(make):
    torch.manual_seed(0)
    return make()


def inputs(n=24, width=5):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(1))


def batches_of(x, y, bs=8):
    return list(zip(x.split(bs), y.split(bs), strict=True))


def fit(data, make, loss, **options):
    dls = data if isinstance(data, DataLoaders) else DataLoaders(data, data)
    learn = Learner(dls, seeded(make), loss, SGD, device="cpu", **options)
    with learn.no_logging():
        learn.fit(2, 0.1)
    return learn


def assert_is_plain(learn, data, make, loss):
    """Asserts that two epochs ended on the weights of a hand-written loop."""
    model = seeded(make)
    optimizer = SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        for x, y in data:
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
    for one, other in zip(learn.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)


def whole(n, high):
    return torch.randint(high, (n,), generator=torch.Generator().manual_seed(2))


def with_void(y, void):
    y = y.clone()
    y[::3] = void
    return y


def binary(pred, y):
    return F.binary_cross_entropy_with_logits(pred.squeeze(1), y.float())


def ordinal(pred, y):
    return F.binary_cross_entropy_with_logits(pred, (y[:, None] > torch.arange(3)).float())


def quantiles(pred, y):
    levels = torch.tensor([0.1, 0.5, 0.9])
    error = y[:, None] - pred
    return torch.maximum(levels * error, (levels - 1) * error).mean()


def contrastive(pred, y):
    first, second = F.normalize(pred, dim=1).reshape(2, 4, -1)
    return F.cross_entropy(first @ second.T / 0.1, torch.arange(4))


class Nearness(nn.Module):
    """Compares predictions with the embedding of an id."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 3).requires_grad_(False)

    def forward(self, pred, y):
        return 1 - F.cosine_similarity(pred, self.table(y)).mean()


def linear(n_out):
    return lambda: nn.Linear(5, n_out)


TAKEN = {
    "-100": (with_void(whole(24, 3), -100), linear(3), nn.CrossEntropyLoss()),
    "void": (with_void(whole(24, 3), 255), linear(3), nn.CrossEntropyLoss(ignore_index=255)),
    "one logit": (whole(24, 2), linear(1), binary),
    "counts": (whole(24, 9), linear(1), lambda pred, y: F.poisson_nll_loss(pred.squeeze(1), y)),
    "ordinals": (whole(24, 4), linear(3), ordinal),
    "quantiles": (torch.linspace(-1, 1, 24), linear(3), quantiles),
    "counted from 1": (whole(24, 3) + 1, linear(3), lambda pred, y: F.cross_entropy(pred, y - 1)),
    "ids": (whole(24, 50), linear(3), Nearness()),
    "bool": (whole(24, 2).bool(), linear(1), binary),
    "whole batches": (torch.zeros(24), linear(3), contrastive),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_the_loss_takes_trains_as_plainly(name):
    y, make, loss = TAKEN[name]
    data = batches_of(inputs(), y)
    assert_is_plain(fit(data, make, loss), data, make, loss)


@pytest.mark.parametrize("name", TAKEN)
def test_arrays_of_it_train_and_predict_too(name):
    y, make, loss = TAKEN[name]
    x = inputs()
    learn = fit(DataLoaders.from_arrays((x, y), (x, y), bs=8), make, loss)
    preds, targets = learn.get_preds()
    assert len(preds) == len(targets) == 24


def test_sequences_train_from_arrays_once_they_are_called_class_numbers():
    x, y = inputs(), whole(24 * 6, 7).reshape(24, 6)
    dls = DataLoaders.from_arrays((x, y), (x, y), bs=8, target=ClassNumbers())
    learn = fit(dls, lambda: nn.Sequential(nn.Linear(5, 42), nn.Unflatten(1, (7, 6))), nn.CrossEntropyLoss())
    assert learn.get_preds(with_decoded=True).decoded.shape == (24, 6)


def test_a_single_output_is_reported_as_it_is():
    x, y = inputs(), whole(24, 9)
    loss = TAKEN["counts"][2]
    learn = fit(DataLoaders.from_arrays((x, y), (x, y), bs=8), linear(1), loss)
    with torch.no_grad():
        torch.testing.assert_close(learn.get_preds().preds, learn.model(x))
        assert learn.predict(x[0]).label == pytest.approx(float(learn.model(x[:1])), rel=1e-5)


def test_a_first_batch_that_the_loss_ignores_is_no_error():
    y = whole(24, 3)
    y[:8] = -100
    learn = fit(batches_of(inputs(), y), linear(3), nn.CrossEntropyLoss())
    assert all(p.isfinite().all() for p in learn.model.parameters())


REFUSED = {
    "out of range": (with_void(whole(24, 3), 7), nn.CrossEntropyLoss(), r"labels must lie in 0 to 2.*from 0 to 7"),
    "negative": (with_void(whole(24, 3), -1), nn.CrossEntropyLoss(), r"labels must lie in 0 to 2.*from -1 to"),
    "in a function": (with_void(whole(24, 3), 7), lambda p, y: F.nll_loss(p.log_softmax(1), y), "must lie in 0 to 2"),
    "by hand": (
        with_void(whole(24, 3), 7),
        lambda pred, y: F.cross_entropy(pred, y, reduction="none").mean(),
        "must lie in 0 to 2",
    ),
    "beside an ignored one": (
        with_void(whole(24, 4), 255),
        nn.CrossEntropyLoss(ignore_index=255),
        r"labels must lie in 0 to 2.*labels from \d to 3",
    ),
    "NaN": (torch.zeros(24), lambda pred, y: (pred - 50).log().mean(), "the loss of the first training batch is nan"),
    "infinite": (torch.zeros(24), lambda pred, y: pred.mean() / 0, "the loss of the first training batch is -?inf"),
    "NaN in the targets": (
        with_void(torch.zeros(24), torch.nan),
        lambda pred, y: F.l1_loss(pred[:, 0], y),
        "the targets hold NaN or infinite values: first in item 0 of the first training batch",
    ),
}


NOT_COMPARABLE = {
    "by hand": (linear(1), torch.arange(24.0), lambda pred, y: ((pred - y) ** 2).mean()),
    "elements": (linear(1), torch.arange(24.0), lambda pred, y: F.l1_loss(*torch.broadcast_tensors(pred, y))),
    "longer targets": (
        lambda: nn.Sequential(nn.Linear(5, 1), nn.Flatten(0)),
        torch.arange(24.0)[:, None],
        lambda pred, y: (pred - y).abs().mean(),
    ),
}


@pytest.mark.parametrize("name", NOT_COMPARABLE)
def test_a_broadcast_over_all_pairs_of_items_is_refused(name):
    make, y, loss = NOT_COMPARABLE[name]
    with pytest.raises(DataError, match=r"compares each prediction with the targets of all items"):
        fit(batches_of(inputs(), y), make, loss)


PAIRED = {
    "ranks": lambda pred, y: F.softplus(-(pred - pred.T) * (y[:, None] - y).sign()).mean(),
    "squeezed": lambda pred, y: ((pred[:, 0] - y) ** 2).mean(),
    "flattened": lambda pred, y: ((pred.flatten() - y.flatten()) ** 2).mean(),
    "means": lambda pred, y: (pred.mean() - y.mean()) ** 2,
    "unsqueezed": lambda pred, y: ((pred - y[:, None]) ** 2).mean(),
}


@pytest.mark.parametrize("name", PAIRED)
def test_a_loss_that_makes_the_shapes_fit_is_no_broadcast(name):
    fit(batches_of(inputs(), torch.arange(24.0)), linear(1), PAIRED[name])


WITHOUT_GRADIENT = {
    "detached": lambda pred, y: F.mse_loss(pred.detach()[:, 0], y),
    "a number": lambda pred, y: torch.tensor(F.mse_loss(pred[:, 0], y).item()),
    "errors": lambda pred, y: (pred.argmax(1) != y).float().mean(),
}


@pytest.mark.parametrize("name", WITHOUT_GRADIENT)
def test_a_loss_without_a_gradient_is_refused(name):
    with pytest.raises(DataError, match="`loss_func` must return a loss with a gradient"):
        fit(batches_of(inputs(), torch.arange(24.0)), linear(1), WITHOUT_GRADIENT[name])


def test_a_loss_may_take_its_gradient_from_inside_the_model():
    inside = []

    class Model(nn.Linear):
        def forward(self, x):
            inside[:] = [super().forward(x)]
            return inside[0].detach()

    fit(batches_of(inputs(), torch.arange(24.0)), lambda: Model(5, 1), lambda pred, y: F.mse_loss(inside[0][:, 0], y))


def test_a_callback_may_put_another_loss_in_the_place_of_one_without_a_gradient():
    class Replace(Callback):
        def after_loss(self, run):
            if run.training:
                run.loss = F.mse_loss(run.pred[:, 0], run.y)

    learn = Learner(
        (batches_of(inputs(), torch.arange(24.0)), None), nn.Linear(5, 1), lambda pred, y: torch.zeros(()), device="cpu"
    )
    with learn.no_logging():
        learn.fit(1, cbs=Replace())


@pytest.mark.parametrize("name", REFUSED)
def test_what_certainly_fails_is_refused(name):
    y, loss, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        fit(batches_of(inputs(), y), linear(3), loss)


@pytest.mark.parametrize("wrap", [lambda x, y: batches_of(x, y), TensorDataset, None])
def test_a_label_out_of_range_late_in_the_data_is_found_whatever_is_made_of_it(wrap):
    x, y = inputs(), whole(24, 3) + 1
    y[21] = 9
    data = DataLoaders.from_arrays((x, y), bs=8, seed=1) if wrap is None else DataLoaders(wrap(x, y), bs=8, seed=1)
    with pytest.raises(DataError, match="must lie in 0 to 2"):
        fit(data, linear(3), lambda pred, y: F.cross_entropy(pred, y.long() - 1))


def test_named_classes_need_an_output_each_unless_the_loss_ignores_them():
    x, y = inputs(), whole(24, 3)
    data = DataLoaders(batches_of(x, y), vocab=["cat", "dog", "owl", "void"])
    fit(data, linear(3), nn.CrossEntropyLoss(ignore_index=3))
    with pytest.raises(DataError, match="the model has 3 outputs.*from 0 to 3"):
        fit(data, linear(3), nn.CrossEntropyLoss())


class Imputing(nn.Module):
    """Puts a learnt value where a feature is NaN, and 0 where it is infinite."""

    def __init__(self):
        super().__init__()
        self.missing, self.head = nn.Parameter(torch.zeros(5)), nn.Linear(5, 1)

    def forward(self, x):
        return self.head(torch.where(x.isnan(), self.missing, x.nan_to_num(0.0, 0.0, 0.0)))


HOLES = inputs().masked_fill(whole(24 * 5, 4).reshape(24, 5) == 0, torch.nan)
HOLES[7, 2] = -torch.inf


@pytest.mark.parametrize(
    "data",
    [
        lambda y: DataLoaders(batches_of(HOLES, y)),
        lambda y: DataLoaders(TensorDataset(HOLES, y), bs=8),
        lambda y: DataLoaders.from_arrays((HOLES, y), (HOLES, y), bs=8),
        lambda y: DataLoaders.from_arrays((HOLES.numpy(), y.numpy()), bs=8),
    ],
)
def test_a_model_that_fills_in_missing_values_gets_them(data):
    y = torch.linspace(-1, 1, 24)[:, None]
    learn = fit(data(y), Imputing, nn.MSELoss())
    assert np.isfinite(learn.recorder.history["train_loss"]).all()
    assert learn.model.missing.abs().min() > 0
    with pytest.raises(DataError, match="the inputs hold NaN or infinite values: first in item"):
        fit(data(y), linear(1), nn.MSELoss())


def test_targets_that_the_loss_leaves_out_may_be_nan():
    y = torch.linspace(-1, 1, 24)[:, None]
    y[::3] = torch.nan

    def loss(pred, y):
        return F.mse_loss(pred[~y.isnan()], y[~y.isnan()])

    data = batches_of(inputs(), y)
    assert_is_plain(fit(data, linear(1), loss), data, linear(1), loss)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 1)

    def forward(self, a, b):
        return self.layer(a) + self.layer(b)


@pytest.mark.parametrize(
    ("x", "make", "message", "absent"),
    [
        (inputs(), Two, r"The model needs 2 inputs, and the loader gives 1 input\.", "channels"),
        (inputs(), lambda: nn.Linear(4, 1), r"a linear layer in it takes 4 features\. Received: \d+\.$", "channels"),
        (
            torch.randn(24, 1, 8, 8),
            lambda: nn.Conv2d(3, 1, 3),
            r"a convolution in it takes 3 channels\. Received: 1\.$",
            "linear layer",
        ),
        (inputs().double(), linear(1), r"convert the inputs with `x.float\(\)`", "channels"),
        (inputs(), lambda: nn.Embedding(9, 1), r"Convert them with `x.long\(\)`", "compute in float32"),
        (whole(24, 50), lambda: nn.Embedding(9, 1), "An embedding needs more rows than the largest", "float32"),
    ],
)
def test_the_advice_on_an_error_of_the_model_fits_its_cause(x, make, message, absent):
    with pytest.raises(DataError, match=message) as caught:
        fit(batches_of(x, torch.zeros(24, 1)), make, nn.MSELoss())
    assert absent not in str(caught.value)


def test_a_model_that_needs_whole_batches_trains_though_the_last_has_a_single_item():
    class Ranks(nn.Linear):
        def forward(self, x):
            assert len(x) in (8, 1) and (len(x) == 8 or not self.training)
            return super().forward(x)

    data = DataLoaders.from_arrays((inputs(17), torch.zeros(17, 1)), bs=8, drop_last=True)
    fit(data, lambda: Ranks(5, 1), nn.MSELoss())


def test_the_check_leaves_no_trace_on_a_loss_with_buffers():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("n", torch.zeros(()))

        def forward(self, pred, y):
            self.n += self.training and torch.is_grad_enabled()
            return F.mse_loss(pred, y)

    loss = Counting()
    fit(batches_of(inputs(), torch.zeros(24, 1)), linear(1), loss)
    assert loss.n == 6


@pytest.mark.parametrize("sizes", [[1], [8, 1], [8, 1, 8]])
def test_a_batch_norm_that_meets_a_single_item_in_a_list_of_batches_is_refused(sizes):
    x, y = torch.randn(sum(sizes), 5), torch.zeros(sum(sizes), dtype=torch.int64)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    learn = Learner((list(zip(x.split(sizes), y.split(sizes), strict=True)), None), model, nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match=r"a training batch is a single item, and batch norm \('1' in the model\)"):
        learn.fit(1)
