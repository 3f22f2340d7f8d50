"""Find a model that activates its outputs before a loss that does so itself, and parts of a module that nobody calls.

Both train without an error, and learn badly or something else.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from minilearner import processes
from minilearner.runtime import isolate_rng
from minilearner.tracebacks import stacklevel_of_user
from minilearner.training.divisor_probe import LossFunction, isolate_loss
from minilearner.training.loss_terms import LossTerms, Term

__all__ = ["warn_of_activation", "warn_of_unused_steps"]

_ROUNDING = 1e-3
"""How far the sum of probabilities may be from 1; enough for half precision."""
_VIEWS = (
    "Alias",
    "Clone",
    "Expand",
    "Permute",
    "Select",
    "Slice",
    "Squeeze",
    "ToCopy",
    "Transpose",
    "Unsqueeze",
    "View",
)
"""How the names of operations begin that only move numbers, as autograd calls them."""


def warn_of_activation(loss_func: LossFunction, pred: Any, y: Any, predict: Callable[[], Any]) -> None:
    """Warns if the loss takes its own softmax or sigmoid of outputs that have one already.

    It goes by the values that reach torch's losses, so a softmax inside `forward` is found as well as a layer. It is a
    warning, because only the user knows what the outputs mean.

    Args:
        loss_func: the loss.
        pred: the outputs for a batch.
        y: its targets.
        predict: returns the same outputs with their graph.
    """
    if not processes.is_first():
        return
    doubts: list[str] = []

    def examine(term: Term) -> Tensor:
        doubts.extend(filter(None, [_examine(term, predict)]))
        return term.call()

    with isolate_rng(), isolate_loss(loss_func), torch.no_grad(), LossTerms(examine, unreduced=True):
        loss_func(pred, y)
    if doubts:
        warnings.warn(doubts[0], stacklevel=stacklevel_of_user())


def warn_of_unused_steps(model: nn.Module) -> None:
    """Warns of a LightningModule's methods that say how to train, since only its `forward` is called."""
    kinds = [kind for kind in type(model).__mro__ if kind.__name__ == "LightningModule"]
    base = kinds[0] if kinds else nn.Module
    names = ("training_step", "validation_step", "configure_optimizers")
    own = [name for name in names if getattr(type(model), name, None) is not getattr(base, name, None)]
    if own and processes.is_first():
        warnings.warn(
            f"`model` defines {', '.join(own)}, which are not called: a learner trains `forward` with its own "
            "`loss_func` and `opt_func`. Give it the loss and the optimizer of these methods.",
            stacklevel=stacklevel_of_user(),
        )


def _examine(term: Term, predict: Callable[[], Any]) -> str:
    """Returns what is wrong with the predictions that a loss of torch's receives; "" if nothing is."""
    pred = term.first_input.detach()
    if not pred.is_floating_point() or not pred.numel():
        return ""
    if term.name == "cross_entropy" and _are_probabilities(pred):
        return (
            "the model returns probabilities, and `cross_entropy` takes a softmax of them once more, so it learns "
            "slowly. Remove the softmax from the end of the model. If you want probabilities, use their logarithm: "
            "loss_func=lambda pred, y: F.nll_loss(pred.log(), y)."
        )
    if term.name == "nll_loss" and bool((pred > _ROUNDING).any()):
        return (
            "`nll_loss` needs logarithms of probabilities, which are never above 0. Received: outputs up to "
            f"{float(pred.max()):.4g}. Use `cross_entropy`, or end the model with a log_softmax."
        )
    is_candidate = term.name == "binary_cross_entropy_with_logits" and bool(((pred >= 0) & (pred <= 1)).all())
    if is_candidate and _ends_in_sigmoid(predict):
        return (
            "the model returns probabilities, and `binary_cross_entropy_with_logits` takes a sigmoid of them once "
            "more, so it learns slowly. Remove the sigmoid from the end of the model, or use `binary_cross_entropy`."
        )
    return ""


def _are_probabilities(pred: Tensor) -> bool:
    """Whether outputs (batch, classes, ...) are probabilities of classes."""
    if pred.ndim < 2 or pred.shape[1] < 2:
        return False
    return bool((pred >= 0).all()) and bool(((pred.float().sum(1) - 1).abs() < _ROUNDING).all())


def _ends_in_sigmoid(predict: Callable[[], Any]) -> bool:
    """Whether the last operation of the model is a sigmoid. Values in [0, 1] alone may be chance."""
    try:
        with torch.enable_grad():
            pred = predict()
    except Exception:  # training will say what is wrong, if anything is
        return False
    node = getattr(pred, "grad_fn", None)
    while node is not None and node.name().lstrip("_").startswith(_VIEWS):
        node = node.next_functions[0][0] if node.next_functions else None
    return node is not None and node.name().startswith("Sigmoid")
