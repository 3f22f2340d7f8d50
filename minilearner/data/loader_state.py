"""The state that iterating moves in loaders: find it, and put it back after a look at the data."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from minilearner.runtime import check_position

__all__ = ["GENERATORS", "find_generators", "generator_state", "parts_of", "restore_loaders", "set_generator_state"]

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
"""The kinds of random generators whose states `generator_state` returns."""


@contextmanager
def restore_loaders(*loaders: Any) -> Iterator[None]:
    """Restores the loaders' positions and generators on exit.

    That is:
    - the pass counters of our loaders;
    - any torch, NumPy or Python generator in an attribute of a loader, its sampler, batch sampler or dataset;
    - plain numbers in samplers and in loaders of the user's own class, such as an epoch count;
    - the state of a loader that has `state_dict` and `load_state_dict`;
    - persistent workers of a torch `DataLoader`: others serve inside, and are shut down on leaving.

    `runtime.isolate_rng` puts back the global generators. What a dataset keeps elsewhere is out of reach.
    """
    undo = [step for owner in parts_of(*loaders) for step in _undo_steps(owner)]
    try:
        yield
    finally:
        for step in reversed(undo):
            step()


def parts_of(*loaders: Any) -> list[Any]:
    """Returns the loaders and what they iterate, each once: wrapped sources, samplers and datasets."""
    found: list[Any] = []
    waiting = [loader for loader in loaders if loader is not None]
    while waiting:
        owner = waiting.pop()
        if any(owner is known for known in found):
            continue
        found.append(owner)
        source = getattr(owner, "source", None)
        waiting += [source] if source is not None and hasattr(source, "__iter__") else []
        waiting += [part for part in _attributes(owner).values() if isinstance(part, (Dataset, Sampler, DataLoader))]
    return found


def _undo_steps(owner: Any) -> Iterator[Callable[[], object]]:
    for value in _attributes(owner).values():
        if isinstance(value, GENERATORS):
            yield partial(set_generator_state, value, generator_state(value))
    if isinstance(owner, DataLoader):
        yield _put_workers_aside(owner)
    if not isinstance(owner, Dataset):
        yield _undo_numbers(owner)
    if hasattr(owner, "state_dict") and hasattr(owner, "load_state_dict"):
        yield partial(owner.load_state_dict, copy.deepcopy(owner.state_dict()))


def find_generators(*loaders: Any) -> list[Any]:
    """Returns the generators in these loaders and in what they iterate, each once: torch's, NumPy's and Python's."""
    held = [
        value for owner in parts_of(*loaders) for value in _attributes(owner).values() if isinstance(value, GENERATORS)
    ]
    return list({id(generator): generator for generator in held}.values())


def generator_state(generator: Any) -> Any:
    """Returns the state of a generator, as data."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return copy.deepcopy(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return generator.get_state()
    return generator.getstate()


def set_generator_state(generator: Any, state: Any) -> None:
    """Puts a generator back to a state that `generator_state` returned.

    Raises:
        ValueError: the generator has no such state.
    """
    if isinstance(generator, np.random.Generator):
        _check_bits(state)
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        if isinstance(generator, np.random.RandomState):
            check_position(state[2])
        generator.set_state(state)


def _check_bits(state: Any) -> None:
    """Refuses positions that NumPy would accept, and then read beyond its memory."""
    if state["bit_generator"] == "MT19937":
        check_position(state["state"]["pos"])
    if not 0 <= state.get("buffer_pos", 0) <= 4:  # Philox
        raise ValueError(f"a Philox generator's position must be from 0 to 4. Received: {state['buffer_pos']!r:.40}.")


def _undo_numbers(owner: Any) -> Callable[[], None]:
    numbers = {name: value for name, value in _attributes(owner).items() if isinstance(value, (int, float))}

    def undo() -> None:
        attributes = _attributes(owner)
        attributes.update({name: n for name, n in numbers.items() if isinstance(attributes.get(name), (int, float))})

    return undo


def _put_workers_aside(loader: DataLoader[Any]) -> Callable[[], None]:
    # torch keeps persistent workers in `_iterator`. Iterating with them would move their copies of the dataset.
    kept = loader._iterator
    loader._iterator = None

    def undo() -> None:
        shut_down = getattr(loader._iterator, "_shutdown_workers", None)
        if shut_down is not None and loader._iterator is not kept:
            shut_down()
        loader._iterator = kept

    return undo


def _attributes(owner: Any) -> dict[str, Any]:
    return getattr(owner, "__dict__", {})
