"""`GradientCheckpointing`: save memory by computing activations again in the backward pass.

This module chooses the layers. torch computes them again, and `models.restore` keeps their buffers unchanged meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from minilearner.models.restore import restore_buffers
from minilearner.training.callback import Callback
from minilearner.training.run import Run

__all__ = ["GradientCheckpointing"]


class GradientCheckpointing(Callback):
    """Stores only the input of each layer of an `nn.Sequential`; the backward pass computes the rest again.

    Gradients are the same, also with dropout. So are the statistics of batch norm, because the second computation
    leaves them alone. One more forward pass (about a third of the time) saves the memory of the activations inside each
    layer, so the layers should be blocks, such as those of a ResNet's body. Validation does not change.

    Example: ``learn.fit(3, cbs=GradientCheckpointing())``.

    Args:
        layers: modules of the model, such as a list of its blocks; none may change its input in place. By default,
            the children of the model's body that contain layers themselves. (The input of a single layer is stored
            in any case.) The body is the model's first child if that is an `nn.Sequential`, as in `vision_learner`;
            otherwise it is the model.

    Raises:
        TypeError: `layers` is a single layer.
        ValueError: when the run begins: one of the `layers` is not in the model; or there are no `layers` and no
            `nn.Sequential` of blocks.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016. Uses torch.utils.checkpoint, which by
    itself would update the statistics of batch norm twice.
    """

    part_of_step = True
    ignored_arguments = ()

    def __init__(self, layers: Sequence[nn.Module] | nn.Sequential | None = None):
        if isinstance(layers, nn.Module) and not isinstance(layers, nn.Sequential):
            raise TypeError(f"`layers` must be several modules. Received: {layers!r:.100}. Put it into a list.")
        self.layers = layers
        self._forwards: list[tuple[nn.Module, Callable[..., Any] | None]] = []

    def before_fit(self, run: Run) -> None:
        for layer in _blocks_of_body(run.model) if self.layers is None else _check_layers(self.layers, run.model):
            self._forwards.append((layer, vars(layer).get("forward")))
            layer.forward = partial(_checkpoint_forward, layer, layer.forward)

    def after_fit(self, run: Run) -> None:
        while self._forwards:
            layer, own = self._forwards.pop()
            del layer.forward
            if own is not None:
                layer.forward = own

    def state_dict(self) -> dict[str, Any]:
        """Returns an empty dict; a resumed run changes the layers again by itself."""
        return {}


def _blocks_of_body(model: nn.Module) -> list[nn.Module]:
    first = next(model.children(), model)
    body = first if isinstance(first, nn.Sequential) else model
    children = list(body) if isinstance(body, nn.Sequential) else []
    blocks = [child for child in children if list(child.children())]
    if not blocks:
        raise ValueError(
            f"`layers` is needed: neither the model ({type(model).__name__}) nor its first child is an nn.Sequential "
            "of blocks. Give the modules whose activations should be computed twice."
        )
    return blocks


def _check_layers(layers: Sequence[nn.Module] | nn.Sequential, model: nn.Module) -> list[nn.Module]:
    own = {id(module) for module in model.modules()}
    for layer in layers:
        if id(layer) not in own:
            raise ValueError(
                f"`layers` must be modules of the model ({type(model).__name__}). Received: {layer!r:.100}."
            )
    return list(layers)


def _checkpoint_forward(layer: nn.Module, forward: Callable[..., Any], *args: Any) -> Any:
    if not layer.training:
        return forward(*args)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=partial(_make_contexts, layer))


def _make_contexts(layer: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), restore_buffers(layer)  # so that batch norm counts a batch once
