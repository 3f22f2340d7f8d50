"""`ShowGraphCallback`: fastai's name for a graph of the losses while one trains."""

from __future__ import annotations

import math

from minilearner import processes
from minilearner.callbacks.progress import announce
from minilearner.display import in_notebook
from minilearner.files import replace_file
from minilearner.plots.lines import plot_epochs
from minilearner.plots.pyplot import plt
from minilearner.training.callback import Callback

__all__ = ["ShowGraphCallback"]


class ShowGraphCallback(Callback):
    """Draws the training and validation losses of each epoch.

    In a notebook, the table of epochs has this graph anyway, and it grows with each epoch. Elsewhere, the graph goes to
    the file "losses.png" in the learner's folder when the fit ends, and a line says so.
    """

    order = 68
    ignored_arguments = ()

    def before_fit(self) -> None:  # type: ignore[override]
        """Rests outside of a fit, and in notebooks."""
        self.run = self.learn.run.record is not None and not in_notebook() and processes.is_first()

    def after_fit(self) -> None:  # type: ignore[override]
        """Writes the image."""
        rows = [row for row in self.learn.run.record.epochs if "step" not in row]
        if not rows:
            return
        names = {"training": "train_loss", "validation": "valid_loss"}
        losses = {label: [row.get(name, math.nan) for row in rows] for label, name in names.items()}
        figure, path = plot_epochs({"loss": losses}), self.learn.path / "losses.png"
        with replace_file(path) as part:
            figure.savefig(part, format="png")
        plt.close(figure)
        announce(self.learn.run, f"ShowGraphCallback wrote {path}")
