"""Each check accepts what it should and refuses everything else, with the argument's name in the message."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from minilearner import checks

NO_NUMBERS = [None, "1", True, np.True_, 1j, np.complex64(1), [1], np.array([1.0]), torch.ones(2), torch.tensor(True)]
NOT_FINITE = [float("nan"), float("inf"), -float("inf"), np.float32("nan"), torch.tensor(float("inf"))]

OF_NUMBERS = [checks.check_number, checks.check_positive, checks.check_not_negative, checks.check_fraction]


@pytest.mark.parametrize("check", OF_NUMBERS)
@pytest.mark.parametrize(
    "value", [0.5, np.float32(0.5), np.float64(0.5), Fraction(1, 2), torch.tensor(0.5), np.array(0.5)]
)
def test_numbers_of_all_libraries_pass(check, value):
    assert check(value, "p") is None


@pytest.mark.parametrize("check", [*OF_NUMBERS, checks.check_rate, checks.check_count])
@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_is_no_number_is_a_type_error(check, value):
    if check is checks.check_rate and isinstance(value, list):
        return  # a list of rates
    with pytest.raises(TypeError, match=r"`p` must be a (whole )?number.* Received: p="):
        check(value, "p")


@pytest.mark.parametrize("check", [*OF_NUMBERS, checks.check_rate])
@pytest.mark.parametrize("value", NOT_FINITE, ids=repr)
def test_numbers_must_be_finite(check, value):
    with pytest.raises(ValueError, match=r"`p` must be .* Received: p="):
        check(value, "p")


def test_a_long_value_is_cut_short():
    with pytest.raises(TypeError) as raised:
        checks.check_number("x" * 1000, "p")
    assert len(str(raised.value)) < 150


def test_check_count():
    for value in (1, 5, np.int64(3), np.uint8(3), torch.tensor(3), 10**400):
        assert checks.check_count(value, "n") is None
    assert checks.check_count(0, "n", least=0) is None
    assert checks.check_count(-3, "n", least=None) is None
    with pytest.raises(TypeError, match=r"`n` must be a whole number. Received: n=1.5"):
        checks.check_count(1.5, "n")
    with pytest.raises(TypeError, match=r"`n` must be a whole number. Received: n=nan"):
        checks.check_count(float("nan"), "n")
    with pytest.raises(ValueError, match=r"`n` must be at least 1. Received: n=0"):
        checks.check_count(0, "n")
    with pytest.raises(ValueError, match=r"`n` must be at least 2. Received: n=1"):
        checks.check_count(1, "n", least=2)


def test_check_number():
    assert checks.check_number(-1e300, "x") is None
    assert checks.check_number(10**400, "x") is None  # too large for a float, and finite
    with pytest.raises(ValueError, match=r"`x` must be finite. Received: x=nan"):
        checks.check_number(float("nan"), "x")
    with pytest.raises(ValueError, match=r"`x` must be at least 1. Received: x=0.5"):
        checks.check_number(0.5, "x", least=1)


def test_check_positive_and_check_not_negative():
    assert checks.check_positive(1e-300, "x") is None
    assert checks.check_not_negative(0, "x") is None
    with pytest.raises(ValueError, match=r"`x` must be positive and finite. Received: x=0"):
        checks.check_positive(0, "x")
    with pytest.raises(ValueError, match=r"`x` must be finite and not negative. Received: x=-0.1"):
        checks.check_not_negative(-0.1, "x")


@pytest.mark.parametrize(
    ("closed", "interval", "passes"),
    [
        ("both", r"\[0, 1\]", {0, 0.5, 1}),
        ("left", r"\[0, 1\)", {0, 0.5}),
        ("right", r"\(0, 1\]", {0.5, 1}),
        ("neither", r"\(0, 1\)", {0.5}),
    ],
)
def test_check_fraction_says_which_ends_are_allowed(closed, interval, passes):
    for value in (-0.1, 0, 0.5, 1, 1.1):
        if value in passes:
            assert checks.check_fraction(value, "p", closed=closed) is None
        else:
            with pytest.raises(ValueError, match=rf"`p` must be in {interval}. Received: p={value}"):
                checks.check_fraction(value, "p", closed=closed)


@pytest.mark.parametrize(
    "rate", [0, 0.1, [0.1, 0.2], (0.1, np.float32(0.2)), slice(0.1), slice(1e-3, 0.1), slice(0, 1)]
)
def test_check_rate_takes_every_form_of_a_rate(rate):
    assert checks.check_rate(rate, "lr") is None


@pytest.mark.parametrize("rate", [-1, [0.1, -1], slice(-1), slice(-1, 1), slice(1, float("nan")), [float("inf")]])
def test_check_rate_looks_at_every_rate(rate):
    with pytest.raises(ValueError, match="`lr` must be finite and not negative. Received: lr="):
        checks.check_rate(rate, "lr")


def test_check_rate_refuses_other_things():
    with pytest.raises(ValueError, match="`lr` must not be an empty list"):
        checks.check_rate([], "lr")
    with pytest.raises(TypeError, match="`lr` must be a number, a list of numbers or a slice. Received: lr='auto'"):
        checks.check_rate("auto", "lr")
    with pytest.raises(TypeError, match="`lr` must be a number, .* or \"auto\". Received: lr='atuo'"):
        checks.check_rate("atuo", "lr", auto=True)
    with pytest.raises(TypeError, match=r"`lr` must be a number, .* Received: lr=slice\(0.1, None, None\)"):
        checks.check_rate(slice(0.1, None), "lr")
    with pytest.raises(ValueError, match=r"`lr` must be a slice without a step: slice\(start, stop\)"):
        checks.check_rate(slice(1e-3, 1e-2, 3), "lr")
    assert checks.check_rate("auto", "lr", auto=True) is None


@pytest.mark.parametrize("moms", [0.9, (0.9, 0.8), "abc", (0.9, 0.8, 1), (0.9, 0, float("nan")), (0.9, 0, None), {}])
def test_check_moms(moms):
    assert checks.check_moms((0.95, 0, np.float32(0.95))) is None
    with pytest.raises(ValueError, match=r"`moms` must be three momenta in \[0, 1\)"):
        checks.check_moms(moms)


@pytest.mark.parametrize("ratio", [1, "ab", (1,), (2, 1), (0, 1), (1, float("inf")), (float("nan"), 1), (1, 2, 3)])
def test_check_ratio(ratio):
    assert checks.check_ratio((1, 1), "ratio") is None
    with pytest.raises(ValueError, match="`ratio` must be two positive numbers, the smaller one first. Received"):
        checks.check_ratio(ratio, "ratio")


@pytest.mark.parametrize("size", [0, 1.5, "3", None, True, (3,), (3, 0), (3, 2.5), (1, 2, 3), float("nan"), 1j])
def test_check_size(size):
    assert checks.check_size(3, "size") is None
    assert checks.check_size([3, np.int64(4)], "size") is None
    with pytest.raises(ValueError, match=r"`size` must be a whole number of pixels, at least 1, or \(height, width\)"):
        checks.check_size(size, "size")


@pytest.mark.parametrize("value", ["mni", 1, ["min"], np.array(["min", "max"]), float("nan")])
def test_check_choice_lists_the_choices(value):
    assert checks.check_choice("min", "mode", ("min", "max")) is None
    assert checks.check_choice(None, "mode", ("min", "max", None)) is None
    with pytest.raises(ValueError, match="`mode` must be one of 'min', 'max', None.* Received: mode="):
        checks.check_choice(value, "mode", ("min", "max", None))
    with pytest.raises(ValueError, match=r"Did you mean 'min'\? Received: mode='mni'"):
        checks.check_choice("mni", "mode", ("min", "max"))
