"""Less memory for more time: activations of a body are computed again in the backward pass instead of kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from minilearner.models.restore import buffers_kept
from minilearner.training.callback import Callback
from minilearner.training.run import Run

__all__ = ["GradientCheckpointing"]


class GradientCheckpointing(Callback):
    """Keeps, of the layers of an `nn.Sequential`, only what goes into each; the backward pass computes the rest again.

    Gradients are the same, also with dropout, and so are the statistics of batch norm, which the second computation
    leaves alone. A forward pass more (about a third of the time) buys the memory of the activations inside each layer,
    so layers should be blocks, such as those of a ResNet's body. Validation is as it was.

    Example: ``learn.fit(3, cbs=GradientCheckpointing())``.

    Args:
        layers: which modules of the model, such as a list of its blocks; none may change its input in place. By default
            those children of the model's body that have layers of their own, as what goes into a single one is kept in
            any case. The body is the model's first child where that is itself an `nn.Sequential`, as in
            `vision_learner`, else the model.

    Raises:
        TypeError: `layers` is a single layer.
        ValueError: when the run begins: there is no `nn.Sequential` of blocks, so say which `layers`; or one is none of
            the model's.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016; by torch.utils.checkpoint, which alone
    would let batch norm's statistics move twice.
    """

    part_of_step = True
    ignored_arguments = ()

    def __init__(self, layers: Sequence[nn.Module] | nn.Sequential | None = None):
        if isinstance(layers, nn.Module) and not isinstance(layers, nn.Sequential):
            raise TypeError(f"`layers` must be several modules. Received: {layers!r:.100}. Put it into a list.")
        self.layers = layers
        self._forwards: list[tuple[nn.Module, Callable[..., Any] | None]] = []

    def before_fit(self, run: Run) -> None:
        for layer in _blocks_of_body(run.model) if self.layers is None else _checked(self.layers, run.model):
            self._forwards.append((layer, vars(layer).get("forward")))
            layer.forward = partial(_checkpointed, layer, layer.forward)

    def after_fit(self, run: Run) -> None:
        while self._forwards:
            layer, own = self._forwards.pop()
            del layer.forward
            if own is not None:
                layer.forward = own

    def state_dict(self) -> dict[str, Any]:
        """Nothing: what is changed in a run is changed anew when it goes on."""
        return {}


def _blocks_of_body(model: nn.Module) -> list[nn.Module]:
    first = next(model.children(), model)
    body = first if isinstance(first, nn.Sequential) else model
    children = list(body) if isinstance(body, nn.Sequential) else []
    blocks = [child for child in children if list(child.children())]
    if not blocks:
        raise ValueError(
            f"`layers` is needed: neither the model ({type(model).__name__}) nor its first child is an nn.Sequential "
            "of blocks. Give the modules that are to compute their activations twice."
        )
    return blocks


def _checked(layers: Sequence[nn.Module] | nn.Sequential, model: nn.Module) -> list[nn.Module]:
    own = {id(module) for module in model.modules()}
    for layer in layers:
        if id(layer) not in own:
            raise ValueError(
                f"`layers` must be modules of the model ({type(model).__name__}). Received: {layer!r:.100}."
            )
    return list(layers)


def _checkpointed(layer: nn.Module, forward: Callable[..., Any], *args: Any) -> Any:
    if not layer.training:
        return forward(*args)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=partial(_contexts, layer))


def _contexts(layer: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), buffers_kept(layer)  # batch norm takes a batch in once, not twice
