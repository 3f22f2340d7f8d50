"""What a server accepts at most."""

from __future__ import annotations

from dataclasses import dataclass, fields

from minilearner.checks import check_count, check_positive

__all__ = ["Limits", "Refusal"]


@dataclass(frozen=True)
class Limits:
    """What a server accepts at most. Requests that exceed it get an error, and the others are served.

    Args:
        megabytes: the size of a request, with all its files.
        megapixels: width times height of an image. The size is read from the header, before anything is decoded.
        files: images in a request.
        requests: requests that are read or predicted at once. Those beyond get status 503.
        connections: open connections, with those that are idle.
        seconds: how long a request may take to arrive, and then again to be answered.

    Raises:
        ValueError: one of them is not positive.
    """

    megabytes: float = 20
    megapixels: float = 50
    files: int = 32
    requests: int = 32
    connections: int = 500
    seconds: float = 10

    def __post_init__(self) -> None:
        for field in fields(self):
            check = check_count if field.type == "int" else check_positive
            check(getattr(self, field.name), field.name)

    @property
    def n_bytes(self) -> int:
        """The size of a request in bytes."""
        return int(self.megabytes * 1e6)

    @property
    def n_pixels(self) -> int:
        """The pixels of an image."""
        return int(self.megapixels * 1e6)


class Refusal(Exception):  # noqa: N818 - it is an answer
    """A request that is not served: the status of HTTP, and why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason
