"""Any optimizer with any schedule, stopped at any update and resumed, ends on the same bits."""

import inspect
from functools import cache, partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interruptions import Stop, StopAt
from torch import nn
from torch.optim import lr_scheduler

from minilearner import (
    Checkpoint,
    CyclicLR,
    DataLoaders,
    Learner,
    LearningRateScheduler,
    ParamScheduler,
    ReduceLROnPlateau,
    TorchScheduler,
    cosine,
)

N_BATCHES, N_EPOCHS = 4, 2
SIDES = ["SparseAdam", "LBFGS", "Muon"]  # other gradients, several passes, matrices alone


def torch_optimizers():
    kinds = {name: kind for name, kind in vars(torch.optim).items() if inspect.isclass(kind) and name not in SIDES}
    found = {name: kind for name, kind in kinds.items() if issubclass(kind, torch.optim.Optimizer)}
    del found["Optimizer"]
    extra = {
        "SGD": [{"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}],
        "RMSprop": [{"momentum": 0.9}, {"centered": True}],
        "AdamW": [{"amsgrad": True}, {"foreach": False}, {"betas": (0.0, 0.9)}],
    }
    more = {f"{name} {how}": partial(found[name], **how) for name, hows in extra.items() for how in hows}
    return {"default": None, **found, **more}


@cache
def timm_optimizers():
    timm = pytest.importorskip("timm.optim")
    apart = ("bnb", "fused", "adahessian", "kron")  # other packages, second derivatives, compiled code
    kinds = {
        name: timm.get_optimizer_class(name, bind_defaults=True)
        for name in timm.list_optimizers()
        if not name.startswith(apart)
    }
    momentum = {"momentum": 0.9}  # which the nesterov ones need
    takes = [name for name, kind in kinds.items() if "momentum" in inspect.signature(kind).parameters]
    return kinds | {name: partial(kinds[name], **momentum) for name in takes if not name.startswith("rms")}


TORCH_SCHEDULERS = {
    "StepLR": (partial(lr_scheduler.StepLR, step_size=2), "step"),
    "MultiStepLR": (partial(lr_scheduler.MultiStepLR, milestones=[2, 5]), "step"),
    "ConstantLR": (lr_scheduler.ConstantLR, "step"),
    "LinearLR": (lr_scheduler.LinearLR, "step"),
    "ExponentialLR": (partial(lr_scheduler.ExponentialLR, gamma=0.9), "epoch"),
    "PolynomialLR": (partial(lr_scheduler.PolynomialLR, total_iters=6), "step"),
    "CosineAnnealingLR": (partial(lr_scheduler.CosineAnnealingLR, T_max=5), "step"),
    "CosineAnnealingWarmRestarts": (partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=3), "step"),
    "LambdaLR": (partial(lr_scheduler.LambdaLR, lr_lambda=lambda n: 0.9**n), "step"),
    "MultiplicativeLR": (partial(lr_scheduler.MultiplicativeLR, lr_lambda=lambda n: 0.9), "step"),
    "CyclicLR": (
        partial(lr_scheduler.CyclicLR, base_lr=1e-3, max_lr=1e-2, step_size_up=3, cycle_momentum=False),
        "step",
    ),
    "OneCycleLR": (partial(lr_scheduler.OneCycleLR, max_lr=1e-2, total_steps=9, cycle_momentum=False), "step"),
    "ReduceLROnPlateau": (partial(lr_scheduler.ReduceLROnPlateau, patience=0, threshold=9.0), "epoch"),
    "SequentialLR": (
        lambda opt: lr_scheduler.SequentialLR(
            opt, [lr_scheduler.ConstantLR(opt), lr_scheduler.ExponentialLR(opt, 0.9)], milestones=[3]
        ),
        "step",
    ),
    "ChainedScheduler": (
        lambda opt: lr_scheduler.ChainedScheduler([lr_scheduler.ConstantLR(opt), lr_scheduler.ExponentialLR(opt, 0.9)]),
        "step",
    ),
    "one value a layer group": (
        lambda opt: lr_scheduler.OneCycleLR(opt, max_lr=[1e-3, 1e-2], total_steps=9, cycle_momentum=False),
        "step",
    ),
}
OURS = {
    "none": list,
    "one cycle": list,
    "ParamScheduler": lambda: [ParamScheduler({"lr": cosine(1e-2, 1e-4)})],
    "CyclicLR": lambda: [CyclicLR(1e-2, step_size=3)],
    "LearningRateScheduler": lambda: [LearningRateScheduler(lambda epoch, lr: lr * 0.9)],
    "ReduceLROnPlateau": lambda: [ReduceLROnPlateau(patience=0, min_delta=9.0)],
}
SCHEDULES = {
    **OURS,
    **{f"torch {name}": partial(lambda *how: [TorchScheduler(*how)], *how) for name, how in TORCH_SCHEDULERS.items()},
}


def layers(model):
    return [[*model[0].parameters(), *model[1].parameters()], list(model[2].parameters())]


def train(factory, schedule, after_a_fit, step=None, folder=None):
    torch.manual_seed(0)
    x = torch.randn(4 * N_BATCHES, 3)
    dls = DataLoaders.from_arrays((x, x.sum(1, keepdim=True)), (x[:4], x[:4].sum(1, keepdim=True)), bs=4, seed=2)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    learn = Learner(dls, model, nn.MSELoss(), factory, splitter=layers, device="cpu")
    fit = learn.fit_one_cycle if schedule == "one cycle" else learn.fit
    checkpoint = None if folder is None else Checkpoint(folder, every_steps=1)
    with learn.no_logging():
        if after_a_fit:
            learn.fit(1, 1e-3)
        fit(N_EPOCHS, 1e-3, cbs=[*SCHEDULES[schedule](), StopAt(step)], checkpoint=checkpoint)
        learn.lr_find(num_it=3, show_plot=False, suggest_funcs=None)
    return [*model.state_dict().values(), *map(torch.as_tensor, learn.recorder.lrs)]


def assert_resumes(folder, factory, schedule, after_a_fit, step):
    whole = train(factory, schedule, after_a_fit)
    with pytest.raises(Stop):
        train(factory, schedule, after_a_fit, step, folder)
    resumed = train(factory, schedule, after_a_fit, None, folder)
    assert len(whole) == len(resumed) and all(map(torch.equal, whole, resumed))


STEPS = st.integers(1, N_EPOCHS * N_BATCHES - 1)
SLOWLY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.slow
@settings(SLOWLY, max_examples=40)
@given(st.sampled_from(sorted(torch_optimizers())), st.sampled_from(sorted(SCHEDULES)), st.booleans(), STEPS)
def test_a_resumed_run_ends_on_the_same_bits(tmp_path_factory, name, schedule, after_a_fit, step):
    assert_resumes(tmp_path_factory.mktemp("run"), torch_optimizers()[name], schedule, after_a_fit, step)


@pytest.mark.slow
@settings(SLOWLY, max_examples=10)
@given(st.data(), st.booleans(), STEPS)
def test_optimizers_of_timm_resume_as_well(tmp_path_factory, data, after_a_fit, step):
    kinds = timm_optimizers()
    factory = kinds[data.draw(st.sampled_from(sorted(kinds)))]
    schedule = data.draw(st.sampled_from(["none", "one cycle", "CyclicLR", "torch OneCycleLR"]))
    assert_resumes(tmp_path_factory.mktemp("run"), factory, schedule, after_a_fit, step)


@pytest.mark.parametrize("name", ["adan", "lamb"])
def test_an_optimizer_that_counts_in_its_groups_goes_on_counting(name, tmp_path):
    """timm's Adan keeps "step" in its groups: after the first update, and from one fit to the next.

    So does its Lamb, as a tensor that it raises in place.
    """
    factory = timm_optimizers()[name]
    for after_a_fit in (False, True):
        assert_resumes(tmp_path / str(after_a_fit), factory, "one cycle", after_a_fit, 5)
    learn = Learner([(torch.ones(2, 1), torch.ones(2, 1))], nn.Linear(1, 1), nn.MSELoss(), factory, device="cpu")
    with learn.no_logging():
        learn.fit(2)
        learn.fit(3, wd=0.1)
        learn.lr_find(num_it=3, show_plot=False, suggest_funcs=None)
        learn.fit(1)
    assert [int(group["step"]) for group in learn.optimizer.param_groups] == [6]


@pytest.mark.parametrize("after_a_fit", [False, True])
@pytest.mark.parametrize("schedule", ["one cycle", "torch one value a layer group", "torch CyclicLR"])
@pytest.mark.parametrize("name", ["RMSprop", "default", "SGD"])
def test_the_cases_that_failed_once(tmp_path, name, schedule, after_a_fit):
    assert_resumes(tmp_path, torch_optimizers()[name], schedule, after_a_fit, 5)


def test_every_scheduler_of_torch_is_tried():
    kinds = {name for name, kind in vars(lr_scheduler).items() if inspect.isclass(kind)}
    named = {n for n in kinds if issubclass(getattr(lr_scheduler, n), lr_scheduler.LRScheduler)} | {"ReduceLROnPlateau"}
    assert named - {"LRScheduler", "_LRScheduler"} <= set(TORCH_SCHEDULERS)
