"""`minilearner check`."""

from __future__ import annotations

from typing import Any

from minilearner.command_line.options import config_option, data_options, label_options, main_options, rate_option
from minilearner.command_line.session import Session, command
from minilearner.command_line.settings import Settings

__all__ = ["run"]


@command("check")
@main_options
@rate_option
@label_options
@data_options
@config_option
def run(session: Session, **options: Any) -> int:
    """Look for what makes training fail or go badly, in seconds.

    The labels and their balance, images that are in training and validation, the first batch, the loss at the start,
    the gradients and more. Takes the data and options of `minilearner train`, but --epochs and --output. The exit
    code is 1 if there is an error.
    """
    from minilearner.command_line.learners import decide_weights, make_learner
    from minilearner.command_line.loaders import make_loaders

    settings = Settings.from_options(options)
    dls = make_loaders(settings)
    learn = make_learner(settings.settle(pretrained=decide_weights(settings)), dls)
    checkup = learn.check()
    session.show(checkup.to_dict(), str(checkup))
    return int(checkup.worst == "error")
