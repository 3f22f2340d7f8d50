"""Compares callbacks in fastai's style on both libraries: which events come in which order, what each sees, and what
becomes of the weights.

    python tests/benchmarks/fastai_callbacks.py [scenario]

It needs an environment that has fastai too (`pip install --group peers .`). It prints one row for each scenario,
and ends with status 1 if a trace differs that is not in `ON_PURPOSE`, or one in that list does not differ.
"""

import math
import sys
import warnings
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import nn

warnings.filterwarnings("ignore")  # fastai's own, at import and in use

import fastai.vision.all as theirs  # noqa: E402
from fastai.callback.core import event as their_events  # noqa: E402

import minilearner.vision.all as ours  # noqa: E402

_DROPPED = "gradients of a pass that was cancelled are dropped; fastai's are in the first update of the next pass"
ON_PURPOSE = {
    "cancel train in after_step": _DROPPED,
    "cancel epoch in after_backward": _DROPPED,
    "cancel epoch in before_step": _DROPPED,
    "cancel epoch in after_step": _DROPPED,
    "cancel fit in before_fit": "after_fit undoes what before_fit did, so a callback that was not reached has none",
}

EVENTS = [name for name in vars(their_events) if name.startswith(("before_", "after_")) and name != "after_create"]
OF_BATCH = ["before_batch", "after_pred", "after_loss", "before_backward", "after_backward", "before_step"]
OF_BATCH += ["after_step", "after_batch"]
OF_PASS = ["before_train", "after_train", "before_validate", "after_validate"]


def look(cb):
    """Returns what a callback sees, as numbers."""
    seen = [cb.epoch, cb.n_epoch, cb.training, cb.train_iter, cb.pct_train, cb.opt and cb.opt.hypers[0]["lr"]]
    return [*map(float, seen), float(cb.model.weight.detach().sum())]


def look_at_batch(cb, name):
    seen = [cb.iter, cb.n_iter, cb.x.sum(), len(cb.yb), cb.yb[0].sum(), len(cb.dl)]
    if name != "before_batch":
        seen += [cb.pred.sum(), cb.loss.mean(), *([] if name == "after_pred" else [cb.loss_grad.mean()])]
        seen += [sum(float(p.grad.sum()) for p in cb.model.parameters() if p.grad is not None)]
    return [float(number) for number in seen]


def tracer(lib, order, trace, full=True):
    """Returns a callback that notes each event and what it sees in it."""

    def note(name):
        def act(self):
            seen = look(self) if full else []
            if full and name in OF_BATCH:
                seen += look_at_batch(self, name)
            trace.append((f"{name} {order}", seen))

        return act

    return type("Tracer", (lib.Callback,), {"order": order, **{name: note(name) for name in EVENTS}})()


def batches(n, seed):
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(4, 3, generator=g), torch.randint(2, (4,), generator=g)) for _ in range(n)]


def learner(lib, **options):
    train, valid = batches(5, 0), batches(2, 1)
    if lib is theirs:
        sets = [[(x, y) for xs, ys in part for x, y in zip(xs, ys)] for part in (train, valid)]
        dls = theirs.DataLoaders(*(theirs.DataLoader(one, bs=4, num_workers=0) for one in sets), device="cpu")
    else:
        dls = ours.DataLoaders(train, valid)
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    options = {"opt_func": lib.SGD, "lr": 0.1, "loss_func": nn.CrossEntropyLoss(), "metrics": lib.accuracy} | options
    return lib.Learner(dls, model, **options)


@contextmanager
def quiet(learn):
    with learn.no_bar(), learn.no_logging():
        yield


def fit(lib, *makers, n_epoch=2, full=True, learn=None):
    """Returns the trace of a fit with these callbacks and two tracers, and the weights at its end."""
    trace = []
    learn = learn or learner(lib)
    cbs = [make(lib) for make in makers]
    with quiet(learn):
        learn.fit(n_epoch, cbs=[tracer(lib, -5, trace, full), *cbs, tracer(lib, 100, trace, full)])
    return [*trace, ("weights", learn.model.weight.detach().flatten().tolist())]


def raising(name, exception, when):
    """Returns a maker of a callback that raises in an event, if `when` says so."""

    def make(lib):
        def act(self):
            if when(self):
                raise getattr(lib, exception)()

        return type("Raising", (lib.Callback,), {name: act, "order": 60})()

    return make


SCENARIOS = {}


def scenario(function):
    SCENARIOS[function.__name__] = function
    return function


@scenario
def plain(lib):
    return fit(lib)


@scenario
def two_fits_in_a_row(lib):
    learn = learner(lib)
    return fit(lib, learn=learn) + fit(lib, learn=learn, n_epoch=1)


for of_event in ["before_batch", "after_pred", "after_loss", "before_backward", "after_backward", "before_step"]:
    SCENARIOS[f"cancel batch in {of_event}"] = lambda lib, of_event=of_event: fit(
        lib, raising(of_event, "CancelBatchException", lambda cb: cb.training and cb.iter % 2)
    )
for of_event in ["before_batch", "after_pred", "after_loss"]:
    SCENARIOS[f"cancel batch in validation, {of_event}"] = lambda lib, of_event=of_event: fit(
        lib, raising(of_event, "CancelBatchException", lambda cb: not cb.training and cb.iter)
    )
for of_event in ["before_train", *OF_BATCH]:
    SCENARIOS[f"cancel train in {of_event}"] = lambda lib, of_event=of_event: fit(
        lib, raising(of_event, "CancelTrainException", lambda cb: cb.training and (cb.epoch or cb.train_iter == 2))
    )
for of_event in ["before_validate", "before_batch", "after_pred", "after_loss", "after_batch"]:
    SCENARIOS[f"cancel valid in {of_event}"] = lambda lib, of_event=of_event: fit(
        lib, raising(of_event, "CancelValidException", lambda cb: not cb.training)
    )
for of_event in ["before_epoch", *OF_PASS, *OF_BATCH]:
    SCENARIOS[f"cancel epoch in {of_event}"] = lambda lib, of_event=of_event: fit(
        lib, raising(of_event, "CancelEpochException", lambda cb: cb.epoch == 0), n_epoch=2
    )
for of_event in ["before_epoch", *OF_PASS, *OF_BATCH, "after_epoch"]:
    SCENARIOS[f"cancel fit in {of_event}"] = lambda lib, of_event=of_event: fit(
        lib, raising(of_event, "CancelFitException", lambda cb: cb.epoch == 1), n_epoch=3
    )
SCENARIOS["cancel fit in before_fit"] = lambda lib: fit(
    lib, raising("before_fit", "CancelFitException", lambda cb: True), full=False
)
SCENARIOS["cancel step"] = lambda lib: fit(lib, raising("before_step", "CancelStepException", lambda cb: cb.iter % 2))
SCENARIOS["cancel backward"] = lambda lib: fit(
    lib, raising("before_backward", "CancelBackwardException", lambda cb: cb.iter % 2)
)


def changing(**events):
    """Returns a maker of a callback with these functions as its events, and other attributes."""
    return lambda lib: type("Changing", (lib.Callback,), events)()


def set_through_learn(name, compute):
    def act(self):
        setattr(self.learn, name, compute(self))

    return act


@scenario
def change_what_passes(lib):
    return fit(
        lib,
        changing(
            before_batch=set_through_learn("xb", lambda cb: (cb.x * 0.5,)),
            after_pred=set_through_learn("pred", lambda cb: cb.pred * 2),
        ),
        changing(before_batch=set_through_learn("yb", lambda cb: (1 - cb.y,))),
    )


@scenario
def change_the_loss_that_goes_backward(lib):
    return fit(
        lib, changing(after_loss=set_through_learn("loss_grad", lambda cb: cb.loss_grad + cb.pred.pow(2).mean()))
    )


@scenario
def change_the_loss_in_place(lib):
    def halve(self):
        self.learn.loss_grad /= 2

    return fit(lib, changing(after_loss=halve))


@scenario
def change_the_recorded_loss(lib):
    return fit(lib, changing(after_loss=set_through_learn("loss", lambda cb: cb.loss * 0 + 3)))


@scenario
def swap_the_loss(lib):
    def swap(self):
        self.old, self.learn.loss_func = self.loss_func, lambda pred, y: self.old(pred, y) * 2

    return fit(lib, changing(before_fit=swap, after_fit=set_through_learn("loss_func", lambda cb: cb.old)))


@scenario
def several_targets(lib):
    def set_loss(self):
        self.old = self.loss_func
        self.learn.loss_func = lambda pred, y, z: (self.old(pred, y) + self.old(pred, z)) / 2

    def double(self):
        self.learn.yb = (self.yb[0], 1 - self.yb[0])

    def halve(self):
        self.learn.yb = (self.yb[0],)

    return fit(
        lib,
        changing(
            before_fit=set_loss,
            before_batch=double,
            after_loss=halve,
            after_fit=set_through_learn("loss_func", lambda cb: cb.old),
        ),
    )


@scenario
def gather_gradients_by_hand(lib):
    def count(self):
        self.count = 0

    def scale(self):
        self.learn.loss_grad /= 3

    def wait(self):
        self.count += 1
        if self.count % 3:
            raise lib.CancelBatchException

    return fit(lib, changing(before_fit=count, after_loss=scale, before_step=wait, run_valid=False), n_epoch=4)


@scenario
def go_backward_by_hand(lib):
    def backward(self):
        (self.loss_grad * 3).backward()
        raise lib.CancelBackwardException

    return fit(lib, changing(before_backward=backward))


@scenario
def set_hypers(lib):
    def lower(self):
        if self.training:
            self.opt.hypers[0]["lr"] = 0.1 / (self.train_iter + 1)
            self.opt.set_hyper("mom", 0.5)
            self.opt.set_hypers(wd=0.01)

    def check(self):
        assert self.opt.hypers[-1]["mom"] == 0.5
        assert self.opt.hypers[-1]["wd"] == 0.01

    learn = learner(lib, opt_func=partial(lib.SGD, mom=0.9, wd=0.1))
    return fit(lib, changing(before_batch=lower, after_batch=check), learn=learn)


@scenario
def penalty_on_weights(lib):
    def add(self):
        self.learn.loss_grad = self.loss_grad + 0.01 * sum(p.pow(2).sum() for p in self.model.parameters())

    def clip(self):
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)

    return fit(lib, changing(after_loss=add, before_step=clip, run_valid=False))


@scenario
def mixed_by_hand(lib):
    class Mix(lib.Callback):
        run_valid = False

        def before_fit(self):
            self.rng = np.random.default_rng(1)
            self.old, self.learn.loss_func = self.loss_func, self.mixed_loss

        def before_batch(self):
            self.share = float(self.rng.beta(0.4, 0.4))
            order = torch.from_numpy(self.rng.permutation(len(self.x)))
            self.other = self.y[order]
            self.learn.xb = (torch.lerp(self.x[order], self.x, self.share),)

        def after_fit(self):
            self.learn.loss_func = self.old

        def mixed_loss(self, pred, y):
            if not self.training:
                return self.old(pred, y)
            return torch.lerp(self.old(pred, self.other), self.old(pred, y), self.share)

    return fit(lib, lambda lib: Mix())


@scenario
def switches(lib):
    trace = []

    def note(name):
        return lambda self: trace.append((f"{type(self).__name__} {name}", []))

    def make(title, **options):
        return type(title, (lib.Callback,), {**{name: note(name) for name in EVENTS}, **options})()

    off = make("Off")
    off.run = False
    cbs = [make("TrainOnly", run_valid=False), make("ValidOnly", run_train=False), off, make("Neither", run=False)]
    learn = learner(lib, cbs=cbs)
    with quiet(learn):
        learn.fit(1)
        trace.append(("second fit", []))
        learn.fit(1)
    return trace


@scenario
def orders(lib):
    trace = []

    def make(title, order):
        note = lambda self: trace.append((title, []))  # noqa: E731
        return type(title, (lib.Callback,), {"order": order, "before_epoch": note, "after_batch": note})()

    learn = learner(lib, cbs=[make("b", 1), make("a", 0), make("c", 1), make("d", 50.5)])
    with quiet(learn):
        learn.fit(1, cbs=make("e", 0))
    return trace


@scenario
def created(lib):
    trace = []

    class Created(lib.Callback):
        def after_create(self):
            trace.append(("created", [len(self.dls.train)]))

        def before_fit(self):
            trace.append(("fit", [self.n_epoch]))

    learn = learner(lib, cbs=Created())
    learn.add_cb(Created())
    with quiet(learn):
        learn.fit(2, cbs=Created())
    return trace


@scenario
def passes_outside_a_fit(lib):
    trace = []
    learn = learner(lib)
    with quiet(learn):
        learn.fit(1)
        learn.add_cb(tracer(lib, 100, trace, full=False))
        trace.append(("validate", []))
        learn.validate()
        trace.append(("get_preds", []))
        learn.get_preds()
    return trace


@scenario
def changes_in_validate_and_get_preds(lib):
    learn = learner(lib, cbs=changing(before_batch=set_through_learn("xb", lambda cb: (cb.x * 3,)))(lib))
    with quiet(learn):
        values = list(learn.validate())
        preds = learn.get_preds(act=lambda x: x)[0]
    return [("validate", values), ("get_preds", preds.flatten().tolist())]


@scenario
def lr_find(lib):
    trace = []
    learn = learner(lib)
    learn.add_cb(tracer(lib, 100, trace, full=False))
    with quiet(learn):
        learn.lr_find(num_it=7, stop_div=False, show_plot=False, suggest_funcs=None)
    return [entry for entry in trace if "validate" not in entry[0]]  # a sweep of ours has no validation to cancel


@scenario
def by_name(lib):
    class MyThing(lib.Callback):
        def before_fit(self):
            self.value = 3

    class OtherCallback(lib.Callback):
        def before_epoch(self):
            self.value = self.my_thing.value + self.learn.my_thing.value

    learn = learner(lib, cbs=[MyThing(), OtherCallback()])
    with quiet(learn):
        learn.fit(1)
    names = [("MyThing" in map(repr, learn.cbs)) or any(type(cb).__name__ == "MyThing" for cb in learn.cbs)]
    learn.remove_cb(MyThing)
    return [("values", [learn.other.value, *names, hasattr(learn, "my_thing")])]


def difference(mine, their):
    """Returns the first place in which two traces differ, in words; "" if there is none."""
    for number, (one, two) in enumerate(zip(mine, their)):
        if one[0] != two[0] or len(one[1]) != len(two[1]):
            return f"place {number}: ours {one}, fastai's {two}"
        for place, (a, b) in enumerate(zip(one[1], two[1])):
            if not math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6) and not (math.isnan(a) and math.isnan(b)):
                return f"place {number}, {one[0]}, value {place}: ours {a:.6g}, fastai's {b:.6g}"
    if len(mine) != len(their):
        longer = mine if len(mine) > len(their) else their
        return f"{len(mine)} entries, fastai's {len(their)}: {longer[min(len(mine), len(their))]}"
    return ""


def main(names):
    n_wrong = 0
    for name in names or SCENARIOS:
        traces = []
        for lib in (ours, theirs):
            try:
                traces.append(SCENARIOS[name](lib))
            except Exception as error:
                if names:
                    raise
                traces.append([(f"{type(error).__name__}: {error}"[:300], [])])
        found = difference(*traces)
        is_wrong = bool(found) != (name in ON_PURPOSE)
        n_wrong += is_wrong
        print(f"{'WRONG ' if is_wrong else ''}{name}: {len(traces[1])} entries, {found or 'equal'}", flush=True)
    sys.exit(n_wrong > 0)


if __name__ == "__main__":
    main(sys.argv[1:])
