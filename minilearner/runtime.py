"""The machine that training runs on: device, memory, precision, random generators, and threads that read files.

Nothing here runs at import, and nothing reads a clock: the same machine always gives the same answers.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import torch

from minilearner import processes
from minilearner.errors import closest

__all__ = [
    "DrawnSeed",
    "Precision",
    "available_memory",
    "check_position",
    "default_device",
    "derived_generator",
    "derived_seed",
    "draw_seed",
    "in_threads",
    "is_out_of_memory",
    "isolated_rng",
    "keep_freed_memory",
    "resolve_device",
    "resolve_precision",
    "rng_state",
    "set_rng_state",
    "set_seed",
]

Precision: TypeAlias = Literal["fp32", "bf16", "fp16", "auto"]
_KEEP_MEMORY = "MINILEARNER_KEEP_MEMORY"
_PRECISIONS = ("fp32", "bf16", "fp16", "auto")


def default_device() -> torch.device:
    """Returns the GPU where CUDA has one, else the CPU. (Apple's `mps` runs when asked for by `device="mps"`.)

    Of several processes on a machine each has a GPU of its own.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", processes.local_rank()) if processes.count() > 1 else torch.device("cuda")


def available_memory(device: torch.device) -> int:
    """Returns how many bytes of a device's memory are at hand now; what a CPU's allocator kept is given back first.

    Where the system does not tell (for the CPU only Linux does), half of all the memory counts; where it does not tell
    that either, 4 GiB.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    give_back = _c_function("malloc_trim")
    if give_back is not None:
        give_back(0)
    with suppress(OSError, ValueError, StopIteration), open("/proc/meminfo") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable")) * 1024
    if hasattr(os, "sysconf"):
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return 2**32


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_GIB = 2**30


@functools.cache
def keep_freed_memory() -> bool:
    """Makes this process keep the memory that it frees, for the next tensor, and returns whether it does.

    A training step on the CPU allocates and frees the same hundreds of megabytes again and again. By itself glibc gives
    pieces of more than 32 MiB back to the system each time, and much of what is smaller; then every page that is
    written to anew is a page fault. An update of MiniGoogLeNet with 128 pictures met 170,000 of them, a tenth to a
    fifth of its time; with this none. Pieces of 1 GiB and more still go back, and so does the end of the heap where
    more than 2 GiB of it are free.

    It holds for the process from then on. Nothing is changed, and False returned, where the C library is not glibc,
    where the environment sets glibc's malloc itself, or `MINILEARNER_KEEP_MEMORY` is 0.
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


def _c_function(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None


def resolve_precision(precision: str, device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """Turns "auto" into what the hardware computes fast, by its capabilities alone; other names are checked and kept.

    bf16 needs AVX512-BF16 or AMX on a CPU and compute capability 8.0 on a GPU. Elsewhere bf16 would be emulated,
    several times slower than fp32, so "auto" is fp32 there.

    Raises:
        ValueError: `precision` is none of "fp32", "bf16", "fp16", "auto".
    """
    if precision not in _PRECISIONS:
        raise ValueError(
            f"`precision` must be one of {', '.join(map(repr, _PRECISIONS))}.{closest(str(precision), _PRECISIONS)} "
            f"Received: precision={precision!r}."
        )
    if precision != "auto":
        return precision  # type: ignore[return-value]
    return "bf16" if _computes_bf16(device) else "fp32"


def _computes_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    if hasattr(torch.cpu, "get_capabilities"):  # torch 2.10 and later
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    asks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(ask() for ask in asks if ask is not None)


def set_seed(seed: int) -> None:
    """Seeds all four generators: Python's `random`, NumPy's global one, torch's, and CUDA's on every device.

    Raises:
        ValueError: `seed` is negative or does not fit in 32 bits, which NumPy's generator needs.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"`seed` must be between 0 and 2**32 - 1. Received: seed={seed}.")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class DrawnSeed(int):
    """A seed that nobody gave: the same script, started again, may draw another."""


def draw_seed() -> DrawnSeed:
    """Draws a seed from torch's global generator, so that `set_seed` before it decides all that is derived from it.

    Of several processes, all get what the first one draws.
    """
    return DrawnSeed(processes.agreed(int(torch.randint(2**31, ()).item())))


def derived_seed(seed: int, *path: int | str) -> int:
    """Mixes a seed with a path such as ``("shuffle", epoch)`` into a new 63-bit seed.

    Any two different paths give unrelated seeds, so neighbouring epochs and batches share nothing. The mixing is a hash
    (BLAKE2b): the same on every machine, Python and torch version.
    """
    text = "/".join(map(str, (seed, *path))).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def derived_generator(seed: int, *path: int | str, device: torch.device | None = None) -> torch.Generator:
    """Returns a fresh generator seeded by `derived_seed`, on `device` (the CPU by default)."""
    generator = torch.Generator(device or "cpu")
    generator.manual_seed(derived_seed(seed, *path))
    return generator


def rng_state() -> dict[str, Any]:
    """Returns where the four global generators stand: plain data and tensors, for `set_rng_state`."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (kind, keys, position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        # Asking for CUDA's state would start CUDA; a process that has not used it has nothing to put back.
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None,  # type: ignore[no-untyped-call]
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Puts the four global generators to where they stood when `rng_state` was asked.

    Raises:
        ValueError: this is no state of theirs.
    """
    check_position(state["numpy"][2])
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state_all(state["cuda"])


def check_position(position: Any) -> None:
    """Raises where NumPy would take a Mersenne Twister's position unseen, and read beyond the twister's memory."""
    if type(position) is not int or not 0 <= position <= 624:
        raise ValueError(f"a Mersenne Twister's position must be from 0 to 624. Received: {position!r:.40}.")


@contextmanager
def isolated_rng(seed: int | None = None) -> Iterator[None]:
    """Puts the four global generators back, on leaving, to where they stood: what is drawn inside leaves no trace.

    `seed`, of 32 bits, is where they start inside.
    """
    state = rng_state()
    try:
        if seed is not None:
            _seed_those_in_use(seed)
        yield
    finally:
        set_rng_state(state)


def _seed_those_in_use(seed: int) -> None:
    # `set_seed` also leaves a note for every kind of device that may come into use: twenty times slower.
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


_WORDS = ("can't allocate memory", "not enough memory", "ALLOC_FAILED")  # of torch on the CPU, and of cuBLAS and cuDNN


def is_out_of_memory(error: BaseException | None) -> bool:
    """Says whether an error, or what caused it, is that memory ran out, on a GPU or elsewhere."""
    while error is not None:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return True
        if isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS):
            return True
        error = error.__cause__
    return False


def resolve_device(device: torch.device | str | None) -> torch.device:
    """Returns the device with its index ("cuda" is "cuda:0"), so that devices can be compared; None is the default."""
    device = default_device() if device is None else torch.device(device)
    return device if device.type == "cpu" else torch.empty(0, device=device).device


Given = TypeVar("Given")
Made = TypeVar("Made")
_MOST_AT_ONCE = 64


def in_threads(work: Callable[[Given], Made], things: Sequence[Given], n_threads: int) -> list[Made]:
    """Returns what `work` makes of each, in their order, as ``list(map(work, things))`` does.

    An error is that of the first thing with one, and nothing runs any more when it is raised.
    """
    if n_threads == 1 or len(things) < 2:
        return list(map(work, things))
    # Handing over takes longer than opening a small file; the last threads to end should not have much left to do.
    n = max(1, min(_MOST_AT_ONCE, len(things) // (4 * n_threads)))
    pieces = [things[i : i + n] for i in range(0, len(things), n)]
    with ThreadPoolExecutor(min(n_threads, len(pieces))) as threads:
        return [made for piece in threads.map(lambda piece: list(map(work, piece)), pieces) for made in piece]
