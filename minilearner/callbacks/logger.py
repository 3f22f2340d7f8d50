"""`Logger`: what every logging service receives of a run, and when. A subclass says how the service takes it."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from minilearner import processes
from minilearner.callbacks.progress import announce, complain
from minilearner.callbacks.run_facts import describe_run, measure_memory
from minilearner.checks import check_count
from minilearner.data.targets import ClassNumbers
from minilearner.models.tensors import unwrap
from minilearner.results.interpretation import ClassificationInterpretation
from minilearner.results.run_record import RunRecord
from minilearner.saving.export import write_export
from minilearner.tracebacks import drop_frames
from minilearner.training.callback import Callback
from minilearner.training.predictor import Predictor
from minilearner.training.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Logger", "Point", "import_extra"]

_ALL_STEPS = 100  # so many steps at the start are all logged: a short run shows each
_SECONDS = 30.0  # between two looks at a long epoch
_TOP_LOSSES = 9


@dataclass(frozen=True)
class Point:
    """Values of one moment.

    Attributes:
        step: the number of training batches so far, over all runs of the logger.
        time: when it was, in seconds since 1970.
        values: number by name, such as "epoch/valid_loss".
    """

    step: int
    time: float
    values: Mapping[str, float]


class Logger(Callback):
    """Sends a run to a logging service. Derive from it to add a service: define `open`, `log` and what else it takes.

    The service receives the settings and the git commit; "step/loss", "step/lr" and "step/momentum" of training
    batches; the recorder's rows as "epoch/valid_loss" and so on; "system/items_per_second" and the memory; and at the
    end, for targets of one class, the confusion matrix and, for images, the top losses; and the exported model, unless
    "fsdp" has sharded it. The figures take one more pass over the validation set.

    Nothing is done in a step: at the end of each epoch, and every 30 seconds, the logger reads the record, which has
    all losses. The first 100 steps are logged, and then each `every_steps`th.

    A logger is one run of its service: what several calls of `fit` train follows each other. A resumed run goes on
    in the same one, and logs nothing twice. With several processes, only process 0 logs.

    If the service fails, a line says so, the rest of this run is not logged, and training goes on.

    Args:
        every_steps: log each step whose number is a multiple of this, after the first 100.
        figures: whether to log the figures.
        model: whether to log the exported model.

    Attributes:
        repeats: True if a resumed run shall log all its steps once more, because the service may have lost some when
            the process was killed, and leaves out those that it has.
    """

    repeats: ClassVar[bool] = False
    order = 101  # when a run begins, the checkpoint has restored it; at the end, the weights are final
    ignored_arguments: ClassVar[tuple[str, ...]] = ("every_steps", "figures", "model")

    def __init__(self, every_steps: int = 10, figures: bool = True, model: bool = True):
        check_count(every_steps, "every_steps")
        self.every_steps, self.figures, self.model = every_steps, figures, model
        self.run_id: str | None = None
        self._last = 0  # the last step that was logged, over all runs
        self._start = 0  # the steps of earlier runs
        self._n_steps = self._n_rows = 0  # how many of this run are logged
        self._record: RunRecord | None = None
        self._is_open = self._has_failed = self._trains = False
        self._system: dict[str, float] = {}
        self._before = self._due = self._began = 0.0
        self._n_before = 0

    def open(self, run_id: str | None, settings: Mapping[str, Any]) -> str:
        """Begins a run of the service, or goes on with one. Returns its id.

        Args:
            run_id: the run to go on with; None begins one.
            settings: hyperparameters and facts of a run, by name. If a run goes on, they may have been logged before.
        """
        raise NotImplementedError

    def log(self, points: Sequence[Point]) -> None:
        """Logs values, in the order of their steps. When it returns, they are safe."""
        raise NotImplementedError

    def log_figure(self, name: str, figure: Figure, step: int) -> None:
        """Logs a figure."""

    def log_model(self, path: Path) -> None:
        """Logs the file of the exported model. It is removed afterwards."""

    def close(self, is_interrupted: bool) -> None:
        """Ends the run of the service, which `open` may open again."""

    def where(self) -> str:
        """Returns where to look at what was logged, for a line at the end; "" for no line."""
        return ""

    def state_dict(self) -> dict[str, Any]:
        """Returns which steps and rows are logged, after it has logged what waits."""
        self._send()
        counts = {name: getattr(self, name) for name in ("_last", "_start", "_n_steps", "_n_rows")}
        return {"run_id": self.run_id, **counts}

    def before_fit(self, run: Run) -> None:
        if run.record is None:
            raise RuntimeError(f"`{type(self).__name__}` needs a run with a record to read from.")
        self._record, self._has_failed = run.record, False
        is_resumed = run.record.n_batches > 0  # with the counts of its checkpoint
        if not is_resumed:
            self._start = self._last
        if not is_resumed or self.repeats:
            self._n_steps = self._n_rows = 0
        self._trains = run.epoch < run.n_epochs  # a checkpoint may hold the whole run
        if self._trains and not self._is_open and processes.is_first():
            with self._shield():
                self.run_id, self._is_open = self.open(self.run_id, describe_run(run)), True
        self._before, self._due = time.time(), time.monotonic() + _SECONDS

    def before_train(self, run: Run) -> None:
        self._began, self._n_before = time.perf_counter(), self._record.n_batches if self._record else 0

    def after_batch(self, run: Run) -> None:
        if time.monotonic() >= self._due:
            self._send()
            self._due = time.monotonic() + _SECONDS

    def after_train(self, run: Run) -> None:
        if self._record is not None and processes.is_first():
            seconds = time.perf_counter() - self._began
            n_items = int(self._record.steps["n_items"][self._n_before :].sum())
            self._system = {"items_per_second": n_items / seconds, **measure_memory(run.dls.device)}

    def after_validate(self, run: Run) -> None:
        if run.in_mid_epoch:
            self._send()

    def after_epoch(self, run: Run) -> None:
        self._send()

    def after_fit(self, run: Run) -> None:
        self._send()
        is_more_to_come = run.phase is not None and run.phase.epochs_before + run.n_epochs < run.phase.n_epochs
        if self._trains and not run.interrupted and not is_more_to_come:
            self._log_outcome(run)
        if self._is_open and (run.interrupted or not is_more_to_come):
            with self._shield():
                self.close(run.interrupted)
                if where := self.where():
                    announce(run, f"{type(self).__name__} wrote {where}")
            self._is_open = False
        self._record = None

    def _send(self) -> None:
        """Logs the steps and rows that wait."""
        if not self._listens or self._record is None:
            return
        with self._shield():
            n_steps, n_rows = self._record.n_batches, len(self._record.epochs)
            if n_steps > self._n_steps or n_rows > self._n_rows:
                self.log(self._collect(self._record))
                self._n_steps, self._n_rows, self._last = n_steps, n_rows, self._start + n_steps
        self._before = time.time()

    def _collect(self, record: RunRecord) -> list[Point]:
        now, steps = time.time(), record.steps[self._n_steps :]
        numbers = self._start + self._n_steps + 1 + np.arange(len(steps))
        times = np.linspace(self._before, now, len(steps) + 1)[1:]  # nobody looks at the clock in a step
        points = [
            Point(int(numbers[i]), float(times[i]), _numbers("step", {name: steps[name][i] for name in _STEP_NAMES}))
            for i in np.flatnonzero((numbers <= _ALL_STEPS) | (numbers % self.every_steps == 0))
        ]
        for position, row in record.rows_at()[self._n_rows :]:
            is_of_epoch = row is record.epochs[-1] and "time_seconds" in row
            system = _numbers("system", self._system if is_of_epoch else {})
            points.append(Point(self._start + position, now, {**_numbers("epoch", row), **system}))
        return sorted(points, key=lambda point: point.step)

    def _log_outcome(self, run: Run) -> None:
        """Logs the figures and the model. All processes predict together; process 0 logs."""
        if self.figures and isinstance(run.dls.target, ClassNumbers) and run.dls.valid is not None:
            with self._shield():
                predictor = Predictor(run.step, run.dls)
                interp = ClassificationInterpretation(
                    predictor.batches(with_loss=True), run.dls.vocab, pictures=predictor.images
                )
                if self._listens:
                    self._log_figures(interp, _is_image(run.dls.valid.first_batch()[0]))
        if self.model and self._listens and not run.step.strategy.passes_together:
            with self._shield(), tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.safetensors"
                model, precision = unwrap(run.model), run.step.precision.name
                self.log_model(write_export(path, run.dls, model, run.step.loss_func, precision=precision))

    def _log_figures(self, interp: ClassificationInterpretation, has_images: bool) -> None:
        import matplotlib.pyplot as plt  # heavy

        n = min(_TOP_LOSSES, len(interp.losses))
        figures = {"confusion_matrix": interp.plot_confusion_matrix()}
        figures |= {"top_losses": interp.plot_top_losses(n)} if has_images else {}
        for name, figure in figures.items():
            try:
                self.log_figure(name, figure, self._last)
            finally:
                plt.close(figure)  # or a notebook would show it

    @property
    def _listens(self) -> bool:
        return self._is_open and not self._has_failed

    @contextmanager
    def _shield(self) -> Iterator[None]:
        """Keeps an error inside from ending the training, and says once that there was one."""
        try:
            yield
        except Exception as error:  # whatever a service's library raises
            if not self._has_failed:
                complain(self, error, "Nothing more of this run is logged there.")
            self._has_failed = True
            drop_frames(error)


_STEP_NAMES = ("loss", "lr", "momentum")


def _numbers(group: str, values: Mapping[str, Any]) -> dict[str, float]:
    """Returns the values that are numbers, without the number of the step and a momentum that there is not."""
    given = {name: float(value) for name, value in values.items() if isinstance(value, (int, float)) and name != "step"}
    return {f"{group}/{name}": value for name, value in given.items() if name != "momentum" or not math.isnan(value)}


def _is_image(x: Any) -> bool:
    return isinstance(x, Tensor) and x.ndim == 4 and x.shape[1] in (1, 3)


def import_extra(module: str, extra: str, logger: type[Logger]) -> Any:
    """Returns the module of a service's library.

    Raises:
        ImportError: it is not installed. Says how to install it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{logger.__name__} needs {error.name}, which is not installed: pip install 'minilearner[{extra}]'."
        ) from error
