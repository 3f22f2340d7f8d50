"""Keep frozen batch norm as it is."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from minilearner.models.groups import NORMS
from minilearner.training.callback import Callback
from minilearner.training.run import Run

__all__ = ["BnFreeze"]


class BnFreeze(Callback):
    """Keeps norm layers whose parameters are frozen in evaluation mode, so that their statistics do not move.

    For fine-tuning with frozen norms: batch norm else takes in the new data's statistics although its weights rest.
    Norms without parameters are left alone. As in fastai; but here a learner of ``train_bn=False`` has it already.
    """

    part_of_step = True
    ignored_arguments = ()

    def before_train(self, run: Run) -> None:
        for norm in _frozen_norms(run.model):
            norm.eval()

    def after_fit(self, run: Run) -> None:
        for norm in _frozen_norms(run.model):
            norm.train(run.model.training)


def _frozen_norms(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if isinstance(module, NORMS) and own and not any(parameter.requires_grad for parameter in own):
            yield module
