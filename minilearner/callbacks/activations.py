"""`ActivationStats`: watch the layers' outputs in training, to see whether activations vanish, explode or die.

The callback records the numbers. `models.hooks` places the hooks, and `plots.lines` draws the figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from minilearner.batch_values import BatchValues
from minilearner.checks import check_count
from minilearner.models.hooks import ForwardHooks, layers_of
from minilearner.plots import lines
from minilearner.results.growing import GrowingArray
from minilearner.training.callback import Callback
from minilearner.training.run import Run

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ActivationStats"]

_N_BINS, _LARGEST, _NEAR_ZERO = 40, 10.0, 0.05  # fastai's


class ActivationStats(Callback):
    """Records the mean, the standard deviation and the share of near-zero values of layers' outputs in training.

    The values stay on the device until the epoch ends, so batches never wait for them. If a layer returns several
    tensors, only the first one counts. Each run starts over.

    Example: ``stats = ActivationStats(with_hist=True); learn.fit(1, cbs=stats); stats.plot_layer_stats(0)``.

    Args:
        modules: the modules to watch. None watches every layer that has parameters.
        every: record one of this many training batches, starting with the first. None records all of them.
        with_hist: also count the absolute values in 40 bins over [0, 10], for `color_dim`. Larger values are not
            counted. (fastai bins the signed values, so it loses the negative ones.)
        include_paramless: with ``modules=None``, also watch layers without parameters, such as activations.

    Attributes:
        names: the modules' paths in the model.

    Raises:
        ValueError: `every` is below 1. When a run begins: there is nothing to watch, or a module is not in the model.
    """

    order = -20
    growing = ("values",)
    ignored_arguments = ()

    def __init__(
        self,
        modules: Iterable[nn.Module] | None = None,
        every: int | None = None,
        with_hist: bool = False,
        *,
        include_paramless: bool = False,
    ):
        if every is not None:
            check_count(every, "every")
        self.modules = None if modules is None else list(modules)
        self.every = every or 1
        self.with_hist = with_hist
        self.include_paramless = include_paramless
        self.names: list[str] = []
        self._hooks: ForwardHooks | None = None
        self._is_recording = False
        self._n_batches = 0
        self._now: dict[int, Tensor] = {}
        self._waiting = BatchValues()
        self._values = GrowingArray(np.empty((0, 0, 0), dtype=np.float32))

    @property
    def means(self) -> NDArray[np.float32]:
        """The mean of each layer's outputs, (records, layers). NaN if a layer did not run in a batch."""
        return self._read()[:, :, 0]

    @property
    def stds(self) -> NDArray[np.float32]:
        """The standard deviation of each layer's outputs, (records, layers)."""
        return self._read()[:, :, 1]

    @property
    def near_zero(self) -> NDArray[np.float32]:
        """The share of outputs whose absolute value is at most 0.05, in [0, 1], (records, layers)."""
        return self._read()[:, :, 2]

    @property
    def hists(self) -> NDArray[np.float32]:
        """The number of absolute values in each of 40 bins over [0, 10], (records, layers, 40).

        Raises:
            ValueError: `with_hist` is False.
        """
        if not self.with_hist:
            raise ValueError("there are no histograms. Use ActivationStats(with_hist=True) before training.")
        return self._read()[:, :, 3:]

    def plot_layer_stats(
        self, idx: int, ax: Axes | None = None, *, save: str | os.PathLike[str] | None = None
    ) -> Figure:
        """Plots the mean, standard deviation and near-zero share of layer `idx` of `names` by recorded batch."""
        columns = {"mean": self.means, "standard deviation": self.stds, "share near zero": self.near_zero}
        self._check_index(idx)
        series = {name: c[:, idx] for name, c in columns.items()}
        return lines.plot_series(series, xlabel=self._label_x(idx), ax=ax, save=save)

    def color_dim(self, idx: int, ax: Axes | None = None, *, save: str | os.PathLike[str] | None = None) -> Figure:
        """Plots the histograms of layer `idx` of `names`: one column per recorded batch, brighter for higher counts."""
        hists = self.hists
        self._check_index(idx)
        return lines.plot_histograms(hists[:, idx], _LARGEST, xlabel=self._label_x(idx), ax=ax, save=save)

    def before_fit(self, run: Run) -> None:
        layers = self._choose_layers(run.model)
        self.names = list(layers)
        self._n_batches = 0
        self._waiting.reset()
        self._values = GrowingArray(np.empty((0, len(layers), 3 + _N_BINS * self.with_hist), dtype=np.float32))
        self._hooks = ForwardHooks(layers.values(), self._record_output)

    def before_batch(self, run: Run) -> None:
        self._is_recording = run.training and self._n_batches % self.every == 0
        self._n_batches += run.training
        self._now = {}

    def after_pred(self, run: Run) -> None:
        if self._is_recording and self._now:
            missing = torch.full_like(next(iter(self._now.values())), torch.nan)
            self._waiting.add(torch.stack([self._now.get(i, missing) for i in range(len(self.names))]))
        self._is_recording = False

    def after_epoch(self, run: Run) -> None:
        self._read()

    def after_fit(self, run: Run) -> None:
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None

    def _record_output(self, index: int, output: Any) -> None:
        if not self._is_recording:
            return
        while isinstance(output, (tuple, list, Mapping)) and output:
            output = next(iter(output.values() if isinstance(output, Mapping) else output))
        if isinstance(output, Tensor) and output.numel():
            self._now[index] = self._summarize(output.detach().float())

    def _summarize(self, t: Tensor) -> Tensor:
        near_zero = (t.abs() <= _NEAR_ZERO).float().mean()
        values = torch.stack([t.mean(), t.std(correction=min(1, t.numel() - 1)), near_zero])
        return torch.cat([values, t.abs().histc(_N_BINS, 0, _LARGEST)]) if self.with_hist else values

    def _choose_layers(self, model: nn.Module) -> dict[str, nn.Module]:
        if self.modules is None:
            chosen = layers_of(model, with_parameters_only=not self.include_paramless)
        else:
            names = {module: name for name, module in model.named_modules()}
            if strange := [module for module in self.modules if module not in names]:
                raise ValueError(f"`modules` must be modules of the model. Received: {strange[0]!r}.")
            chosen = {names[module]: module for module in self.modules}
        if not chosen:
            raise ValueError("`ActivationStats` has no layers to watch. Give `modules`.")
        return chosen

    def _read(self) -> NDArray[np.float32]:
        waiting = self._waiting.read().numpy()
        if len(waiting):
            self._values.extend(waiting)
            self._waiting.reset()
        return self._values.rows

    def _check_index(self, idx: int) -> None:
        if not -len(self.names) <= idx < len(self.names):
            raise ValueError(f"`idx` must be an index into the {len(self.names)} recorded layers. Received: idx={idx}.")

    def _label_x(self, idx: int) -> str:
        batch = "training batch" if self.every == 1 else f"recorded batch, one in {self.every}"
        return f"{batch} (layer {self.names[idx]!r})"

    def state_dict(self) -> dict[str, Any]:
        """Returns what was recorded."""
        return {"names": self.names, "values": self._read(), "n_batches": self._n_batches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the records; a resumed run appends to them."""
        self._values = GrowingArray(np.asarray(state["values"], dtype=np.float32))
        self._waiting.reset()
        self.names, self._n_batches = list(state["names"]), state["n_batches"]

    def __repr__(self) -> str:
        return f"ActivationStats(every={self.every}, with_hist={self.with_hist})"
