"""The machine that training runs on: device, memory, random generators, and threads that read files.

Nothing here runs at import.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch

from minilearner import processes, threads
from minilearner.checks import check_count
from minilearner.keywords import suggest_keywords
from minilearner.other_libraries import DEVICES_ELSEWHERE

__all__ = [
    "DrawnSeed",
    "KeptMemory",
    "available_memory",
    "check_position",
    "compute_in_threads",
    "compute_pieces_in_threads",
    "default_device",
    "derive_generator",
    "derive_seed",
    "draw_seed",
    "find_kept_memory",
    "give_back_memory",
    "is_out_of_memory",
    "is_seeded",
    "isolate_rng",
    "keep_freed_memory",
    "map_in_threads",
    "resolve_device",
    "rng_state",
    "set_rng_state",
    "set_seed",
]

_IS_THERE: Mapping[str, Callable[[], bool]] = {
    "cuda": torch.cuda.is_available,
    "mps": torch.backends.mps.is_available,
}
_KEEP_MEMORY = "MINILEARNER_KEEP_MEMORY"


def default_device() -> torch.device:
    """Returns the GPU if CUDA has one, else the CPU. (Apple's `mps` runs if you ask for it with `device="mps"`.)

    With several processes on a machine, each gets its own GPU.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", processes.local_rank()) if processes.count() > 1 else torch.device("cuda")


def available_memory(device: torch.device) -> int:
    """Returns how many bytes of a device's memory are free. Gives back first what the CPU's allocator kept.

    Only Linux reports this for the CPU. Elsewhere half of all memory counts as free, and 4 GiB if even that is unknown.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    give_back_memory()
    with suppress(OSError, ValueError, StopIteration), open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) * 1024
    if hasattr(os, "sysconf"):
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return 2**32


def give_back_memory() -> None:
    """Returns to the system what the CPU's allocator keeps of freed memory, if the C library is glibc."""
    trim = _c_function("malloc_trim")
    if trim is not None:
        trim(0)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_GIB = 2**30


@functools.cache
def keep_freed_memory() -> bool:
    """Makes this process keep the memory that it frees for the next tensor. Returns whether it does.

    A training step on the CPU allocates and frees the same hundreds of megabytes again and again. By default, glibc
    returns pieces above 32 MiB to the system each time, and many smaller ones; then each page that is written again is
    a page fault. An update of MiniGoogLeNet with 128 images caused 170,000 page faults, a tenth to a fifth of its time;
    with this setting it causes none. Pieces of 1 GiB and more still go back, and so does the end of the heap if more
    than 2 GiB of it are free.

    The setting lasts as long as the process. Nothing is changed, and False returned, if the C library is not glibc, if
    the environment configures glibc's malloc itself, or if `MINILEARNER_KEEP_MEMORY` is 0.
    """
    given = {name for name in os.environ if name.startswith("MALLOC_") and name.endswith("_")}
    if given or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or os.environ.get(_KEEP_MEMORY) == "0":
        return False
    mallopt = _c_function("mallopt")
    if mallopt is None:
        return False
    # Older versions of glibc refuse more than 32 MiB.
    is_set = mallopt(_M_MMAP_THRESHOLD, _GIB) or mallopt(_M_MMAP_THRESHOLD, _GIB // 32)
    return bool(is_set and mallopt(_M_TRIM_THRESHOLD, 2 * _GIB - 1))


class KeptMemory:
    """Notices when a process that keeps its freed memory grows on and on, and then gives that memory back.

    Freed memory is not always of use again. If a small piece at its edge lives on, the room is too small by a few
    bytes for the next tensor of the same size. So a validation of 10,000 classes grew by 57 MB with each batch.
    """

    def __init__(self) -> None:
        self._due = self._most = 0.0

    def check(self) -> None:
        """Looks, at most twice a second, whether the process is half as large again as at an earlier look."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + _LOOK_SECONDS
        size = _private_bytes()
        if not self._most:
            self._most = 1.5 * size + _ROOM
        elif size > self._most:
            give_back_memory()
            self._most = 0.0  # the next look says what is usual now


_LOOK_SECONDS, _ROOM = 0.5, 2**28
_MEMORY_OF_PROCESS = "/proc/self/statm"  # only on Linux


def find_kept_memory() -> KeptMemory | None:
    """Returns what watches over the memory that this process keeps, or None if it keeps none."""
    was_asked_for = keep_freed_memory.cache_info().currsize > 0
    return _watch_kept_memory() if was_asked_for and keep_freed_memory() else None


@functools.cache
def _watch_kept_memory() -> KeptMemory | None:
    return KeptMemory() if os.path.exists(_MEMORY_OF_PROCESS) else None


def _private_bytes() -> int:
    """Returns the size of this process in memory, without the files that are mapped into it."""
    with open(_MEMORY_OF_PROCESS) as file:
        _, resident, shared, *_ = map(int, file.read().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def _c_function(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None


@suggest_keywords
def set_seed(seed: int, reproducible: bool = False) -> None:
    """Seeds all four generators: Python's `random`, NumPy's global one, torch's, and CUDA's on every device.

    Args:
        seed: the number.
        reproducible: also make cuDNN choose kernels that always give the same bits, which may be slower.

    Raises:
        ValueError: `seed` is negative or does not fit in 32 bits, which NumPy's generator needs.
    """
    check_count(seed, "seed", least=None)
    if not 0 <= seed < 2**32:
        raise ValueError(f"`seed` must be between 0 and 2**32 - 1. Received: seed={seed}.")
    seed = int(seed)  # Python's generator takes no integer of NumPy's
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if reproducible:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


def is_seeded() -> bool:
    """Whether anybody has seeded torch's global generator in this process.

    Torch itself starts it with 53 random bits. Seeds that people give have 32 bits at most, as NumPy requires.
    """
    return torch.initial_seed() < 2**32


class DrawnSeed(int):
    """A seed that was drawn, not given. If the script is started again, it may draw another."""


def draw_seed() -> DrawnSeed:
    """Draws a seed from torch's global generator, so that `set_seed` before it decides everything derived from it.

    With several processes, all get the seed that process 0 draws.
    """
    return DrawnSeed(processes.take_from_first(int(torch.randint(2**31, ()).item())))


def derive_seed(seed: int, *path: int | str) -> int:
    """Mixes a seed with a path such as ``("shuffle", epoch)`` into a new 63-bit seed.

    Any two different paths give unrelated seeds, so neighbouring epochs and batches share nothing. The mixing is a hash
    (BLAKE2b): the same on every machine and in every version of Python and torch.
    """
    text = "/".join(map(str, (seed, *path))).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def derive_generator(seed: int, *path: int | str, device: torch.device | None = None) -> torch.Generator:
    """Returns a new generator, seeded by `derive_seed`, on `device` (the CPU by default)."""
    generator = torch.Generator(device or "cpu")
    generator.manual_seed(derive_seed(seed, *path))
    return generator


def rng_state() -> dict[str, Any]:
    """Returns the state of the four global generators as plain data and tensors, for `set_rng_state`."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (kind, keys, position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        # Reading CUDA's state would start CUDA; a process that has not used it has nothing to put back.
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None,  # type: ignore[no-untyped-call]
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Puts the four global generators back to a state that `rng_state` returned.

    Raises:
        ValueError: this is not such a state.
    """
    check_position(state["numpy"][2])
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state_all(state["cuda"])


def check_position(position: Any) -> None:
    """Raises a ValueError for a Mersenne Twister position with which NumPy would read beyond its memory."""
    if type(position) is not int or not 0 <= position <= 624:
        raise ValueError(f"a Mersenne Twister's position must be from 0 to 624. Received: {position!r:.40}.")


@contextmanager
def isolate_rng(seed: int | None = None) -> Iterator[None]:
    """Puts the four global generators back on leaving, so that draws inside the context leave no trace.

    Args:
        seed: the seed to start with inside the context, of 32 bits. None continues from the present state.
    """
    if seed is None:
        stay = _Isolation()
        try:
            yield
        finally:
            stay.end()
    else:
        with threads.one_reader(), isolate_rng():
            _seed_those_in_use(seed)
            yield


class _Isolation:
    """One thread's stay in `isolate_rng`.

    If several threads are inside, each puts back the state from before the first: what the others have drawn by then
    is no state to go back to. If another thread trains meanwhile, nothing is put back, for the training would draw the
    same numbers again.
    """

    _lock = threading.Lock()
    _inside: ClassVar[dict[int, int]] = {}  # thread -> how many stays
    _first: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self._before = threads.trainings_elsewhere(self.thread)
        with self._lock:
            n, is_first = self._inside.get(self.thread, 0), not self._inside
            self.state = rng_state() if n or is_first or threads.trains(self.thread) else _Isolation._first
            if is_first:
                _Isolation._first = self.state
            self._inside[self.thread] = n + 1

    def end(self) -> None:
        begun, going_on = threads.trainings_elsewhere(self.thread)
        with self._lock:
            n = self._inside.get(self.thread, 1) - 1
            if n:
                self._inside[self.thread] = n
            else:
                self._inside.pop(self.thread, None)
            if not going_on and self._before == (begun, 0):
                set_rng_state(self.state)

    @classmethod
    def forget_others(cls) -> None:
        """Keeps what this thread has begun. The other threads do not exist in a process that was just forked."""
        cls._lock, thread = threading.Lock(), threading.get_ident()
        cls._inside = {thread: cls._inside[thread]} if thread in cls._inside else {}


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Isolation.forget_others)


def _seed_those_in_use(seed: int) -> None:
    # `set_seed` also leaves a note for every kind of device that may come into use: twenty times slower.
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


# What torch says on the CPU, CUDA, ROCm and MPS, and cuBLAS, cuDNN, the C++ library and the system say.
_OUT_OF_MEMORY = re.compile(
    r"out ?of ?memory|(can't|cannot|could not|failed to|unable to) allocate|not enough memory|insufficient \w*memory"
    r"|alloc(ation)?_failed|error_?memory_?allocation|bad_?\s?alloc"
    # MPS, and an older cuDNN that found no room for the workspace of any algorithm
    r"|invalid buffer size: [\d.]+ .i?b|unable to find a valid cudnn algorithm",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or its cause, says that memory ran out, on a GPU or on the CPU."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        if isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)):
            return True
        seen.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def read_device(device: torch.device | str | None) -> torch.device:
    """Returns a device by its name. None is the default device.

    Raises:
        ValueError: torch knows no such device, or this machine has none.
    """
    if device is None:
        return default_device()
    try:
        known = torch.device(device)
    except RuntimeError:
        kind, _, number = str(device).strip("/").partition(":")
        meant = DEVICES_ELSEWHERE.get(kind.lower())
        hint = f" Did you mean {meant + ':' * bool(number) + number!r}?" if meant else ""
        raise ValueError(
            "`device` must be one of torch's, such as 'cpu', 'cuda' or 'cuda:1', or None for the GPU if there is one."
            f"{hint} Received: device={device!r}."
        ) from None
    is_there = _IS_THERE.get(known.type)
    if is_there is not None and not is_there():
        raise ValueError(
            f"`device` must be one that this machine has, and torch finds no {known.type!r} here. "
            f"Received: device={device!r}. Leave it out to use the GPU if there is one, else the CPU."
        )
    return known


def resolve_device(device: torch.device | str | None) -> torch.device:
    """Returns the device with its index ("cuda" becomes "cuda:0"), for comparisons. None is the default device."""
    device = read_device(device)
    return device if device.type == "cpu" else torch.empty(0, device=device).device


Given = TypeVar("Given")
Made = TypeVar("Made")
_MOST_AT_ONCE = 64


def map_in_threads(work: Callable[[Given], Made], things: Sequence[Given], n_threads: int) -> list[Made]:
    """Returns ``list(map(work, things))``, computed in threads.

    If `work` fails, the first error in the order of the things is raised, and by then no thread is working any more.
    """
    if n_threads == 1 or len(things) < 2:
        return list(map(work, things))
    with ThreadPoolExecutor(n_threads) as threads:
        return _map_in(threads, _on_each(work), things, n_threads)


def compute_in_threads(work: Callable[[Given], Made], things: Sequence[Given]) -> list[Made]:
    """Returns ``list(map(work, things))``, computed in as many threads as torch uses here; errors as `map_in_threads`.

    See `compute_pieces_in_threads`.
    """
    return compute_pieces_in_threads(_on_each(work), things)


def compute_pieces_in_threads(
    work: Callable[[Sequence[Given]], list[Made]],
    things: Sequence[Given],
) -> list[Made]:
    """Returns what `work` makes of the things, which it gets in pieces of neighbours, each in one thread.

    There are as many threads as torch uses here; errors are as in `map_in_threads`. In these threads, torch computes
    each operation on one processor. torch's own threads meet after every operation, and the first to arrive waits at
    full speed: if other programs keep a processor busy, that doubles the time or more.
    """
    n_threads = torch.get_num_threads()
    if n_threads == 1 or len(things) < 2:
        return work(things)
    is_inference = torch.is_inference_mode_enabled()

    def work_as_here(piece: Sequence[Given]) -> list[Made]:
        with torch.inference_mode(is_inference):  # else results could not be written into tensors made here
            return work(piece)

    return _map_in(_start_computing_threads(n_threads), work_as_here, things, n_threads)


def _map_in(
    threads: ThreadPoolExecutor,
    work: Callable[[Sequence[Given]], list[Made]],
    things: Sequence[Given],
    n_threads: int,
) -> list[Made]:
    # Handing over takes longer than opening a small file; the last threads to end should not have much left to do.
    n = max(1, min(_MOST_AT_ONCE, len(things) // (4 * n_threads)))
    pieces = [things[i : i + n] for i in range(0, len(things), n)]
    begun = [threads.submit(work, piece) for piece in pieces]
    try:
        return [made for piece in begun for made in piece.result()]
    finally:
        for piece in begun:
            piece.cancel()
        wait(begun)


def _on_each(work: Callable[[Given], Made]) -> Callable[[Sequence[Given]], list[Made]]:
    return lambda piece: list(map(work, piece))


@functools.cache
def _start_computing_threads(n_threads: int) -> ThreadPoolExecutor:
    """Returns threads that live as long as the process: to tell one its number makes torch forget prepared kernels."""
    threads, all_begun = ThreadPoolExecutor(n_threads), threading.Barrier(n_threads)

    def begin(_: int) -> None:
        torch.get_num_threads()  # its first use takes over the number that was set last
        torch.set_num_threads(1)
        all_begun.wait()

    list(threads.map(begin, range(n_threads)))
    torch.set_num_threads(n_threads)  # This thread has kept its number. New threads shall have the same.
    return threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_computing_threads.cache_clear)  # threads do not live on in a child
