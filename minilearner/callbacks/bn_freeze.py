"""`BnFreeze`: keep the statistics of frozen batch norm. `models.groups` says which layers are norm layers."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from minilearner.models.groups import NORMS
from minilearner.training.callback import Callback
from minilearner.training.run import Run

__all__ = ["BnFreeze"]


class BnFreeze(Callback):
    """Keeps norm layers with frozen parameters in evaluation mode, so that their statistics do not change.

    Use it to fine-tune with frozen norm layers: batch norm would otherwise adapt its statistics to the new data,
    although its weights are frozen. Norm layers without parameters are left alone. As in fastai, except that a learner
    with ``train_bn=False`` already does this by itself.
    """

    part_of_step = True
    ignored_arguments = ()

    def before_train(self, run: Run) -> None:
        for norm in _find_frozen_norms(run.model):
            norm.eval()

    def after_fit(self, run: Run) -> None:
        for norm in _find_frozen_norms(run.model):
            norm.train(run.model.training)


def _find_frozen_norms(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if isinstance(module, NORMS) and own and not any(parameter.requires_grad for parameter in own):
            yield module
