"""An import of another library's module or name says what to write instead; everything else fails as usual."""

import importlib
import importlib.util
import sys

import pytest

import minilearner
import minilearner.vision.all
from minilearner.refused_imports import _MODULES, _NAMES, watch_imports


@pytest.mark.parametrize("name", _MODULES)
def test_a_module_of_fastais_says_what_to_import(name):
    with pytest.raises(ModuleNotFoundError, match=f"there is no module minilearner.{name}.") as raised:
        importlib.import_module(f"minilearner.{name}")
    assert str(raised.value).endswith(_MODULES[name])
    with pytest.raises(ModuleNotFoundError, match=rf"minilearner.{name}\."):
        importlib.import_module(f"minilearner.{name}.part")


@pytest.mark.parametrize("name", _NAMES)
def test_a_name_of_another_library_says_what_to_write(name):
    with pytest.raises(ImportError, match=f"minilearner has no {name}.") as raised:
        exec(f"from minilearner import {name}")
    assert str(raised.value).endswith(_NAMES[name])
    with pytest.raises(AttributeError, match=f"minilearner has no {name}."):
        getattr(minilearner, name)
    assert not hasattr(minilearner, name) and not hasattr(minilearner.vision.all, name)


def test_everything_else_fails_as_usual():
    with pytest.raises(ImportError, match="cannot import name 'nothing' from 'minilearner'"):
        exec("from minilearner import nothing")
    with pytest.raises(ModuleNotFoundError, match="No module named 'minilearner.nothing'"):
        importlib.import_module("minilearner.nothing")
    with pytest.raises(AttributeError, match="module 'minilearner' has no attribute 'nothing'"):
        _ = minilearner.nothing
    assert importlib.util.find_spec("minilearner.nothing") is None
    with pytest.raises(ModuleNotFoundError, match="No module named 'nothing_at_all'"):
        importlib.import_module("nothing_at_all")


def test_python_is_asked_to_watch_once():
    before = list(sys.meta_path)
    watch_imports()
    assert sys.meta_path == before
