"""Memory that is freed stays with the process, for the next tensor."""

import os
import platform
import subprocess
import sys

import pytest

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


@glibc
def test_loaders_on_the_cpu_make_large_tensors_reuse_memory():
    assert page_faults(LOADERS) < 10 * 16_384  # those of the first round, or a few where addresses fit badly
    assert page_faults("None") > 20 * 16_384  # importing alone changes nothing


@glibc
@pytest.mark.parametrize(
    "environment",
    [{"MINILEARNER_KEEP_MEMORY": "0"}, {"MALLOC_TOP_PAD_": "4096"}, {"GLIBC_TUNABLES": "glibc.malloc.perturb=0"}],
)
def test_what_the_environment_says_of_malloc_stays(environment):
    assert page_faults(LOADERS, **environment) > 20 * 16_384


KEPT = """
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


@glibc
def test_memory_that_is_kept_counts_as_at_hand():
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_", "MINILEARNER_"))}
    done = subprocess.run([sys.executable, "-c", KEPT], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
