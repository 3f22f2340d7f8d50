"""An optimizer whose state lacks what a setting of 0 made needless can be driven all the same."""

import threading

import pytest
import torch
from torch import nn

from minilearner import CyclicLR, Learner, LRSweep, ParamScheduler, TorchScheduler, cosine
from minilearner.training.missing_state import add_missing_state, state_names
from minilearner.training.snapshot import _restore_optimizer


def stepped(factory, **settings):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = factory(model.parameters(), lr=0.1, **settings)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def learner(factory):
    torch.manual_seed(0)
    batches = [(torch.randn(4, 3), torch.randn(4, 1)) for _ in range(3)]
    return Learner((batches, batches[:1]), nn.Linear(3, 1), nn.MSELoss(), factory, device="cpu")


class Anchored(torch.optim.Optimizer):
    """Keeps the first weights if it has a momentum, and a count and a mask in any case."""

    def __init__(self, params, lr, momentum=0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum})
        self.lock, self.n_steps = threading.Lock(), 0

    def step(self):
        self.n_steps += 1
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["count"], state["mask"] = torch.tensor(0), p.grad > 0
                    if group["momentum"]:
                        state["anchor"] = p.clone()
                state["count"] += 1
                p.sub_(group["lr"] * p.grad)
                if group["momentum"]:
                    p.lerp_(state["anchor"], group["momentum"] / 10)

    step = torch.no_grad()(step)


def test_a_missing_buffer_begins_as_in_a_new_optimizer():
    model, optimizer = stepped(torch.optim.RMSprop)
    average = optimizer.state[model.weight]["square_avg"].clone()
    add_missing_state(optimizer, ["lr", "momentum"])
    state = optimizer.state[model.weight]
    assert torch.equal(state["momentum_buffer"], torch.zeros(2, 3)) and torch.equal(state["square_avg"], average)
    assert optimizer.param_groups[0]["momentum"] == 0

    model, optimizer = stepped(Anchored)
    weights = model.weight.detach().clone()
    add_missing_state(optimizer, ["momentum"])
    assert torch.equal(optimizer.state[model.weight]["anchor"], weights)
    assert torch.equal(model.weight, weights) and optimizer.n_steps == 1 and optimizer.state[model.weight]["count"] == 1


@pytest.mark.parametrize("factory", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad])
def test_where_nothing_is_missing_nothing_changes(factory):
    _, optimizer = stepped(factory)
    before = {name: set(state) for name, state in optimizer.state.items()}
    add_missing_state(optimizer, ["momentum", "weight_decay"])
    assert {name: set(state) for name, state in optimizer.state.items()} == before
    fresh = factory([nn.Parameter(torch.zeros(2))], lr=0.1)
    before = repr(fresh.state)
    add_missing_state(fresh, ["momentum"])
    assert repr(fresh.state) == before


def test_an_optimizer_that_cannot_be_tried_stays_as_it_is():
    class Closure(torch.optim.SGD):
        def step(self, closure):
            return super().step(closure)

    model, optimizer = stepped(torch.optim.RMSprop)
    optimizer.__class__ = Closure
    add_missing_state(optimizer, ["momentum"])
    assert "momentum_buffer" not in optimizer.state[model.weight]
    assert state_names(optimizer, optimizer.param_groups[0], model.weight) is None


@pytest.mark.parametrize("factory", [torch.optim.RMSprop, Anchored])
@pytest.mark.parametrize("first", ["fit", "fit_one_cycle", "lr_find", "load"])
@pytest.mark.parametrize("then", ["fit_one_cycle", "lr_find", "CyclicLR", "ParamScheduler", "OneCycleLR"])
def test_any_fit_may_follow_any_other(tmp_path, factory, first, then):
    one_cycle = lambda opt: torch.optim.lr_scheduler.OneCycleLR(opt, 0.01, total_steps=9)  # noqa: E731
    calls = {
        "fit": lambda learn: learn.fit(1, 0.01),
        "fit_one_cycle": lambda learn: learn.fit_one_cycle(1, 0.01),
        "lr_find": lambda learn: learn.lr_find(num_it=4, show_plot=False),
        "CyclicLR": lambda learn: learn.fit(1, 0.01, cbs=CyclicLR(0.01, step_size=2, cycle_momentum=True)),
        "ParamScheduler": lambda learn: learn.fit(1, 0.01, cbs=ParamScheduler({"momentum": cosine(0.9, 0.1)})),
        "OneCycleLR": lambda learn: learn.fit(1, 0.01, cbs=TorchScheduler(one_cycle)),
    }
    learn = learner(factory)
    with learn.no_logging():
        if first == "load":
            learn.fit(1, 0.01)
            learn.save(tmp_path / "one")
            learn.fit_one_cycle(1, 0.01)
            learn.load(tmp_path / "one")
        else:
            calls[first](learn)
        for _ in range(2):
            found = calls[then](learn)
    assert isinstance(found, LRSweep) or len(found.epochs) == 1
    assert all(parameter.isfinite().all() for parameter in learn.model.parameters())


def test_a_sweep_and_a_file_keep_the_types_of_the_state(tmp_path):
    """torch's `load_state_dict` makes fractions of whole numbers and of truth values."""
    learn = learner(Anchored)
    with learn.no_logging():
        learn.fit(1, 0.01)
        learn.lr_find(num_it=4, show_plot=False)
        state = learn.optimizer.state[learn.model.weight]
        assert state["mask"].dtype == torch.bool and state["count"].dtype == torch.int64 and int(state["count"]) == 3
        assert learn.optimizer.n_steps == 3 and set(state) == {"count", "mask"}
        learn.save(tmp_path / "one")
        learn.load(tmp_path / "one")
    state = learn.optimizer.state[learn.model.weight]
    assert state["mask"].dtype == torch.bool and state["count"].dtype == torch.int64 and int(state["count"]) == 3


def test_a_trial_puts_groups_back_as_the_same_objects():
    _, optimizer = stepped(Anchored)
    group = optimizer.param_groups[0]
    with _restore_optimizer(optimizer):
        optimizer.step()
        group.update(lr=3.0, added=1)
        optimizer.param_groups.append({"params": []})
    assert optimizer.param_groups == [group] and optimizer.param_groups[0] is group
    assert group["lr"] == 0.1 and "added" not in group and optimizer.n_steps == 1
