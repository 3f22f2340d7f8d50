"""Everything that takes a number refuses a bad one by the name of its argument, before it changes anything.

The parameters are read from the signatures, so a new class is tested automatically.
"""

import copy
import inspect
import re

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import KFold
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassRecall

import minilearner
import minilearner.vision.all
from minilearner import DataLoaders, Learner, LRFinder, Predictions, constant
from minilearner.results.label_errors import find_label_errors
from minilearner.vision.refused import REFUSED

WEIGHTS = [torch.zeros(1, requires_grad=True)]

NEEDED = {
    **{name: {"params": WEIGHTS} for name in ("Adam", "RAdam", "RMSProp", "SGD", "ranger")},
    "AccumMetric": {"func": max},
    "GroupSplitter": {"get_group": str},
    "timm_transforms": {"model": "resnet18"},
    "ClassMetric": {"metric": MulticlassRecall(3, average=None), "which": 1},
    "SplitterFrom": {"splitter": KFold(2)},
    "ConvLayer": {"ni": 1, "nf": 1},
    "Lookahead": {"opt": torch.optim.SGD(WEIGHTS, 0.1)},
    "ResBlock": {"expansion": 1, "ni": 1, "nf": 1},
    "SchedNo": {"start": 0.1, "end": 0.1},
    "SigmoidRange": {"low": -1e9, "high": 1e9},
    "XResNet": {"expansion": 1, "layers": [1]},
    "sigmoid_range": {"x": torch.zeros(1), "low": -1e9, "high": 1e9},
    "skm_to_fastai": {"func": max},
    "Checkpoint": {"folder": "never-made"},
    "CyclicLR": {"max_lr": 0.1},
    "DataLoader": {"dataset": [0, 1]},
    "DataLoaders": {"train": [(torch.zeros(2, 1), torch.zeros(2))]},
    "ImageCleaner": {"found": find_label_errors(np.ones((1, 1)), np.zeros(1, dtype=np.int64), ["a"])},
    "LearningRateScheduler": {"fn": lambda epoch: 0.1},
    "MultiCategory": {"vocab": ["a"]},
    "MultiLabelInterpretation": {"predictions": Predictions(torch.ones(1, 1), torch.ones(1, 1))},
    "create_body": {"model": nn.Sequential(nn.Conv2d(3, 2, 3))},
    "exp_range": {"step": 1, "step_size": 2},
    "evidence": {"indices": [0]},
    "items": {"dl": None, "indices": [0]},
    "show_items": {"dl": None, "indices": [0]},
    "find": {"x": torch.zeros(2, 3), "y": torch.zeros(2, dtype=torch.int64)},
    "largest_batch_size": {"model": None, "loss_func": None, "batch": None},
    "multi_step": {"milestones": [2]},
    "one_cycle": {"convention": "torch", "total_steps": 2},
    "plot_schedule": {"schedule": constant(0.1)},
    "range_test": {"train_loader": [(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))]},
    "show_images": {"ims": [torch.zeros(2, 2)]},
    "slide": {"lrs": [1, 2, 3, 4], "losses": [4, 3, 2, 1], "lr_diff": 1},
    "triangular": {"step": 1, "step_size": 2},
    "triangular2": {"step": 1, "step_size": 2},
    "verify_images": {"paths": []},
    "vision_learner": {
        "dls": DataLoaders([(torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64))]),
        "arch": None,
        "n_out": 2,
    },
    "warmup": {"schedule": constant(0.1), "pct": 0.1},
}
"""Arguments that have no default and are not numbers, or that another argument must fit."""

ALONE = {"Validate.every_epochs": {}, "Validate.every_steps": {}, "warmup.length": {"schedule": constant(0.1)}}
"""The other arguments, if the usual ones do not go with this one."""

INFINITE = {"GradientClip.norm_type", "lr_find.stop_factor", "range_test.diverge_th"}
"""Infinity means something here."""

AS_BOOL = {"LearningRateScheduler.verbose", "ReduceLROnPlateau.verbose", "SaveModelCallback.every_epoch"}
"""True means 1 here."""

NEED_LIBRARIES = {"MLflowLogger", "TensorBoardLogger", "WandbLogger"}
AT_WORK = {"create_body", "fashion_mnist", "largest_batch_size", "plot_schedule", "vision_learner", *NEED_LIBRARIES}
"""They would do much with a good number, or need a library that is not here, so they are given bad ones only."""

NOT_HERE = {
    "Learner",
    "LRFinder",
    "LRSweep",
    "Run",
    "accuracy",
    "accuracy_multi",
    "cnn_learner",
    "error_rate",
    "top_k_accuracy",
}
"""Two are tested below, one is a result, one a second name, the loop makes runs, and metrics work on batches."""

INFINITY = float("inf")
NO_NUMBERS = [None, 1j, True, np.True_, "x", "", (), {}, np.array([1.0, 2.0]), torch.ones(2), object()]
NUMBERS = [-1, 0, -0.5, 1e-300, np.float32(0.1), np.int64(3), 2.5, INFINITY, -INFINITY, float("nan")]
VALUES = st.one_of(st.sampled_from(NO_NUMBERS), st.sampled_from(NUMBERS), st.floats(), st.text())

quickly = settings(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def kind_of(parameter):
    """Returns the kind of number that the annotation of a parameter asks for, or None."""
    words = set(re.findall(r"[A-Za-z]+", str(parameter.annotation)))
    is_size = str(parameter.annotation).strip("'").startswith("int | tuple")
    if words & {"Any", "Callable", "Iterable", "Sequence", "str", "tuple"} and not is_size:
        return None
    if not words & {"float", "int", "Rate"}:
        return None
    return "int" if "int" in words and "float" not in words else "float"


def numeric_parameters(name, function):
    """Yields each number that the function takes, with values for its other arguments."""
    parameters = inspect.signature(function).parameters.values()
    needed = {p.name: 0.5 if kind_of(p) == "float" else 2 for p in parameters if p.default is p.empty and kind_of(p)}
    for parameter in parameters:
        if kind_of(parameter):
            label = f"{name}.{parameter.name}"
            others = ALONE.get(label, needed | NEEDED.get(name, {}))
            yield pytest.param(name, parameter, others, id=label)


def public_names():
    for name in dict.fromkeys([*minilearner.__all__, *minilearner.vision.all.__all__]):
        thing = public(name)
        is_error = inspect.isclass(thing) and issubclass(thing, BaseException)
        is_ours = callable(thing) and getattr(thing, "__module__", "").startswith("minilearner")
        if is_ours and not is_error and name not in NOT_HERE and name not in REFUSED:
            yield name


def public(name):
    return getattr(minilearner, name, None) or getattr(minilearner.vision.all, name)


def methods_of(cls):
    functions = inspect.getmembers(cls, inspect.isfunction)
    return [case for name, f in functions if name[0] != "_" for case in numeric_parameters(name, f)]


def is_bad(value, label, parameter):
    """Returns whether the parameter refuses the value whatever its range is."""
    if value is None and label == "lr_find.stop_factor":  # the same as stop_div=False
        return False
    if value is None:
        return parameter.default is not None and "None" not in str(parameter.annotation)
    if isinstance(value, (bool, np.bool_)):
        return label not in AS_BOOL
    if kind_of(parameter) == "int":
        return not isinstance(value, (int, np.integer))
    is_number = isinstance(value, (int, float, np.number)) and value == value
    return not is_number or (abs(value) == INFINITY and (label not in INFINITE or value < 0))


@pytest.mark.parametrize(
    ("name", "parameter", "others"),
    [case for name in public_names() for case in numeric_parameters(name, public(name))],
)
@quickly
@given(value=VALUES)
def test_constructors_and_functions_name_the_argument(name, parameter, others, value):
    bad = is_bad(value, f"{name}.{parameter.name}", parameter)
    assume(bad or name not in AT_WORK)
    try:
        public(name)(**others | {parameter.name: value})
    except (ValueError, TypeError) as error:
        assert f"`{parameter.name}`" in str(error)
    else:
        assert not bad


def learner():
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(12, 3), torch.randint(2, (12,)))
    return Learner((DataLoader(data, 4), DataLoader(data, 4)), nn.Linear(3, 2), nn.CrossEntropyLoss())


@pytest.mark.parametrize(("name", "parameter", "others"), methods_of(Learner))
@quickly
@given(value=VALUES)
def test_methods_of_the_learner_name_the_argument_and_change_nothing(name, parameter, others, value):
    assume(is_bad(value, f"{name}.{parameter.name}", parameter))
    learn = learner()
    before = copy.deepcopy(learn.model.state_dict())
    with pytest.raises((ValueError, TypeError), match=f"`{parameter.name}`"), learn.no_logging():
        getattr(learn, name)(**others | {parameter.name: value})
    assert all(torch.equal(tensor, before[key]) for key, tensor in learn.model.state_dict().items())
    assert not learn.recorder.runs
    assert all(p.requires_grad for p in learn.model.parameters())


@pytest.mark.parametrize("name", ["lr", "wd", "seed", "moms"])
@pytest.mark.parametrize("value", [1j, "x", True, np.array([1.0, 2.0]), float("nan")], ids=repr)
def test_the_learner_names_the_argument(name, value):
    with pytest.raises((ValueError, TypeError), match=f"`{name}`"):
        Learner([(torch.zeros(2, 3), torch.zeros(2))], nn.Linear(3, 2), nn.MSELoss(), **{name: value})


@pytest.mark.parametrize(("name", "parameter", "others"), methods_of(LRFinder))
@quickly
@given(value=VALUES)
def test_methods_of_the_finder_name_the_argument_and_change_nothing(name, parameter, others, value):
    assume(is_bad(value, f"{name}.{parameter.name}", parameter))
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    finder = LRFinder(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss())
    finder.range_test(NEEDED["range_test"]["train_loader"], num_iter=4)
    finder.reset()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises((ValueError, TypeError), match=f"`{parameter.name}`"):
        getattr(finder, name)(**others | {parameter.name: value})
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
