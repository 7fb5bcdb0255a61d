"""From requests to batches: decoding out of order, the engine as soon as something is ready.

Requests live on the event loop; decoding and the engine on threads, which hand what is finished
back to the loop. A lock guards what both see.
"""

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_engine.engine import Engine
from vit_engine.errors import ImageError, MachineError, VitError, one_line
from vit_engine.images.decode_pool import Job
from vit_engine.images.decoder_process import DecoderProcess, SharedPixels, Task
from vit_engine.images.preprocess import feed_from_pixels
from vit_engine.machine.processor import usable_cores
from vit_engine.server.core.metrics import Metrics
from vit_engine.server.core.settings import Settings
from vit_engine.server.http.refusal import RefusalError
from vit_engine.sources.item import Item, Limits

log = logging.getLogger(__name__)

_RETRY = 1.0  # seconds between attempts to start a decoder that does not start
_FAILURES = 3  # batches that fail in a row before the engine counts as dead
_NO_IMAGE = b"-"  # makes a decoder load all that images need
_MEMORY = 0.9  # of the rate measured so far, what a new batch leaves


@dataclass
class Times:
    """Seconds that an image spent waiting, being decoded, and in the engine with its batch."""

    queue: float = 0.0
    decode: float = 0.0
    engine: float = 0.0


@dataclass(eq=False)
class Ticket:
    """One request on its way: an outcome for each of its images, and who waits for them."""

    outcomes: list["NDArray[np.float32] | ImageError | RefusalError | None"]
    times: list[Times]
    done: "asyncio.Future[None]"
    left: int
    dropped: bool = False


@dataclass(eq=False)
class _Image:
    """One image on its way: its file's `data` until it is decoded, then a slot; or a `feed`."""

    ticket: Ticket
    place: int
    since: float  # when it entered the queue that it is in
    data: bytes | None = None
    feed: NDArray[Any] | None = None
    slot: int | None = None

    @property
    def times(self) -> Times:
        return self.ticket.times[self.place]


@dataclass(eq=False)
class _Running:
    """A batch in the engine."""

    images: list[_Image]
    since: float


@dataclass
class _Rate:
    """Images a second while there was always one waiting; older batches count for less."""

    images: float = 0.0
    seconds: float = 0.0
    last: float | None = None  # when the last batch ended, if images waited then

    def add(self, now: float, images: int, *, waiting: bool) -> None:
        if self.last is not None:
            self.images = _MEMORY * self.images + images
            self.seconds = _MEMORY * self.seconds + now - self.last
        self.last = now if waiting else None

    def wait(self, depth: int) -> float:
        return depth * self.seconds / self.images if self.images else 0.0


@dataclass
class Totals:
    """What has gone through since the start, for the statistics of the inference protocol."""

    last: float = 0.0  # seconds since the epoch
    batches: dict[int, list[float]] = field(default_factory=dict)  # size: [runs, seconds]


class Scheduler:
    """One model at work: `start`, then `submit`, then `close`.

    Decoder processes and slots for decoded images are bounded; what waits for them is bounded by
    `submit`, which refuses what would be answered too late.
    """

    def __init__(self, name: str, engine: Engine, settings: Settings, metrics: Metrics) -> None:
        self.name, self.engine, self.totals = name, engine, Totals()
        self._settings, self._metrics = settings, metrics
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._undecoded: deque[_Image] = deque()
        self._ready: deque[_Image] = deque()
        self._running: set[_Running] = set()
        self._decoding: dict[_Image, float] = {}
        self._depth = 0  # images that have no outcome yet, and somebody who waits for it
        self._rate = _Rate()
        self._failures = 0  # of the engine, in a row
        self._workers = max(2, usable_cores())
        self._missing = set(range(self._workers))  # decoders that have not tried to start yet
        self._stuck: dict[int, str] = {}  # decoders that do not start, and why
        self._warm = self._closed = False
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self._decoders: set[DecoderProcess] = set()
        self.fault: str | None = None  # why it will never be ready

    # The life of it

    def start(self) -> None:
        """Start the decoders and the first batches; on the event loop that requests come from."""
        self._loop = asyncio.get_running_loop()
        given = self.engine.contract.input
        slots = self.engine.max_batch * (2 + self.engine.in_flight) + self._workers
        self._pixels = SharedPixels(slots, given.height, given.width)
        self._slots = list(range(slots))
        self._thread(self._warm_up)
        for number in range(self._workers):
            self._thread(partial(self._decode, number))

    def _thread(self, work: Any) -> None:
        thread = threading.Thread(target=work, daemon=True, name=f"{self.name}-server")
        thread.start()
        self._threads.append(thread)

    def close(self) -> None:
        """End the decoders and the engine; what still waits is refused. Blocks for moments."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            waiting = [*self._undecoded, *self._ready]
            self._undecoded.clear()
            self._ready.clear()
            self._changed.notify_all()
            decoders = list(self._decoders)
        self._closing.set()
        self._finish((image, self._gone()) for image in waiting)
        for decoder in decoders:
            decoder.cancel()
        for thread in self._threads:
            thread.join(5)
        self.engine.close()
        self._pixels.__exit__()

    @property
    def ready(self) -> bool:
        """Whether a request would be answered now."""
        return self._is_loaded and not self._closed and self.alive

    @property
    def _is_loaded(self) -> bool:
        return self._warm and not self._missing

    @property
    def alive(self) -> bool:
        """Whether it can still answer, however busy it is: False asks for a new process."""
        return self.fault is None and self._death() is None

    def _death(self) -> str | None:
        with self._lock:
            oldest = min((r.since for r in self._running), default=math.inf)
            if time.monotonic() - oldest > self._settings.wedged:
                return f"a batch has been running for more than {self._settings.wedged:g} s"
            if self._failures >= _FAILURES:
                return f"the last {self._failures} batches have failed"
            if len(self._stuck) == self._workers:
                return next(iter(self._stuck.values()))
        return None

    def _warm_up(self) -> None:
        """Run each size of batch: what a provider builds or chooses then, nobody waits for.

        One image twice, since a provider may open something for single images at the second.
        """
        given = self.engine.contract.input
        try:
            for size in (1, *range(1, self.engine.max_batch + 1)):
                if self._closed:
                    return
                start = time.monotonic()
                self.engine.run(np.zeros((size, given.height, given.width, 3), np.uint8))
                seconds = time.monotonic() - start
        except Exception as e:
            if not self._closed:
                log.exception("%s cannot run", self.name)
                self.fault = one_line(e)
            return
        self._rate = _Rate(size, seconds)
        self._warm = True

    # Requests: on the event loop

    def submit(self, images: Sequence[bytes | NDArray[Any]]) -> Ticket:
        """Take a request: files of images, or tensors as the graph takes them, one an image.

        RefusalError where it is loading, dead or too busy to answer within the deadline.
        """
        self._admit(len(images))
        now = time.monotonic()
        count = len(images)
        ticket = Ticket(
            [None] * count, [Times() for _ in images], self._loop.create_future(), count
        )
        with self._changed:
            self._depth += count
            for place, image in enumerate(images):
                if isinstance(image, bytes):
                    self._undecoded.append(_Image(ticket, place, now, data=image))
                    self._changed.notify()
                else:
                    self._ready.append(_Image(ticket, place, now, feed=image))
        if not isinstance(images[0], bytes):
            self._pump()
        return ticket

    def _admit(self, count: int) -> None:
        if self._closed:
            raise self._gone()
        if self.fault is not None or (death := self._death()) is not None:
            raise RefusalError(503, "dead", f"{self.name} does not work: {self.fault or death}")
        if not self._is_loaded:
            raise RefusalError(503, "loading", f"{self.name} is loading", retry_after=1)
        depth, wait = self._depth, self.wait(count)
        if depth and (depth + count > self._settings.max_images or wait > self._settings.deadline):
            raise RefusalError(
                429,
                "busy",
                f"{depth} images wait already, which would take {wait:.1f} s; try again later",
                retry_after=max(1, min(60, math.ceil(wait / 2))),
            )

    def wait(self, more: int = 0) -> float:
        """Return the seconds that what is here, and so many images more, will take."""
        return self._rate.wait(self._depth + more)

    def drop(self, ticket: Ticket) -> None:
        """Take a request whose client has left, or whose time is up, out of every queue."""
        ticket.dropped = True
        with self._changed:
            self._depth -= ticket.left
            self._metrics.images.add(self.name, "dropped", by=ticket.left)
            self._undecoded = deque(i for i in self._undecoded if i.ticket is not ticket)
            self._free(image for image in self._ready if image.ticket is ticket)
            self._ready = deque(i for i in self._ready if i.ticket is not ticket)

    def _settle(self, finished: list[tuple[_Image, Any]]) -> None:
        for image, outcome in finished:
            ticket = image.ticket
            if ticket.dropped:
                continue
            ticket.outcomes[image.place] = outcome
            ticket.left -= 1
            self._depth -= 1
            if not ticket.left and not ticket.done.done():
                ticket.done.set_result(None)
            code = outcome.code if isinstance(outcome, ImageError | RefusalError) else "ok"
            self._metrics.images.add(self.name, code)
            times = image.times
            self._metrics.stage_seconds.observe(times.queue, self.name, "queue")
            if image.feed is None:
                self._metrics.stage_seconds.observe(times.decode, self.name, "decode")
            if code == "ok":
                self._metrics.stage_seconds.observe(times.engine, self.name, "engine")

    def _finish(self, finished: Iterable[tuple[_Image, Any]]) -> None:
        """Hand outcomes to the event loop, from any thread."""
        found = list(finished)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._settle, found)

    def _gone(self) -> RefusalError:
        return RefusalError(503, "closed", f"{self.name} is shutting down", retry_after=1)

    # Decoding: a thread for each decoder process

    def _decode(self, number: int) -> None:
        while not self._closed:
            try:
                decoder = DecoderProcess(self._pixels, self._task())
            except MachineError as e:
                self._is_stuck(number, e)
                continue
            decoder.decode([Job(Item("", data=_NO_IMAGE), 0)])
            with self._lock:
                self._missing.discard(number)
                self._stuck.pop(number, None)
                self._decoders.add(decoder)
            try:
                self._decode_with(decoder)
            except MachineError as e:
                self._is_stuck(number, e)
            finally:
                with self._lock:
                    self._decoders.discard(decoder)
                decoder.close()

    def _task(self) -> Task:
        return Task(
            self.engine.contract.preprocessing,
            limits=Limits(self._settings.max_body, self._settings.max_pixels),
            time_limit=self._settings.decode_time,
        )

    def _is_stuck(self, number: int, error: MachineError) -> None:
        log.error("%s: %s", self.name, error)
        with self._changed:
            self._missing.discard(number)
            self._stuck[number] = str(error)
            waiting = list(self._undecoded) if len(self._stuck) == self._workers else []
            for image in waiting:
                self._undecoded.remove(image)
        self._finish((image, RefusalError(503, "dead", str(error))) for image in waiting)
        self._closing.wait(_RETRY)

    def _decode_with(self, decoder: DecoderProcess) -> None:
        while (image := self._next()) is not None:
            assert image.slot is not None
            start = time.monotonic()
            image.times.queue += start - image.since
            job = Job(Item("", data=image.data), image.slot)
            image.data = None
            restarts = decoder.restarts
            dead: RefusalError | None = None
            try:
                decoder.decode([job])
            except MachineError as e:
                dead = RefusalError(503, "dead", str(e))
                raise
            finally:
                if decoder.restarts > restarts:
                    self._metrics.decoder_restarts.add(self.name, by=decoder.restarts - restarts)
                image.since = time.monotonic()
                image.times.decode = image.since - start
                self._decoded(image, dead or job.error)

    def _next(self) -> _Image | None:
        """Wait for an image and a slot for it; None once closed."""
        with self._changed:
            while not self._closed:
                if self._undecoded and self._slots:
                    image = self._undecoded.popleft()
                    image.slot = self._slots.pop()
                    self._decoding[image] = image.since
                    return image
                self._changed.wait()
        return None

    def _decoded(self, image: _Image, error: ImageError | RefusalError | None) -> None:
        with self._changed:
            del self._decoding[image]
            outcome = self._gone() if self._closed else error
            if outcome is not None or image.ticket.dropped:
                self._free([image])
            else:
                self._ready.append(image)
        if outcome is not None:
            self._finish([(image, outcome)])
        self._pump()

    def _free(self, images: Iterable[_Image]) -> None:
        """Give slots back; the lock is held."""
        for image in images:
            if image.slot is not None:
                self._slots.append(image.slot)
                image.slot = None
                self._changed.notify()

    # The engine: on whichever thread has found it idle

    def _pump(self) -> None:
        """Hand the engine what is ready, while it wants more."""
        while True:
            with self._changed:
                if not self._ready or self._closed or len(self._running) >= self.engine.in_flight:
                    return
                count = min(len(self._ready), self.engine.max_batch)
                running = _Running([self._ready.popleft() for _ in range(count)], time.monotonic())
                self._running.add(running)
            feed = self._feed(running.images)
            with self._changed:
                self._free(running.images)
            for image in running.images:
                image.times.queue += running.since - image.since
            try:
                self.engine.submit(feed).add_done_callback(partial(self._ran, running))
            except VitError as e:
                self._end(running, None, e)

    def _feed(self, images: list[_Image]) -> NDArray[Any]:
        contract = self.engine.contract
        feed = np.empty((len(images), *contract.input.image_shape), contract.input.dtype)
        for row, image in enumerate(images):
            if image.feed is not None:
                feed[row] = image.feed
            else:
                assert image.slot is not None
                pixels = self._pixels.array[image.slot : image.slot + 1]
                feed[row] = feed_from_pixels(pixels, contract)[0]
        return feed

    def _ran(self, running: _Running, result: "Future[NDArray[np.float32]]") -> None:
        error = result.exception()
        self._end(running, None if error else result.result(), error)
        self._pump()

    def _end(
        self,
        running: _Running,
        logits: NDArray[np.float32] | None,
        error: BaseException | None,
    ) -> None:
        now, size = time.monotonic(), len(running.images)
        seconds = now - running.since
        with self._lock:
            self._running.discard(running)
            self._failures = self._failures + 1 if error else 0
            self._rate.add(now, size, waiting=bool(self._ready or self._undecoded))
            runs = self.totals.batches.setdefault(size, [0, 0.0])
            runs[0] += 1
            runs[1] += seconds
            self.totals.last = time.time()
        self._metrics.engine_runs.add(self.name, "failed" if error else "ok")
        self._metrics.batch_images.observe(size, self.name)
        for image in running.images:
            image.times.engine = seconds
        if error is not None or logits is None:
            log.error("%s: a batch of %d failed", self.name, size, exc_info=error)
            refusal = RefusalError(500, "engine", f"the engine failed: {one_line(str(error))}")
            self._finish((image, refusal) for image in running.images)
        else:
            self._finish(zip(running.images, logits, strict=True))

    # What it shows of itself

    def depths(self) -> dict[str, int]:
        """Return how many images are at each stage."""
        with self._lock:
            return {
                "undecoded": len(self._undecoded),
                "decoding": len(self._decoding),
                "ready": len(self._ready),
                "engine": sum(len(running.images) for running in self._running),
            }

    def oldest(self) -> float:
        """Return the age of the image that has been in a queue for longest, in seconds."""
        with self._lock:
            since = [image.since for image in (*self._undecoded, *self._ready)]
        return time.monotonic() - min(since) if since else 0.0

    def decoders(self) -> int:
        """Return how many decoders are there."""
        return len(self._decoders)
