"""`TensorBoardLogger`: a run in TensorBoard's files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minilearner.callbacks.logger import Logger, Point, import_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TensorBoardLogger"]


class TensorBoardLogger(Logger):
    """Logs a run for TensorBoard: scalars, the hyperparameters, the settings as text, and figures. See `Logger`.

    Each logger has a folder of its own in `folder`, named after the time. ``tensorboard --logdir runs`` shows all of
    them. The exported model lies beside the events. Needs ``pip install 'minilearner[tensorboard]'``.

    Args:
        folder: the folder for the runs of all loggers.
        name: the name of this logger's folder. None is the time and the kind of the run, such as "20250131-235959-fit".
        every_steps, figures, model: as in `Logger`.

    Raises:
        ImportError: tensorboard is not installed.
    """

    ignored_arguments = ("folder", "name", *Logger.ignored_arguments)

    def __init__(
        self,
        folder: str | os.PathLike[str] = "runs",
        name: str | None = None,
        *,
        every_steps: int = 10,
        figures: bool = True,
        model: bool = True,
    ):
        super().__init__(every_steps, figures, model)
        import_extra("tensorboard", "tensorboard", type(self))
        self.folder, self.name = Path(folder), name
        self._writer: Any = None

    def open(self, run_id: str | None, settings: Mapping[str, Any]) -> str:
        """Opens a new file of events. What a killed run wrote after its checkpoint is hidden: TensorBoard purges it."""
        from torch.utils.tensorboard import SummaryWriter  # heavy
        from torch.utils.tensorboard.summary import hparams

        kind = settings.get("kind", "run")
        run_id = run_id or self.name or f"{datetime.now():%Y%m%d-%H%M%S}-{kind}-{os.getpid()}"
        self._writer = SummaryWriter(os.fspath(self.folder / run_id), purge_step=self._last + 1)
        if self._last == 0:
            rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
            self._writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}", 0)
            make_summaries: Any = hparams  # torch has no types for it
            for summary in make_summaries(dict(settings), {"epoch/valid_loss": None}):
                self._writer.file_writer.add_summary(summary)
        return run_id

    def log(self, points: Sequence[Point]) -> None:
        """Writes the values, one event for each moment."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        for point in points:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in point.values.items()]
            self._writer.file_writer.add_summary(Summary(value=values), point.step, point.time)
        self._writer.flush()

    def log_figure(self, name: str, figure: Figure, step: int) -> None:
        """Writes a figure."""
        self._writer.add_figure(name, figure, step, close=False)

    def log_model(self, path: Path) -> None:
        """Copies the file beside the events."""
        shutil.copy(path, self._writer.log_dir)

    def close(self, is_interrupted: bool) -> None:
        """Closes the file."""
        self._writer.close()
        self._writer = None

    def where(self) -> str:
        """Returns the folder."""
        return os.fspath((self.folder / (self.run_id or "")).resolve())

    def __repr__(self) -> str:
        return f"TensorBoardLogger({os.fspath(self.folder)!r})"
