"""`LearnerParts`: the parts of a learner, which may be assigned at any time.

    learn.dls = loaders(size=224)  # progressive resizing
    learn.metrics = [accuracy, F1Score()]

Each part is checked when it is assigned, and what was made of the part before is dropped. `Learner` adds what one does
with the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NoReturn
from weakref import ref

import torch
from torch import nn
from torch.optim import Optimizer
from typing_extensions import TypeVar

from minilearner.callbacks.progress import Output
from minilearner.checks import check_not_negative
from minilearner.data.dataloaders import DataLoaders
from minilearner.errors import plural
from minilearner.glance import AtAGlance, Glance, enumerate_names
from minilearner.metrics import Metric, name_metrics
from minilearner.models.groups import Splitter, all_parameters
from minilearner.models.tensors import to_channels_last, to_contiguous
from minilearner.other_libraries import explain_lack
from minilearner.results.recorder import Recorder
from minilearner.sources.paths import DataPath
from minilearner.threads import hold
from minilearner.training import optimizers
from minilearner.training.auto_precision import PrecisionChoice, choose_precision
from minilearner.training.callback import Callback
from minilearner.training.distributed import share_loss, share_out
from minilearner.training.optimizer_view import OptimizerView
from minilearner.training.optimizers import OptimizerFactory, Rate
from minilearner.training.preflight import check_parts, default_loss
from minilearner.training.step import LossFunction

__all__ = ["LearnerParts"]

_Label = TypeVar("_Label", default=Any)
_Learner = TypeVar("_Learner", bound="LearnerParts")


class LearnerParts(AtAGlance, Generic[_Label]):
    """Holds the data, the model, the loss, the optimizer and the metrics of a `Learner`, each of them assignable."""

    model: nn.Module
    device: torch.device
    strategy: Any
    precision: str
    cbs: list[Callback]
    recorder: Recorder
    lr: Rate
    wd_bn_bias: bool
    train_bn: bool
    moms: tuple[float, float, float]
    optimizer: Optimizer | None = None
    _auto_precision: PrecisionChoice | None = None
    _output: Output
    _trained: tuple[ref[Optimizer], Sequence[Mapping[str, Any]]] | None = None
    _has_learnt: bool = False  # whether `fit` or `load` has changed the model's weights
    _recipe: Callable[[DataLoaders], Any] | None = None  # makes a learner like this one, with its first weights

    def glance(self) -> Glance:
        """Returns what the learner is made of, and how its last run ended."""
        weights = list(self.model.parameters())
        n, n_free = (sum(w.numel() for w in some) for some in (weights, [w for w in weights if w.requires_grad]))
        made_by = None if self.opt_func is None else getattr(self.opt_func, "func", self.opt_func)
        facts = {
            **self.dls.glance().facts,
            "loss": getattr(self.loss_func, "__name__", None) or type(self.loss_func).__name__,
            "optimizer": "AdamW" if made_by is None else getattr(made_by, "__name__", repr(made_by)),
            "metrics": enumerate_names(self.metrics),
            "callbacks": enumerate_names(type(callback).__name__ for callback in self.cbs),
            "precision": self.precision,
            "runs": self.recorder.describe_last(),
        }
        frozen = "" if n_free == n else f", {n - n_free:,} of them frozen"
        title = f"{type(self).__name__} of {type(self.model).__name__}, {plural(n, 'weight')}{frozen}"
        return Glance(title, {name: fact for name, fact in facts.items() if fact})

    @property
    def dls(self) -> DataLoaders[_Label]:
        """The loaders. Others with the same classes may be assigned, such as larger images of the same items.

        New loaders also run the transforms that the learner has added to the ones before, as `vision_learner` adds
        `Normalize`, unless they have their own of that kind.
        """
        return self._dls

    @dls.setter
    def dls(self, dls: Any) -> None:
        new = as_dataloaders(dls)
        before: DataLoaders | None = getattr(self, "_dls", None)
        if before is not None:
            _check_same_classes(before.vocab, new.vocab)
            new = new.with_tfms_of(before)
        self._dls = share_out(new.to(self.device), self.model, self.strategy)

    @property
    def loss_func(self) -> LossFunction:
        """The loss. Assign None for the default loss of the loaders' targets."""
        return self._loss_func

    @loss_func.setter
    def loss_func(self, loss_func: LossFunction | None) -> None:
        check_parts(self.model, loss_func)
        self._loss_func = loss_func if loss_func is not None else default_loss(self.dls.target)
        share_loss(self._loss_func, self.device, self.strategy)

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics by their names. Assign one, several in a list, or a dictionary with names."""
        return self._metrics

    @metrics.setter
    def metrics(self, metrics: Any) -> None:
        self._metrics = name_metrics(metrics, self.device)

    @property
    def opt_func(self) -> OptimizerFactory | None:
        """Makes the optimizer. Assign another one, and the next call makes a new optimizer."""
        return self._opt_func

    @opt_func.setter
    def opt_func(self, opt_func: OptimizerFactory | None) -> None:
        optimizers.check_factory(opt_func)
        self._opt_func, self.optimizer = opt_func, None

    @property
    def splitter(self) -> Splitter:
        """Divides the model's parameters into layer groups. Assign another one, and the optimizer is made anew."""
        return self._splitter

    @splitter.setter
    def splitter(self, splitter: Splitter | None) -> None:
        if splitter is not None and not callable(splitter):
            raise TypeError(
                "`splitter` must be a function that takes the model and returns one list of parameters for each layer "
                f"group. Received: splitter={splitter!r:.80}."
            )
        self._splitter, self.optimizer = splitter or all_parameters, None

    @property
    def wd(self) -> float | None:
        """Weight decay in place of the optimizer's own. Assign it, and the optimizer has it from now on."""
        return self._wd

    @wd.setter
    def wd(self, wd: float | None) -> None:
        if wd is not None:
            check_not_negative(wd, "wd")
        if wd is None:
            self.optimizer = None
        elif self.optimizer is not None:
            optimizers.set_weight_decay(self.optimizer, self.model, wd, wd_bn_bias=self.wd_bn_bias)
        self._wd, self._trained = wd, None

    @property
    def path(self) -> DataPath:
        """The folder of this learner's files."""
        return self._path

    @path.setter
    def path(self, path: str | Path) -> None:
        self._path = DataPath(path)

    @property
    def model_dir(self) -> DataPath:
        """The folder of `save` and `load`. Relative to `path`, unless it begins at the root."""
        return self._model_dir

    @model_dir.setter
    def model_dir(self, model_dir: str | Path) -> None:
        self._model_dir = DataPath(model_dir)

    @property
    def opt(self) -> OptimizerView:
        """The optimizer with fastai's names: `opt.hypers` has the settings of each layer group. Made if need be.

        After a run, they are those of its last update.
        """
        optimizer = self._optimizer()
        trained, hypers = self._trained or (None, None)
        return OptimizerView(optimizer, hypers if trained is not None and trained() is optimizer else None)

    def _assign(self, **parts: Any) -> None:
        """Assigns parts by name. In a subclass's constructor, pyright takes `self.path = path` for a declaration."""
        for name, part in parts.items():
            setattr(self, name, part)

    def create_opt(self) -> None:
        """Makes the optimizer anew, without the state of the one before."""
        self.optimizer = None
        self._optimizer()

    def _optimizer(self) -> Optimizer:
        how = {"splitter": self.splitter, "wd": self.wd, "wd_bn_bias": self.wd_bn_bias, "loss_func": self.loss_func}
        self.optimizer = optimizers.keep_or_build_optimizer(self.optimizer, self.model, self.opt_func, self.lr, **how)
        return self.optimizer

    def to_fp16(self: _Learner) -> _Learner:
        """Trains in fp16 from now on, as `precision="fp16"` does. Returns the learner.

        On a CPU fp16 is up to fifty times slower than fp32. There it trains as `precision="auto"` does, and says so.
        """
        if self.device.type != "cpu":
            return self._set_precision("fp16")
        self._set_precision("auto")
        self._output.note(
            f"to_fp16: fp16 is slow on a CPU, so this learner trains in {self.precision}. "
            'Learner(..., precision="fp16") trains in fp16 all the same.'
        )
        return self

    def to_bf16(self: _Learner) -> _Learner:
        """Trains in bf16 from now on, as `precision="bf16"` does. Returns the learner."""
        return self._set_precision("bf16")

    def to_fp32(self: _Learner) -> _Learner:
        """Trains in fp32 from now on, in torch's default memory layout. Returns the learner."""
        with hold(self.model):
            to_contiguous(self.model)
        return self._set_precision("fp32")

    def to_channelslast(self: _Learner) -> _Learner:
        """Lays out convolutional weights as channels_last. The precision stays. Returns the learner."""
        with hold(self.model):
            to_channels_last(self.model)
        if self._auto_precision is not None:
            self._auto_precision = replace(self._auto_precision, channels_last=True)
        return self

    def _set_precision(self: _Learner, precision: str) -> _Learner:
        with hold(self.model):
            if precision == "auto":
                self._take_precision(choose_precision(self.model, self.device, is_shared=self.strategy is not None))
                return self
            self.precision, self._auto_precision = precision, None
            if precision != "fp32":
                to_channels_last(self.model)
        return self

    def __deepcopy__(self: _Learner, memo: dict[int, Any]) -> _Learner:
        """Copies everything, while no other thread calls the model."""
        new: _Learner = type(self).__new__(type(self))
        memo[id(self)] = new
        with hold(self.model):
            vars(new).update(deepcopy(vars(self), memo))
        return new

    def _take_precision(self, choice: PrecisionChoice) -> None:
        """Trains with what `precision="auto"` chose."""
        self.precision, self._auto_precision = choice.precision, choice
        choice.lay_out(self.model)

    if not TYPE_CHECKING:  # with `__getattr__`, a type checker would accept misspelt names

        def __getattr__(self, name: str) -> NoReturn:
            raise AttributeError(explain_lack(type(self), name))


def as_dataloaders(dls: Any) -> DataLoaders:
    """Returns a `DataLoaders`: the given one, or one of a pair of loaders or of a single loader to train on."""
    return dls if isinstance(dls, DataLoaders) else DataLoaders(*(dls if isinstance(dls, tuple) else (dls,)))


def _check_same_classes(before: Sequence[Any] | None, now: Sequence[Any] | None) -> None:
    if before is None or now is None or tuple(before) == tuple(now):
        return
    if all(tuple(one) == tuple(range(len(one))) for one in (before, now)):  # numbers that nobody has named
        return
    raise ValueError(
        f"`dls` must have the classes that the model knows, {_list_some(before)}. Received: {_list_some(now)}. "
        "For other classes, make a new learner."
    )


def _list_some(names: Sequence[Any]) -> str:
    some = ", ".join(repr(name) for name in names[:5])
    return f"{some} and {len(names) - 5} more" if len(names) > 5 else some
