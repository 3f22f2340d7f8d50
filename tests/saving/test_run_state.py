"""A state that does not fit is refused by name, even if its digests match, and the run stays as it was."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from minilearner import EMA, Callback, CheckpointError, DataLoaders, EarlyStopping, Learner, set_seed
from minilearner.callbacks.checkpoint import Checkpoint
from minilearner.runtime import rng_state
from minilearner.saving.checkpoint_folder import CheckpointFolder
from minilearner.saving.identity import compare
from minilearner.saving.run_state import restore
from minilearner.saving.state_checks import check_owner, check_process_parts
from minilearner.tree import map_tensors


class Stop(Exception):
    pass


class Witness(Callback):
    """Looks at a run before the checkpoint restores it and when it ends, and makes it crash once."""

    order = 99

    def __init__(self, *, crash=False, stop=False):
        self.crash, self.stop, self.n_batches = crash, stop, 0

    def state_dict(self):
        return {"n_batches": self.n_batches}

    def load_state_dict(self, state):
        self.n_batches = state["n_batches"]

    def before_fit(self, run):
        self.seen, self.run = [seen(run)], run
        if self.stop:
            raise Stop

    def after_batch(self, run):
        self.n_batches += 1
        if self.crash and run.epoch == 1 and run.iter == 2:
            raise Stop

    def after_fit(self, run):
        self.seen.append(seen(run))


class Own(nn.CrossEntropyLoss):
    """A loss with a parameter to learn."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


def seen(run):
    callbacks = [c.state_dict() for c in run.callbacks if type(c).__name__ not in ("Record", "Progress")]
    settings = [{k: v for k, v in group.items() if k != "params"} for group in run.optimizer.param_groups]
    found = [
        run.model.state_dict(), [p.requires_grad for p in run.model.parameters()], run.step.loss_func.state_dict(),
        list(run.optimizer.state_dict()["state"].values()), settings, callbacks, run.record.epochs,
        [run.epoch, run.global_step, run.position, run.resume and vars(run.resume), run.metrics],
        run.dls.train.state_dict(), run.dls.valid.state_dict(), rng_state(),
    ]  # fmt: skip
    return copy.deepcopy(map_tensors(lambda t: t.detach().clone(), found))


def assert_same(a, b):
    np.testing.assert_equal(
        map_tensors(lambda t: t.numpy(), a), map_tensors(lambda t: t.numpy(), b)
    )  # to the bit, through all nested parts


def fit(folder, witness):
    set_seed(5)
    x, y = torch.rand(22, 8), torch.arange(22) % 3
    dls = DataLoaders.from_arrays((x, y), (x[:7], y[:7]), bs=4, seed=2)
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    learn = Learner(dls, model, Own(), cbs=[EarlyStopping(patience=9), EMA(0.9), witness])
    with learn.no_logging():
        learn.fit(2, 0.1, checkpoint=Checkpoint(folder, every_steps=2))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with pytest.raises(Stop):
        fit(folder, Witness(crash=True))
    return CheckpointFolder(folder).newest()


def changed(state, path, value):
    """Returns a copy of `state` with `value` at `path`. A function gets the old value; `GONE` removes it."""
    if not path:
        return value(state) if callable(value) else value
    key, *rest = path
    copied = dict(state) if isinstance(state, dict) else list(state)
    if value is GONE and not rest:
        del copied[key]
    else:
        there = copied.get(key) if isinstance(copied, dict) else copied[key]
        copied[key] = changed(there, rest, value)
    return tuple(copied) if isinstance(state, tuple) else copied


GONE = object()
WEIGHT, MOMENT = ("model", "0.weight"), ("optimizer", "state", 0, "exp_avg")
GROUP, EMA_STATE = ("optimizer", "param_groups", 0), ("callbacks", 4, 1)
HOSTILE = [
    (("epoch",), -1, "epoch"),
    (("epoch",), "1", "epoch"),
    (("epoch",), 1 << 70, "epoch"),
    (("epoch",), True, "epoch"),
    (("batch",), 7, "batch"),
    (("batch",), GONE, "batch"),
    (("global_step",), -3, "global_step"),
    (("position",), 10**9, "position"),
    (("metrics",), [1], "metrics"),
    (("metrics", 3), 1.0, "metrics"),
    (("surprise",), 1, "surprise"),
    (("finished",), "no", "finished"),
    (("identity",), 3, "identity"),
    (("of_each",), [{}], "of_each"),
    (("pass",), None, "pass"),
    (("pass", "rng"), {}, "pass"),
    (("pass", "loaders", 0, "epoch"), "0", "pass"),
    (("model",), [], "model"),
    (WEIGHT, GONE, "0.weight"),
    (("model", "else"), torch.ones(1), "else"),
    (WEIGHT, torch.ones(1), r"0.weight.*\(1,\)"),
    (WEIGHT, torch.Tensor.double, "0.weight.*float64"),
    (WEIGHT, "heavy", "0.weight"),
    (("model", "1.running_mean"), torch.ones(5), "1.running_mean"),
    (("learns", "0.weight"), "yes", "learns"),
    (("learns", "0.weight"), GONE, "0.weight"),
    (("optimizer", "state"), GONE, "optimizer"),
    (("optimizer", "state"), {"x": {}}, "optimizer"),
    (("optimizer", "param_groups"), [], "optimizer"),
    ((*GROUP, "lr"), "0.1", "lr"),
    ((*GROUP, "betas"), (0.9, "x"), "betas"),
    ((*GROUP, "params"), [0, 0], "optimizer hold other parameters"),
    ((*GROUP, "amsgrad"), GONE, "amsgrad"),
    (MOMENT, torch.ones(7), "exp_avg"),
    (MOMENT, "x", "exp_avg"),
    (("loss",), {}, "scale"),
    (("loss", "scale"), torch.ones(2), "loss"),
    (("loss", "scale"), 3, "loss"),
    (("step",), {"scale": 1.0}, "step"),
    (("callbacks",), {}, "callbacks"),
    (("callbacks", 0), ["Record"], "callbacks"),
    (("callbacks", 0, 0), "os.system", "callbacks"),
    (("callbacks", 3, 1), 3, "EarlyStopping"),
    (("callbacks", 3, 1, "patience"), "many", "patience"),
    (("callbacks", 3, 1, "after_epoch"), 3, "after_epoch"),
    (("callbacks", 3, 1, 3), 3, "EarlyStopping"),
    ((*EMA_STATE, "n_averaged"), GONE, "EMA"),
    ((*EMA_STATE, "n_averaged"), "x", "EMA"),
    ((*EMA_STATE, "averages", "0.weight"), torch.ones(1), "EMA.*0.weight"),
    ((*EMA_STATE, "averages", "0.weight"), GONE, "EMA"),
    (("record",), None, "record"),
    (("record", "epochs"), 3, "record"),
    (("record", "epochs"), [{1: 2}], "record"),
    (("record", "row_positions"), [], "record"),
    (("record", "steps"), torch.ones(3), "record"),
    (("record", "steps"), lambda steps: steps.astype("i8"), "record"),
    (("record", "smoothed"), torch.ones(1), "record"),
    (("record", "smooth"), {"update": 3}, "record"),
    (("loaders",), [], "loaders"),
    (("loaders", 0), None, "loaders"),
    (("loaders", 0, "seed"), "2", "seed"),
    (("loaders", 0, "epoch"), math.nan, "loaders|epoch"),
    (("rng",), {}, "rng"),
    (("rng", "python"), (3, (1, 2), None), "rng python"),
    (("rng", "python", 2), "x", "rng python"),
    (("rng", "numpy", 2), 10**6, "rng|position"),
    (("rng", "numpy", 2), -1, "rng|position"),
    (("rng", "numpy", 0), "PCG64", "put back"),
    (("rng", "torch"), torch.zeros(3), "rng torch"),
    (("rng", "torch"), torch.zeros_like, "put back"),
    (("rng", "cuda"), [torch.ones(3)], "rng cuda"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run at the point where a checkpoint would restore it."""
    witness = Witness(stop=True)
    with pytest.raises(Stop):
        fit(tmp_path_factory.mktemp("other"), witness)
    witness.run.driven.clear()
    for callback in witness.run.callbacks:
        if isinstance(callback, (EarlyStopping, EMA)):  # `after_fit` has come
            callback.before_fit(witness.run)
    return witness.run


@pytest.mark.parametrize(("path", "value", "named"), HOSTILE)
def test_a_state_that_does_not_fit_is_refused_by_name_and_changes_nothing(path, value, named, saved, run):
    before, hostile = seen(run), changed(saved.state, path, value)
    with pytest.raises(CheckpointError, match=named):
        check_owner(hostile)
        check_process_parts(hostile, 1)
        restore(run, hostile)
    assert_same(before, seen(run))


WRONG = [None, -1, math.nan, "x", [], {}, {3: 4}, torch.ones(2, 5), {"update": 1}]


def paths(state, here=()):
    yield here
    pairs = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    for key, part in pairs:
        yield from paths(part, (*here, key))


@pytest.mark.slow
def test_whatever_stands_anywhere_in_a_state_is_taken_whole_or_refused_whole(saved, run):
    n_refused = 0
    restore(run, saved.state)
    before = seen(run)
    for number, path in enumerate(list(paths(saved.state))[1:]):
        hostile = changed(saved.state, path, WRONG[number % len(WRONG)])
        try:
            check_owner(hostile)
            check_process_parts(hostile, 1)
            restore(run, hostile)
        except CheckpointError:
            n_refused += 1
            assert_same(before, seen(run))
        else:
            restore(run, saved.state)
            before = seen(run)  # what was taken may have brought new attributes
    assert n_refused > 100


@pytest.mark.slow
def test_whatever_stands_in_what_names_the_run_is_refused_by_our_own_error_before_anything_is_put_in(saved, tmp_path):
    top = [(name,) for name in saved.state]
    inside = [("identity", *path) for path in paths(saved.state["identity"])][1::9]
    passed = [("pass", *path) for path in paths(saved.state["pass"])][:12]
    n_refused = 0
    for number, path in enumerate([*top, *inside, *passed]):
        folder, witness = tmp_path / str(number), Witness()
        CheckpointFolder(folder).save(saved.number, changed(saved.state, path, WRONG[number % len(WRONG)]))
        try:
            fit(folder, witness)
        except CheckpointError:
            n_refused += 1
            if hasattr(witness, "seen"):
                assert_same(*witness.seen)
    assert n_refused > 30


def test_a_run_that_was_refused_is_as_it_was_before(saved, tmp_path):
    CheckpointFolder(tmp_path).save(saved.number, changed(saved.state, ("callbacks", 5, 1), {}))
    witness = Witness()
    with pytest.raises(CheckpointError, match="callback Witness cannot be put back: KeyError"):
        fit(tmp_path, witness)
    assert_same(*witness.seen)


def test_an_identity_of_tensors_is_another(saved):
    hostile = {**saved.state["identity"], "lr": torch.ones(3)}
    assert compare(hostile, saved.state["identity"]).changed == ["lr: saved tensor([1., 1., 1.]), now 0.1"]


def test_the_state_as_it_was_saved_is_taken(saved, run):
    before = seen(run)
    restore(run, saved.state)
    assert run.global_step == saved.state["global_step"] and run.epoch == 1
    with pytest.raises(AssertionError):
        assert_same(before, seen(run))
