"""The multilayer perceptron: the smallest model that learns Fashion-MNIST."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from minilearner.checks import check_count
from minilearner.keywords import suggest_keywords

__all__ = ["MLP"]


@suggest_keywords
class MLP(nn.Sequential):
    """Flattens each item, and passes it through linear layers with ReLU between them.

    The default sizes, 784-300-100-10, are for images of one channel and 28 x 28 pixels, and for ten classes: 266,610
    weights, in torch's own initialization. Takes (batch, ...) with `sizes[0]` numbers per item, and returns logits
    (batch, sizes[-1]).

    Example: ``MLP((784, 100, 10))(torch.zeros(64, 1, 28, 28)).shape`` is ``(64, 10)``.

    Source: the 300-100 network of LeCun et al., "Gradient-based learning applied to document recognition" (1998), with
    ReLU in place of tanh, as in Géron, "Hands-On Machine Learning", chapter 10.

    Raises:
        ValueError: `sizes` has fewer than two numbers, or one below 1; in `forward`, an item has another size.
    """

    def __init__(self, sizes: Sequence[int] = (784, 300, 100, 10)) -> None:
        if len(sizes) < 2:
            raise ValueError(f"`sizes` must be at least two whole numbers. Received: sizes={tuple(sizes)}.")
        for size in sizes:
            check_count(size, "sizes")
        layers: list[nn.Module] = [nn.Flatten()]
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
        super().__init__(*layers[:-1])
        self.sizes = tuple(sizes)

    def forward(self, input: Tensor) -> Tensor:
        """Returns the logits of a batch of any shape (batch, ...)."""
        if input.ndim < 2 or input.shape[1:].numel() != self.sizes[0]:
            raise ValueError(
                f"This MLP takes {self.sizes[0]} numbers per item. Received: shape {tuple(input.shape)}, "
                f"{input.shape[1:].numel()} numbers per item."
            )
        for layer in self:
            input = layer(input)
        return input
