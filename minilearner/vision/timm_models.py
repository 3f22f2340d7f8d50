"""Bodies from timm, the collection of image models, by name. timm is an extra, imported only when a name is given.

`backbones` calls this module; `pretrained` reads and loads files of weights.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from minilearner.errors import DownloadError, closest
from minilearner.models.heads import Cut, cut_model, feature_shape
from minilearner.sources.download import is_offline
from minilearner.vision.families import Stats
from minilearner.vision.pretrained import StateDict, Weights, hub_path, load_body, names_of_tensors, read_state_dict

__all__ = ["TimmBody", "build_timm_body", "build_untrained_body", "find_timm_weights", "import_timm"]


class TimmBody(nn.Module):
    """A timm model without its classifier.

    If `has_map`, returns the feature map (batch, features, height, width). Otherwise, as for a transformer, returns the
    model's own pooled features (batch, features).
    """

    def __init__(self, model: Any, *, has_map: bool) -> None:
        super().__init__()
        self.model, self.has_map = model, has_map

    def forward(self, x: Tensor) -> Tensor:
        """Returns the features of images."""
        return self.model.forward_features(x) if self.has_map else self.model(x)  # type: ignore[no-any-return]


def build_timm_body(
    name: str,
    *,
    n_in: int,
    size: tuple[int, int],
    pretrained: bool,
    weights: Weights | None,
    cut: Cut | None,
) -> tuple[nn.Module, Stats | None]:
    """Returns a body by its timm name, and the mean and standard deviation that it was trained with.

    timm adapts trained weights to `n_in` channels in its own way.

    Args:
        name: the timm name, such as "convnext_tiny".
        n_in: channels of the images.
        size: height and width of the images.
        pretrained: start with trained weights.
        weights: a weights file as timm's model saves it, or None for timm's own weights.
        cut: where the body ends.

    Raises:
        ImportError: timm is not installed.
        ValueError: timm does not know the model, or has no trained weights for it.
        FileNotFoundError, FileFormatError: `weights` is not a file, or does not fit.
        DownloadError: the trained weights are missing, and the network is forbidden or does not deliver them.
    """
    timm = import_timm(name)
    path = _weights_path(timm, name, weights) if pretrained else None
    if pretrained and path is None:
        model = _create_pretrained_model(timm, name, n_in)
    else:
        model = timm.create_model(name, pretrained=False, num_classes=0, in_chans=n_in)
    config = model.pretrained_cfg
    if path is not None:
        unused = tuple(f"{part}." for part in _as_names(config.get("classifier")))
        state = _adapt_first_conv(timm, read_state_dict(path), config, n_in)
        load_body(model, state, names_of_tensors(model), source=str(path), unused=unused)
    stats = (tuple(config["mean"]), tuple(config["std"])) if pretrained and len(config["mean"]) == n_in else None
    if cut is not None:
        return cut_model(model, cut), stats
    return TimmBody(model, has_map=_has_map(model, n_in, size)), stats


def build_untrained_body(name: str, *, n_in: int, cut: Cut | None, has_map: bool) -> nn.Module:
    """Returns the body of `build_timm_body` with fresh weights, if it is known whether that has a feature map.

    Raises:
        ImportError, ValueError: as in `build_timm_body`.
    """
    model = import_timm(name).create_model(name, pretrained=False, num_classes=0, in_chans=n_in)
    return TimmBody(model, has_map=has_map) if cut is None else cut_model(model, cut)


def find_timm_weights(name: str) -> tuple[str, Path | None] | None:
    """Returns the URL of a timm model's own weights and their path if they are on this machine. None if it has none.

    Raises:
        ImportError, ValueError: as in `build_timm_body`.
    """
    config = import_timm(name).get_pretrained_cfg(name)
    return _source(config) if config is not None and config.has_weights else None


def import_timm(name: str) -> Any:
    """Returns the module timm, if it knows the model `name`; errors as in `build_timm_body`."""
    try:
        import timm  # an extra
    except ModuleNotFoundError as error:
        raise ImportError(
            f"`arch` as a string is the name of a timm model, but timm is not installed: pip install "
            f"'minilearner[timm]'. Received: arch={name!r}. Pass torchvision models themselves: resnet34, not "
            "'resnet34'."
        ) from error
    model, _, tag = name.partition(".")
    known = timm.list_models(f"{model}.*", pretrained=True) if timm.is_model(model) else timm.list_models()
    if not timm.is_model(model) or (tag and name not in known):
        raise ValueError(f"`arch` is not a timm model.{closest(name, known)} Received: arch={name!r}.")
    return timm


def _weights_path(timm: Any, name: str, weights: Weights | None) -> Path | None:
    """Returns the weights file to load, or None if timm should download its own.

    If the network is forbidden, this is the file of timm's own weights that was downloaded before.
    """
    if weights is not None:
        if not isinstance(weights, (str, os.PathLike)):
            raise TypeError(f"`weights` of a timm model must be a path. Received: {weights!r}.")
        path = Path(weights).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"`weights`: there is no file {path}. To use other timm weights, write name.tag as `arch`."
            )
        return path
    return _find_cached_weights(timm, name) if is_offline() else None


def _find_cached_weights(timm: Any, name: str) -> Path:
    config = timm.get_pretrained_cfg(name)
    url, path = _source(config)
    if path is None or not path.is_file():
        raise DownloadError(
            f"the weights of {name} are missing, and MINILEARNER_OFFLINE=1 forbids downloads.\n{_way_out(url)}"
        )
    return path


def _source(config: Any) -> tuple[str, Path | None]:
    """Returns the URL of timm's weights, and their path if they were downloaded before."""
    if config is None or not config.has_weights:
        raise ValueError(
            "timm has no trained weights for this model. Pass a file as `weights=path`, or pretrained=False."
        )
    if config.hf_hub_id is None:
        return config.url, hub_path(config.url)
    from huggingface_hub import try_to_load_from_cache  # a dependency of timm

    files = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    found = (try_to_load_from_cache(config.hf_hub_id, file) for file in files)
    return f"https://huggingface.co/{config.hf_hub_id}/resolve/main/{files[0]}", next(
        (Path(path) for path in found if isinstance(path, str)), None
    )


def _create_pretrained_model(timm: Any, name: str, n_in: int) -> Any:
    url, _ = _source(timm.get_pretrained_cfg(name))
    try:
        return timm.create_model(name, pretrained=True, num_classes=0, in_chans=n_in)
    except Exception as error:  # timm downloads in several ways, each with errors of its own
        raise DownloadError(f"timm could not download the weights of {name}: {error}\n{_way_out(url)}") from error


def _way_out(url: str) -> str:
    return (
        f"To go on without the network, get {url} in another way and pass it as `weights=path`, or start without "
        "trained weights by `pretrained=False`."
    )


def _adapt_first_conv(timm: Any, state: StateDict, config: Mapping[str, Any], n_in: int) -> StateDict:
    first = [f"{name}.weight" for name in _as_names(config.get("first_conv"))]
    return {
        name: timm.models.adapt_input_conv(n_in, weight) if name in first else weight for name, weight in state.items()
    }


def _as_names(names: Any) -> tuple[str, ...]:
    return () if not names else (names,) if isinstance(names, str) else tuple(names)


def _has_map(model: Any, n_in: int, size: tuple[int, int]) -> bool:
    shape = feature_shape(TimmBody(model, has_map=True), n_in, size)
    return len(shape) == 3 and shape[0] == model.num_features and getattr(model, "output_fmt", "NCHW") == "NCHW"
