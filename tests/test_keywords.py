"""An unknown keyword argument gets the nearest name, everywhere. The functions are read from the public names."""

import inspect
import pickle
import re
from enum import Enum

import pytest
import torch
from torch import nn

import minilearner
import minilearner.vision.all
from minilearner import Callback, DataLoaders, EarlyStopping, Learner, constant
from minilearner.keywords import check_unknown, suggest_keywords
from minilearner.results.recorder import Recorder
from minilearner.results.run_record import RunRecord
from minilearner.saving.description import describe

CAUGHT = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def is_class(value):
    return inspect.isclass(value) and not issubclass(value, (BaseException, Enum))


def public_callables():
    """Yields name, function and class of each public function, constructor, and method with optional arguments.

    Metrics are left out: the loop calls them at each step, and people give them to a learner instead of calling them.
    """
    values = [Recorder, RunRecord]
    for module in (minilearner, minilearner.vision.all):
        values += [getattr(module, name) for name in module.__all__]
    callables = [value for value in values if inspect.isfunction(value) or inspect.isclass(value)]
    ours = [value for value in callables if value.__module__.startswith("minilearner")]
    for value in dict.fromkeys(ours):
        if inspect.isfunction(value) and value.__module__ not in ("minilearner.metrics", "minilearner.scores.numbers"):
            yield value.__qualname__, value, None
        if is_class(value):
            yield value.__qualname__, value, value
            is_called_by_people = not issubclass(value, (nn.Module, Callback))
            for name, member in methods(value) if is_called_by_people else ():
                if inspect.isfunction(member) and not name.startswith("_") and has_optional_arguments(member):
                    yield f"{value.__qualname__}.{name}", member, value


def methods(cls):
    """Yields what a class of ours defines, and those methods of objects that it inherits, as `Learner` does."""
    for name in dir(cls):
        owner = next(base for base in cls.__mro__ if name in vars(base))
        member = vars(owner)[name]
        if owner is cls or (owner.__module__.startswith("minilearner") and inspect.isfunction(member)):
            yield name, getattr(member, "__func__", member)


def has_optional_arguments(function):
    return any(p.default is not p.empty for p in inspect.signature(function).parameters.values())


def keywords(function):
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return []
    return [p.name for p in parameters if p.kind not in (*CAUGHT, p.POSITIONAL_ONLY) and p.name not in ("self", "cls")]


CALLABLES = {name: function for name, function, _ in public_callables() if keywords(function)}
OWNERS = {name: owner for name, _, owner in public_callables()}


@pytest.mark.parametrize("name", sorted(CALLABLES))
def test_a_misspelt_keyword_gets_the_nearest_name(name):
    function = CALLABLES[name]
    meant = max(keywords(function), key=len)
    takes_self = not inspect.isclass(function) and "self" in inspect.signature(function).parameters
    given = [OWNERS[name].__new__(OWNERS[name])] if takes_self else []
    message = rf"`{re.escape(name)}` has no argument `{meant}x`\. Did you mean '{meant}'\? Its arguments: .*{meant}"
    with pytest.raises(TypeError, match=message):
        function(*given, **{f"{meant}x": 1})


def test_the_public_names_are_many():
    assert len(CALLABLES) > 150


def learner(**options):
    batches = [(torch.randn(4, 2), torch.randint(2, (4,)))]
    return Learner(DataLoaders(batches), nn.Linear(2, 2), **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: learner().fine_tune(2, lr=3e-3), "`Learner.fine_tune` has no argument `lr`. Did you mean 'base_lr'?"),
        (lambda: learner().fit(epochs=2), "`Learner.fit` has no argument `epochs`. Did you mean 'n_epoch'?"),
        (lambda: learner().fit_one_cycle(1, max_lr=1), "no argument `max_lr`. Did you mean 'lr_max'?"),
        (lambda: learner().fit(1, callbacks=[]), "no argument `callbacks`. Did you mean 'cbs'?"),
        (lambda: learner(optimizer=torch.optim.SGD), "`Learner` has no argument `optimizer`. Did you mean 'opt_func'?"),
        (lambda: EarlyStopping("train_loss", patince=2), "`EarlyStopping` has no argument `patince`"),
        (lambda: learner().lr_find(num_iter=5), "`Learner.lr_find` has no argument `num_iter`. Did you mean 'num_it'?"),
    ],
)
def test_names_of_other_libraries_and_parts_of_names_are_understood(call, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        call()


def test_a_callback_of_ones_own_is_checked_too():
    class Mine(Callback):
        def __init__(self, every=1):
            self.every = every

    assert Mine(every=2).every == 2
    with pytest.raises(TypeError, match=r"Mine` has no argument `evry`. Did you mean 'every'"):
        Mine(evry=2)


def test_other_type_errors_stay_as_they_are():
    @suggest_keywords
    def function(x, *, size=1):
        return x + size

    with pytest.raises(TypeError, match="can only concatenate list"):
        function([], size=1)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        function(size=1)
    assert function(1, size=2) == 3


def test_a_decorated_function_keeps_its_name_signature_and_identity():
    assert pickle.loads(pickle.dumps(constant)) is constant
    assert str(inspect.signature(constant)) == str(inspect.signature(inspect.unwrap(constant)))
    assert describe(constant) == describe(inspect.unwrap(constant))


def test_check_unknown():
    def fine_tune(self, epochs, base_lr=1e-3, lr_mult=100, bs=64, **rest): ...

    assert check_unknown({"base_lr": 1}, fine_tune) is None
    with pytest.raises(TypeError, match=r"no argument `epoch`. Did you mean 'epochs'\? Arguments: epochs, base_lr"):
        check_unknown({"epoch": 1}, fine_tune)
    with pytest.raises(TypeError, match=r"no argument `batch_size`. Did you mean 'bs'"):
        check_unknown({"batch_size": 1}, fine_tune)
    with pytest.raises(TypeError, match=r"no argument `lr`. Did you mean 'base_lr'"):
        check_unknown({"lr": 1}, fine_tune)
    with pytest.raises(TypeError, match=r"no argument `epochs`.* Arguments: base_lr"):
        check_unknown({"epochs": 1}, fine_tune, apart_from=("self", "epochs"))
    with pytest.raises(TypeError, match=r"no argument `zzz`. Arguments:"):
        check_unknown({"zzz": 1}, fine_tune)
