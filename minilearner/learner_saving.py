"""`LearnerSaving`: what a learner writes to disk and reads back. `saving.learner_files` does the work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from typing_extensions import Self, TypeVar

from minilearner.keywords import suggest_keywords
from minilearner.learner_runs import LearnerRuns
from minilearner.saving import learner_files
from minilearner.threads import hold

__all__ = ["LearnerSaving"]

_Label = TypeVar("_Label", default=Any)


@suggest_keywords
class LearnerSaving(LearnerRuns[_Label]):
    """Saves, loads and exports the model of a `Learner`."""

    _written: set[Path]

    def save(self, file: str | Path, with_opt: bool = True) -> Path:
        """Writes weights, buffers and the optimizer's state to a safetensors file, and returns its path.

        The file is written whole or not at all. To continue an interrupted run, use `checkpoint=` of `fit` instead.

        Args:
            file: the file's name in `learn.model_dir`, or a path.
            with_opt: whether to include the optimizer's state.

        Raises:
            RuntimeError: another thread trains the model, so its weights change all the time.
        """
        with hold(self.model):
            parts = self.model, self._optimizer() if with_opt else None, self.loss_func
            path = learner_files.save(self.path / self.model_dir, file, *parts)
        self._say_where("save", path)
        return path

    def load(self, file: str | Path, with_opt: bool = True, strict: bool = True) -> Self:
        """Loads a file that `save` wrote: all of it, or nothing if something does not fit. Returns the learner.

        A file of `export` or `SaveBest`, or of another program in the safetensors format, is loaded too.

        Args:
            file: the file's name, or a path.
            with_opt: whether to load the optimizer's state. If the file has none, the optimizer stays as it is, and a
                line says so.
            strict: if False, takes what fits and warns about the rest.

        Raises:
            TypeError: `with_opt` is not True or False, but a device, for example, which fastai expects in this place.
            RuntimeError: another thread trains the model.
        """
        if not isinstance(with_opt, bool):
            raise TypeError(
                f"`with_opt` must be True or False. Received: with_opt={with_opt!r:.40}. Weights go to the device of "
                "the learner; Learner(..., device=) chooses it."
            )
        with hold(self.model):  # a thread that predicts sees the old weights or the new ones
            parts = self.model, self._optimizer() if with_opt else None, self.loss_func
            has_opt = learner_files.load(self.path / self.model_dir, file, *parts, strict=strict)
        self._has_learnt = True
        if with_opt and not has_opt:
            self._output.note(f"learn.load: {os.fspath(file)} has no optimizer's state, so only weights were loaded.")
        return self

    def export(self, path: str | Path | None = None, *, format: str | None = None) -> Path:
        """Writes all that predicting needs into one file, for `load_learner`, and returns its path.

        Register your own transforms and models with `minilearner.register` first. For a model that is not registered,
        only its weights are written, and `load_learner(path, model=...)` needs the model.

        Args:
            path: the file, in `learn.path`; "export.safetensors" by default. Its suffix decides the format.
            format: "safetensors" (.safetensors); or "onnx" (.onnx) or "torch_export" (.pt2) for a graph, which is
                checked against the model. The graph takes inputs in [0, 1] of the final size, normalises them, and
                returns what `get_preds` returns.
        """
        parts = self.dls, self._step(None)
        written = learner_files.export(self.path, path, *parts, precision=self.precision, format=format)
        self._say_where("export", written)
        return written

    def _say_where(self, call: str, path: Path) -> None:
        """Writes where a file went, once. Of `save` it names one file in each folder, so no loop fills the screen."""
        path = path.resolve()
        place = path.parent if call == "save" else path
        if place not in self._written:
            self._written.add(place)
            how = ", in the safetensors format and not as a pickle" if path.suffix == ".pkl" else ""
            self._output.note(f"learn.{call} wrote {path}{how}")
