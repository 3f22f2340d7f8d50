"""Names of events are checked, callbacks run in an explicit order, and functions can be callbacks."""

import pytest

from minilearner import Callback, LambdaCallback
from minilearner.training.callback import Events, as_callbacks


def test_a_misspelt_event_is_refused_and_the_nearest_offered():
    with pytest.raises(TypeError, match="'after_bach', which is not an event. Did you mean 'after_batch'"):
        type("Mine", (Callback,), {"after_bach": lambda self, run: None})


def test_callbacks_act_by_order_and_ties_keep_theirs():
    class Named(Callback):
        def __init__(self, name, order):
            self.name, self.order = name, order

    given = [Named("c", 2), Named("a", 1), Named("b", 1)]
    assert [callback.name for callback in Events(given).callbacks] == ["a", "b", "c"]


def test_only_defined_events_are_dispatched():
    class One(Callback):
        def after_batch(self, run):
            pass

    events = Events([One(), Callback()])
    assert {name for name, acts in events.of.items() if acts} == {"after_batch"}


def test_a_class_that_needs_no_arguments_is_as_good_as_an_instance():
    class One(Callback):
        pass

    (made,) = as_callbacks(One)
    assert type(made) is One


@pytest.mark.parametrize("given", [[dict], 3, "EMA"])
def test_what_is_no_callback_is_refused(given):
    with pytest.raises(TypeError, match="`cbs` must be callbacks. Received: "):
        as_callbacks(given)


def test_lambda_callback_refuses_unknown_names():
    with pytest.raises(TypeError, match="`on_epoch_ends` is not an event. Did you mean 'on_epoch_end'"):
        LambdaCallback(on_epoch_ends=print)


def test_lambda_callback_refuses_what_cannot_be_called():
    with pytest.raises(TypeError, match="`after_batch` must be a function"):
        LambdaCallback(after_batch=3)
