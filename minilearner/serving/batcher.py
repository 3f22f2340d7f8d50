"""Predicts the images of several requests as one batch, in a thread of its own.

No request waits for others to come: a batch is what has come while the one before it was predicted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

from minilearner.errors import DataError

__all__ = ["Batcher"]

Answers: TypeAlias = list[dict[str, Any]]


class Batcher:
    """Collects requests for one model.

    Args:
        predict: images -> an answer for each. If it raises a DataError, each request is predicted alone.
        most: images in a batch. A request is never divided.
    """

    def __init__(self, predict: Callable[[Sequence[bytes]], Answers], most: int) -> None:
        self._predict, self._most = predict, most
        self._waiting: deque[tuple[Sequence[bytes], asyncio.Future[Answers]]] = deque()
        self._has_come = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "predict")

    async def predict(self, images: Sequence[bytes]) -> Answers:
        """Returns the answers for the images of one request.

        Raises:
            DataError: one of them cannot be read.
        """
        future: asyncio.Future[Answers] = asyncio.get_running_loop().create_future()
        self._waiting.append((images, future))
        self._has_come.set()
        return await future

    async def run(self) -> None:
        """Predicts batches until it is cancelled."""
        while True:
            await self._has_come.wait()
            if requests := self._take():
                await self._answer(requests)
            else:
                self._has_come.clear()

    def _take(self) -> list[tuple[Sequence[bytes], asyncio.Future[Answers]]]:
        """Returns the requests of the next batch. Those that nobody waits for any more are left out."""
        taken: list[tuple[Sequence[bytes], asyncio.Future[Answers]]] = []
        n = 0
        while self._waiting and (not taken or n + len(self._waiting[0][0]) <= self._most):
            images, future = self._waiting.popleft()
            if not future.done():
                taken.append((images, future))
                n += len(images)
        return taken

    async def _answer(self, requests: Sequence[tuple[Sequence[bytes], asyncio.Future[Answers]]]) -> None:
        images = [image for several, _ in requests for image in several]
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._predict, images)
        except Exception as error:
            if len(requests) > 1 and isinstance(error, DataError):
                for request in requests:
                    await self._answer([request])
                return
            for _, future in requests:
                if not future.done():
                    future.set_exception(error)
            return
        for several, future in requests:
            own, answers = answers[: len(several)], answers[len(several) :]
            if not future.done():
                future.set_result(own)
