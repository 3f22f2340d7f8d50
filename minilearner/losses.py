"""Losses of class numbers that torch lacks, or has under another name.

All take raw outputs (logits) of shape (batch, classes, ...) and int64 class numbers (batch, ...), and follow torch's
convention of `reduction`: "mean", "sum" or "none". What turns outputs into probabilities belongs to the kind of target
(`data.targets`), not to the loss.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilearner.checks import check_choice, check_fraction, check_not_negative

__all__ = ["FocalLoss", "LabelSmoothingCrossEntropy"]

_REDUCTIONS = ("mean", "sum", "none")


class LabelSmoothingCrossEntropy(nn.CrossEntropyLoss):
    """Cross-entropy against targets that give `eps` of their weight to all classes alike.

    With p the probabilities and C classes: ``eps / C * sum(-log p) + (1 - eps) * -log p[target]``. It is torch's
    `CrossEntropyLoss(label_smoothing=eps)` by fastai's name and order of arguments.

    Args:
        eps: in [0, 1).
        weight: of each class, (classes,), on any device; moved to that of the outputs. A mean is then torch's: divided
            by the targets' weights. (fastai's quirk of leaving the smoothed part unweighted is not followed.)
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
        """Returns the loss of `input`, raw outputs, given `target`, class numbers."""
        _follow(self, input)
        return super().forward(input, target)

    def __repr__(self) -> str:
        return f"LabelSmoothingCrossEntropy(eps={self.label_smoothing})"


class FocalLoss(nn.Module):
    """Cross-entropy that counts what the model already knows for less: ``weight * (1 - p)^gamma * -log p``.

    p is the probability of the target's class. Class weights stand outside the focusing term; fastai's also distort its
    p. A mean is over items, whatever their weights. ``gamma=0`` is weighted cross-entropy.

    Args:
        gamma: how much less, not negative.
        weight: of each class, (classes,), on any device; moved to that of the outputs.
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
        """Returns the loss of `input`, raw outputs, given `target`, class numbers."""
        _follow(self, input)
        plain = F.cross_entropy(input, target, reduction="none")
        unsure = -torch.expm1(-plain)  # 1 - p, exact where p is nearly 1
        # A power below 1 has an infinite slope at 0, and infinity times a loss of 0 would be NaN.
        focus = unsure.clamp_min(torch.finfo(unsure.dtype).tiny) ** self.gamma
        weighted = plain if self.weight is None else F.cross_entropy(input, target, self.weight, reduction="none")
        losses = focus * weighted
        return losses if self.reduction == "none" else losses.sum() if self.reduction == "sum" else losses.mean()

    def __repr__(self) -> str:
        return f"FocalLoss(gamma={self.gamma})"


def _follow(loss: LabelSmoothingCrossEntropy | FocalLoss, pred: Tensor) -> None:
    """Brings class weights to the outputs' device and precision, once."""
    if loss.weight is not None and (loss.weight.device, loss.weight.dtype) != (pred.device, pred.dtype):
        loss.weight = loss.weight.to(pred)
