"""uvicorn's protocol with a limit that it does not have: how long the head of a request may take to arrive."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["limit_heads"]

_REASON = b'{"error": "The request took too long to arrive."}'
_TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_REASON), _REASON)
)


def limit_heads(seconds: float) -> type[asyncio.Protocol]:
    """Returns a protocol that closes connections whose request line and headers have not come in time."""
    import h11  # both come with an extra
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):  # type: ignore[misc]  # uvicorn is not installed where types are checked
        deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._start()

        def data_received(self, data: bytes) -> None:
            if self.deadline is None:
                self._start()
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._stop()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _start(self) -> None:
            self.deadline = self.loop.call_later(seconds, self._give_up)

        def _stop(self) -> None:
            if self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None

        def _give_up(self) -> None:
            if not self.transport.is_closing():
                self.transport.write(_TOO_SLOW)
                self.transport.close()

    return Impatient
