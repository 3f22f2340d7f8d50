"""Measure where the time of a training step goes, and show it as a table."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from minilearner.callbacks.record import Record
from minilearner.checks import check_count
from minilearner.data.batch_transforms import BatchTransform, PixelTransform, run_step
from minilearner.data.loader import Loader
from minilearner.errors import plural
from minilearner.metrics import Metric
from minilearner.results.recorder import Recorder
from minilearner.training.callback import Callback, Events
from minilearner.training.loop import Loop
from minilearner.training.run import Run
from minilearner.training.snapshot import restore_after
from minilearner.training.step import Step
from minilearner.tree import n_items

__all__ = ["StepProfile", "profile_steps"]

_WARM_UP = 3  # steps: the first ones allocate, choose kernels, and start workers
_N_OPERATORS = 5
_NO_LOG = "99"  # above every level of its messages
_LABEL = "minilearner: "
_METHODS = {
    "predict": "forward",
    "compute_loss": "loss",
    "backward": "backward",
    "update": "optimizer",
    "zero_grad": "optimizer",
}


def profile_steps(
    run: Run, callbacks: Iterable[Callback], metrics: Mapping[str, Metric], *, n_steps: int = 20
) -> StepProfile:
    """Trains for `n_steps` steps, after three that do not count, puts everything back, and returns where they went.

    On a GPU each stage waits until the device has done it, so that it is charged with its own work; steps then overlap
    less than in a `fit`. The profiler itself adds a microsecond or two to each operator, which shows in tiny models.

    Args:
        run: a fresh one, with an optimizer.
        callbacks: those that are part of the step take part; all others rest.
        metrics: computed on each batch where the recorder does so.

    Raises:
        ValueError: `n_steps` is less than 1.
    """
    check_count(n_steps, "n_steps")
    taking_part = [callback for callback in callbacks if callback.part_of_step]
    stage = partial(_Stage, on_gpu=run.dls.device.type == "cuda")
    train_metrics = deepcopy(dict(metrics)) if run.recorder is not None and run.recorder.train_metrics else {}
    run.record = Recorder().start_run("profile")
    with restore_after(run.model, run.optimizer, run.dls, run.step.loss_func, *taking_part):
        feed = _Feed(run.dls.train, n_steps, stage)
        loop = Loop(run, [*taking_part, Record(train_metrics)], train=feed)
        _label_step(run.step, stage)
        _label_events(loop.events, stage)
        with _label_transforms(run.dls.train, stage):
            loop.fit()
    return _summarize(feed, run)


class _Stage:
    """A stretch of a step under its name in the profile."""

    def __init__(self, name: str, *, on_gpu: bool):
        self.name, self.on_gpu = _LABEL + name, on_gpu

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **named: Any) -> Any:
            with record_function(self.name):
                result = function(*args, **named)
                if self.on_gpu:
                    torch.cuda.synchronize()
            return result

        return run


class _Timed(BatchTransform):
    """A batch transform, and what changes the pixels it made, as a stretch of the step."""

    def __init__(self, transform: BatchTransform, pixels: Sequence[PixelTransform], stage: _Stage):
        self.takes_bytes = transform.takes_bytes
        self._run = stage(lambda x, rng: run_step(transform, x, rng, pixels))

    def __call__(self, x: Tensor, rng: torch.Generator) -> Tensor:
        return self._run(x, rng)  # type: ignore[no-any-return]


class _Feed:
    """Yields as many batches as are timed, repeating the loader if needed; it starts and stops the clock.

    Attributes:
        seconds, n_items: the time of all measured steps, and the items of the last one.
    """

    def __init__(self, loader: Loader, n_steps: int, stage: Callable[[str], _Stage]):
        self.loader, self.n_steps = loader, n_steps
        self.seconds, self.n_items = 0.0, 0
        self.profiler = profile(activities=[ProfilerActivity.CPU])
        self._next = stage("data")(next)

    def __len__(self) -> int:
        return _WARM_UP + self.n_steps

    def __iter__(self) -> Iterator[Any]:
        batches = self._endless()
        for _ in range(_WARM_UP):
            yield next(batches)
        with _profile_quietly(self.profiler):
            began = time.perf_counter()
            for _ in range(self.n_steps):
                batch = self._next(batches)
                self.n_items = n_items(batch[0])
                yield batch
            self.seconds = time.perf_counter() - began

    def _endless(self) -> Iterator[Any]:
        while True:
            yield from self.loader


@contextmanager
def _profile_quietly(profiler: profile) -> Iterator[None]:
    """Profiles inside the `with` block. torch's profiler would log its start, its end, and that there is no GPU."""
    variable = "KINETO_LOG_LEVEL"  # read when a profiler starts
    is_ours = os.environ.setdefault(variable, _NO_LOG) is _NO_LOG
    try:
        profiler.start()
    finally:
        if is_ours:
            del os.environ[variable]
    try:
        yield
    finally:
        profiler.stop()


def _label_step(step: Step, stage: Callable[[str], _Stage]) -> None:
    """Times what a step does. The step belongs to this run and is discarded with it."""
    for method, name in _METHODS.items():
        setattr(step, method, stage(name)(getattr(step, method)))


def _label_events(events: Events, stage: Callable[[str], _Stage]) -> None:
    label = stage("callbacks")
    events.of = {event: tuple(map(label, acts)) for event, acts in events.of.items()}


@contextmanager
def _label_transforms(loader: Loader, stage: Callable[[str], _Stage]) -> Iterator[None]:
    pipeline = loader.batch_tfms
    loader.batch_tfms = pipeline.wrap_steps(lambda transform, pixels: _Timed(transform, pixels, stage("augmentation")))
    try:
        yield
    finally:
        loader.batch_tfms = pipeline


def _summarize(feed: _Feed, run: Run) -> StepProfile:
    averages = feed.profiler.key_averages()
    total = {event.key: event.cpu_time_total / 1e6 / feed.n_steps for event in averages}
    names = ("data", "augmentation", *dict.fromkeys(_METHODS.values()), "callbacks")
    stages = {name: total.get(_LABEL + name, 0.0) for name in names}
    stages["data"] -= stages["augmentation"]  # which the loader does on the way
    seconds = feed.seconds / feed.n_steps
    own = {e.key: e.self_cpu_time_total / 1e6 / feed.n_steps for e in averages if not e.key.startswith(_LABEL)}
    longest = sorted(own, key=own.__getitem__, reverse=True)[:_N_OPERATORS]
    return StepProfile(
        seconds=seconds,
        stages={**stages, "loop": seconds - sum(stages.values())},
        operators={name: own[name] for name in longest},
        n_steps=feed.n_steps,
        n_items=feed.n_items,
        where=f"{run.dls.device}, {run.step.precision.name}",
    )


@dataclass(frozen=True)
class StepProfile:
    """The time of a training step, by stage and by operator. Printed, it is a table.

    Attributes:
        seconds: of a step, the mean over `n_steps`.
        stages: the part of each stage in it, in seconds: "data" (read, joined, moved to the device), "augmentation"
            (transforms of whole batches), "forward", "loss", "backward", "optimizer", "callbacks" (with recorder and
            metrics), and "loop", which is the rest.
        operators: the operators that take longest, all their calls in a step without what they call, in seconds.
        n_steps, n_items: steps measured, and the items of each.
        where: device and precision.
    """

    seconds: float
    stages: Mapping[str, float]
    operators: Mapping[str, float]
    n_steps: int
    n_items: int
    where: str

    @property
    def items_per_second(self) -> float:
        """How many items are trained on in a second."""
        return self.n_items / self.seconds

    def __str__(self) -> str:
        heading = (
            f"{1e3 * self.seconds:.2f} ms a step of {plural(self.n_items, 'item')} on {self.where}, "
            f"{self.items_per_second:,.0f} items a second (mean of {plural(self.n_steps, 'step')})"
        )
        return "\n".join([heading, *map(self._line, self.stages.items()), "", *map(self._line, self.operators.items())])

    def _line(self, named: tuple[str, float]) -> str:
        name, seconds = named
        return f"{name:<36}{1e3 * seconds:>10.3f} ms{seconds / self.seconds:>7.1%}"
