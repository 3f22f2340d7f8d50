"""uvicorn's protocol with what it lacks: a limit of time for the head of a request, and errors as JSON."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

from minilearner.serving.guard import Message, Receive, Send, refuse
from minilearner.serving.limits import Limits, Refusal

__all__ = ["make_protocol"]

_BUSY = Refusal(503, "The server has too many connections. Try again.")


def make_protocol(limits: Limits) -> type[asyncio.Protocol]:
    """Returns a protocol that closes connections whose request line and headers have not come in time."""
    import h11  # both come with an extra
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(H11Protocol):  # type: ignore[misc]  # uvicorn is not installed where types are checked
        deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                self.app = _say_busy
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

        def send_400_response(self, msg: str) -> None:
            self._end(Refusal(400, msg))

        def _start(self) -> None:
            self.deadline = self.loop.call_later(limits.seconds, self._give_up)

        def _stop(self) -> None:
            if self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None

        def _give_up(self) -> None:
            self._end(Refusal(408, "The request took too long to arrive."))

        def _end(self, refusal: Refusal) -> None:
            if not self.transport.is_closing():
                self.transport.write(_as_response(refusal))
                self.transport.close()

    return Protocol


async def _say_busy(scope: Message, receive: Receive, send: Send) -> None:
    await refuse(send, _BUSY)


def _as_response(refusal: Refusal) -> bytes:
    """Returns the whole response, for a request that has not become one."""
    text = json.dumps({"error": refusal.reason})
    lines = [
        f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}",
        "content-type: application/json",
        "connection: close",
        f"content-length: {len(text)}",
    ]
    return "\r\n".join([*lines, "", text]).encode()
