"""`Session`: one call of the command line; and `command`, which makes a function a command of it."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from typing import Any, TextIO

import click

__all__ = ["BROKEN_PIPE", "Session", "clean", "command"]

BROKEN_PIPE = 141
"""The exit code if the reader of the results goes, as `head` does: 128 and the number of SIGPIPE."""


_SETTINGS = {
    "fn_col": "file_col",
    "get_group": "group_by",
    "pat": "label_regex",
    "save": "plot",
    "weights": "class_weights",
}
"""Arguments of the Python API -> the settings that they come from."""

_WAYS_OUT = {
    "use ImageDataLoaders.from_name_re": "give `--label-regex`",
    "make the loaders without": "train without",
    'for example with ImageDataLoaders.from_folder(..., verify="decode", on_unreadable="skip")': (
        "with `--on-unreadable skip`"
    ),
    ': on_unreadable="skip"': " by `--on-unreadable skip`",
    "Name every class in `vocab`, keep each class in both sets with StratifiedSplitter(), or": (
        "Put images of each class into the training set, or"
    ),
    "Name every class in `vocab`, or leave": "Leave",
    "pass a file as `weights=path`, or start without trained weights by `pretrained=False`": (
        "start without trained weights by `--no-pretrained`"
    ),
}
"""What an error of the Python API advises -> what to do on the command line."""


@dataclass
class Session:
    """Where results go, and how errors are shown.

    Attributes:
        results: standard output. While a command runs, what the library prints goes to standard error.
        json: whether results are JSON.
        debug: whether errors show their traceback.
        options: parameter -> the option that sets it, of the command that runs.
    """

    results: TextIO
    json: bool = False
    debug: bool = False
    options: Mapping[str, str] = field(default_factory=dict)

    def show(self, data: Any, text: str) -> None:
        """Writes a result: its text, or its data if JSON is wanted."""
        if self.json:
            from minilearner.files import json_text  # loads NumPy

            text = json_text(data)
        self.write(text)

    def write(self, text: str) -> None:
        """Writes a piece of a result at once."""
        self.results.write(text if text.endswith("\n") else f"{text}\n")
        self.results.flush()

    def tell(self, text: str) -> None:
        """Writes a line to standard error. A bar on the screen makes room for it."""
        if "minilearner.display" in sys.modules:
            sys.modules["minilearner.display"].write_line(text, sys.stderr)
        else:
            sys.stderr.write(f"{text}\n")

    def close(self) -> None:
        """Lets Python end without another error if nobody reads the results any more."""
        with suppress(OSError, ValueError):  # standard output may be no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.results.fileno())

    def in_options(self, message: str) -> str:
        """Returns an error of the Python API with the options of the command in place of arguments."""
        for words, ours in _WAYS_OUT.items():
            message = message.replace(words, ours)
        return re.sub(r"`(\w+)(=[^`]*)?`", self._in_option, message)

    def _in_option(self, found: re.Match[str]) -> str:
        option = self.options.get(_SETTINGS.get(found[1], found[1]))
        return found[0] if option is None else f"`{option}`"


def command(name: str, **attributes: Any) -> Callable[[Callable[..., int | None]], click.Command]:
    """Makes a function ``(session, **options) -> exit code or None`` a command with `--json` and `--debug`."""

    def decorate(body: Callable[..., int | None]) -> click.Command:
        def run(as_json: bool, debug: bool, **options: Any) -> int | None:
            context = click.get_current_context()
            session: Session = context.obj
            session.json, session.debug = as_json, debug
            named = [one for one in context.command.params if isinstance(one, click.Option)]
            session.options = {str(one.name): max(one.opts, key=len) for one in named}
            try:
                with redirect_stdout(sys.stderr):
                    return body(session, **options)
            except BrokenPipeError:  # here, because click would end with 1
                session.close()
                return BROKEN_PIPE

        functools.update_wrapper(run, body)  # its help and its options
        names = {"help_option_names": ["-h", "--help"]}
        make: Callable[..., click.Command] = click.command(name, context_settings=names, **attributes)
        made = make(run)
        made.params += [  # at the end of the help
            click.Option(["--json", "as_json"], is_flag=True, help="Print the result as JSON."),
            click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."),
        ]
        return made

    return decorate


def clean(name: str) -> str:
    """Returns a file's name for one cell of a line: control characters, which move a terminal's cursor, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)
