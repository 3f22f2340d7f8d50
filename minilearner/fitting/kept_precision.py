"""A resumed run keeps what `precision="auto"` chose when it began, whatever another trial would choose now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from minilearner import processes
from minilearner.callbacks.checkpoint import Checkpoint
from minilearner.errors import FileFormatError
from minilearner.files import json_text, read_json, write_atomically
from minilearner.fitting.context import FitContext
from minilearner.training.auto_precision import PrecisionChoice
from minilearner.training.precision import PRECISIONS

__all__ = ["keep_auto_precision"]


@contextmanager
def keep_auto_precision(context: FitContext, checkpoint: Checkpoint | None) -> Iterator[None]:
    """Trains with the choice that is kept in a checkpoint's folder, which is held. A new run keeps its own there.

    If an error comes before the first training step, for example because the folder holds another run, the learner
    gets back the choice that it had. A folder that an earlier version of minilearner wrote keeps no choice; then that
    of this process must be the same, or the run is refused.

    Raises:
        FileFormatError: the choice in the folder is damaged. Names the file.
    """
    own = context.auto_precision
    if own is None or checkpoint is None:
        yield
        return
    path, n_runs = checkpoint.folder / "precision.json", len(context.recorder.runs)
    is_kept, is_resumed = processes.take_from_first((path.exists(), checkpoint.has_saved))
    if is_kept:
        context.take_precision(_read_choice(path))
    elif not is_resumed:
        write_atomically(path, json_text(asdict(own)))
    try:
        yield
    except BaseException:
        if len(context.recorder.runs) == n_runs:  # a run without a step is dropped from the recorder
            context.take_precision(own)
        raise


def _read_choice(path: Path) -> PrecisionChoice:
    kept = read_json(path)
    if isinstance(kept, dict) and kept.keys() == {"precision", "channels_last", "why"}:
        choice = PrecisionChoice(**kept)
        is_sound = isinstance(choice.channels_last, bool) and isinstance(choice.why, str)
        if is_sound and choice.precision in PRECISIONS:
            return choice
    raise FileFormatError(
        f'{path} does not say what `precision="auto"` chose. Remove the file and give the precision of the run by name.'
    )
