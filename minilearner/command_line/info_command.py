"""`minilearner info`."""

from __future__ import annotations

from pathlib import Path

import click

from minilearner.command_line.options import PATH
from minilearner.command_line.run_folder import find_model
from minilearner.command_line.session import Session, command

__all__ = ["run"]


@command("info")
@click.argument("model", metavar="MODEL.safetensors", type=PATH)
def run(session: Session, model: Path) -> None:
    """Show what a model file holds: architecture, classes, transforms, versions.

    Nothing in the file is run.
    """
    file = find_model(model)
    from minilearner.saving.export_info import describe_export

    found = describe_export(file)
    session.show(found.to_dict(), str(found))
