"""The command `minilearner`: its subcommands, its exit codes, and what becomes of errors."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from minilearner import __version__
from minilearner.command_line.session import BROKEN_PIPE, Session
from minilearner.errors import closest
from minilearner.tracebacks import is_our_error

__all__ = ["main"]

FAILURE, INTERRUPTED, TERMINATED = 1, 130, 143
_SHORTEST = 9  # letters of a command's column in the help

COMMANDS = {
    "train": "train a model on a folder of images or a table of labels",
    "resume": "continue a training that was interrupted",
    "predict": "predict the labels of images",
    "evaluate": "score a model on labelled images",
    "report": "write the report of a finished training again",
    "check": "look for what makes training fail or go badly",
    "lr-find": "find a learning rate",
    "export": "write a model as ONNX or torch.export",
    "serve": "answer predictions over HTTP",
    "info": "show what a model file holds",
    "env": "show versions, device and precision, for reports of bugs",
}
"""Each command is the function `run` in its module, such as `train_command`, which is imported when it is called."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"minilearner.command_line.{name.replace('-', '_')}_command")
        return module.run  # type: ignore[no-any-return]

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"There is no command {args[0]!r}.{closest(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(f"{name:<{_SHORTEST}}", text) for name, text in COMMANDS.items()])


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""Results go to standard output, and everything else to standard error.

    \b
    Exit codes: 0 done, 1 failed, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM,
                141 the reader of the output closed it.

    \b
    Completion by TAB in bash, and likewise in zsh and fish:
    eval "$(_MINILEARNER_COMPLETE=bash_source minilearner)"
    """,
)
@click.version_option(__version__, "--version", "-V", message="minilearner %(version)s")
def commands() -> None:
    """Train image classifiers and use them, without writing code.

    \b
    minilearner train photos           photos/cat/1.jpg, photos/dog/2.jpg, ...
    minilearner predict new.jpg --model runs/photos
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    Args:
        arguments: the words after `minilearner`; those that the process was started with by default.
    """
    for name in ("stdout", "stderr"):  # None if the process was started without
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - it stays open
    session = Session(sys.stdout)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name of a file may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        with _one_line_warnings(), _exit_on_sigterm():
            code = commands.main(arguments, prog_name="minilearner", standalone_mode=False, obj=session)
            session.results.flush()
        return int(code or 0)
    except click.ClickException as error:
        error.show(sys.stderr)
        return error.exit_code
    except click.Abort as error:  # Ctrl-C, as click reports it
        session.tell(str(error.__cause__ or "") or "Interrupted.")
        return INTERRUPTED
    except KeyboardInterrupt as error:
        session.tell(str(error) or "Interrupted.")
        return INTERRUPTED
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else FAILURE
    except BrokenPipeError:
        session.close()
        return BROKEN_PIPE
    except Exception as error:
        _report_error(session, error)
        return FAILURE


def _report_error(session: Session, error: Exception) -> None:
    """Writes our own errors as one line. Any other shows its traceback, since it is a fault of the program."""
    is_expected = is_our_error(error) or isinstance(error, OSError)
    if session.debug or not is_expected:
        traceback.print_exception(error, file=sys.stderr)
    if is_expected and not session.debug:
        session.tell(f"Error: {session.in_options(_describe(error))}")
    elif not is_expected:
        session.tell("This should not have happened. Please report it, with the output of `minilearner env`.")


def _describe(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and not is_our_error(error):
        name = "" if error.filename is None else f"{error.filename}: "
        return f"{name}{error.strerror}."
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Ends with 143 on SIGTERM, also where no training saves itself first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Shows a warning as one line, without the line of code that caused it."""

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *more: Any) -> None:
        sys.stderr.write(f"Warning: {message}\n")

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        yield
