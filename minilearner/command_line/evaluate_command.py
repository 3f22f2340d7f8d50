"""`minilearner evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minilearner.command_line.options import label_options, model_option
from minilearner.command_line.run_folder import find_model
from minilearner.command_line.session import Session, command
from minilearner.command_line.settings import Settings

__all__ = ["run"]


@command("evaluate")
@label_options
@model_option
def run(session: Session, model: Path, **options: Any) -> None:
    """Score a model on labelled images.

    All images of FOLDER or TABLE.csv count. Shows the loss and the metrics, and for classes precision, recall and F1
    of each.
    """
    file = find_model(model)
    from minilearner.command_line.scoring import score

    session.show(*score(file, Settings.from_options(options)))
