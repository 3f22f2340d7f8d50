"""`DataBlock`: declares how a data set is made, and makes its loaders."""

from __future__ import annotations

import copy
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NoReturn

import torch

from minilearner import processes
from minilearner.checks import check_choice, check_count
from minilearner.data.batch_transforms import Pipeline, Transforms, check_unit_range
from minilearner.data.block_summary import describe_steps
from minilearner.data.blocks import InputBlock, TargetBlock, TransformBlock
from minilearner.data.corrections import read_review
from minilearner.data.data_plan import DataPlan, NewItems, PreparedData, PreparedPart, Read
from minilearner.data.dataloaders import DataLoaders
from minilearner.data.item_dataset import ItemDataset
from minilearner.data.item_loader import ItemLoader
from minilearner.data.item_transforms import ItemPipeline, ItemTransforms
from minilearner.data.item_views import DataSets, ItemView, view_part
from minilearner.data.items import PathLike, name_items
from minilearner.data.labels import Getter
from minilearner.data.share import choose_drop_last
from minilearner.data.splits import RandomSplitter, Splitter
from minilearner.data.splitter_from import check_splitter
from minilearner.data.table import Row
from minilearner.data.weights import item_weights
from minilearner.errors import DataError, agree, plural
from minilearner.keywords import check_unknown, suggest_keywords
from minilearner.runtime import draw_seed
from minilearner.tree import Tree, shape_of, tensors_of

__all__ = ["DataBlock"]

Verify = Literal["names", "headers", "decode"]
OnUnreadable = Literal["raise", "skip"]


@suggest_keywords
class DataBlock:
    r"""Declares a data set: what its parts are, and how items are found, split and labelled.

    >>> pets = DataBlock(
    ...     blocks=(ImageBlock, CategoryBlock),
    ...     get_items=get_image_files,
    ...     splitter=RandomSplitter(seed=42),
    ...     get_y=using_attr(RegexLabeller(r"(.+)_\d+.jpg$"), "name"),
    ...     item_tfms=Resize(460),
    ...     batch_tfms=aug_transforms(size=224, min_scale=0.75),
    ... )
    >>> dls = pets.dataloaders(path / "images")

    Nothing is read until `dataloaders`. It works as fastai's, except that getters run once, when loaders are built:
    `get_x` says *where* an input is, and its block reads it. So a label that cannot be read is found before training,
    and these functions are not sent to worker processes.

    Args:
        blocks: an input block for each input and a target block last; two plain `TransformBlock`s when None.
        getters: all getters in the order of the blocks, instead of `get_x` and `get_y`.
        n_inp: how many blocks are inputs: all but the last, or the only one.
        item_tfms: transforms of one item on the CPU; they give all items one shape.
        batch_tfms: transforms of a whole batch on the device.
        get_items: source -> items; None if the source is the items: a list, a mapping of columns or a frame.
        splitter: items -> (train, valid); `RandomSplitter()` when None.
        get_y: item -> label.
        get_x: item -> what the input is read from; the item itself when None. A list for several inputs.

    Raises:
        TypeError: an argument is unknown, a block is not allowed there, or `splitter` is no function.
        ValueError: the number of getters differs from the number of blocks.
    """

    def __init__(
        self,
        blocks: Any = None,
        *,
        getters: Sequence[Getter | None] | None = None,
        n_inp: int | None = None,
        item_tfms: ItemTransforms = None,
        batch_tfms: Transforms = None,
        get_items: Callable[[Any], Any] | None = None,
        splitter: Splitter | None = None,
        get_y: Getter | Sequence[Getter] | None = None,
        get_x: Getter | Sequence[Getter] | None = None,
        **unknown: NoReturn,
    ) -> None:
        check_unknown(unknown, DataBlock)
        if splitter is not None:
            check_splitter(splitter)
        self.blocks = _instances(blocks)
        self.n_inp = max(1, len(self.blocks) - 1) if n_inp is None else n_inp
        inputs, outcome = _place_blocks(self.blocks, self.n_inp)
        of_inputs, of_outcome = _getters(getters, get_x, get_y, self.n_inp, len(self.blocks) - self.n_inp)
        self.plan = DataPlan(inputs, outcome, get_items, of_inputs, of_outcome, splitter or RandomSplitter())
        self.item_tfms, self.batch_tfms = ItemPipeline(item_tfms), Pipeline(batch_tfms)

    def new(self, item_tfms: ItemTransforms = None, batch_tfms: Transforms = None) -> DataBlock:
        """Returns a copy with these transforms and no others. (fastai's changes the block itself.)"""
        block = copy.copy(self)
        block.item_tfms, block.batch_tfms = ItemPipeline(item_tfms), Pipeline(batch_tfms)
        return block

    def relabel(self, csv: PathLike) -> DataBlock:
        """Returns a copy that corrects labels, and leaves out items, as a reviewed CSV file says.

        Example::

            interp.label_errors().to_csv("review.csv", most=200)  # fill in the columns action and new_label
            dls = block.relabel("review.csv").dataloaders(path)

        The column `action` says "keep", "delete" or "relabel", and `new_label` the right class. No file is deleted. All
        other items stay in the set, training or validation, where they were. Called again, it adds another review.

        Args:
            csv: the file, also from a spreadsheet that saved it with semicolons.

        Raises:
            DataError: an action is unknown, or rows contradict each other. Names the row. `dataloaders` raises it if a
                file is not among the items, its label is another one than at the review, or a new label is no class.
        """
        block = copy.copy(self)
        block.plan = replace(self.plan, corrections=(*self.plan.corrections, read_review(csv)))
        return block

    def dataloaders(
        self,
        source: Any,
        path: PathLike = ".",
        *,
        bs: int = 64,
        val_bs: int | None = None,
        shuffle: bool = True,
        drop_last: bool | None = None,
        num_workers: int | None = None,
        seed: int | None = None,
        device: torch.device | str | None = None,
        verify: Verify = "headers",
        on_unreadable: OnUnreadable = "raise",
        cache: bool | PathLike | None = None,
        weights: Any = None,
        relabel: PathLike | None = None,
        **unknown: NoReturn,
    ) -> DataLoaders:
        """Returns loaders of a source, after checking for everything that would stop training later.

        Args:
            source: what `get_items` takes, or the items themselves.
            path: where a learner of these loaders puts its files.
            bs: items per batch.
            val_bs: items per batch in validation; `bs` when None.
            shuffle: a new order for every training epoch.
            drop_last: leave out the short last batch of training. None leaves it out when shuffling, unless it has more
                than a tenth of the items: then it is kept, and a line says so.
            num_workers: processes that read ahead; see `ItemLoader`. 0 reads in this process.
            seed: decides shuffles and transforms; see `DataLoaders`. (The split has its own seed.)
            device: where batches arrive.
            verify: "headers" opens each file and reads its first and last bytes, so files that are no images or are
                cut short are found now. It compares all sizes unless a transform makes them equal. It takes about 10
                seconds for 100,000 JPEGs on two processors, in threads, and the time of the disk. "names" only checks
                that files exist, and that 8 of them come out in one shape. "decode" also reads every file whole. An
                error that was not looked for is raised when the file is read, with its path and its row.
            on_unreadable: "raise", or "skip" what "headers" or "decode" found. Skipped items are counted on standard
                error and listed in ``dls.skipped``.
            cache: whether decoded images are kept for later epochs, or a folder to keep them in; see `ItemDataset`.
            weights: how often training draws each item: "balanced" for the same chance for each class, a mapping from
                class to weight, or one weight for each item of the source. An epoch still has as many items; some come
                several times, others not at all. It needs `shuffle`. None takes each item once.

        Raises:
            TypeError: an argument is unknown, or the source needs `get_items`.
            ValueError: an argument is out of range.
            DataError: there are no items, labels cannot be read or are unknown, the split is wrong, inputs differ in
                shape or are outside the range that a transform needs, or there is no batch to train on. Says how many
                items are affected, with three examples.
            FileFormatError: files cannot be read.
        """
        check_unknown(unknown, self.dataloaders)
        val_bs = bs if val_bs is None else val_bs
        for name, n in (("bs", bs), ("val_bs", val_bs)):
            check_count(n, name)
        if seed is not None:
            check_count(seed, "seed", least=None)
        _check_weights(weights, shuffle)
        _check_verification(verify, on_unreadable)
        plan = self.plan if relabel is None else self.relabel(relabel).plan
        prepared = plan.prepare(source, verify=verify, on_unreadable=on_unreadable)
        _report_corrections(plan)
        _report_skipped_items(prepared)
        seed = draw_seed() if seed is None else seed
        train, valid = self._make_datasets(prepared, seed, cache)
        _check_shapes(train, prepared.train.sizes)
        if verify != "names":
            _check_shapes(valid, prepared.valid.sizes)
        _check_range(train, self.batch_tfms)
        part, drawn = prepared.train, None
        if weights is not None:
            drawn = item_weights(weights, prepared.n_items, part.positions, part.y, prepared.target)
        how: dict[str, Any] = {"seed": seed, "device": device, "num_workers": num_workers}
        how["batch_tfms"] = self.batch_tfms
        loader = _make_train_loader(train, part.y, bs, shuffle, drop_last, weights=drawn, **how)
        dls = DataLoaders(
            loader,
            ItemLoader(valid, prepared.valid.y, bs=val_bs, **how) if len(valid) else None,
            bs=bs,
            seed=seed,
            target=prepared.target,
            device=device,
            path=path,
            new_items=NewItems(self.plan, prepared.target, prepared.kind),
        )
        dls.skipped = prepared.skipped
        dls.split_items = prepared.train.items, prepared.valid.items
        return dls

    def datasets(self, source: Any) -> DataSets:
        """Returns the items of a source, split and labelled: ``image, number = block.datasets(path).train[0]``.

        Each is read when it is asked for, and not transformed.

        Raises:
            TypeError, ValueError, DataError: as `dataloaders`.
        """
        prepared = self.plan.prepare(source, verify="names", on_unreadable="raise")
        new_items = NewItems(self.plan, prepared.target, prepared.kind)

        def view(part: PreparedPart) -> ItemView:
            return view_part(part.items, lambda i: new_items.read(part.sources[i]), part.y, prepared.target, self.n_inp)

        train, valid = prepared.train, prepared.valid
        return DataSets(view(train), view(valid), (train.positions, valid.positions))

    def _make_datasets(
        self, prepared: PreparedData, seed: int, cache: bool | PathLike | None
    ) -> tuple[ItemDataset, ItemDataset]:
        rows = prepared.kind is Row
        how: dict[str, Any] = {"seed": seed, "cache": cache, "table": prepared.table}
        train, valid = (
            ItemDataset(
                part.sources, Read(self.plan.inputs), self.item_tfms, rows=part.positions if rows else None, **how
            )
            for part in (prepared.train, prepared.valid)
        )
        return train, valid

    def weighted_dataloaders(self, source: Any, wgts: Any, bs: int = 64, **options: Any) -> DataLoaders:
        """Returns `dataloaders(source, weights=wgts, bs=bs, **options)`: fastai's name for it.

        Example: beside items of weight 1, those of weight 3 come three times as often in training.

        Args:
            source: as for `dataloaders`.
            wgts: one weight for each item of the source, those for validation among them; or as `weights` there.
            bs: items per batch.
            options: as for `dataloaders`.

        Raises:
            TypeError, ValueError, DataError: as `dataloaders`.
        """
        check_unknown(options, self.dataloaders, apart_from=("self", "source", "weights"))
        return self.dataloaders(source, weights=wgts, bs=bs, **options)

    def summary(self, source: Any, bs: int = 4, show_batch: bool = False) -> None:
        """Prints what each step makes of one item, and then of a batch of `bs`; with `show_batch`, also draws a batch.

        Raises:
            DataError: a step failed. Names the step; the steps before it have been printed.
        """
        for text in describe_steps(self.plan, self.item_tfms, self.batch_tfms, source, bs):
            sys.stdout.write(f"{text}\n")
        if show_batch:
            self.dataloaders(source, bs=bs, num_workers=0).show_batch(max_n=bs)

    def __repr__(self) -> str:
        return f"DataBlock({', '.join(map(repr, self.blocks))}, {self.item_tfms}, {self.batch_tfms})"


def _check_weights(weights: Any, shuffle: bool) -> None:
    if weights is not None and not shuffle:
        raise ValueError("`weights` need shuffle=True, because they decide what is drawn. Received: shuffle=False.")


def _check_verification(verify: Verify, on_unreadable: OnUnreadable) -> None:
    check_choice(verify, "verify", ("names", "headers", "decode"))
    check_choice(on_unreadable, "on_unreadable", ("raise", "skip"))
    if on_unreadable == "skip" and verify == "names":
        raise ValueError(
            'on_unreadable="skip" needs verify="headers", the default, or "decode". Received: verify="names".'
        )


def _make_train_loader(
    dataset: ItemDataset, y: Any, bs: int, shuffle: bool, drop_last: bool | None, **how: Any
) -> ItemLoader:
    """Returns the loader for training; for `drop_last`, see `dataloaders`."""
    does_drop = shuffle if drop_last is None else drop_last
    does_drop = does_drop and choose_drop_last(len(dataset), bs, is_asked_for=bool(drop_last))
    loader = ItemLoader(dataset, y, bs=bs, shuffle=shuffle, drop_last=does_drop, training=True, **how)
    loader.keeps_large_rest = drop_last is None
    return loader


def _instances(blocks: Any) -> tuple[Any, ...]:
    if blocks is None:
        return TransformBlock(), TransformBlock()
    several = blocks if isinstance(blocks, (list, tuple)) else (blocks,)
    return tuple(block() if isinstance(block, type) else block for block in several)


def _place_blocks(blocks: tuple[Any, ...], n_inp: int) -> tuple[tuple[InputBlock, ...], TargetBlock | None]:
    check_count(n_inp, "n_inp")
    if n_inp > len(blocks) or len(blocks) - n_inp > 1:
        raise ValueError(
            f"`n_inp` must leave at most one block, the target, of {len(blocks)}. Received: n_inp={n_inp}."
        )
    for block in blocks[:n_inp]:
        if not isinstance(block, InputBlock):
            raise TypeError(f"an input needs a block that reads it, such as ImageBlock. Received: {block!r}.")
    for block in blocks[n_inp:]:
        if not isinstance(block, TargetBlock):
            raise TypeError(f"a target needs a block such as CategoryBlock. Received: {block!r}.")
    return blocks[:n_inp], blocks[n_inp] if n_inp < len(blocks) else None


def _getters(
    getters: Any,
    get_x: Any,
    get_y: Any,
    n_inp: int,
    n_targets: int,
) -> tuple[tuple[Getter | None, ...], Getter | None]:
    if getters is not None:
        if get_x is not None or get_y is not None:
            raise ValueError("Give `getters`, or `get_x` and `get_y`, not both.")
        _check_count(getters, "getters", n_inp + n_targets)
        return tuple(getters[:n_inp]), getters[n_inp] if n_targets else None
    xs = (None,) * n_inp if get_x is None else _several(get_x)
    ys = (None,) * n_targets if get_y is None else _several(get_y)
    _check_count(xs, "get_x", n_inp)
    _check_count(ys, "get_y", n_targets)
    return xs, ys[0] if ys else None


def _several(getter: Any) -> tuple[Getter, ...]:
    return tuple(getter) if isinstance(getter, (list, tuple)) else (getter,)


def _check_count(getters: Any, name: str, n: int) -> None:
    if len(getters) != n:
        raise ValueError(
            f"`{name}` must have {n} functions, one for each block of its kind. Received: {len(getters)}. To run "
            "several functions in turn, write one function that calls them."
        )
    for getter in getters:
        if getter is not None and not callable(getter):
            raise TypeError(f"`{name}` must be a function of an item. Received: {getter!r}.")


def _report_corrections(plan: DataPlan) -> None:
    if processes.is_first():
        sys.stderr.writelines(f"{review}\n" for review in plan.corrections)


def _report_skipped_items(prepared: PreparedData) -> None:
    if (skipped := prepared.skipped) and processes.is_first():
        sources, reasons = zip(*skipped, strict=True)
        sys.stderr.write(
            f"{plural(len(skipped), 'item')} cannot be read and {agree(len(skipped), 'is', 'are')} left out: "
            f"{name_items(sources, range(len(sources)), [reason.rstrip('.') for reason in reasons])}. All of them: "
            "dls.skipped.\n"
        )


_N_CHECKED = 8  # a few images show whether all get one shape; to check all of them would read them twice


def _check_shapes(dataset: ItemDataset, sizes: Mapping[int, Any]) -> None:
    """Raises a DataError if a few items, as validation reads them, differ in shape.

    Args:
        dataset: the items.
        sizes: position -> (width, height) of the image in its file; empty if unknown. The rarest sizes are checked too.
    """
    n = min(_N_CHECKED, len(dataset))
    positions = [i * (len(dataset) - 1) // max(1, n - 1) for i in range(n)]
    first_of = {sizes[i]: i for i in sorted(sizes, reverse=True)}
    rarest = Counter(sizes.values()).most_common()[: -_N_CHECKED - 1 : -1]
    positions = sorted({*positions, *(first_of[size] for size, _ in rarest)})
    shapes: dict[int, Tree] = {}
    for i in positions:
        try:
            shapes[i] = shape_of(dataset[i, None])
        except DataError:  # raised again when its batch is read: see `verify`
            if i == positions[-1] and not shapes:
                raise
    if len(set(shapes.values())) > 1:
        raise DataError(
            f"inputs must have one shape to make batches. {_count_sizes(shapes, sizes)}, as in "
            f"{_examples(dataset.items, shapes)}. Give them one with item_tfms=Resize(...)."
        )


def _check_range(dataset: ItemDataset, batch_tfms: Pipeline) -> None:
    """Raises a DataError if the first item is clearly outside [0, 1] and a transform needs it there."""
    if batch_tfms.unit_range_transform() is None:
        return
    try:
        parts = tensors_of(dataset[0, None])
    except DataError:  # raised again when its batch is read
        return
    for x in parts:
        check_unit_range(x, batch_tfms, name_items(dataset.items, [0]))


def _count_sizes(shapes: Mapping[int, Tree], sizes: Mapping[int, Any]) -> str:
    counts = Counter(sizes.values())
    of_all = f"The {plural(len(sizes), 'image')} have {plural(len(counts), 'size')} (width, height)"
    if len(counts) < 2:
        counts, of_all = Counter(shapes.values()), f"Shapes of {plural(len(shapes), 'item')}"
    most = ", ".join(f"{count} of {size}" for size, count in counts.most_common(3))
    return f"{of_all}: {most}{', ...' if len(counts) > 3 else ''}"


def _examples(items: Sequence[Any], shapes: Mapping[int, Tree]) -> str:
    """Returns examples for an error: first one item of each shape."""
    firsts = {shape: i for i, shape in sorted(shapes.items(), reverse=True)}.values()
    chosen = [*firsts, *(i for i in shapes if i not in set(firsts))]
    return name_items(items, chosen, [shapes[i] for i in chosen])
