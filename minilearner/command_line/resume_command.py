"""`minilearner resume`."""

from __future__ import annotations

from pathlib import Path

import click

from minilearner.command_line.options import PATH, moved_option
from minilearner.command_line.run_folder import RunFolder
from minilearner.command_line.session import Session, command

__all__ = ["run"]


@command("resume")
@click.argument("folder", metavar="RUN", type=PATH)
@moved_option
def run(session: Session, folder: Path, data: str | None) -> None:
    """Continue a training that was interrupted.

    It ends with the same bits as a training without the interruption. What is missing in the folder of a finished
    training is made.
    """
    training = RunFolder(folder)
    settings = training.read(data)
    from minilearner.command_line.training import resume

    session.show(*resume(training, settings))
