"""What is worth knowing about a run besides its numbers: its settings, its code's commit, and the machine's memory."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from minilearner.training.run import Run

__all__ = ["describe_run", "find_commit", "measure_memory"]

_GIB = 2.0**30
_GIT_SECONDS = 5.0


def describe_run(run: Run) -> dict[str, Any]:
    """Returns the hyperparameters of a run, what it trains, and where, by name. Values are numbers or text."""
    record, valid = run.record, run.dls.valid
    weights = list(run.model.parameters())
    facts = {
        **({} if record is None else {"kind": record.kind, **record.settings}),
        "seed": run.seed,
        "model": type(run.model).__name__,
        "weights": sum(w.numel() for w in weights),
        "frozen_weights": sum(w.numel() for w in weights if not w.requires_grad),
        "training_items": run.dls.train.n_items,
        "validation_items": None if valid is None else valid.n_items,
        "classes": None if run.dls.vocab is None else len(run.dls.vocab),
        "git_commit": find_commit(_find_scripts_folder()),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    return {name: _as_value(fact) for name, fact in facts.items() if fact is not None}


def _as_value(fact: Any) -> Any:
    return fact if isinstance(fact, (bool, int, float, str)) else str(fact)


def _find_scripts_folder() -> Path:
    """Returns the folder of the script that runs, or the working directory in a notebook."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(script).resolve().parent if script else Path.cwd()


def find_commit(folder: Path) -> str | None:
    """Returns the git commit of a folder, with "-dirty" if tracked files have changed; None without git."""
    commit = _ask_git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    return f"{commit}-dirty" if _ask_git(folder, "status", "--porcelain", "--untracked-files=no") else commit


def _ask_git(folder: Path, *question: str) -> str:
    command = ["git", "-C", os.fspath(folder), *question]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or a disk that does not answer
        return ""
    return asked.stdout.strip()


def measure_memory(device: torch.device) -> dict[str, float]:
    """Returns how much memory this process has, in GiB: "memory_gib", and on a GPU the most so far, "gpu_memory_gib".

    Only Linux says it for the main memory.
    """
    found = {}
    if os.path.exists("/proc/self/statm"):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        found["memory_gib"] = pages * os.sysconf("SC_PAGE_SIZE") / _GIB
    if device.type == "cuda":
        found["gpu_memory_gib"] = torch.cuda.max_memory_allocated(device) / _GIB
    return found
