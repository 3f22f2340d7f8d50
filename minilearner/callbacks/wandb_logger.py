"""`WandbLogger`: a run in Weights & Biases, sent to the service or kept in files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minilearner.callbacks.logger import Logger, Point, import_extra
from minilearner.checks import check_choice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["WandbLogger"]

_MODES = ("online", "offline", "disabled")


class WandbLogger(Logger):
    """Logs a run for Weights & Biases: values, settings, figures, and the model as an artifact. See `Logger`.

    It asks for nothing and sends nothing unless you have logged in by ``wandb login``: otherwise it writes files, which
    ``wandb sync`` sends later. Needs ``pip install 'minilearner[wandb]'``.

    Args:
        project: the project's name.
        name: the name of the run. None lets W&B choose.
        mode: "online", "offline" or "disabled". None is the environment's WANDB_MODE; without one it is "online" if you
            have logged in, and "offline" if not.
        folder: where W&B writes its folder "wandb". None is the working directory.
        every_steps: log each step whose number is a multiple of this, after the first 100.
        figures, model: as in `Logger`.

    Raises:
        ImportError: wandb is not installed.
        ValueError: `mode` is unknown.
    """

    repeats = True  # its own process writes the file, and may die with ours
    ignored_arguments = ("project", "name", "mode", "folder", *Logger.ignored_arguments)

    def __init__(
        self,
        project: str = "minilearner",
        name: str | None = None,
        *,
        mode: str | None = None,
        folder: str | os.PathLike[str] | None = None,
        every_steps: int = 50,
        figures: bool = True,
        model: bool = True,
    ):
        super().__init__(every_steps, figures, model)
        if mode is not None:
            check_choice(mode, "mode", _MODES)
        self._wandb = import_extra("wandb", "wandb", type(self))
        self.project, self.name, self.mode, self.folder = project, name, mode, folder
        self._run: Any = None
        self._place, self._first = "", 0

    def open(self, run_id: str | None, settings: Mapping[str, Any]) -> str:
        """Begins a run, or goes on with it: offline, a second folder has the same id, and `wandb sync` joins them."""
        self._run = self._wandb.init(
            project=self.project,
            name=self.name,
            id=run_id,
            resume=None if run_id is None else "allow",
            mode=self.mode or self._find_mode(),
            dir=None if self.folder is None else os.fspath(self.folder),
            config=dict(settings),
            reinit="create_new",
            settings=self._wandb.Settings(console="off", quiet=True),
        )
        self._first = self._run.starting_step
        self._place = os.fspath(self._run.dir).removesuffix(f"{os.sep}files")
        return str(self._run.id)

    def _find_mode(self) -> str:
        if given := os.environ.get("WANDB_MODE"):
            return given
        in_settings = str(self._wandb.setup().settings.mode)  # `wandb offline` writes it
        if in_settings != "online":
            return in_settings
        return "online" if self._wandb.login(prompt=False, verify=False) else "offline"

    def log(self, points: Sequence[Point]) -> None:
        """Logs the values of each moment as one row, without those that the service has already."""
        for point in points:
            if point.step >= self._first:
                self._run.log(dict(point.values), step=point.step)

    def log_figure(self, name: str, figure: Figure, step: int) -> None:
        """Logs a figure as an image."""
        self._run.log({name: self._wandb.Image(figure)}, step=step)

    def log_model(self, path: Path) -> None:
        """Logs the file as an artifact of the type "model"."""
        artifact = self._wandb.Artifact(f"model-{self._run.id}", type="model")
        artifact.add_file(os.fspath(path))
        self._run.log_artifact(artifact)

    def close(self, is_interrupted: bool) -> None:
        """Finishes the run."""
        self._run.finish(exit_code=int(is_interrupted))
        self._run = None

    def where(self) -> str:
        """Returns the folder of the run."""
        return self._place

    def __repr__(self) -> str:
        return f"WandbLogger({self.project!r})"
