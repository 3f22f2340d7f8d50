"""Find out before training starts what cannot work, and say it in the user's terms."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from minilearner import processes
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.loader import Loader
from minilearner.data.targets import Target
from minilearner.display import write_line
from minilearner.errors import DataError, plural
from minilearner.metrics import Metric
from minilearner.models.groups import parameters_of
from minilearner.models.inputs import n_required_inputs, spread_inputs
from minilearner.models.restore import evaluation_mode, restore_buffers
from minilearner.other_libraries import LOSSES_ELSEWHERE, translate
from minilearner.runtime import give_back_memory, is_out_of_memory, is_seeded, isolate_rng, set_seed
from minilearner.training.activation_trial import warn_of_activation, warn_of_unused_steps
from minilearner.training.divisor_probe import LossFunction, is_near, isolate_loss, make_leaf
from minilearner.training.inference import predict_all
from minilearner.training.loss_terms import LossTerms, Term
from minilearner.training.metric_trial import try_metrics
from minilearner.training.step import Step, describe, loss_error
from minilearner.tree import Tree, map_tensors, n_items, tensors_of

__all__ = [
    "Preflight",
    "check_data",
    "check_model",
    "check_parts",
    "default_loss",
    "last_batch_size",
    "seed_after_model",
    "takes_statistics",
]


def check_parts(model: Any, loss_func: Any) -> None:
    """Raises if a learner's part is a class or a function in place of the object that it makes.

    Raises:
        TypeError: as said.
    """
    check_model(model)
    if isinstance(loss_func, type):
        raise TypeError(
            f"`loss_func` must be a function or an object, not a class. Received: {loss_func.__name__}. Write "
            f"{loss_func.__name__}()."
        )
    if loss_func is not None and not callable(loss_func):
        meant = translate(loss_func, LOSSES_ELSEWHERE) if isinstance(loss_func, str) else ""
        raise TypeError(
            "`loss_func` must be a function (pred, target) or a module, such as nn.CrossEntropyLoss(). "
            f"Received: loss_func={loss_func!r:.80}.{f' Write loss_func={meant}.' if meant else ''}"
        )


def check_model(model: Any) -> None:
    """Raises a TypeError if `model` is not a module, but for example a class."""
    if not isinstance(model, nn.Module):
        name = getattr(model, "__name__", None)
        advice = f" Received: {name}, which makes one: write {name}(...)." if callable(model) and name else ""
        raise TypeError(f"`model` must be a torch module.{advice or f' Received: {type(model).__name__}.'}")


def default_loss(target: Target | None) -> LossFunction:
    """Returns the default loss for a kind of target.

    Raises:
        ValueError: the kind of target is not known.
    """
    if target is None:
        raise ValueError(
            "`loss_func` is needed, since the loaders do not say what their targets are. "
            "Give one, or give `DataLoaders` the `vocab` or the `target`."
        )
    return target.loss_func


def seed_after_model(seed: int) -> None:
    """Seeds the generators. Says so if nobody had seeded them when the model was built, which happens once."""
    was_seeded = is_seeded()
    set_seed(seed)
    if not was_seeded and processes.is_first():
        write_line(
            f"seed={seed} comes after the model was built: if its weights are random, they differ from run to run. "
            f"Call set_seed({seed}) before you build the model.",
            sys.stderr,
        )


class Preflight:
    """Runs `check_data` once for each combination of model, loss and data, because it costs a few batches."""

    def __init__(self) -> None:
        self._passed: list[Any] = []

    def check(
        self,
        step: Step,
        dls: DataLoaders,
        metrics: Mapping[str, Metric],
        callbacks: Sequence[Any] = (),
        *,
        may_change: bool = False,
    ) -> None:
        """Runs `check_data`, unless exactly these parts passed it the last time. Callbacks may replace the loss.

        Args:
            step, dls, metrics: as in `check_data`.
            callbacks: those of the run.
            may_change: True if callbacks may make a batch fit that does not. Then the training itself must say so.
        """
        parts = [*parameters_of(step.model, step.loss_func), step.loss_func, dls, *metrics.values()]
        if [id(part) for part in self._passed] == [id(part) for part in parts]:
            return
        try:
            check_data(step, dls, metrics, is_own_loss=any(map(_may_replace_loss, callbacks)))
        except DataError as error:
            is_theirs = error.__cause__ is not None and not isinstance(error.__cause__, Warning)
            if not (may_change and is_theirs):  # the model's and the loss's own errors come again if they must
                raise
        else:
            self._passed = parts
        give_back_memory()  # a trial takes more than a step, and the process would keep it for the whole training


def _may_replace_loss(callback: Any) -> bool:
    """Whether code of the user's runs at an event that can put another loss in place of the step's own."""
    events = ("before_fit", "after_pred", "after_loss", "before_backward")
    functions = [getattr(callback, event) for event in events]
    return any(not getattr(function, "__module__", "").startswith("minilearner.") for function in functions)


def check_data(step: Step, dls: DataLoaders, metrics: Mapping[str, Metric], *, is_own_loss: bool = False) -> None:
    """Sends the first batch of each loader through model and loss, without a trace, and checks the data at hand.

    Model and loss say themselves what they can take. So a class number out of range is one that `cross_entropy` and
    its kind would refuse, and NaN in the inputs is an error if it makes the loss NaN. If that needs no reading (tensors
    and lists in memory), the rest of the data is looked through for items that the first batch does not vouch for; they
    take places in the first batch, and go through in it. Metrics are tried on the first validation batch, or without a
    validation set on the first training batch; see `try_metrics`.

    Args:
        step: holds model and loss.
        dls: the loaders.
        metrics: by their names.
        is_own_loss: True if a callback may go backward from another loss, so that the step's own needs no gradient.

    Raises:
        ValueError: every parameter is frozen, or batch norm would meet a single value.
        DataError: this model and loss cannot train on the data. The message names the stage, the shapes and the likely
            reason; the original error is its cause.
    """
    if not any(parameter.requires_grad for parameter in parameters_of(step.model, step.loss_func)):
        raise ValueError("every parameter of the model is frozen, so there is nothing to train. Unfreeze some.")
    with ExitStack() as kept:
        for module in (step.model, step.loss_func):
            if isinstance(module, nn.Module):
                kept.enter_context(restore_buffers(module))
        _check_sets(step, dls, metrics, is_own_loss)


def _check_sets(step: Step, dls: DataLoaders, metrics: Mapping[str, Metric], is_own_loss: bool) -> None:
    for split in ("training", "validation")[: 1 if dls.valid is None else 2]:
        ds_idx = int(split == "validation")
        x, y = dls.loader(ds_idx).first_batch()
        trial = _Trial(step, split, x, y, _count_classes(dls))
        trial.check()
        if not ds_idx:
            _check_lone_item(step, x, dls.train)
            trial.check_shapes()
            trial.check_meaning()
            if not is_own_loss:
                trial.check_gradient()
        if ds_idx or dls.valid is None:
            _check_metrics(step, x, y, metrics, dls.loader(ds_idx))
        for number, (x, y) in enumerate(dls.loader(ds_idx).data_in_memory()):
            trial.check_more(x, y, f"the {split} data" + (f", batch {number}" if number else ""))


def _count_classes(dls: DataLoaders) -> int:
    """Returns how many classes somebody has named; those that labels merely count up to may never occur."""
    vocab = dls.vocab
    return 0 if vocab is None or vocab == tuple(range(len(vocab))) else len(vocab)


class _Trial:
    """The first batch of a loader on its way through model and loss, in evaluation mode.

    Args:
        step: holds model and loss.
        split: "training" or "validation".
        x, y: the batch.
        n_classes: how many classes have names.
    """

    def __init__(self, step: Step, split: str, x: Tree, y: Any, n_classes: int):
        self.step, self.split, self.x, self.y, self.n_classes = step, split, x, y, n_classes
        self.pred: Any = None
        self.low, self.high = _range_of(y)

    def check(self) -> None:
        """Raises a DataError if model and loss cannot take the batch, or if it would make the weights NaN."""
        where = f"the first {self.split} batch"
        try:
            self.pred = self._predict(self.x)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self.x, self.y = map_tensors(lambda t: t[:2] if t.ndim else t, (self.x, self.y))
            self.pred = self._predict(self.x)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Using a target size")  # a broadcast that nobody wants
            loss = self._compute_loss(self.pred, self.y, where, self.n_classes)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise DataError(
                f"`loss_func` must return one number, the mean over the batch. Received: {describe(loss)} for "
                f"predictions {describe(self.pred)} and targets {describe(self.y)}."
            )
        if not self._is_survivable(loss, self.pred, self.y):
            self._refuse_loss(loss, self.pred, self.x, self.y, where)

    def check_shapes(self) -> None:
        """Raises a DataError if the loss compares each prediction with the targets of all items.

        Torch broadcasts predictions (items, 1) and targets (items,) to (items, items). Then it does not matter which
        target is whose. It does matter if both have the same shape, and which shape that is makes no difference. No
        loss that compares all pairs on purpose behaves like this.
        """
        pred, y = self.pred, self.y
        if not isinstance(pred, Tensor) or not isinstance(y, Tensor) or n_items(y) < 2:
            return
        if pred.shape != (*y.shape, 1) and y.shape != (*pred.shape, 1):
            return
        column, flat = max(pred.shape, y.shape, key=len), min(pred.shape, y.shape, key=len)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                given, moved = self._try_shapes(pred.shape, y.shape)
                of_flat, moved_flat = self._try_shapes(flat, flat)
                of_column, _ = self._try_shapes(column, column)
        except Exception as error:  # the loss wants these shapes
            if is_out_of_memory(error):
                raise
            return
        is_blind = is_near(given, moved) and not is_near(of_flat, moved_flat)
        if is_blind and is_near(of_flat, of_column) and not is_near(given, of_flat):
            raise DataError(
                "`loss_func` compares each prediction with the targets of all items, since torch broadcasts their "
                f"shapes. Received: predictions {describe(pred)} and targets {describe(y)}. Give both the same shape, "
                "with `squeeze(1)` or `unsqueeze(1)` in the loss."
            )

    def check_meaning(self) -> None:
        """Warns if the model and the loss both activate the outputs, or if the model has steps that nobody calls."""
        warn_of_unused_steps(self.step.model)
        warn_of_activation(self.step.loss_func, self.pred, self.y, self._predict_again)

    def check_gradient(self) -> None:
        """Raises a DataError if the loss has no gradient, so that nothing can be learnt from it."""
        try:
            with torch.enable_grad():
                loss = self._try_loss(map_tensors(make_leaf, self.pred), self.y)
                if not loss.requires_grad:  # unless it comes from the model, past the predictions
                    loss = self._try_loss(self._predict_again(), self.y)
        except Exception:  # training will say what is wrong, if anything is
            return
        if not loss.requires_grad:
            raise DataError(
                f"`loss_func` must return a loss with a gradient. Received: a loss of {float(loss):.4g} without one. "
                "Compute it from the predictions with torch, without `detach()`, `item()`, `argmax()` or NumPy."
            )

    def _predict_again(self) -> Any:
        """Returns the outputs of the model, with their graph if gradients are on."""
        inputs, named = spread_inputs(self.step.model, self.x)
        with isolate_rng(), evaluation_mode(self.step.model):
            return self.step.model(*inputs, **named)

    def _try_shapes(self, of_pred: Sequence[int], of_y: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Returns the loss of predictions and targets in these shapes, and that of items with each other's targets."""
        pred, y = self.pred.reshape(of_pred), self.y.reshape(of_y)
        with torch.no_grad():
            return self._try_loss(pred, y), self._try_loss(pred, y.roll(1, 0))

    def _try_loss(self, pred: Any, y: Any) -> Tensor:
        with isolate_rng(), isolate_loss(self.step.loss_func):
            return self.step.loss_func(pred, y)

    def check_more(self, x: Tree, y: Any, where: str) -> None:
        """Raises a DataError if there are inputs or labels that the first batch does not vouch for, and that fail."""
        if bad := _find_not_finite((x, y)):
            mixed_x, mixed_y = self._insert(self.x, x, bad), self._insert(self.y, y, bad)
            if mixed_x is not None and mixed_y is not None:
                pred = self._predict(mixed_x)
                loss = self._compute_loss(pred, mixed_y, where)
                if not self._is_survivable(loss, pred, mixed_y):
                    self._refuse_loss(loss, pred, x, y, where)
        low, high = _range_of(y)
        if low is None or high is None or self.low is None or self.high is None:
            return
        if low < self.low or high > self.high:
            rows = y.reshape(len(y), -1)
            odd = sorted({int(rows.amin(1).argmin()), int(rows.amax(1).argmax())})
            mixed_y = self._insert(self.y, y, odd)
            if mixed_y is not None:
                self._compute_loss(self.pred, mixed_y, where, of=y)
            self.low, self.high = min(low, self.low), max(high, self.high)

    def _insert(self, batch: Tree, data: Tree, items: list[int]) -> Tree:
        """Returns the batch with some of its items replaced by those, or None if they do not fit."""
        pieces, fits = iter(tensors_of(data)), True

        def replace(t: Tensor) -> Tensor:
            nonlocal fits
            piece = next(pieces, None)
            if piece is None or not t.ndim or piece.shape[1:] != t.shape[1:]:
                fits = False
                return t
            new = t.clone()
            picked = piece[torch.tensor(items[: len(t)], device=piece.device)]
            new[: len(picked)] = picked.to(t)
            return new

        mixed = map_tensors(replace, batch)
        return mixed if fits else None

    def _predict(self, x: Tree) -> Any:
        with isolate_rng(), evaluation_mode(self.step.model), torch.no_grad():
            try:
                return self.step.predict(x)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                reason = _compare_shapes(error, x) or f"{error}{_advise(error, self.step.model, x)}"
                inputs = "" if _names_shape(reason, x) else f" of inputs {describe(x)}"
                raise DataError(f"the model cannot take a {self.split} batch{inputs}: {reason}") from error

    def _compute_loss(self, pred: Any, y: Any, where: str, n_classes: int = 0, of: Any = None) -> Tensor:
        """Returns the loss. A class number out of range is an error, before a GPU trips over it.

        Args:
            n_classes: classes that have names are class numbers, too, even if the batch has none of them.
            of: the labels whose range an error names, instead of those of the batch.
        """
        refused: list[DataError] = []

        def check_labels(term: Term) -> Tensor:
            error = _find_label_error(term, y if of is None else of, where, n_classes)
            if error is not None:
                refused.append(error)
                raise error
            return term.call()

        loss_func = self.step.loss_func
        try:
            with isolate_rng(), isolate_loss(loss_func), torch.no_grad(), LossTerms(check_labels, unreduced=True):
                return self.step.compute_loss(pred, y)
        except Exception as error:
            if refused:
                raise refused[0] from None
            if isinstance(error, DataError) or is_out_of_memory(error):
                raise
            raise loss_error(pred, y, error) from error

    def _is_survivable(self, loss: Tensor, pred: Any, y: Any) -> bool:
        """Whether a loss is finite, or would be if it did not leave out the whole batch: then it moves nothing."""
        if bool(loss.isfinite().all()):
            return True

        def compute(term: Term) -> Tensor:
            return term.safe_value(term.divisor())

        loss_func = self.step.loss_func
        with isolate_rng(), isolate_loss(loss_func), torch.no_grad(), LossTerms(compute):
            return bool(loss_func(pred, y).isfinite().all())

    def _refuse_loss(self, loss: Tensor, pred: Any, x: Tree, y: Any, where: str) -> None:
        """Raises the DataError of a loss that is not finite. A validation set may do what it likes with sound data."""
        bad = _find_not_finite(x)
        if bad:
            raise DataError(
                f"the inputs hold NaN or infinite values: first in item {bad[0]} of {where}. With them, the loss is "
                f"{float(loss)}. Fill or remove them, or let the model do so."
            )
        if bad := _find_not_finite(y):
            raise DataError(
                f"the targets hold NaN or infinite values: first in item {bad[0]} of {where}. With them, the loss is "
                f"{float(loss)}. Fill or remove them, or let the loss leave them out."
            )
        if self.split == "validation":
            return
        raise DataError(
            f"the loss of {where} is {float(loss)}, before any training. Received: predictions {describe(pred)} from "
            f"{_span(pred)}, and targets {describe(y)} from {_span(y)}. Check that the loss accepts such values."
        )


def _check_metrics(step: Step, x: Tree, y: Any, metrics: Mapping[str, Metric], loader: Loader) -> None:
    if not metrics:
        return

    @contextmanager
    def open_whole_set() -> Iterator[Iterator[tuple[Any, Any]]]:
        with predict_all(step, loader) as batches:
            yield ((batch.preds, batch.targets) for batch in batches)

    with isolate_rng(), evaluation_mode(step.model), torch.no_grad():
        pred = step.predict(x)
    # Several processes would wait for each other if only one of them needed more batches.
    whole_set = open_whole_set if step.n_processes == 1 else None
    try_metrics(metrics, pred, y, is_all=len(loader) == 1, whole_set=whole_set)


def _check_lone_item(step: Step, x: Tree, loader: Loader) -> None:
    """Raises if a training batch is a single item that gives a batch norm one value a channel."""
    if n_items(x) != 1 and last_batch_size(loader) != 1:
        return
    starved: list[str] = []
    with ExitStack() as hooks, isolate_rng(), evaluation_mode(step.model), torch.no_grad():
        for name, norm in step.model.named_modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm) and takes_statistics(norm):
                hook = norm.register_forward_pre_hook(
                    lambda norm, args, name=name: starved.append(name) if args[0].numel() == args[0].shape[1] else None
                )
                hooks.callback(hook.remove)
        with suppress(Exception):  # a model that needs the whole batch
            step.predict(map_tensors(lambda t: t[:1] if t.ndim else t, x))
    if starved:
        raise ValueError(
            f"a training batch is a single item, and batch norm ({starved[0]!r} in the model) needs more than "
            "one value a channel. Give another `bs`, or leave the short batch out: drop_last=True."
        )


def takes_statistics(norm: nn.Module) -> bool:
    """Whether a norm computes statistics in training. `BnFreeze` keeps frozen norms in evaluation mode."""
    return all(parameter.requires_grad for parameter in norm.parameters())


def last_batch_size(loader: Loader) -> int | None:
    """Returns the size of the last batch of a pass, or the smallest in a list of batches; None if it is not known.

    With several processes, returns the smallest of their sizes. A process without an item does not count, because
    another item stands in.
    """
    source = getattr(loader, "source", loader)
    if isinstance(source, list):
        return min(map(n_items, source), default=None)
    if isinstance(source, DataLoader):
        bs, n = source.batch_size, len(source.sampler) if isinstance(source.sampler, Sized) else None
    else:
        bs, n = getattr(loader, "bs", None), loader.n_items
    if bs is None or n is None:
        return None
    left = n - (len(loader) - 1) * bs * loader.share.count
    return min(bs, max(1, left // loader.share.count))


def _advise(error: Exception, model: nn.Module, x: Tree) -> str:
    """Returns what probably mends an error of the model, as a further sentence; "" if nobody can say."""
    said = str(error)
    inputs, named = spread_inputs(model, x)
    needed, given = n_required_inputs(model), len(inputs) + len(named)
    if isinstance(error, TypeError) and needed is not None and needed != given and "argument" in said:
        return (
            f" The model needs {plural(needed, 'input')}, and the loader gives {plural(given, 'input')}. Let the "
            "dataset return items "
            "((a, b), y), with one input for each argument of `forward`."
        )
    if "out of range" in said and any(not t.is_floating_point() for t in inputs if isinstance(t, Tensor)):
        return f" The inputs go from {_span(x)}. An embedding needs more rows than the largest of them."
    if "indices" in said and "scalar type" in said:
        return " The model looks its inputs up in a table. Convert them with `x.long()` when you make them."
    if isinstance(x, Tensor) and x.dtype != torch.float32 and "out of range" not in said:
        return " Models compute in float32: convert the inputs with `x.float()` when you make them."
    if isinstance(x, Tensor) and x.ndim in (3, 4) and x.is_floating_point():
        return (
            " Check the number of input channels, the size of the images and the order of the axes "
            "(batch, channels, height, width)."
        )
    return ""


_MISFITS = (  # what torch says of the shape that a layer takes and of the shape that it receives; the layer; its unit
    (r"shapes cannot be multiplied \(\d+x(?P<received>\d+) and (?P<taken>\d+)x\d+\)", "linear layer", "feature"),
    (r"input\[.*\] to have (?P<taken>\d+) channels, but got (?P<received>\d+) channels", "convolution", "channel"),
    (r"running_mean should contain (?P<received>\d+) elements not (?P<taken>\d+)", "batch norm", "channel"),
)


def _compare_shapes(error: Exception, x: Tree) -> str:
    """Returns the shape that a layer takes beside the one that it receives; "" if the error does not name both."""
    said = str(error)
    if isinstance(error, ValueError) and _names_shape(said, x):
        return said  # the model has checked its inputs itself
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return ""  # other advice fits better
    for pattern, layer, unit in _MISFITS:
        if found := re.search(pattern, said):
            return f"a {layer} in it takes {plural(int(found['taken']), unit)}. Received: {found['received']}."
    if found := re.search(r"input size per channel: \((.*?)\)\. Kernel size: \((.*?)\)", said):
        return f"a convolution in it takes at least {found[2]} pixels. Received: {found[1]}."
    return ""


def _names_shape(text: str, x: Tree) -> bool:
    return isinstance(x, Tensor) and str(tuple(x.shape)) in text


def _find_label_error(term: Term, labels: Any, where: str, n_classes: int) -> DataError | None:
    """Returns the error of a call of `cross_entropy` or its kind with class numbers that its predictions lack."""
    target = term.class_numbers
    if target is None or term.name == "linear_cross_entropy":
        return None
    n, ignored = term.n_classes, term.arguments["ignore_index"]
    counted = target[target != ignored]
    named = [number for number in range(n_classes) if number != ignored]
    low, high = _range_of(counted)
    if low is None or high is None or (low >= 0 and max([high, *named[-1:]]) < n):
        return None
    if isinstance(labels, Tensor) and not labels.is_floating_point():
        shown = labels[labels != ignored]
        low, high = int(shown.min()), int(shown.max())
    return DataError(
        f"labels must lie in 0 to {n - 1}, since the model has {plural(n, 'output')}. Received, in {where}: labels "
        f"from {low} to "
        f"{max([high, *named[-1:]])}. Give the model one output for each class."
    )


def _range_of(y: Any) -> tuple[int | None, int | None]:
    """Returns the smallest and the largest of whole numbers, or None if there are none."""
    if not isinstance(y, Tensor) or y.is_floating_point() or y.is_complex() or not y.numel() or y.dtype == torch.bool:
        return None, None
    return int(y.min()), int(y.max())


def _find_not_finite(tree: Tree) -> list[int]:
    """Returns the items with numbers that are NaN or infinite."""
    bad: set[int] = set()
    for t in tensors_of(tree):
        if t.is_floating_point() and not bool(torch.isfinite(t).all()):
            bad |= set((~torch.isfinite(t)).reshape(len(t), -1).any(1).nonzero().flatten().tolist() if t.ndim else [0])
    return sorted(bad)


def _span(tree: Tree) -> str:
    """Returns the smallest and the largest number, as "0 to 9"."""
    numbers = [t.detach() for t in tensors_of(tree) if t.numel() and not t.is_complex()]
    if not numbers:
        return "nothing"
    return f"{min(float(t.min()) for t in numbers):.4g} to {max(float(t.max()) for t in numbers):.4g}"
