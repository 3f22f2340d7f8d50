"""`minilearner lr-find`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from minilearner.command_line.options import PATH, config_option, data_options, label_options, main_options
from minilearner.command_line.session import Session, command
from minilearner.command_line.settings import Settings

__all__ = ["run"]


@command("lr-find")
@main_options
@click.option("--plot", type=PATH, metavar="FILE.png", help="Draw the sweep.")
@label_options
@data_options
@config_option
def run(session: Session, plot: Path | None, **options: Any) -> int:
    """Find a learning rate by a short sweep.

    Takes the data and options of `minilearner train`, but --epochs, --lr and --output. Saves no model. The exit
    code is 1 if no rate was found.
    """
    from minilearner.command_line.learners import decide_weights, make_learner
    from minilearner.command_line.loaders import make_loaders
    from minilearner.plots.style import check_save

    check_save(plot)
    settings = Settings.from_options(options)
    dls = make_loaders(settings)
    learn = make_learner(settings.settle(pretrained=decide_weights(settings)), dls)
    sweep = learn.lr_find(show_plot=False)
    if plot is not None:
        sweep.plot(save=plot)
    rates = {"recommended": sweep.recommended, **sweep.suggestions}
    data = {**rates, "interval": sweep.interval, "reason": sweep.reason}
    session.show(data, "\n".join([*(f"{name:<12} {rate:.2e}" for name, rate in rates.items()), sweep.reason]))
    return int(math.isnan(sweep.recommended))
