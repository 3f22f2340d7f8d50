"""`minilearner report`."""

from __future__ import annotations

from pathlib import Path

import click

from minilearner.command_line.options import PATH, moved_option
from minilearner.command_line.run_folder import RunFolder
from minilearner.command_line.session import Session, command

__all__ = ["run"]


@command("report")
@click.argument("folder", metavar="RUN", type=PATH)
@moved_option
def run(session: Session, folder: Path, data: str | None) -> None:
    """Write the report of a finished training again.

    The model is restored and predicts the validation set once more. report.html is replaced.
    """
    training = RunFolder(folder)
    settings = training.read(data)
    from minilearner.command_line.training import write_report

    written = write_report(training, settings)
    session.show({"report": str(written)}, str(written))
