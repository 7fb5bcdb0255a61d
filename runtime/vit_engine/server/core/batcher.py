"""From decoded images and tensors to batches: the engine takes what is ready and waits for none."""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_engine.engine import Engine
from vit_engine.errors import VitError, one_line
from vit_engine.server.core.admission import Rate
from vit_engine.server.core.decoders import Decoders
from vit_engine.server.core.metrics import Metrics
from vit_engine.server.core.pending_request import Outcome, PendingImage, PendingRequest
from vit_engine.server.core.refusal import RefusalError

log = logging.getLogger(__name__)

_FAILURES = 3  # batches that fail in a row before the engine counts as dead
_PATIENCE = 5.0  # seconds for a batch of the warm-up to end


@dataclass(eq=False)
class _Batch:
    """A batch in the engine."""

    images: list[PendingImage]
    since: float


@dataclass
class Stats:
    """What has gone through since the start, for the statistics of the inference protocol."""

    last: float = 0.0  # seconds since the epoch
    batches: dict[int, list[float]] = field(default_factory=dict)  # size: [runs, seconds]


class Batcher:
    """One engine at work. Every method is for the event loop, which is where `on_done` is called.

    `on_done` is given each image with its row of the output, or why it has none.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        decoders: Decoders,
        *,
        hang_timeout: float,
        metrics: Metrics,
        on_done: Callable[[PendingImage, Outcome], None],
    ) -> None:
        self._name, self._engine, self._decoders = name, engine, decoders
        self._hang_timeout, self._on_done = hang_timeout, on_done
        self._runs = {o: metrics.engine_runs.labels(name, o) for o in ("ok", "failed")}
        self._sizes = metrics.batch_images.labels(name)
        self.ready: deque[PendingImage] = deque()  # in no batch yet
        self._running: list[_Batch] = []
        self._failures = 0  # in a row
        self._closed = False
        self.rate, self.stats = Rate(), Stats()
        self.warm = False
        self.fault: str | None = None  # why it will never be warm

    def start(self) -> None:
        """Run each size of batch: what a provider builds or chooses then, nobody waits for."""
        self._loop = asyncio.get_running_loop()
        self._warming = threading.Thread(
            target=self._warm_up, daemon=True, name=f"{self._name}-warm-up"
        )
        self._warming.start()

    def cancel(self) -> list[PendingImage]:
        """Begin no batch any more; return the images that are in none."""
        self._closed = True
        waiting = [*self.ready]
        self.ready.clear()
        return waiting

    def join(self) -> None:
        """Close the engine, after what it runs; for another thread, once cancelled."""
        self._warming.join(_PATIENCE)
        self._engine.close()

    @property
    def unhealthy_reason(self) -> str | None:
        """Why no batch will end, None where one may."""
        if self.fault is not None:
            return self.fault
        oldest = min((batch.since for batch in [*self._running]), default=None)
        if oldest is not None and time.monotonic() - oldest > self._hang_timeout:
            return f"a batch has been running for more than {self._hang_timeout:g} s"
        if self._failures >= _FAILURES:
            return f"the last {self._failures} batches have failed"
        return None

    @property
    def running(self) -> int:
        """How many images are in the engine."""
        return sum(len(batch.images) for batch in self._running)

    def add(self, images: Iterable[PendingImage]) -> None:
        """Have images run with the next batch."""
        self.ready.extend(images)
        self._dispatch()

    def drop(self, request: PendingRequest) -> None:
        """Forget the images of a request, unless they are in the engine."""
        self._decoders.release(image for image in self.ready if image.request is request)
        self.ready = deque(image for image in self.ready if image.request is not request)

    def _dispatch(self) -> None:
        """Hand the engine what is ready, while it wants more."""
        while self.ready and not self._closed and len(self._running) < self._engine.in_flight:
            now = time.monotonic()
            images = self._next_images()
            inputs = np.stack([self._input(image) for image in images])
            self._decoders.release(images)
            for image in images:
                image.timings.queue += now - image.since
            batch = _Batch(images, now)
            try:
                result = self._engine.submit(inputs)
            except VitError as e:
                self._settle(batch, 0.0, e)
            else:
                self._running.append(batch)
                result.add_done_callback(partial(self._post, batch))

    def _next_images(self) -> list[PendingImage]:
        """Take images for one batch: normalised floats and decoded pixels do not mix."""
        images = [self.ready.popleft()]
        dtype = self._input(images[0]).dtype
        while self.ready and len(images) < self._engine.max_batch:
            if self._input(self.ready[0]).dtype != dtype:
                break
            images.append(self.ready.popleft())
        return images

    def _input(self, image: PendingImage) -> NDArray[Any]:
        return self._decoders.pixels[image.slot] if image.tensor is None else image.tensor

    def _post(self, batch: _Batch, result: "Future[NDArray[np.float32]]") -> None:
        """Tell the event loop, from the engine's thread, that a batch has ended."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._ended, batch, result)

    def _ended(self, batch: _Batch, result: "Future[NDArray[np.float32]]") -> None:
        now, waiting = time.monotonic(), bool(self.ready or self._decoders.waiting)
        self.rate.add(now, len(batch.images), waiting=waiting)
        self._running.remove(batch)
        self._dispatch()  # the engine first, then those who wait
        error = result.exception()
        self._settle(batch, now - batch.since, result.result() if error is None else error)

    def _settle(
        self, batch: _Batch, seconds: float, result: NDArray[np.float32] | BaseException
    ) -> None:
        size = len(batch.images)
        runs = self.stats.batches.setdefault(size, [0, 0.0])
        runs[0] += 1
        runs[1] += seconds
        self.stats.last = time.time()
        self._sizes.observe(size)
        outcomes: Iterable[Outcome]
        if isinstance(result, BaseException):
            log.error("%s: a batch of %d failed", self._name, size, exc_info=result)
            self._failures += 1
            self._runs["failed"].inc()
            message = f"the engine failed: {one_line(result)}"
            outcomes = [RefusalError(500, "engine", message)] * size
        else:
            self._failures = 0
            self._runs["ok"].inc()
            outcomes = result
        for image, outcome in zip(batch.images, outcomes, strict=True):
            image.timings.engine = seconds
            self._on_done(image, outcome)

    def _warm_up(self) -> None:
        """On a thread. One image twice: a provider may open something for them at the second."""
        input_spec = self._engine.contract.input
        try:
            for size in (1, *range(1, self._engine.max_batch + 1)):
                if self._closed:
                    return
                start = time.monotonic()
                self._engine.run(np.zeros((size, input_spec.height, input_spec.width, 3), np.uint8))
                rate = Rate(size, time.monotonic() - start)
        except Exception as e:
            if not self._closed:
                log.exception("%s cannot run", self._name)
                self.fault = one_line(e)
            return
        self.rate, self.warm = rate, True
