"""Predictions as plain data for JSON: of the command line, and of the HTTP endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minilearner.data.targets import ClassNumbers, MultiCategory
from minilearner.learner import Learner

__all__ = ["predict_items"]


def predict_items(learn: Learner, items: Sequence[Any]) -> list[dict[str, Any]]:
    """Returns for each item its label, the probability of that label, and those of all classes; or its numbers.

    Args:
        learn: the learner.
        items: such as paths of images, or the bytes of image files.
    """
    target: Any = learn.dls.target
    found = learn.get_preds(dl=learn.dls.test_dl(list(items)), with_decoded=True)
    answers = []
    for values, decoded in zip(found.preds, found.decoded, strict=True):
        if not isinstance(target, (ClassNumbers, MultiCategory)):
            answers.append({"value": values.tolist()})
            continue
        label: Any = target.label(decoded)
        names = map(str, learn.dls.vocab or range(len(values)))
        by_class = dict(zip(names, (round(value, 6) for value in values.tolist()), strict=True))
        several = isinstance(target, MultiCategory)
        answer = {"labels": list(label)} if several else {"label": label, "probability": by_class[str(label)]}
        answers.append({**answer, "probabilities": by_class})
    return answers
