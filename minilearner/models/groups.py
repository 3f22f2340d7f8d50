"""Which parts of a model learn: freezing by layer groups."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

__all__ = ["NORMS", "freeze_to", "is_norm"]

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises activations."""
    return isinstance(module, NORMS)


def freeze_to(
    model: nn.Module, layer_groups: Sequence[Sequence[nn.Parameter]], n: int, *, train_bn: bool = True
) -> None:
    """Lets the layer groups from number `n` on learn, and freezes those before it.

    Args:
        layer_groups: the model's parameters, from input to output.
        n: counts from the end where negative, as an index does: -1 leaves only the last group free, 0 frees all.
        train_bn: norm layers learn in frozen groups too, for they must follow the new data's statistics.

    Raises:
        ValueError: there is no group `n`.
    """
    if not -len(layer_groups) <= n < max(len(layer_groups), 1):
        raise ValueError(f"`n` must name one of the {len(layer_groups)} layer groups. Received: n={n}.")
    first_free = n % len(layer_groups)
    in_norms = {id(p) for m in model.modules() if is_norm(m) for p in m.parameters(recurse=False)}
    for index, group in enumerate(layer_groups):
        for parameter in group:
            parameter.requires_grad_(index >= first_free or (train_bn and id(parameter) in in_norms))
