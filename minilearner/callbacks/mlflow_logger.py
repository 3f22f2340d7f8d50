"""`MLflowLogger`: a run in MLflow, on a server or in local files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minilearner.callbacks.logger import Logger, Point, import_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MLflowLogger"]

_MOST_METRICS = 1000  # in one call: MLflow's limit
_LONGEST_PARAM = 6000  # characters: MLflow's limit
_MARKERS = ("step/loss", "epoch/train_loss", "epoch/epoch")  # of a step, of an epoch, of a validation in mid-epoch


class MLflowLogger(Logger):
    """Logs a run in MLflow: metrics, parameters, figures, and the model as an artifact. See `Logger`.

    It changes nothing of `mlflow` itself, such as its active run. Needs ``pip install 'minilearner[mlflow]'``.

    Args:
        experiment: the experiment's name. It is made if there is none.
        name: the name of the run. None lets MLflow choose.
        tracking_uri: the address of the server or the database. None is MLflow's own, such as MLFLOW_TRACKING_URI;
            without one, it is a local database in the working directory, which ``mlflow ui`` shows.
        every_steps: log each step whose number is a multiple of this, after the first 100.
        figures, model: as in `Logger`.

    Raises:
        ImportError: mlflow is not installed.
    """

    ignored_arguments = ("experiment", "name", "tracking_uri", *Logger.ignored_arguments)

    def __init__(
        self,
        experiment: str = "minilearner",
        name: str | None = None,
        *,
        tracking_uri: str | None = None,
        every_steps: int = 50,
        figures: bool = True,
        model: bool = True,
    ):
        super().__init__(every_steps, figures, model)
        import_extra("mlflow", "mlflow", type(self))
        self.experiment, self.name, self.tracking_uri = experiment, name, tracking_uri
        self._client: Any = None
        self._known = dict.fromkeys(_MARKERS, 0)  # the last step that a run which goes on has of each

    def open(self, run_id: str | None, settings: Mapping[str, Any]) -> str:
        """Begins a run, or goes on with one. What it has already from after the checkpoint is not logged again."""
        from mlflow import MlflowClient  # heavy
        from mlflow.entities import Param

        self._client = MlflowClient(self.tracking_uri)
        if run_id is not None:
            self._client.update_run(run_id, status="RUNNING")
            self._known = {name: self._last_step_of(run_id, name) for name in _MARKERS}
            return run_id
        found = self._client.get_experiment_by_name(self.experiment)
        number = found.experiment_id if found else self._client.create_experiment(self.experiment)
        run = self._client.create_run(number, run_name=self.name)
        params = [Param(name, str(value)[:_LONGEST_PARAM]) for name, value in settings.items()]
        tags = {"mlflow.source.git.commit": settings.get("git_commit")}
        self._client.log_batch(run.info.run_id, params=params)
        for name, value in tags.items():
            if value:
                self._client.set_tag(run.info.run_id, name, value)
        return str(run.info.run_id)

    def _last_step_of(self, run_id: str, name: str) -> int:
        return max((metric.step for metric in self._client.get_metric_history(run_id, name)), default=0)

    def log(self, points: Sequence[Point]) -> None:
        """Logs the values in as few calls as MLflow allows, and each moment in one call."""
        from mlflow.entities import Metric

        batch: list[Any] = []
        for point in points:
            if point.step <= self._known[next(name for name in _MARKERS if name in point.values)]:
                continue
            when = int(point.time * 1000)
            metrics = [Metric(_clean(name), value, when, point.step) for name, value in point.values.items()]
            if len(batch) + len(metrics) > _MOST_METRICS:
                self._client.log_batch(self.run_id, metrics=batch)
                batch = []
            batch += metrics
        if batch:
            self._client.log_batch(self.run_id, metrics=batch)

    def log_figure(self, name: str, figure: Figure, step: int) -> None:
        """Logs a figure as a PNG file among the artifacts."""
        self._client.log_figure(self.run_id, figure, f"{name}.png")

    def log_model(self, path: Path) -> None:
        """Logs the file among the artifacts."""
        self._client.log_artifact(self.run_id, str(path))

    def close(self, is_interrupted: bool) -> None:
        """Ends the run: it is "FINISHED", or "FAILED" after an error or an interrupt."""
        self._client.set_terminated(self.run_id, "FAILED" if is_interrupted else "FINISHED")
        self._client = None

    def where(self) -> str:
        """Returns the experiment and the run."""
        return f"the run {self.run_id} of the experiment {self.experiment!r}"

    def __repr__(self) -> str:
        return f"MLflowLogger({self.experiment!r})"


def _clean(name: str) -> str:
    """Returns a name with the characters that MLflow allows."""
    return re.sub(r"[^\w\-. :/]", "_", name)
