"""`plt` of the star import is matplotlib's, and says when there is no screen to show figures on."""

import os
import subprocess
import sys
import warnings

import pytest

from minilearner.plots.pyplot import plt

SHOW = """
import warnings
from minilearner.vision.all import plt
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    plt.show()
    before = len(seen)
    plt.plot([1, 2])
    plt.show()
print(before, *(f"{one.filename}: {one.message}" for one in seen))
"""


def show(**environment):
    kept = {
        name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")
    }
    done = subprocess.run(
        [sys.executable, "-c", SHOW], env={**kept, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have a screen, or matplotlib warns itself")
def test_show_without_a_screen_says_so_and_what_to_do():
    said = "there is no screen, so `plt.show()` shows nothing. Save the figure: figure.savefig('figure.png')."
    assert show() == f"0 <string>: {said}"


@pytest.mark.skipif(sys.platform != "linux", reason="as above")
def test_who_chose_a_backend_without_a_screen_hears_nothing():
    assert show(MPLBACKEND="agg") == "0"


def test_it_is_matplotlibs_pyplot():
    import matplotlib.pyplot

    assert plt.plot is matplotlib.pyplot.plot and "subplots" in dir(plt)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plt.show()  # without a figure there is nothing to say
