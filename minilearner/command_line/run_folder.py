"""`RunFolder`: what a training leaves behind, and where."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

from minilearner.command_line.settings import Settings
from minilearner.errors import DataError

__all__ = ["RunFolder", "default_output", "find_model"]


class RunFolder:
    """The folder of one training.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.metrics_csv = path / "metrics.csv"
        self.metrics_jsonl = path / "metrics.jsonl"
        self.figures = path / "figures"
        self.checkpoint = path / "checkpoint"
        self.model = path / "model.safetensors"
        self.report = path / "report.html"

    @property
    def resume_command(self) -> str:
        """The line that continues this training."""
        return f"minilearner resume {shlex.quote(str(self.path))}"

    def check_new(self, settings: Settings) -> None:
        """Checks that the folder can be made. Nothing is overwritten, and no figure becomes an image to train on.

        Raises:
            DataError: there is such a file or folder already, or it would be among the images.
        """
        if os.path.lexists(self.path):
            go_on = f"Continue that training by `{self.resume_command}`, or start another"
            start = go_on if self.config.exists() else "Start"
            raise DataError(
                f"{self.path} exists already. {start} in a new folder: {_as_option(_next_free(self.path))}."
            )
        around = [folder for folder in settings.image_folders() if folder.resolve() in self.path.resolve().parents]
        if around:
            other = Path(os.path.relpath(Path(settings.data).expanduser().resolve().parent)) / "runs" / self.path.name
            raise DataError(
                f"{self.path} would be below {around[0]}, so its figures would be among the images. Give a folder "
                f"elsewhere: {_as_option(other)}."
            )

    def create(self, settings: Settings) -> None:
        """Makes the folder with its configuration; errors as in `check_new`."""
        self.check_new(settings)
        self.figures.mkdir(parents=True)
        self.config.write_text(settings.to_toml(), encoding="utf-8")

    def read(self, data: str | None = None) -> Settings:
        """Returns the settings of the training.

        Args:
            data: where its data are now, if they have moved.

        Raises:
            DataError: this is not the folder of a training, or its data are not there.
        """
        if not self.config.is_file():
            what = "is not the folder of a training: it has no config.toml" if self.path.exists() else "does not exist"
            raise DataError(f"{self.path} {what}. `minilearner train` makes such folders.")
        settings = Settings.read(self.config)
        settings = replace(settings, data=settings.data if data is None else data)
        if data is None and not Path(settings.data).exists():
            raise DataError(f"the data of {self.path}, {settings.data}, are gone. If they have moved, give `data`.")
        return settings.settle(pretrained=bool(settings.pretrained))

    def remove_without_checkpoint(self) -> bool:
        """Removes the folder if its training has saved nothing that `resume` could use. Returns whether it did."""
        if any(self.checkpoint.rglob("*.safetensors")):
            return False
        shutil.rmtree(self.path, ignore_errors=True)
        return True

    def contents(self) -> list[Path]:
        """Returns what is in the folder, for people to open."""
        named = (self.model, self.report, self.metrics_csv, self.metrics_jsonl, self.config, self.figures)
        return [path for path in named if path.exists()]


def default_output(data: str) -> Path:
    """Returns the folder for a training on these data: runs/photos for photos or photos.csv."""
    name = Path(data).expanduser().resolve()
    return Path("runs") / (name.stem if name.suffix == ".csv" else name.name)


def find_model(path: Path) -> Path:
    """Returns the model file that somebody means by its path, or by the folder of its run.

    Raises:
        DataError: the folder has no model.
    """
    if not path.is_dir():
        return path
    run = RunFolder(path)
    if not run.model.is_file():
        hint = f" Its training did not end: `{run.resume_command}`." if run.config.is_file() else ""
        raise DataError(f"{path} has no model.safetensors.{hint}")
    return run.model


def _as_option(path: Path) -> str:
    return f"--output {shlex.quote(str(path))}"


def _next_free(path: Path) -> Path:
    number = 2
    while (other := path.with_name(f"{path.name}-{number}")).exists():
        number += 1
    return other
