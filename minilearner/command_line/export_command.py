"""`minilearner export`."""

from __future__ import annotations

from pathlib import Path

import click

from minilearner.command_line.options import PATH, model_option
from minilearner.command_line.run_folder import find_model
from minilearner.command_line.session import Session, command
from minilearner.errors import DataError

__all__ = ["run"]

_SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2"}


@command("export")
@model_option
@click.option(
    "--format", "kind", type=click.Choice(list(_SUFFIXES)), help="What to write.  [default: by the suffix, or onnx]"
)
@click.option("--output", "-o", type=PATH, metavar="FILE", help="The file to write; beside the model by default.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def run(session: Session, model: Path, kind: str | None, output: Path | None, force: bool) -> None:
    """Write a model as a graph that runs without minilearner.

    The graph takes images in [0, 1] of the model's size, and returns probabilities. It is compared with the model
    before the file gets its name.
    """
    file = find_model(model)
    target = file.with_suffix(_SUFFIXES[kind or "onnx"]) if output is None else output
    if target.exists() and not force:
        raise DataError(f"{target} exists already. Give another file by `output`, or replace it by `force`.")
    from minilearner.loading import load_learner
    from minilearner.saving.learner_files import choose_format

    chosen = choose_format(target, kind)
    written = load_learner(file, device="cpu").export(target.absolute(), format=chosen)
    session.show({"file": str(target), "format": chosen, "bytes": written.stat().st_size}, str(target))
