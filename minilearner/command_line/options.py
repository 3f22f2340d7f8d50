"""The options that several commands share, and configuration files, which set them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from minilearner.command_line.settings import Settings, check_keys, read_toml
from minilearner.errors import MinilearnerError

__all__ = [
    "COUNT",
    "PATH",
    "config_option",
    "data_options",
    "label_options",
    "main_options",
    "model_option",
    "rate_option",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Decorator = Callable[[_Function], _Function]

PATH = click.Path(path_type=Path)


class _Range(click.ParamType):  # type: ignore[type-arg]  # older versions of click have no arguments here
    """Numbers in a range, which the help does not repeat after each option."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.name = inner, inner.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self.inner.convert(value, param, ctx)


COUNT = _Range(click.IntRange(1))


class _Rate(click.ParamType):  # type: ignore[type-arg]  # older versions of click have no arguments here
    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        if value == "auto":
            return "auto"
        rate: float = click.FloatRange(min=0, min_open=True).convert(value, param, ctx)
        return rate


def _chain(*decorators: Callable[[Any], Any]) -> Callable[[_Function], _Function]:
    def decorate(function: _Function) -> _Function:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


label_options = _chain(
    click.argument("data", metavar="FOLDER|TABLE.csv"),
    click.option("--label-regex", metavar="REGEX", help="The first group is the label in a file's name."),
    click.option("--file-col", metavar="NAME", help="A table's column of files.  [default: the first]"),
    click.option("--label-col", metavar="NAME", help="A table's column of labels.  [default: the second]"),
    click.option("--label-delim", metavar="TEXT", help="What separates several labels in a cell."),
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
    type=_Rate(),
    metavar="RATE",
    help='The learning rate: a number, or "auto" to find one in 60 updates.  [default: 0.002 with trained weights, '
    "else 0.001]",
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
        type=click.Choice(["none", "standard", "strong"]),
        default=Settings.augment,
        show_default=True,
        help="Random flips, turns, zooms, warps and light.",
    ),
    click.option(
        "--class-weights",
        type=click.Choice(["none", "balanced"]),
        default=Settings.class_weights,
        show_default=True,
        help='"balanced" draws each class equally often.',
    ),
    click.option(
        "--valid-pct",
        type=_Range(click.FloatRange(0, 1, max_open=True)),
        metavar="SHARE",
        help="The share of images for validation; 0 for none.  [default: 0.2]",
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
        type=int,
        default=Settings.seed,
        show_default=True,
        metavar="N",
        help="Decides all that is random.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
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


def _read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Makes what a file says the default of the command's options."""
    if path is None:
        return
    options = {str(one.name): one for one in ctx.command.params}
    kept = {"output", *Settings.names()}
    try:
        content = read_toml(path)
        check_keys(content, [*kept], path)
    except (OSError, MinilearnerError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise click.UsageError(f"{path}: {reason}." if reason else str(error), ctx) from error
    texts = {name: _as_text(value) for name, value in content.items() if name in options}
    for name, text in texts.items():
        try:
            options[name].type.convert(text, options[name], ctx)
        except click.BadParameter as error:
            raise click.UsageError(f"{path}: {name}: {error.message}", ctx) from error
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
