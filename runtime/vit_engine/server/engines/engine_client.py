"""A front's end of an engine's process: slots of images go in, rows of the output come back."""

import asyncio
import contextlib
import logging
import pickle
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from vit_engine.outputs.kinds import output_from_contract
from vit_engine.server.core.admission import Rate
from vit_engine.server.core.metrics import Metrics
from vit_engine.server.core.pending_request import (
    ImageSlots,
    Outcome,
    PendingImage,
    PendingRequest,
)
from vit_engine.server.core.refusal import RefusalError
from vit_engine.server.engines.messages import (
    DONE,
    HELLO,
    LENGTH,
    SLOT,
    EngineInfo,
    OpenEngine,
    SlotViews,
)

log = logging.getLogger(__name__)

_RETRY = 0.1  # seconds between attempts to connect
_PATIENCE = 60.0  # seconds without an engine until a new server is asked for
_CHUNK = 2**18


@dataclass
class Stats:
    """What has gone through since the start, for the statistics of the inference protocol."""

    last: float = 0.0  # seconds since the epoch
    batches: dict[int, list[float]] = field(default_factory=dict)  # size: [runs, seconds]


class EngineClient:
    """An engine as the scheduler sees it; every method is for the event loop.

    `on_done` is given each image with its row of the output, or why it has none. What the engine
    has no place for waits here, where a client that leaves can be dropped.
    """

    def __init__(
        self,
        name: str,
        engine: OpenEngine,
        slots: ImageSlots,
        fd: int,
        *,
        metrics: Metrics,
        on_done: Callable[[PendingImage, Outcome], None],
        on_free: Callable[[Iterable[PendingImage]], None],
        has_waiting: Callable[[], bool],
    ) -> None:
        self._name, self._address, self._slots, self._fd = name, engine.address, slots, fd
        info = engine.info
        self._on_done, self._on_free, self._has_waiting = on_done, on_free, has_waiting
        self.contract, self.provider, self.max_batch = info.contract, info.provider, info.max_batch
        self.output = output_from_contract(info.contract.output)
        self._window = window_of(info)
        region = slots.region
        self._tensor_slots = [*slots.spare]
        self._views = SlotViews(region.rows.data, region.slots, region.slot_bytes, info.contract)
        self._runs = {o: metrics.engine_runs.labels(name, o) for o in ("ok", "failed")}
        self._load_seconds = metrics.load_seconds.labels(name)
        self._sizes = metrics.batch_images.labels(name)
        self.ready: deque[PendingImage] = deque()  # not with the engine yet
        self._running: dict[int, PendingImage] = {}  # by their slots
        self._socket: socket.socket | None = None
        self._received = bytearray()
        self._lost: float | None = None  # when the engine ended, until there is another
        self._fault: str | None = None
        self._closed = False
        self.rate, self.stats = Rate(), Stats()

    def start(self) -> None:
        """Connect, and again whenever the connection has ended."""
        self._loop = asyncio.get_running_loop()
        self._connecting = asyncio.ensure_future(self._connect())

    def close(self, reason: RefusalError) -> None:
        """Leave the engine; what waits for it is refused."""
        self._closed = True
        self._connecting.cancel()
        self._leave(reason)

    @property
    def warm(self) -> bool:
        """Whether there is an engine that has run every size of batch."""
        return self._socket is not None and self._fault is None

    @property
    def unhealthy_reason(self) -> str | None:
        """Why no batch will end, None where one may."""
        if self._fault is None and self._lost and time.monotonic() - self._lost > _PATIENCE:
            return "its engine has ended, and does not start again"
        return self._fault

    @property
    def fault(self) -> str | None:
        """Why the engine will never be warm."""
        return self._fault

    @property
    def running(self) -> int:
        """How many images are with the engine."""
        return len(self._running)

    def add(self, images: Iterable[PendingImage]) -> None:
        """Have images run with the next batch."""
        self.ready.extend(images)
        self._dispatch()

    def drop(self, request: PendingRequest) -> None:
        """Forget the images of a request, unless they are with the engine."""
        dropped = [image for image in self.ready if image.request is request]
        if dropped:
            self.ready = deque(image for image in self.ready if image.request is not request)
            self._free(dropped)

    def _dispatch(self) -> None:
        if self._socket is None or self._fault is not None:
            return
        now, slots = time.monotonic(), []
        while self.ready and len(self._running) < self._window:
            image = self.ready.popleft()
            if image.tensor is not None:
                image.slot = self._tensor_slots.pop()
                self._views.tensors[image.slot] = image.tensor
            assert image.slot is not None
            image.timings.queue += now - image.since
            image.since = now
            self._running[image.slot] = image
            slots.append(2 * image.slot + (image.tensor is not None))
        if slots:
            message = np.array(slots, SLOT).tobytes()
            with contextlib.suppress(OSError):  # its end is read, and tells
                self._socket.send(message)

    def _read(self) -> None:
        assert self._socket is not None
        try:
            part = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        if not part:
            log.error("the engine of %s has ended; another is awaited", self._name)
            reason = f"the engine of {self._name} has ended; another is being started"
            self._leave(RefusalError(503, "dead", reason, retry_after=1))
            self._connecting = asyncio.ensure_future(self._connect())
            return
        received = self._received
        received += part
        while len(received) >= DONE.size:
            count, batch_images, seconds, words = DONE.unpack_from(received)
            end = DONE.size + count * SLOT.itemsize + words
            if len(received) < end:
                return
            slots = np.frombuffer(bytes(received[DONE.size : end - words]), SLOT).tolist()
            failure = received[end - words : end].decode()
            del received[:end]
            self._done(slots, batch_images, seconds, failure)

    def _done(self, slots: list[int], batch_images: int, seconds: float, failure: str) -> None:
        images = [self._running.pop(slot) for slot in slots]
        outcomes: list[Outcome]
        if failure:
            outcomes = [RefusalError(500, "engine", f"the engine failed: {failure}")] * len(images)
        else:
            outcomes = list(self._views.results[slots])  # copies: the slots are free from here on
        self._free(images)
        self.rate.add(
            time.monotonic(), len(images), waiting=bool(self.ready) or self._has_waiting()
        )
        if batch_images:
            runs = self.stats.batches.setdefault(batch_images, [0, 0.0])
            runs[0] += 1
            runs[1] += seconds
            self.stats.last = time.time()
            self._sizes.observe(batch_images)
            self._runs["failed" if failure else "ok"].inc()
        self._dispatch()  # the engine first, then those who wait
        for image, outcome in zip(images, outcomes, strict=True):
            image.timings.engine = seconds
            self._on_done(image, outcome)

    def _leave(self, reason: RefusalError) -> None:
        """Close the connection, and refuse what is on the way."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket, self._lost = None, time.monotonic()
        self._received.clear()
        images = [*self._running.values(), *self.ready]
        self._running.clear()
        self.ready.clear()
        self._free(images)
        for image in images:
            self._on_done(image, reason)

    def _free(self, images: list[PendingImage]) -> None:
        for image in images:
            if image.tensor is not None and image.slot is not None:
                self._tensor_slots.append(image.slot)
                image.slot = None
        self._on_free(images)

    async def _connect(self) -> None:
        """Say where the slots are, and wait until the engine is warm."""
        region = self._slots.region
        hello = HELLO.pack(region.offset, region.slots, region.slot_bytes)
        while True:
            connection = socket.socket(socket.AF_UNIX)
            connection.setblocking(False)
            try:
                await self._loop.sock_connect(connection, self._address)
                socket.send_fds(connection, [hello], [self._fd])
                (size,) = LENGTH.unpack(await self._exactly(connection, LENGTH.size))
                info: EngineInfo = pickle.loads(await self._exactly(connection, size))
                break
            except OSError:
                connection.close()
                await asyncio.sleep(_RETRY)
            except BaseException:
                connection.close()
                raise
        self._socket, self._lost, self._fault = connection, None, info.fault
        self.rate = Rate(info.max_batch, info.seconds)
        self._load_seconds.set(info.load_seconds)
        self._loop.add_reader(connection, self._read)
        self._dispatch()

    async def _exactly(self, connection: socket.socket, size: int) -> bytes:
        found = b""
        while len(found) < size:
            part = await self._loop.sock_recv(connection, size - len(found))
            if not part:
                raise ConnectionResetError
            found += part
        return found


def window_of(info: EngineInfo) -> int:
    """Return how many images an engine is handed at once: a batch more than it runs."""
    return info.max_batch * (1 + info.in_flight)
