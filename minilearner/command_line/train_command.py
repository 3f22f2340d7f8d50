"""`minilearner train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from minilearner.command_line.options import (
    COUNT,
    PATH,
    config_option,
    data_options,
    label_options,
    main_options,
    rate_option,
)
from minilearner.command_line.run_folder import RunFolder, default_output
from minilearner.command_line.session import Session, command
from minilearner.command_line.settings import Settings

__all__ = ["run"]


@command("train")
@click.option(
    "--epochs",
    type=COUNT,
    default=Settings.epochs,
    show_default=True,
    metavar="N",
    help="Passes over the images.",
)
@main_options
@rate_option
@click.option("--output", "-o", type=PATH, metavar="RUN", help="The folder to make.  [default: runs/NAME of the data]")
@label_options
@data_options
@config_option
@click.option("--print-config", is_flag=True, help="Show the settings as TOML, and train nothing.")
def run(session: Session, output: Path | None, print_config: bool, **options: Any) -> None:
    """Train a model on labelled images.

    FOLDER has a folder for each class (cat/1.jpg, dog/2.jpg), or train and valid folders with such folders in them.
    With --label-regex, labels are read from the names of its files. TABLE.csv has a column of files, relative to the
    table, and a column of labels. Numbers with a decimal point make a regression.

    Everything goes into one new folder: the model, a report, metrics, figures, the settings and a checkpoint. An
    interrupted training continues by `minilearner resume RUN`.

    \b
    minilearner train photos
    minilearner train pets --label-regex '(.+)_\\d+.jpg' --arch resnet34
    minilearner train labels.csv --group-by patient --epochs 10
    """
    settings = Settings.from_options(options)
    if print_config:
        session.show(settings.to_dict(), settings.to_toml())
        return
    folder = RunFolder(default_output(settings.data) if output is None else output)
    folder.check_new(settings)
    from minilearner.command_line.training import start

    session.show(*start(settings, folder))
