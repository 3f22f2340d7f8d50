"""The processes that torchrun started for one run: which one this is, and how they exchange values.

Torch's process group does the work. It is created when first needed, if torchrun's environment says that there are
other processes and no group exists yet. In a single process all functions return at once. Functions that exchange
something must be called by every process, in the same order.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = [
    "add_up",
    "average",
    "copy_from_first",
    "count",
    "distribute_like",
    "gather",
    "is_first",
    "join",
    "local_count",
    "local_rank",
    "own_part",
    "rank",
    "send_to_add_up",
    "take_from_first",
    "wait",
    "whole",
]

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets, and torch needs
_PIECE = 2**24  # elements that are sent at once
_TIMEOUT = timedelta(minutes=30)
_LOOK_SECONDS, _IDLE_LOOKS, _LONGEST_EXIT = 0.002, 5, 5.0
_LOST = ("connection closed by peer", "connection reset", "broken pipe", "socket", "gloo", "nccl")


def count() -> int:
    """Returns the number of processes that train together: 1 for a single process."""
    if _has_group():
        return dist.get_world_size()
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in _NEEDED) else 1


def rank() -> int:
    """Returns the number of this process, from 0."""
    if _has_group():
        return dist.get_rank()
    return int(os.environ["RANK"]) if count() > 1 else 0


def is_first() -> bool:
    """Whether this is process 0, which writes files and prints."""
    return rank() == 0


def local_rank() -> int:
    """Returns the number of this process on its machine, which is also the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0)) if count() > 1 else 0


def local_count() -> int:
    """Returns how many of the processes run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if count() > 1 else 1


def join() -> None:
    """Creates torch's process group, unless it exists or there is only one process. It is destroyed when Python exits.

    NCCL carries what is on GPUs, gloo the rest. An error that ends this process is printed on standard error with its
    rank and reported to torchrun, which then ends the other processes.
    """
    if count() == 1:
        return
    _await_gloo_at_exit()
    if _has_group():
        return
    backend = "gloo"
    if torch.cuda.is_available() and dist.is_nccl_available():
        torch.cuda.set_device(local_rank())
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=_TIMEOUT)
    sys.excepthook = _end_with
    atexit.register(_leave)


def gather(value: Any) -> list[Any]:
    """Returns the values of all processes, in the order of their ranks. Values must pickle; keep tensors on the CPU."""
    if count() == 1:
        return [value]
    join()
    gathered: list[Any] = [None] * count()
    dist.all_gather_object(gathered, value)
    return gathered


def take_from_first(value: Any) -> Any:
    """Returns, in every process, the value of process 0."""
    if count() == 1:
        return value
    join()
    shared = [value if is_first() else None]
    dist.broadcast_object_list(shared, src=0)
    return shared[0]


def add_up(numbers: Sequence[float]) -> list[float]:
    """Returns the sums of numbers over all processes, in float64 and with the same bits in each process."""
    return send_to_add_up(numbers)()


def send_to_add_up(numbers: Sequence[float]) -> Callable[[], list[float]]:
    """Sends numbers for `add_up`, and returns a function that waits for the sums and returns them."""
    if not _joins_others():
        return lambda: list(numbers)
    sums = torch.tensor(numbers, dtype=torch.float64, device=_own_device())
    work = dist.all_reduce(sums, async_op=True)

    def receive() -> list[float]:
        work.wait()
        return sums.tolist()

    return receive


def average(tensors: Iterable[Tensor]) -> None:
    """Replaces each tensor by its mean over all processes, in place."""
    tensors = list(tensors)
    if tensors and _joins_others():
        for flat in _join_by_kind(tensors):
            dist.all_reduce(flat)
            flat /= count()


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Replaces the values of these tensors by those of process 0, in place."""
    tensors = list(tensors)
    if tensors and _joins_others():
        for flat in _join_by_kind(tensors):
            dist.broadcast(flat, src=0)


def whole(tensor: Tensor) -> Tensor:
    """Returns a whole tensor, even if `fully_shard` keeps a part of it in each process."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def own_part(tensor: Tensor) -> Tensor:
    """Returns the part of a tensor that this process holds: all of it, unless `fully_shard` has split it."""
    local = getattr(tensor, "to_local", None)
    return tensor if local is None else local()


def distribute_like(values: Tensor, like: Tensor) -> Tensor:
    """Returns whole values split like the tensor `like`, if `fully_shard` has split that; else unchanged."""
    if not hasattr(like, "full_tensor") or hasattr(values, "full_tensor") or values.shape != like.shape:
        return values
    from torch.distributed.tensor import distribute_tensor  # heavy, and only where it is in use

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(values.to(like.device), mesh, placements)


def wait() -> None:
    """Returns once every process has arrived here."""
    add_up([0.0])


def _join_by_kind(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yields flat copies of tensors of one kind, small ones together, and copies their new values back."""
    kinds: dict[Any, list[list[Tensor]]] = {}
    for tensor in tensors:
        pieces = kinds.setdefault((tensor.dtype, tensor.device), [[]])
        if sum(t.numel() for t in pieces[-1]) > _PIECE:
            pieces.append([])
        pieces[-1].append(tensor)
    for piece in (piece for pieces in kinds.values() for piece in pieces):
        flat = torch.cat([t.detach().reshape(-1) for t in piece])
        yield flat
        for tensor, part in zip(piece, torch.split(flat, [t.numel() for t in piece]), strict=True):
            tensor.detach().copy_(part.view_as(tensor))


def _joins_others() -> bool:
    """Whether other processes train together with this one. Afterwards there is a group for the exchange."""
    if not _has_group():
        join()
        return count() > 1
    has_others = dist.get_world_size() > 1
    if has_others:  # the group may be the user's own
        _await_gloo_at_exit()
    return has_others


def _has_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def _own_device() -> torch.device:
    """The device for numbers that this process sends: the CPU, unless the group serves only GPUs."""
    if "gloo" in dist.get_backend_config() or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _leave() -> None:
    if _has_group():
        dist.destroy_process_group()


@cache
def _await_gloo_at_exit() -> None:
    """Registers a wait for gloo's threads, which a group ends only once nothing holds it; a wrapped model does.

    To let go of a tensor, such a thread needs Python's lock. Before 3.14, Python ends the thread inside C++ if it asks
    for the lock too late, and C++ then aborts the process.
    """
    if sys.version_info < (3, 14):
        atexit.register(_await_gloo)  # runs after `_leave`, which is registered later


def _await_gloo() -> None:
    """Returns once gloo's threads have slept for a few milliseconds in which they could have had Python's lock."""
    idle, deadline = 0, time.monotonic() + _LONGEST_EXIT
    while idle < _IDLE_LOOKS and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)  # gives up the lock
        idle = idle + 1 if all(state == "S" for state in _gloo_states()) else 0


def _gloo_states() -> Iterator[str]:
    """Yields the states of gloo's threads as Linux names them; none on other systems, which only wait."""
    for thread in Path("/proc/self/task").glob("*/stat"):
        with suppress(OSError):  # the thread has just ended
            name, _, rest = thread.read_text().partition(") ")
            if "gloo_runloop" in name:
                yield rest[0]


def _end_with(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints the error that ends this process, and ends it at once.

    An ordinary exit would wait for exchanges that the other processes will never finish. If the error only says that
    another process has gone, people need that process's message, and here one line is enough.
    """
    who = f"rank {rank()} of {count()}"
    reason = f"{kind.__name__}: {error}".splitlines()[0][:300]
    if _is_loss_of_another(error):
        sys.stderr.write(f"{who} ends because it lost another process, whose message says what happened. ({reason})\n")
    else:
        _record_for_torchrun(error.with_traceback(trace))
        traceback.print_exception(kind, error, trace)
        sys.stderr.write(f"{who} ends with this error: {reason}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130 if kind is KeyboardInterrupt else 1)


def _is_loss_of_another(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, dist.DistError):
            return True
        if isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _LOST):
            return True
        error = error.__cause__ or error.__context__
    return False


def _record_for_torchrun(error: BaseException) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ErrorHandler  # heavy, and only when all is over

    if os.environ.get("TORCHELASTIC_ERROR_FILE"):
        try:
            raise error  # what is recorded is the error being handled
        except BaseException:
            ErrorHandler().record_exception(error)
