"""`minilearner predict`."""

from __future__ import annotations

from pathlib import Path

import click

from minilearner.command_line.options import model_option
from minilearner.command_line.run_folder import find_model
from minilearner.command_line.session import Session, command

__all__ = ["run"]


@command("predict")
@click.argument("files", nargs=-1, required=True, metavar="FILES...")
@model_option
def run(session: Session, files: tuple[str, ...], model: Path) -> int:
    """Predict the labels of images.

    FILES are images, folders with images at any depth, patterns such as 'new/*.jpg', or "-" for a list of files on
    standard input, one in a line. Put "--" before names that begin with a dash.

    Shows a line for each image: file, label and probability, with tabs between them. With --json it is a list with
    one object in each line. Images that cannot be read are named on standard error; the others are predicted, and the
    exit code is 1.
    """
    file = find_model(model)
    from minilearner.command_line.file_predictions import predict_files

    return predict_files(session, list(files), file)
