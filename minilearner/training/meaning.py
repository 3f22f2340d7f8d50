"""What a model's outputs mean: how they become predictions, and what predictions decode to.

The kind of target says it. For numbers, and if the target is unknown, a loss with fastai's `activation` and `decodes`
says it, as in fastai.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minilearner.data.targets import MultiCategory, Regression, Target

__all__ = ["choose_activation", "choose_decoder"]


def choose_activation(target: Target | None, loss_func: Any) -> Callable[[Any], Any] | None:
    """Returns what turns a model's outputs into predictions, such as a softmax. None if nobody says it."""
    of_loss = getattr(loss_func, "activation", None)
    if callable(of_loss) and (target is None or isinstance(target, Regression)):
        return of_loss  # type: ignore[no-any-return]
    return None if target is None else target.activate


def choose_decoder(target: Target | None, loss_func: Any) -> Callable[[Any], Any] | None:
    """Returns what turns predictions into the form of targets, such as class numbers. None if nobody says it.

    Of several labels, a loss with a threshold says which are there.
    """
    of_loss = getattr(loss_func, "decodes", None)
    has_threshold = isinstance(target, MultiCategory) and hasattr(loss_func, "thresh")
    if callable(of_loss) and (target is None or isinstance(target, Regression) or has_threshold):
        return of_loss  # type: ignore[no-any-return]
    return None if target is None else target.decode
