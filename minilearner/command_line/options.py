"""The options that several commands share, and configuration files, which set them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import click

from minilearner.checks import check_count
from minilearner.command_line.settings import CHOICES, Settings, check_keys, check_setting, read_toml
from minilearner.errors import MinilearnerError

__all__ = [
    "COUNT",
    "PATH",
    "Checked",
    "config_option",
    "data_options",
    "label_options",
    "main_options",
    "model_option",
    "moved_option",
    "rate_option",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Decorator = Callable[[_Function], _Function]

PATH = click.Path(path_type=Path)


class Checked(click.ParamType):  # type: ignore[type-arg]  # older versions of click have no arguments here
    """Values that pass a check, whose error names the option. The help does not repeat the check after each option.

    Args:
        read: the text of the option -> its value.
        check: ``(value, name)``, which raises a ValueError or TypeError.
    """

    def __init__(self, read: type[int] | type[float] | type[str], check: Callable[[Any, str], None]) -> None:
        self.read, self.check, self.name = read, check, read.__name__

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the value of the text."""
        with suppress(ValueError):  # the check says what it must be
            value = self.read(value)
        try:
            self.check(value, "value" if param is None else max(param.opts, key=len))
        except (TypeError, ValueError) as error:
            raise click.UsageError(str(error), ctx) from error
        return value


COUNT = Checked(int, check_count)


def _setting(name: str, read: type[int] | type[float] | type[str]) -> Checked:
    return Checked(read, lambda value, option: check_setting(name, value, option))


def _chain(*decorators: Callable[[Any], Any]) -> Callable[[_Function], _Function]:
    def decorate(function: _Function) -> _Function:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


label_options = _chain(
    click.argument("data", metavar="FOLDER|TABLE.csv"),
    click.option(
        "--label-regex",
        type=_setting("label_regex", str),
        metavar="REGEX",
        help="The first group is the label in a file's name.",
    ),
    click.option("--file-col", metavar="NAME", help="A table's column of files.  [default: the first]"),
    click.option("--label-col", metavar="NAME", help="A table's column of labels.  [default: the second]"),
    click.option("--label-delim", metavar="TEXT", help="What separates several labels in a cell."),
    click.option("--encoding", metavar="NAME", help='Of a table, such as "cp1252".  [default: UTF-8]'),
)
"""Where labelled images are."""

main_options = _chain(
    click.option(
        "--arch",
        default=Settings.arch,
        show_default=True,
        metavar="NAME",
        help="A model of torchvision, or of timm if that is installed.",
    ),
    click.option(
        "--size",
        type=COUNT,
        default=Settings.size,
        show_default=True,
        metavar="PIXELS",
        help="Height and width of the images that the model sees.",
    ),
    click.option(
        "--pretrained/--no-pretrained",
        default=None,
        help="Start with trained weights, downloaded if they are missing; or with random ones.  [default: trained if "
        "they are on this machine]",
    ),
)
"""The model, and the size of its images."""

rate_option = click.option(
    "--lr",
    type=_setting("lr", float),
    metavar="RATE",
    help='The learning rate: a number, or "auto" to find one in at most 48 updates.  [default: 0.002 with trained '
    "weights, else auto]",
)

data_options = _chain(
    click.option(
        "--bs",
        type=COUNT,
        default=Settings.bs,
        show_default=True,
        metavar="N",
        help="Images in a batch.",
    ),
    click.option(
        "--augment",
        type=click.Choice(CHOICES["augment"]),
        default=Settings.augment,
        show_default=True,
        help="Random flips, turns, zooms, warps and light.",
    ),
    click.option(
        "--class-weights",
        type=click.Choice(CHOICES["class_weights"]),
        default=Settings.class_weights,
        show_default=True,
        help='"balanced" draws each class equally often.',
    ),
    click.option(
        "--valid-pct",
        type=_setting("valid_pct", float),
        metavar="SHARE",
        help="The share of images for validation; 0 for none.  [default: 0.2]",
    ),
    click.option(
        "--on-unreadable",
        type=click.Choice(CHOICES["on_unreadable"]),
        default=Settings.on_unreadable,
        show_default=True,
        help='Images that cannot be read: "skip" reads all images once, and leaves those out.',
    ),
    click.option("--valid-col", metavar="NAME", help="A table's column that is true for validation."),
    click.option(
        "--group-by",
        metavar="REGEX|NAME",
        help="Keep groups of images on one side of the split: a table's column, or a pattern for paths below FOLDER "
        "whose first group is the name.",
    ),
    click.option(
        "--seed",
        type=_setting("seed", int),
        default=Settings.seed,
        show_default=True,
        metavar="N",
        help="Decides all that is random.",
    ),
    click.option(
        "--precision",
        type=click.Choice(CHOICES["precision"]),
        default=Settings.precision,
        show_default=True,
        help='"auto" takes bf16 if it is faster here.',
    ),
    click.option("--device", metavar="NAME", help='Such as "cpu" or "cuda:1".  [default: the GPU if there is one]'),
)
"""How batches are made of the data, and how they are computed."""

model_option = click.option(
    "--model",
    "-m",
    type=PATH,
    required=True,
    metavar="FILE|RUN",
    help="A model.safetensors, or the folder of a run.",
)

moved_option = click.option("--data", metavar="FOLDER|TABLE.csv", help="Where the data are, if they have moved.")


def _read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Makes what a file says the default of the command's options."""
    if path is None:
        return
    options = {one.name for one in ctx.command.params}
    try:
        content = read_toml(path)
        check_keys(content, ["output", *Settings.names()], path)
        for name, value in content.items():
            check_setting(name, value)
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}.", ctx) from error
    except MinilearnerError as error:
        raise click.UsageError(str(error), ctx) from error
    except (TypeError, ValueError) as error:
        raise click.UsageError(f"{path}: {error}", ctx) from error
    texts = {name: _as_text(value) for name, value in content.items() if name in options}
    ctx.default_map = {**(ctx.default_map or {}), **texts}


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


config_option = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    metavar="FILE.toml",
    help="Take settings from a file, such as a run's config.toml. Options on the command line come first.",
)
