"""Runs contenders in separate processes that take turns: one runs while all others wait.

A contender's settings for its whole process (the C library's allocator, warnings, patched modules) then affect no
other, and each is measured as its users see it. A busy machine still slows all alike.
"""

import argparse
import atexit
import multiprocessing
import statistics
import time
import traceback
from contextlib import ExitStack

import torch


def make_parser(doc, *, rounds, bs):
    """Returns a parser with the options that benchmarks by turns share, described by a script's docstring."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--bs", type=int, default=bs)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser


def by_turns(makers, rounds, *, warm_up=1):
    """Returns name -> the results of `rounds` turns. `makers` maps each name to `(make, *args)`, see `Contender`.

    The `warm_up` turns before those do not count. If a peer is not installed, this prints a line and leaves it out.
    """
    with ExitStack() as stack:
        contenders = {}
        for name, (make, *args) in makers.items():
            try:
                contenders[name] = stack.enter_context(Contender(make, *args))
            except ImportError as error:
                print(f"{name}: not installed ({str(error).splitlines()[-1]})\n")
        results = {name: [] for name in contenders}
        for number in range(warm_up + rounds):
            for name, contender in contenders.items():
                result = contender()
                if number >= warm_up:
                    results[name].append(result)
    return results


class Contender:
    """Calls `run = make(*args)` in a fresh process. Each call runs `run()` there once, and returns its result.

    The process has as many threads as this one. Between calls it waits for a message. It ends with the `with` block, or
    with this process. `make` and `args` must be picklable.

    Raises ImportError if `make` cannot import something, and RuntimeError for any other failure, both with the
    traceback of that process.
    """

    def __init__(self, make, *args):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, torch.get_num_threads(), make, args))
        self.process.start()
        theirs.close()
        atexit.register(self.pipe.close)  # before multiprocessing waits for its children, which wait for us
        self._answer()

    def __call__(self):
        self.pipe.send("run")
        return self._answer()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.pipe.close()
        self.process.join()

    def _answer(self):
        try:
            error, answer = self.pipe.recv()
        except EOFError:
            self.process.join()
            error, answer = RuntimeError, f"it ended by itself, with exit code {self.process.exitcode}"
        if error is not None:
            self.__exit__()
            raise error(f"in a contender's process: {answer}")
        return answer


def _serve(pipe, n_threads, make, args):
    torch.set_num_threads(n_threads)
    multiprocessing.set_start_method(None, force=True)  # loader workers start in the default way, not by "spawn"
    run = None
    try:
        run = make(*args)
        pipe.send((None, None))
        while _wait_for_call(pipe):
            pipe.send((None, run()))
    except Exception as error:
        absent = run is None and isinstance(error, ImportError)
        pipe.send((ImportError if absent else RuntimeError, traceback.format_exc().strip()))


def _wait_for_call(pipe):
    try:
        return pipe.recv()
    except EOFError:
        return None


def seconds(function, clock=time.perf_counter):
    """Returns how long `function()` takes, including the work that it started on a GPU."""
    began = clock()
    function()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return clock() - began


def ratio(ours, theirs):
    """Returns the median of the ratios of the turns."""
    return statistics.median(sort_ratios(ours, theirs))


def sort_ratios(ours, theirs):
    return sorted(a / b for a, b in zip(ours, theirs))


def ratio_text(ours, theirs):
    """Returns the median of the ratios of the turns with the smallest and the largest: "0.21 (0.20 to 0.23)"."""
    found = sort_ratios(ours, theirs)
    return f"{statistics.median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})"


def share_text(ours, theirs):
    """Returns how much of the other's speed ours reaches, from the times of both: "96 % (93 to 99)"."""
    found = [100 * share for share in sort_ratios(theirs, ours)]
    return f"{statistics.median(found):.0f} % ({found[0]:.0f} to {found[-1]:.0f})"
