"""Classification losses that torch does not have, or has by another name.

All take raw outputs (logits) of shape (batch, classes, ...) and int64 class numbers (batch, ...). `reduction` is as in
torch: "mean", "sum" or "none". The activation that turns outputs into probabilities belongs to the target
(`data.targets`), not to the loss.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilearner.checks import check_choice, check_fraction, check_not_negative
from minilearner.keywords import suggest_keywords

__all__ = ["FocalLoss", "LabelSmoothingCrossEntropy"]

_REDUCTIONS = ("mean", "sum", "none")


@suggest_keywords
class LabelSmoothingCrossEntropy(nn.CrossEntropyLoss):
    """Cross-entropy with targets that spread a share `eps` of their weight equally over all classes.

    With C classes and p their probabilities, the loss is ``eps / C * sum(-log p) + (1 - eps) * -log p[target]``. It is
    torch's `CrossEntropyLoss(label_smoothing=eps)` with fastai's name and order of arguments.

    Args:
        eps: the share, in [0, 1).
        weight: the weight of each class, (classes,), on any device; it is moved to the device of the outputs. As in
            torch, a mean is divided by the sum of the targets' weights. (In fastai the spread share has no weights.)
        reduction: "mean", "sum" or "none".

    Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016, section 7.

    Raises:
        ValueError: `eps` outside [0, 1), or an unknown `reduction`.
    """

    weight: Tensor | None

    def __init__(self, eps: float = 0.1, weight: Tensor | None = None, reduction: str = "mean"):
        check_fraction(eps, "eps", closed="left")
        check_choice(reduction, "reduction", _REDUCTIONS)
        super().__init__(weight, reduction=reduction, label_smoothing=eps)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of raw outputs `input`, (batch, classes, ...), for class numbers `target`, (batch, ...)."""
        _follow(self, input)
        return super().forward(input, target)

    def __repr__(self) -> str:
        return f"LabelSmoothingCrossEntropy(eps={self.label_smoothing})"


@suggest_keywords
class FocalLoss(nn.Module):
    """Cross-entropy with less weight on items that the model predicts well: ``weight * (1 - p)^gamma * -log p``.

    p is the probability of the target's class. The class weight multiplies the result; in fastai it changes p too. A
    mean divides by the number of items, not by their weights. With ``gamma=0`` it is weighted cross-entropy.

    Args:
        gamma: how strongly well predicted items lose weight; not negative.
        weight: the weight of each class, (classes,), on any device; it is moved to the device of the outputs.
        reduction: "mean", "sum" or "none".

    Source: Lin et al., "Focal Loss for Dense Object Detection", 2017, equation 5, with the softmax's p.

    Raises:
        ValueError: a negative `gamma`, or an unknown `reduction`.
    """

    weight: Tensor | None

    def __init__(self, gamma: float = 2.0, weight: Tensor | None = None, reduction: str = "mean"):
        check_not_negative(gamma, "gamma")
        check_choice(reduction, "reduction", _REDUCTIONS)
        super().__init__()
        self.gamma = gamma
        self.reduction = reduction
        self.register_buffer("weight", weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of raw outputs `input`, (batch, classes, ...), for class numbers `target`, (batch, ...)."""
        _follow(self, input)
        plain = F.cross_entropy(input, target, reduction="none")
        unsure = -torch.expm1(-plain)  # 1 - p, and exact if p is nearly 1
        # If gamma is below 1, the slope at 0 is infinite, and infinity times a loss of 0 would be NaN.
        focus = unsure.clamp_min(torch.finfo(unsure.dtype).tiny) ** self.gamma
        weighted = plain if self.weight is None else F.cross_entropy(input, target, self.weight, reduction="none")
        losses = focus * weighted
        return losses if self.reduction == "none" else losses.sum() if self.reduction == "sum" else losses.mean()

    def __repr__(self) -> str:
        return f"FocalLoss(gamma={self.gamma})"


def _follow(loss: LabelSmoothingCrossEntropy | FocalLoss, pred: Tensor) -> None:
    """Moves the class weights to the device and the precision of the outputs, if they are not there yet."""
    if loss.weight is not None and (loss.weight.device, loss.weight.dtype) != (pred.device, pred.dtype):
        loss.weight = loss.weight.to(pred)
