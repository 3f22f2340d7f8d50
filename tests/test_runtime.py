"""The process keeps freed memory for the next tensor, and out-of-memory errors are recognised."""

import errno
import os
import platform
import subprocess
import sys

import pytest
import torch

from minilearner.runtime import is_out_of_memory

SCRIPT = """
import resource, torch
from minilearner import DataLoaders
kept = {made}
x = torch.ones(2**22)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    x = torch.ones(2**24) * 2  # 64 MiB, 16,384 pages
    del x
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
LOADERS = "DataLoaders.from_arrays((torch.zeros(8, 2), torch.zeros(8)), bs=4, device='cpu')"
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")


def page_faults(made, **environment):
    env = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    env.pop("GLIBC_TUNABLES", None)
    script = SCRIPT.format(made=made)
    done = subprocess.run([sys.executable, "-c", script], env=env | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
@glibc
def test_loaders_on_the_cpu_make_large_tensors_reuse_memory():
    assert page_faults(LOADERS) < 10 * 16_384  # those of the first round, or a few if addresses fit badly
    assert page_faults("None") > 20 * 16_384  # importing alone changes nothing


@pytest.mark.slow
@glibc
@pytest.mark.parametrize(
    "environment",
    [{"MINILEARNER_KEEP_MEMORY": "0"}, {"MALLOC_TOP_PAD_": "4096"}, {"GLIBC_TUNABLES": "glibc.malloc.perturb=0"}],
)
def test_what_the_environment_says_of_malloc_stays(environment):
    assert page_faults(LOADERS, **environment) > 20 * 16_384


KEPT = """
import errno
import os
import torch
from minilearner.runtime import available_memory, keep_freed_memory

def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

assert keep_freed_memory()
before = resident_bytes()
many = [torch.ones(2**24) for _ in range(4)]  # 64 MiB each
last = torch.ones(1000)  # lies behind them
del many
assert resident_bytes() > before + 2**27
available_memory(torch.device("cpu"))
assert resident_bytes() < before + 2**26
"""


@pytest.mark.slow
@pytest.mark.alone
@glibc
def test_memory_that_is_kept_counts_as_at_hand():
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_", "MINILEARNER_"))}
    done = subprocess.run([sys.executable, "-c", KEPT], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


GROWING = """
import os
import time
import torch
from minilearner.runtime import KeptMemory, _private_bytes, keep_freed_memory

assert keep_freed_memory()
memory, small, sizes = KeptMemory(), [], []
for i in range(60):
    large = [torch.ones(2**23) for _ in range(2)]  # 32 MiB each
    small.append(torch.ones(12))  # lies at the edge of one of them, and stays
    del large
    memory._due = 0  # as if time had passed
    memory.check()
    sizes.append(_private_bytes())
assert max(sizes) < sizes[0] * 1.5 + 2**29, sizes
"""


@pytest.mark.slow
@pytest.mark.alone
@glibc
def test_a_process_that_cannot_use_its_freed_memory_again_does_not_grow_without_end():
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_", "MINILEARNER_"))}
    done = subprocess.run([sys.executable, "-c", GROWING], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


OUT_OF_MEMORY = (
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:75] data. DefaultCPUAllocator: not enough memory: you tried"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("HIP out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("HIP error: hipErrorOutOfMemory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.05 GB)"),
    RuntimeError("Invalid buffer size: 20.00 GB"),
    RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
    RuntimeError("CUDA driver error: cudaErrorMemoryAllocation"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("unable to mmap 512 bytes from file </x>: Cannot allocate memory (12)"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_out_of_memory_is_recognised_in_every_wording_also_as_a_cause(error):
    assert is_out_of_memory(error)
    wrapper = ValueError("the batch failed")
    wrapper.__cause__ = error
    assert is_out_of_memory(wrapper)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        ValueError("out of memory"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=str,
)
def test_other_errors_are_not_taken_for_it(error):
    assert not is_out_of_memory(error)


def test_an_error_that_causes_itself_ends_the_search():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert not is_out_of_memory(first)
