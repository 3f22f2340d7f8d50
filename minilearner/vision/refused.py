"""fastai's names that we do not have, on purpose, each with the way out.

The star import brings them, so that whoever uses one reads what to write instead of a bare NameError. To import one is
no error; to use it in any way is.
"""

from __future__ import annotations

from typing import Any, NoReturn

__all__ = ["REFUSED", "RefusedName"]


class RefusedName:
    """Stands for a name of fastai's. To call it, derive from it, index it or read an attribute raises an ImportError.

    Args:
        name: the name.
        way_out: what to write instead, as sentences.
    """

    def __init__(self, name: str, way_out: str) -> None:
        self.__dict__.update(_name=name, _way_out=way_out)

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ImportError(f"minilearner has no `{self.__dict__['_name']}`. {self.__dict__['_way_out']}")

    __call__ = __getitem__ = __iter__ = __mro_entries__ = __instancecheck__ = __subclasscheck__ = _refuse

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what Python and its tools ask every object
            raise AttributeError(name)
        self._refuse()

    def __repr__(self) -> str:
        return f"<fastai's {self.__dict__['_name']}, which minilearner does not have>"


_BLOCK = (
    "A DataBlock, or ImageDataLoaders, finds, splits, labels and reads items. DataBlock(...).datasets(source) shows "
    "them one by one, and .dataloaders(source) makes batches."
)
_DATASET = "Make a torch Dataset whose items are (x, y), and give it to DataLoaders(train, valid, bs=64)."
_MASKS = (
    "Masks are not read from files. Make a torch Dataset of (image, mask) tensors for DataLoaders(train, valid), and "
    "give Learner your model, such as one of torchvision.models.segmentation; Dice and JaccardCoeff measure masks."
)
_POINTS = (
    "For points, RegressionBlock(n_out=2 * points) takes their numbers, with item_tfms that leave geometry alone; for "
    "boxes, use torchvision.models.detection."
)
_KEYWORDS = "Write the arguments out: a signature that says them needs no rewriting."

_WAYS_OUT = {
    "Datasets": _BLOCK,
    "TfmdLists": f"{_BLOCK} {_DATASET}",
    "TfmdDL": f"{_DATASET} For batches, give batch_tfms to DataLoaders.from_arrays or to a DataBlock.",
    "DataBunch": _BLOCK,
    "ItemTransform": "Transforms get inputs alone. Derive from Transform, and change labels in `get_y`.",
    "DisplayedTransform": "Derive from Transform.",
    "InplaceTransform": "Derive from Transform, and return the input.",
    "delegates": _KEYWORDS,
    "use_kwargs_dict": _KEYWORDS,
    "typedispatch": "Look at the type inside one function, or use functools.singledispatch.",
    "patch": "Derive a class of your own, or write a function.",
    "MaskBlock": _MASKS,
    "SegmentationDataLoaders": _MASKS,
    "unet_learner": _MASKS,
    "DynamicUnet": _MASKS,
    "PointBlock": _POINTS,
    "BBoxBlock": _POINTS,
    "BBoxLblBlock": _POINTS,
    "TensorPoint": _POINTS,
    "TensorBBox": _POINTS,
    "ImageClassifierCleaner": (
        "ImageCleaner(interp.label_errors()) shows suspicious images with a menu each, and writes a CSV file for "
        "`relabel=` of the loaders."
    ),
    "GANLearner": "Train a pair of networks in a callback that replaces `run.process_batch`: examples/custom_step.py.",
}

REFUSED = {name: RefusedName(name, way_out) for name, way_out in _WAYS_OUT.items()}
"""Name -> what stands for it."""
