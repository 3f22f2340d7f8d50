"""Losses that torch does not have, or has by another name: for classes, and fastai's losses with "Flat" in their name.

All take raw outputs (logits). `reduction` is as in torch: "mean", "sum" or "none". A learner turns outputs into
probabilities by what its targets mean, or by the loss's `activation` and `decodes`; see `training.meaning`.

The flat losses take outputs and targets whose shapes differ in form only, such as (batch, 1) and (batch,). Unlike
fastai's, they keep the shape of the outputs, so ``reduction="none"`` returns the losses of each item in its own row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilearner.checks import check_choice, check_count, check_fraction, check_not_negative
from minilearner.keywords import suggest_keywords

__all__ = [
    "BCEWithLogitsLossFlat",
    "CrossEntropyLossFlat",
    "FocalLoss",
    "FocalLossFlat",
    "L1LossFlat",
    "LabelSmoothingCrossEntropy",
    "LabelSmoothingCrossEntropyFlat",
    "MSELossFlat",
]

_REDUCTIONS = ("mean", "sum", "none")


class _OfClasses:
    """What outputs of one score for each class mean."""

    axis = 1

    def activation(self, x: Tensor) -> Tensor:
        """Returns probabilities: the softmax of raw outputs over the classes."""
        return x.softmax(self.axis)

    def decodes(self, x: Tensor) -> Tensor:
        """Returns the number of the class with the highest score; the dimension of the classes is gone."""
        return x.argmax(self.axis)


class _OfNumbers:
    """What outputs mean that are numbers already."""

    def activation(self, x: Tensor) -> Tensor:
        """Returns the outputs as they are."""
        return x

    def decodes(self, x: Tensor) -> Tensor:
        """Returns the outputs as they are."""
        return x


@suggest_keywords
class LabelSmoothingCrossEntropy(_OfClasses, nn.CrossEntropyLoss):
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
class FocalLoss(_OfClasses, nn.Module):
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


@suggest_keywords
class CrossEntropyLossFlat(_OfClasses, nn.CrossEntropyLoss):
    """Cross-entropy whose classes may be in any dimension of the outputs. Its value is fastai's.

    >>> CrossEntropyLossFlat()(torch.zeros(2, 5, 10), torch.zeros(2, 5, dtype=torch.long))  # ten classes at the end
    tensor(2.3026)

    Args:
        weight: the weight of each class, (classes,), on any device; it is moved to the device of the outputs.
        axis: the dimension of the classes in the outputs. For masks, (batch, classes, height, width), it is 1.
        ignore_index: targets with this number do not count.
        reduction: "mean", "sum" or "none".
        label_smoothing: the share of each target's weight that is spread over all classes, in [0, 1].

    Raises:
        ValueError: an unknown `reduction`, or targets that do not fit the outputs.
    """

    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        axis: int = -1,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ):
        check_choice(reduction, "reduction", _REDUCTIONS)
        check_count(axis, "axis", least=None)
        check_count(ignore_index, "ignore_index", least=None)
        check_fraction(label_smoothing, "label_smoothing")
        super().__init__(weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing)
        self.axis = axis

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of raw outputs for class numbers, or for probabilities in the shape of the outputs."""
        _follow(self, input)
        return super().forward(*_move_classes(input, target, self.axis))


class _InAnyDimension:
    """Moves the classes of outputs to where the loss that comes after it among the bases expects them."""

    axis: int

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of raw outputs for class numbers."""
        loss: Tensor = super().forward(*_move_classes(input, target, self.axis))  # type: ignore[misc]
        return loss


@suggest_keywords
class LabelSmoothingCrossEntropyFlat(_InAnyDimension, LabelSmoothingCrossEntropy):
    """`LabelSmoothingCrossEntropy` whose classes may be in any dimension of the outputs.

    Args:
        eps: the share that is spread over all classes, in [0, 1).
        weight: as in `LabelSmoothingCrossEntropy`.
        reduction: "mean", "sum" or "none".
        axis: the dimension of the classes in the outputs.
    """

    def __init__(self, eps: float = 0.1, weight: Tensor | None = None, reduction: str = "mean", *, axis: int = -1):
        super().__init__(eps, weight, reduction)
        check_count(axis, "axis", least=None)
        self.axis = axis


@suggest_keywords
class FocalLossFlat(_InAnyDimension, FocalLoss):
    """`FocalLoss` whose classes may be in any dimension of the outputs.

    Args:
        gamma: how strongly well predicted items lose weight; not negative.
        weight: as in `FocalLoss`.
        reduction: "mean", "sum" or "none".
        axis: the dimension of the classes in the outputs.
    """

    def __init__(self, gamma: float = 2.0, weight: Tensor | None = None, reduction: str = "mean", *, axis: int = -1):
        super().__init__(gamma, weight, reduction)
        check_count(axis, "axis", least=None)
        self.axis = axis


@suggest_keywords
class BCEWithLogitsLossFlat(nn.BCEWithLogitsLoss):
    """Binary cross-entropy of raw outputs, for targets of any type whose shape may differ in form.

    Args:
        weight: multiplies the losses; broadcast to the outputs.
        reduction: "mean", "sum" or "none".
        pos_weight: the weight of the positive targets of each class, (classes,).
        thresh: `decodes` says yes if the probability is above this, in [0, 1].

    Raises:
        ValueError: an unknown `reduction`, `thresh` outside [0, 1], or as many targets as the outputs do not have.
    """

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
        *,
        thresh: float = 0.5,
    ):
        check_choice(reduction, "reduction", _REDUCTIONS)
        check_fraction(thresh, "thresh")
        super().__init__(weight, reduction=reduction, pos_weight=pos_weight)
        self.thresh = thresh

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of raw outputs for targets of 0 and 1, as many as there are outputs."""
        _follow(self, input)
        return super().forward(input, _fit_numbers(target, input))

    def activation(self, x: Tensor) -> Tensor:
        """Returns probabilities: the sigmoid of raw outputs."""
        return x.sigmoid()

    def decodes(self, x: Tensor) -> Tensor:
        """Returns which probabilities are above `thresh`."""
        return x > self.thresh


@suggest_keywords
class MSELossFlat(_OfNumbers, nn.MSELoss):
    """The mean squared error, for targets of any type whose shape may differ in form.

    (batch, 1) outputs and (batch,) targets are compared item by item, instead of all with all.

    Args:
        reduction: "mean", "sum" or "none".

    Raises:
        ValueError: an unknown `reduction`, or as many targets as the outputs do not have.
    """

    def __init__(self, *, reduction: str = "mean"):
        check_choice(reduction, "reduction", _REDUCTIONS)
        super().__init__(reduction=reduction)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of outputs for as many targets."""
        return super().forward(input, _fit_numbers(target, input))


@suggest_keywords
class L1LossFlat(_OfNumbers, nn.L1Loss):
    """The mean absolute error, for targets of any type whose shape may differ in form, as in `MSELossFlat`.

    Args:
        reduction: "mean", "sum" or "none".

    Raises:
        ValueError: as `MSELossFlat`.
    """

    def __init__(self, *, reduction: str = "mean"):
        check_choice(reduction, "reduction", _REDUCTIONS)
        super().__init__(reduction=reduction)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Returns the loss of outputs for as many targets."""
        return super().forward(input, _fit_numbers(target, input))


def _move_classes(pred: Tensor, target: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Returns outputs and targets as torch's losses take them: the classes are dimension 1."""
    if pred.ndim < 2:
        return pred, target
    moved = pred.movedim(axis, 1)
    if target.is_floating_point():  # probabilities
        return moved, target.movedim(axis, 1) if target.ndim == pred.ndim else target
    return moved, _reshape(target, moved.shape[:1] + moved.shape[2:], "class number").long()


def _fit_numbers(target: Tensor, pred: Tensor) -> Tensor:
    """Returns targets as floating-point numbers in the shape of the outputs."""
    fitted = _reshape(target, pred.shape, "target")
    return fitted if fitted.is_floating_point() else fitted.to(pred.dtype)


def _reshape(target: Tensor, shape: torch.Size, what: str) -> Tensor:
    if target.shape == shape:
        return target
    if target.numel() != shape.numel():
        raise ValueError(
            f"`target` must hold one {what} for each prediction. "
            f"Received: {tuple(target.shape)} targets for {tuple(shape)} predictions."
        )
    return target.reshape(shape)


def _follow(loss: nn.Module, pred: Tensor) -> None:
    """Moves the weights to the device and the precision of the outputs, if they are not there yet."""
    for name in ("weight", "pos_weight"):
        weight = getattr(loss, name, None)
        if weight is not None and (weight.device, weight.dtype) != (pred.device, pred.dtype):
            setattr(loss, name, weight.to(pred))
