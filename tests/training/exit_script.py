"""The script of `test_process_exit`: starts pairs of processes that end while gloo's threads may still hold a tensor.

Prints how many of the processes ended well, and how many did not.
"""

from __future__ import annotations

import os
import socket
import sys

import torch.distributed as dist

from minilearner import processes

NEVER = 1000.0  # seconds


def exchange_and_end():
    processes.join()
    globals()["kept"] = dist.group.WORLD  # as a wrapped model keeps it
    sys.setswitchinterval(NEVER)  # gloo's thread gets Python's lock only if this one gives it up
    for number in range(20):
        processes.gather(number)


def start_pair():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(2):
        pid = os.fork()
        if pid == 0:
            group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
            os.environ.update({name: str(value) for name, value in group.items()})
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            exchange_and_end()
            sys.exit()
        started.append(pid)
    return [os.waitpid(pid, 0)[1] for pid in started]


if __name__ == "__main__":
    statuses = [status for _ in range(int(sys.argv[1])) for status in start_pair()]
    print(statuses.count(0), len(statuses) - statuses.count(0))
