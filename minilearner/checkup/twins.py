"""Items that are in training and in validation at once, so that validation looks better than it is."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from minilearner.checkup.findings import Finding, NotCheckedError
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.loader import Loader
from minilearner.errors import portion
from minilearner.training.item_origins import origins_of
from minilearner.tree import tensors_of

__all__ = ["find_twins"]

_FEWEST_NUMBERS = 16  # items of fewer numbers are often the same by chance
_TASTE = 64  # numbers of an item that must agree before all of them are compared
_ENDS = 4096  # bytes at each end of a file that must agree before all of it is compared
_TOLERATED = 0.01  # the share of validation items that changes no conclusion


def find_twins(dls: DataLoaders) -> Iterator[Finding]:
    """Finds validation items that are, to the bit, training items."""
    if dls.valid is None:
        raise NotCheckedError("there is no validation set")
    train, valid = _files(dls.train), _files(dls.valid)
    if train and valid:
        pairs, n_valid = _same_files(train, valid), len(valid)
        first = f"{os.fspath(valid[pairs[0][1]])!r} and {os.fspath(train[pairs[0][0]])!r}" if pairs else ""
    else:
        train_x, valid_x = _arrays(dls.train), _arrays(dls.valid)
        pairs, n_valid = _same_rows(train_x, valid_x), len(valid_x)
        first = f"validation item {pairs[0][1]} and training item {pairs[0][0]}" if pairs else ""
    if not pairs:
        return
    yield Finding(
        "duplicates",
        "note" if len(pairs) <= _TOLERATED * n_valid else "warning",
        f"{portion(len(pairs), n_valid, 'validation item', 'is', 'are')} in the training set too, to the bit, such as "
        f"{first}.",
        "Remove them from one of the sets; until then validation looks better than it is. `find_image_problems(dls)` "
        "lists them, and images that only look the same.",
        {"pairs": [list(pair) for pair in pairs[:100]], "n": len(pairs), "n_valid": n_valid},
    )


def _files(loader: Loader) -> list[Path]:
    """Returns the files of a set's items, or nothing if they are not all files."""
    origins = origins_of(loader.in_order())
    if origins is None:
        return []
    paths = [origins.path(i) for i in range(len(origins))]
    return [Path(path) for path in paths] if all(path and os.path.isfile(path) for path in paths) else []


def _arrays(loader: Loader) -> Tensor:
    """Returns the inputs of a set that lie in memory, (items, numbers)."""
    pieces = [tensors_of(x) for x, _ in loader.data_in_memory()]
    if not pieces or any(len(piece) != 1 for piece in pieces):
        raise NotCheckedError("all items would have to be read")
    if len({tensor.shape[1:] for (tensor,) in pieces}) != 1:
        raise NotCheckedError("the items differ in shape")
    rows = [tensor.flatten(1) if tensor.ndim > 1 else tensor[:, None] for (tensor,) in pieces]
    x = rows[0] if len(rows) == 1 else torch.cat([some.cpu() for some in rows])
    if x.shape[1] < _FEWEST_NUMBERS:
        raise NotCheckedError("items of a few numbers are often the same by chance")
    return x


def _same_rows(train: Tensor, valid: Tensor) -> list[tuple[int, int]]:
    if train.shape[1:] != valid.shape[1:] or train.dtype != valid.dtype:
        return []
    return _match(_tastes(train), _tastes(valid), lambda i, j: torch.equal(train[i], valid[j]))


def _tastes(rows: Tensor) -> list[Hashable]:
    columns = torch.linspace(0, rows.shape[1] - 1, min(_TASTE, rows.shape[1])).long()
    some = rows.index_select(1, columns.to(rows.device)).cpu().contiguous().view(torch.uint8).numpy()
    return [row.tobytes() for row in some]


def _same_files(train: Sequence[Path], valid: Sequence[Path]) -> list[tuple[int, int]]:
    sizes = [[path.stat().st_size for path in paths] for paths in (train, valid)]
    shared = set(sizes[0]) & set(sizes[1])

    def keys(paths: Sequence[Path], own: Sequence[int]) -> list[Hashable]:
        return [(size, _ends(path)) if size in shared else None for path, size in zip(paths, own, strict=True)]

    are_same = partial(_are_same_files, train, valid)
    return _match(keys(train, sizes[0]), keys(valid, sizes[1]), are_same)


def _are_same_files(train: Sequence[Path], valid: Sequence[Path], i: int, j: int) -> bool:
    return filecmp.cmp(train[i], valid[j], shallow=False)


def _ends(path: Path) -> bytes:
    with path.open("rb") as file:
        start = file.read(_ENDS)
        file.seek(max(0, path.stat().st_size - _ENDS))
        return start + file.read(_ENDS)


def _match(
    train: Sequence[Hashable], valid: Sequence[Hashable], are_same: Callable[[int, int], bool]
) -> list[tuple[int, int]]:
    """Returns for each validation item its first twin: (training, validation). Only items of one key are compared."""
    of_key: dict[Hashable, list[int]] = {}
    for i, key in enumerate(train):
        of_key.setdefault(key, []).append(i)
    twins = (
        (next((i for i in of_key.get(key, ()) if are_same(i, j)), None), j)
        for j, key in enumerate(valid)
        if key is not None
    )
    return [(i, j) for i, j in twins if i is not None]
