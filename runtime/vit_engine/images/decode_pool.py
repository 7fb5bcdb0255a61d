"""Decoding ahead of the engine: a bounded pool fills preallocated batches, in input order."""

import contextlib
import math
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from vit_engine.errors import ImageError, MachineError
from vit_engine.machine import threads

GivenT = TypeVar("GivenT")
"""What stands for an image before it is decoded: an item, or what else a pool's decoders take."""

MAX_PENDING_BYTES = 64 * 2**20
"""Bytes of images that come with them and wait to be decoded; a larger image waits alone.

What one gzipped archive unpacks to in a tenth of a second and more: decoders do not starve.
"""


@dataclass(eq=False)
class DecodeJob(Generic[GivenT]):
    """One image on its way: `slot` is its place in the pool's pixels, `error` why it has none.

    `is_clipped_to_8bit` is that of `preprocess`.
    """

    image: GivenT
    slot: int
    error: ImageError | None = None
    is_clipped_to_8bit: bool = False


@dataclass(frozen=True)
class Batch(Generic[GivenT]):
    """Images in order of input; `pixels` (N, H, W, 3) holds those without an error.

    `pixels` may be a view of the pool's buffer: valid until the batch is freed.
    """

    jobs: Sequence[DecodeJob[GivenT]]
    pixels: NDArray[np.uint8]


class Decoder(Protocol[GivenT]):
    """Decodes in one thread; what a pool has one of for each worker."""

    def decode(self, jobs: Sequence[DecodeJob[GivenT]]) -> None:
        """Fill each job's slot of the pixels, or set its error."""

    def cancel(self) -> None:
        """Make a `decode` that runs in another thread return soon."""

    def close(self) -> None:
        """Free what it holds."""


@dataclass(eq=False)
class _Chunk(Generic[GivenT]):
    jobs: list[DecodeJob[GivenT]] = field(default_factory=list)
    size: int = 0  # bytes that came with its images
    done: threading.Event = field(default_factory=threading.Event)


class DecodePool(Generic[GivenT]):
    """A context manager over `workers` decoders and their threads.

    `pixels` (slots, H, W, 3) is the buffer that the decoders write to, `slots_for` says how long.
    `size_of` tells how many bytes come with an image, of which its decoder lets go: HELD at most
    are taken from the input at a time. The pool belongs to the process that made it: in a forked
    child `batches` and `free` raise UsageError.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        new_decoder: Callable[[], Decoder[GivenT]],
        *,
        batch: int,
        workers: int,
        size_of: Callable[[GivenT], int] = lambda _: 0,
    ) -> None:
        self._pixels, self._batch, self._pid = pixels, batch, os.getpid()
        self._size_of, self._held = size_of, threads.ByteSemaphore(MAX_PENDING_BYTES)
        self._chunk = _chunk_for(batch, workers)
        self._free = threading.Semaphore(len(pixels))
        self._tasks: queue.SimpleQueue[_Chunk[GivenT] | None] = queue.SimpleQueue()
        self._order: queue.SimpleQueue[_Chunk[GivenT] | None] = queue.SimpleQueue()
        self._first: _Chunk[GivenT] | None = None  # of the order, perhaps still being decoded
        self._failure: BaseException | None = None  # of a worker
        self._broken: BaseException | None = None  # what the images' source raised after the last
        self._feeder: threading.Thread | None = None
        self._closed = False
        self._new_decoder = new_decoder
        self._decoders: list[Decoder[GivenT]] = []
        self._lock = threading.Lock()
        self._workers = workers
        self._threads: list[threading.Thread] = []

    def batches(
        self,
        images: Iterable[GivenT],
        *,
        batch_timeout: float | None = None,
        stopped: Callable[[], bool] = threads.never,
    ) -> Iterator[Batch[GivenT]]:
        """Yield the images as full batches, the last one shorter; ends early once `stopped`.

        `images` is read in a thread of its own; what it raises is raised here, after the images
        before it. With `batch_timeout`, a batch waits for its last images at most that many
        seconds: rows come sooner, but where batches are cut depends on timing.
        """
        if batch_timeout is not None:
            self._chunk = 1
        self._feeder = threads.start(self._feed, images)
        ready: deque[DecodeJob[GivenT]] = deque()
        ended = False
        while not ended or ready:
            due = math.inf
            while len(ready) < self._batch and not ended:
                try:
                    chunk = self._next(stopped, due)
                except TimeoutError:
                    break
                if chunk is None:
                    ended = True
                else:
                    ready.extend(chunk.jobs)
                    if batch_timeout is not None:
                        due = min(due, time.monotonic() + batch_timeout)
            if stopped() or self._closed:
                return
            if ready:
                jobs = [ready.popleft() for _ in range(min(self._batch, len(ready)))]
                yield Batch(jobs, self._of(jobs))
        if self._broken is not None:
            raise self._broken

    def free(self, batch: Batch[GivenT]) -> None:
        """Give a batch's place in the buffer to images to come; in the order of `batches`."""
        threads.check_process(self._pid)
        self._free.release(len(batch.jobs))

    def _of(self, jobs: Sequence[DecodeJob[GivenT]]) -> NDArray[np.uint8]:
        slots = [job.slot for job in jobs if job.error is None]
        if slots and slots[-1] - slots[0] == len(slots) - 1:
            return self._pixels[slots[0] : slots[-1] + 1]
        return self._pixels[slots]  # a copy: an error left a hole, or the buffer's end is between

    def _next(self, stopped: Callable[[], bool], due: float) -> "_Chunk[GivenT] | None":
        """Return the next decoded chunk, None at the end or once stopped; TimeoutError when due."""
        while True:
            threads.check_process(self._pid)
            if self._failure is not None:
                raise self._failure
            if stopped() or self._closed:
                return None
            wait = max(0.0, min(threads.POLL, due - time.monotonic()))
            if self._first is None:
                with contextlib.suppress(queue.Empty):
                    self._first = self._order.get(timeout=wait)
                    if self._first is None:
                        return None
                    continue
            elif self._first.done.wait(wait):
                chunk, self._first = self._first, None
                return chunk
            if time.monotonic() >= due:
                raise TimeoutError

    def _feed(self, images: Iterable[GivenT]) -> None:
        chunk: _Chunk[GivenT] = _Chunk()
        slot = 0
        try:
            for image in images:
                self._free.acquire()
                size = self._size_of(image)
                if size and not self._held.take(size, wait=False):
                    if chunk.jobs:  # they may be what is waited for
                        self._submit(chunk)
                        chunk = _Chunk()
                    self._held.take(size, wait=True)
                if self._closed:
                    return
                chunk.jobs.append(DecodeJob(image, slot))
                chunk.size += size
                del image  # and its bytes, which the job's decoder lets go of
                slot = (slot + 1) % len(self._pixels)
                if len(chunk.jobs) == self._chunk:
                    self._submit(chunk)
                    chunk = _Chunk()
        except BaseException as e:  # noqa: BLE001  raised again where the batches are read
            self._broken = e
        if chunk.jobs:
            self._submit(chunk)
        self._order.put(None)

    def _submit(self, chunk: "_Chunk[GivenT]") -> None:
        self._order.put(chunk)
        self._tasks.put(chunk)

    def _work(self) -> None:
        try:
            chunk = self._tasks.get()
            if chunk is None:
                return
            decoder = self._new_decoder()  # with the first task: one image needs one decoder
            try:
                with self._lock:
                    self._decoders.append(decoder)
                while chunk is not None and not self._closed:
                    decoder.decode(chunk.jobs)
                    self._held.give(chunk.size)
                    chunk.done.set()
                    chunk = self._tasks.get()
            finally:
                decoder.close()
        except BaseException as e:  # noqa: BLE001  raised again where the batches are read
            self._failure = e

    def __enter__(self) -> Self:
        """Start the workers; MachineError, and none of them, where that cannot be."""
        try:
            for _ in range(self._workers):
                self._threads.append(threads.start(self._work))
        except MachineError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        """End the threads; one that still waits for its next image is left to the process."""
        if os.getpid() != self._pid:
            return  # the threads are another process's, and locks may stay as they left them
        self._closed = True
        with self._lock:
            for decoder in self._decoders:
                decoder.cancel()
        for _ in self._threads:
            self._tasks.put(None)
        self._order.put(None)
        self._free.release(self._chunk + 1)
        self._held.give(2**62)
        for thread in self._threads:
            threads.join(thread)
        if self._feeder is not None:
            threads.join(self._feeder, threads.MOMENT)
        self._failure = self._broken = None  # their tracebacks hold the pool, and its buffer


def slots_for(batch: int, workers: int, in_flight: int = 1) -> int:
    """Return how many images are held: batches past, in and before the engine, work for all."""
    ahead = 2 * workers * _chunk_for(batch, workers)
    return batch * (2 + in_flight + max(1, -(-ahead // batch)))


def _chunk_for(batch: int, workers: int) -> int:
    """How many images a worker is handed at once: few, so that a batch is shared by all."""
    return max(1, min(8, batch // workers))
