"""Stands before the application: reads a request whole, within limits of size and time, or refuses it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from minilearner.serving.limits import Limits, Refusal

__all__ = ["Guard", "Message", "Receive", "Send", "refuse"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

_READ_ON = 5
"""How many times the limit is read and thrown away, so that a client sees the error and not a closed connection."""


class _Gone(Exception):  # noqa: N818 - it is no error
    """The client has closed the connection."""


class Guard:
    """An ASGI application around another one, which gets only requests whose body has come.

    Args:
        app: the application.
        limits: what is accepted at most.
    """

    def __init__(self, app: Application, limits: Limits) -> None:
        self.app, self.limits = app, limits
        self._n_requests = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serves one request; or, as ASGI has it, the start and the end of the application."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        if self._n_requests >= self.limits.requests:
            await refuse(send, Refusal(503, "The server is busy. Try again."))
            return
        self._n_requests += 1
        try:
            body = await asyncio.wait_for(self._read(scope, receive), self.limits.seconds)
            await self.app(scope, _replay(body, receive), send)
        except Refusal as refusal:
            await refuse(send, refusal)
        except asyncio.TimeoutError:
            await refuse(send, Refusal(408, f"The request took over {self.limits.seconds:g} seconds to arrive."))
        except _Gone:
            pass
        finally:
            self._n_requests -= 1

    async def _read(self, scope: Message, receive: Receive) -> bytes:
        most = self.limits.n_bytes
        too_large = Refusal(413, f"A request may have {self.limits.megabytes:g} MB.")
        claimed = dict(scope["headers"]).get(b"content-length", b"0")
        if int(claimed) > _READ_ON * most:  # h11 has checked that it is a number
            raise too_large
        parts, n = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            # A server may leave out both.
            body, is_last = message.get("body", b""), not message.get("more_body", False)
            n += len(body)
            if n > _READ_ON * most or (n > most and is_last):
                raise too_large
            if n <= most:
                parts.append(body)
            if is_last:
                return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Returns a function that gives the whole body, and then what comes next: that the client is gone."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


async def refuse(send: Send, refusal: Refusal) -> None:
    """Answers a request that is not served, and closes its connection."""
    text = json.dumps({"error": refusal.reason}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(text)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
