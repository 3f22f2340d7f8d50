"""`Categorize` and `MultiCategorize`: labels to numbers and back, as transforms. In loaders, target blocks do it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from minilearner.data.tensor_types import TensorCategory, TensorMultiCategory
from minilearner.data.transform import Transform
from minilearner.data.vocabulary import NO_LABEL, Vocab, build_vocabulary, is_several
from minilearner.errors import DataError, closest
from minilearner.keywords import suggest_keywords
from minilearner.lists import L

__all__ = ["Categorize", "MultiCategorize"]


@suggest_keywords
class Categorize(Transform):
    """Turns the name of a class into its number, and back.

    >>> numbers = Categorize()
    >>> numbers.setup(["dog", "cat", "dog"])
    >>> numbers("dog"), numbers.decode(0)
    (TensorCategory(1), 'cat')

    Args:
        vocab: the classes in order; None takes the distinct labels that `setup` gets.
        sort: sort those labels.
        add_na: begin with a class "#na#", for labels that are unknown.
    """

    order = 1
    belongs_to = "get_y"

    def __init__(self, vocab: Sequence[Any] | None = None, sort: bool = True, add_na: bool = False) -> None:
        super().__init__()
        self.sort, self.add_na = sort, add_na
        self.vocab = None if vocab is None else self._order(vocab, ())

    def setups(self, items: Iterable[Any]) -> None:
        """Takes the classes from labels, unless they were given."""
        if self.vocab is None:
            self.vocab = self._order(None, items)

    def encodes(self, x: Any) -> TensorCategory:
        """Returns the number of a name."""
        return TensorCategory(self._number(x))

    def decodes(self, x: Any) -> Any:
        """Returns the name of a number."""
        return self._names[int(x)]

    def _order(self, given: Sequence[Any] | None, labels: Iterable[Any]) -> Vocab:
        return Vocab(build_vocabulary(given, labels, sort=self.sort, add_na=self.add_na))

    @property
    def _names(self) -> Vocab:
        if self.vocab is None:
            raise ValueError(f"{type(self).__name__} has no classes yet. Give `vocab`, or call setup(labels).")
        return self.vocab

    def _number(self, name: Any) -> int:
        numbers = self._names.o2i
        if name not in numbers and not self.add_na:
            known = list(map(str, self._names))
            raise DataError(f"{name!r} is no class.{closest(str(name), known)} Classes: {', '.join(known[:10])}.")
        return numbers.get(name, numbers.get(NO_LABEL, 0))


@suggest_keywords
class MultiCategorize(Categorize):
    """Turns a list of names into a tensor of their numbers, and back; otherwise as `Categorize`.

    Args:
        vocab: as for `Categorize`.
        add_na: as for `Categorize`.
    """

    def __init__(self, vocab: Sequence[Any] | None = None, add_na: bool = False) -> None:
        super().__init__(vocab, True, add_na)

    def setups(self, items: Iterable[Any]) -> None:
        """Takes the classes from lists of labels, unless they were given."""
        super().setups([name for names in items for name in (names if is_several(names) else [names])])

    def encodes(self, x: Any) -> TensorCategory:
        """Returns the numbers of several names."""
        return TensorMultiCategory([self._number(name) for name in x])  # type: ignore[return-value]

    def decodes(self, x: Any) -> L[Any]:
        """Returns the names of several numbers."""
        return L([self._names[int(number)] for number in x])
