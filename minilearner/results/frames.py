"""Tables as pandas frames, if pandas is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["to_frame"]


def to_frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Returns a pandas frame with the columns that the rows name.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas  # not a dependency
    except ModuleNotFoundError as error:
        raise ImportError("`to_frame` needs pandas, which is not installed: pip install pandas.") from error
    return pandas.DataFrame(list(rows))
