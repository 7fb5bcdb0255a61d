"""From slots of several fronts to batches: the engine takes what is ready and waits for none."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vit_engine.engine import Engine
from vit_engine.errors import VitError, one_line
from vit_engine.server.engines.messages import SlotViews

log = logging.getLogger(__name__)

_FAILURES = 3  # batches that fail in a row before the engine is given up


class Front(Protocol):
    """Whoever has images in slots."""

    views: SlotViews

    def done(self, slots: Sequence[int], images: int, seconds: float, failure: str) -> None:
        """Take note of slots that have been in one batch; their results are in them."""


@dataclass(eq=False)
class _Batch:
    """A batch in the engine: each image's front and slot."""

    images: list[tuple[Front, int]]
    since: float


class Batcher:
    """One engine at work; every method is for the event loop.

    `on_fault` is told why no batch will end any more: one hangs, or several in a row have failed.
    """

    def __init__(
        self, engine: Engine, *, hang_timeout: float, on_fault: Callable[[str], object]
    ) -> None:
        self._engine, self._hang_timeout, self._on_fault = engine, hang_timeout, on_fault
        self.waiting: deque[tuple[Front, int]] = deque()  # with SLOT's numbers
        self._running: list[_Batch] = []
        self._failures = 0  # in a row
        self._loop = asyncio.get_running_loop()
        self._watch()

    def add(self, front: Front, slots: Sequence[int]) -> None:
        """Have images run with the next batch."""
        self.waiting.extend((front, slot) for slot in slots)
        self._dispatch()

    def forget(self, front: Front) -> None:
        """Drop the images of a front that is gone, unless they are in the engine."""
        self.waiting = deque(image for image in self.waiting if image[0] is not front)

    def _dispatch(self) -> None:
        """Hand the engine what is ready, while it wants more."""
        while self.waiting and len(self._running) < self._engine.in_flight:
            images, inputs = self._next()
            batch = _Batch(images, time.monotonic())
            try:
                result = self._engine.submit(inputs)
            except VitError as e:
                self._settle(batch, 0.0, e)
            else:
                self._running.append(batch)
                result.add_done_callback(partial(self._post, batch))

    def _next(self) -> tuple[list[tuple[Front, int]], NDArray[Any]]:
        """Take images for one batch: tensors and decoded pixels do not mix."""
        images: list[tuple[Front, int]] = []
        is_tensor = self.waiting[0][1] & 1
        while self.waiting and len(images) < self._engine.max_batch:
            front, slot = self.waiting[0]
            if slot & 1 != is_tensor:
                break
            self.waiting.popleft()
            images.append((front, slot >> 1))
        if is_tensor:
            return images, np.stack([front.views.tensors[slot] for front, slot in images])
        return images, np.stack([front.views.pixels[slot] for front, slot in images])

    def _post(self, batch: _Batch, result: "Future[NDArray[np.float32]]") -> None:
        """Tell the event loop, from the engine's thread, that a batch has ended."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._ended, batch, result)

    def _ended(self, batch: _Batch, result: "Future[NDArray[np.float32]]") -> None:
        seconds = time.monotonic() - batch.since
        self._running.remove(batch)
        self._dispatch()  # the engine first, then those who wait
        error = result.exception()
        self._settle(batch, seconds, result.result() if error is None else error)

    def _settle(
        self, batch: _Batch, seconds: float, result: NDArray[np.float32] | BaseException
    ) -> None:
        failure = ""
        if isinstance(result, BaseException):
            log.error("a batch of %d failed", len(batch.images), exc_info=result)
            failure = one_line(result)
            self._failures += 1
        else:
            self._failures = 0
            for (front, slot), row in zip(batch.images, result, strict=True):
                front.views.results[slot] = row
        of_fronts: dict[Front, list[int]] = {}
        for front, slot in batch.images:
            of_fronts.setdefault(front, []).append(slot)
        size = len(batch.images)
        for front, slots in of_fronts.items():
            front.done(slots, size, seconds, failure)
            size = 0
        if self._failures >= _FAILURES:
            self._on_fault(f"the last {self._failures} batches have failed")

    def _watch(self) -> None:
        oldest = min((batch.since for batch in self._running), default=None)
        if oldest is not None and time.monotonic() - oldest > self._hang_timeout:
            self._on_fault(f"a batch has been running for more than {self._hang_timeout:g} s")
        self._loop.call_later(self._hang_timeout / 4, self._watch)
