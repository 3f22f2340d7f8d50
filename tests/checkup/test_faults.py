"""Each fault that `learn.check()` knows: a learner with exactly that fault, and what is said about it."""

import json
import re
import shutil

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from minilearner import DataLoaders, Learner, Normalize, accuracy
from minilearner.data.targets import MultiCategory
from minilearner.vision.all import CategoryBlock, DataBlock, FuncSplitter, ImageBlock, Resize, get_image_files


def arrays(n=96, n_valid=24, n_columns=20, n_classes=3):
    """Points of as many kinds as there are classes, in `n_columns` columns of mean 0 and deviation about 1."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(n + n_valid) % n_classes
    x = torch.randn(n + n_valid, n_columns, generator=g)
    x[torch.arange(n + n_valid), y] += 2
    return (x[:n], y[:n]), (x[n:], y[n:])


def mlp(n_in=20, n_out=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(n_in, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, n_out))


def learner(data=None, model=None, *, bs=16, drop_last=True, vocab=("a", "b", "c"), **options):
    train, valid = arrays() if data is None else data
    dls = DataLoaders.from_arrays(train, valid, bs=bs, seed=0, vocab=vocab, drop_last=drop_last)
    return Learner(dls, mlp() if model is None else model, **options)


def images(n=64, scale=1.0):
    g = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 3
    x = torch.rand(n, 1, 8, 8, generator=g) * scale
    x[torch.arange(n), 0, 0, y] = scale
    return (x[16:], y[16:]), (x[:16], y[:16])


def convnet():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3))


def small_rest():
    return learner(arrays(n=18), drop_last=False)


def unshuffled():
    learn = learner()
    learn.dls.train = learn.dls.new(shuffle=False)
    return learn


def unshuffled_foreign():
    (x, y), valid = arrays()
    loaders = DataLoader(TensorDataset(x, y), 16), DataLoader(TensorDataset(*valid), 16)
    return Learner(DataLoaders(*loaders), mlp(), nn.CrossEntropyLoss())


def drops_much():
    learn = learner(arrays(n=92), bs=64, drop_last=False)
    learn.dls.train = learn.dls.new(drop_last=True)
    return learn


def always_drops_the_same():
    learn = learner(arrays(n=100))
    learn.dls.train = learn.dls.new(shuffle=False)
    return learn


def tiny_batches():
    return learner(bs=2)


def class_without_items():
    return learner(vocab=("a", "b", "c", "d"), model=mlp(n_out=4))


def one_class():
    (x, y), (valid_x, valid_y) = arrays()
    return learner(((x, y * 0), (valid_x, valid_y * 0)))


def rare_class():
    (x, y), valid = arrays(n=200)
    rare = torch.where(torch.arange(200) < 190, 0, y)
    return learner(((x, rare), valid))


def constant_numbers():
    (x, _), (valid_x, _) = arrays()
    return learner(((x, torch.ones(96)), (valid_x, torch.ones(24))), mlp(n_out=1), vocab=None)


def label_without_items():
    (x, y), (valid_x, valid_y) = arrays()
    rows, valid_rows = (torch.stack([one == 0, one == 1, one == 5], 1).float() for one in (y, valid_y))
    target = MultiCategory(["a", "b", "c"])
    return Learner(DataLoaders.from_arrays((x, rows), (valid_x, valid_rows), bs=16, target=target), mlp())


def bytes_as_floats():
    return learner(images(scale=255.0), convnet())


def divided_twice():
    return learner(images(scale=1 / 255), convnet())


def normalised_twice():
    learn = learner(images(), convnet())
    twice = [Normalize([0.5], [0.25]), Normalize([0.5], [0.25])]
    learn.dls = learn.dls.with_batch_tfms(*twice)
    return learn


def wild_head():
    model = mlp()
    nn.init.normal_(model[-1].weight, std=30.0)
    return learner(model=model)


def large_numbers():
    (x, y), (valid_x, valid_y) = arrays()
    return learner(((x, y + 1000.0), (valid_x, valid_y + 1000.0)), mlp(n_out=1), vocab=None)


def unused_layer():
    model = mlp()
    model.add_module("4", nn.Identity())
    model[4].extra = nn.Linear(3, 3)
    return learner(model=model)


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(20, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.body(x).detach())


class RootOfZero(nn.Module):
    """Its outputs are finite, and its gradients are not: the slope of a square root at 0 is infinite."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(20, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.body(x) + (self.body(x) * 0).abs().sqrt())


def dead_units():
    model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.constant_(model[0].bias, -1e3)
    return learner(model=model)


def blind_model():
    class Blind(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(20, 3)

        def forward(self, x):
            return self.layer(x) * 1e-9

    return learner(model=Blind())


def shared_items():
    (x, y), _ = arrays()
    return learner(((x, y), (x[:24], y[:24])))


def softmax_twice():
    return learner(model=nn.Sequential(mlp(), nn.Softmax(1)))


def too_few_outputs():
    return learner(model=mlp(n_out=2))


def fails_in_training():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(20, 3)

        def forward(self, x):
            if self.training:
                raise RuntimeError("not ready")
            return self.layer(x)

    return learner(model=Fails())


def out_of_memory():
    class Hungry(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(20, 3)

        def forward(self, x):
            if self.training:
                raise torch.OutOfMemoryError("out of memory")
            return self.layer(x)

    return learner(model=Hungry())


def list_of_batches():
    (x, y), valid = arrays()
    return Learner(DataLoaders(list(zip(x.split(16), y.split(16))), [valid]), mlp(), nn.CrossEntropyLoss())


def share_of_the_class(pred, y):
    """The recall of class 0, by no name that says so."""
    return ((pred.argmax(1) == 0) & (y == 0)).sum() / (y == 0).sum()


def metric_that_is_no_mean():
    return learner(metrics=[accuracy, share_of_the_class])


FAULTS = {
    metric_that_is_no_mean: ("metrics", "warning", "not the mean over its items: share_of_the_class.*WholeSetMetric"),
    unshuffled: ("shuffle", "warning", "shuffle is off.*shuffle=True"),
    unshuffled_foreign: ("shuffle", "warning", "shuffle is off"),
    list_of_batches: ("shuffle", "note", "same 6 batches in the same order"),
    drops_much: ("items left out", "warning", "leaves out 28 of 92 training items, 30%.*bs=46"),
    always_drops_the_same: ("items left out", "warning", "leaves out 4 of 100.*the same items in each epoch"),
    small_rest: ("batch norm", "warning", "last training batch of an epoch has only 2 items.*drop_last=True"),
    tiny_batches: ("batch norm", "warning", "Each training batch has only 2 items.*larger `bs`"),
    class_without_items: ("labels", "warning", "1 of 4 classes has no training item: d"),
    one_class: ("labels", "warning", "have the same class"),
    rare_class: ("balance", "warning", "always says 'a' is right that often.*BalancedAccuracy"),
    constant_numbers: ("labels", "warning", "targets are the same"),
    label_without_items: ("labels", "warning", "1 of 3 classes has no training item: c"),
    bytes_as_floats: ("inputs", "warning", "far from 0 and 1.*Normalize"),
    divided_twice: ("inputs", "warning", "nearly the same.*divided by 255 again"),
    normalised_twice: ("inputs", "warning", "normalised twice"),
    wild_head: ("initial loss", "warning", r"which is ln\(3\)"),
    large_numbers: ("initial loss", "warning", "predicting the mean of the targets"),
    unused_layer: ("gradients", "warning", "2 of 8 parameters get no gradient: 4.extra.weight, 4.extra.bias"),
    (lambda: learner(model=Detached())): ("gradients", "warning", "no gradient: body.weight, body.bias"),
    (lambda: learner(model=RootOfZero())): ("gradients", "error", "NaN or infinite: body.weight"),
    dead_units: ("gradients", "warning", "only gradients of 0: 0.weight"),
    blind_model: ("one batch", "warning", "does not learn even these"),
    shared_items: ("duplicates", "warning", "24 of 24 validation items are in the training set too"),
    softmax_twice: ("first batch", "warning", "Remove the softmax"),
    too_few_outputs: ("first batch", "error", "labels must lie in 0 to 1"),
    fails_in_training: ("training step", "error", "not ready"),
    out_of_memory: ("training step", "error", "does not fit in memory.*SplitOnOOM"),
}


@pytest.mark.parametrize("make", FAULTS, ids=lambda make: make.__name__)
def test_a_fault_is_found_with_its_severity_and_a_way_out(make):
    check, severity, text = FAULTS[make]
    checkup = make().check()
    (finding,) = [one for one in checkup.findings if (one.check, one.severity) == (check, severity)]
    assert finding.advice
    said = f"{finding.message} {finding.advice}"
    assert re.search(text, said), said
    assert check not in checkup.passed
    json.dumps(checkup.to_dict())


def test_an_image_file_in_both_sets_is_found_by_its_content(pets):
    shutil.copy(pets / "pug_0.jpg", pets / "pug_99.jpg")
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=get_image_files,
        get_y=lambda path: path.name.rpartition("_")[0],
        splitter=FuncSplitter(lambda path: path.stem in ("pug_99", "Birman_3")),
        item_tfms=Resize(16),
    )
    checkup = Learner(block.dataloaders(pets, bs=4), nn.Sequential(nn.Flatten(), nn.Linear(768, 3))).check()
    (finding,) = [one for one in checkup.findings if one.check == "duplicates"]
    assert "1 of 2 validation items is in the training set too" in finding.message
    assert "pug_99.jpg" in finding.message and "pug_0.jpg" in finding.message


@pytest.mark.parametrize(("lr", "severity"), [(1e3, "warning"), (1e-9, "note"), (None, None)])
def test_a_rate_outside_the_range_of_the_sweep_is_found(lr, severity):
    learn = learner()
    assert "learning rate" in learn.check(lr).not_checked
    sweep = learn.lr_find(show_plot=False)
    learn.lr = sweep.recommended
    found = [one.severity for one in learn.check(lr).findings if one.check == "learning rate"]
    assert found == ([] if severity is None else [severity])


def test_a_rate_that_is_none_is_refused():
    with pytest.raises(TypeError, match="`lr` must be"):
        learner().check("fast")


def test_the_worst_finding_comes_first_and_a_checkup_shows_itself():
    checkup = too_few_outputs().check()
    assert checkup.worst == "error" == checkup.findings[0].severity
    assert checkup.not_checked["gradients"] == "training does not begin"
    assert "error, first batch: labels must lie in 0 to 1" in repr(checkup)
    assert "<th" in checkup._repr_html_()
    assert [*checkup] == [*checkup.findings] and checkup[0].message.startswith("labels must") and not checkup.ok
    assert checkup.to_dict()["ok"] is False
    healthy = learner(arrays(n=96)).check()
    assert healthy.worst is None and healthy.ok and len(healthy) == 0
