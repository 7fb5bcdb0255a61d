"""Decoder processes that all models share; the event loop hands them images and reads answers.

Nothing here is locked and no thread waits: threads only start processes and bury them.
"""

import asyncio
import logging
import pickle
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from vit_engine.artefact.contract import Preprocessing
from vit_engine.errors import MachineError, one_line
from vit_engine.images.decoder_process import (
    MEMORY,
    DecodeOptions,
    lost_image,
    messages_from_samples,
    result_from_answer,
    start_decoder,
)
from vit_engine.machine.processor import usable_cores, usable_memory
from vit_engine.machine.worker import START_LIMIT, EndedError, Worker
from vit_engine.server.core.pending_request import (
    DecodeError,
    ImageSlots,
    PendingImage,
    PendingRequest,
)
from vit_engine.server.core.refusal import RefusalError
from vit_engine.server.core.settings import Settings
from vit_engine.server.decoding.fair_queue import FairQueue
from vit_engine.server.decoding.loop_worker import LoopWorker
from vit_engine.server.decoding.pixel_memory import PixelMemory
from vit_engine.sources.sample import Limits, Sample

log = logging.getLogger(__name__)

_RETRY = 1.0  # seconds between attempts to start a decoder that does not start
_LOOK = 0.1  # seconds between looks for images that are late
_PIXEL_BYTES = 20  # of memory that a decoder takes for a pixel at most [measured: WebP, lossless]
_SMALL_PIXELS = 16_000_000  # a photograph of a phone's; decoded in a fifth of a second
_LEAST_MEMORY = 3 * 2**29  # bytes of address space: a decoder itself and its largest image
_NO_IMAGE = b"-"  # makes a decoder load all that images need


class _Decoder:
    """One process, and the image that it decodes."""

    worker: LoopWorker | None = None
    image: PendingImage | None = None
    begun = 0.0
    is_late = False
    failure: str | None = None  # why it does not start
    has_started = False


class Decoders:
    """Decoder processes for every model of a server; all methods are for the event loop.

    Clients take turns. An image of many pixels comes back from a decoder with nothing but its
    size; such images share a few of the decoders, as many as memory allows and half at most, so
    that others never wait for them. `on_restart` is called when a process has ended.
    """

    def __init__(
        self, settings: Settings, *, workers: int | None, on_restart: Callable[[], object]
    ) -> None:
        self._settings, self._on_restart = settings, on_restart
        self._decoders = [_Decoder() for _ in range(workers or max(2, usable_cores()))]
        count, memory = len(self._decoders), usable_memory() // 2
        self._small_pixels = min(_SMALL_PIXELS, max(2**20, memory // count // _PIXEL_BYTES))
        in_memory = memory // (settings.max_pixels * _PIXEL_BYTES)
        self._most_large = max(1, min(count // 2, in_memory))
        self._memory_limit = min(MEMORY, max(_LEAST_MEMORY, memory // count))
        self.memory = PixelMemory()
        self._waiting: FairQueue[tuple[ImageSlots, str], PendingImage] = FairQueue()
        self._large: FairQueue[tuple[ImageSlots, str], PendingImage] = FairQueue()
        self._idle: list[_Decoder] = []
        self._first: ImageSlots | None = None
        self._closing = False
        self._tasks: set[asyncio.Future[None]] = set()

    def start(self) -> None:
        """Start the processes."""
        self._loop = asyncio.get_running_loop()
        for decoder in self._decoders:
            self._begin(self._start(decoder))
        self._look()

    def slots(
        self,
        count: int,
        spare: int,
        slot_bytes: int,
        preprocessing: Preprocessing,
        on_decoded: Callable[[PendingImage, DecodeError | None], object],
    ) -> ImageSlots:
        """Return `count` slots for a model's images, more for those in the decoders, and `spare`.

        MachineError where memory does not suffice.
        """
        limits = Limits(self._settings.max_body, self._settings.max_pixels)
        options = DecodeOptions(preprocessing, limits, self._settings.decode_time)
        small = replace(limits, max_pixels=min(self._small_pixels, limits.max_pixels))
        slots = ImageSlots(
            self.memory.region(count + len(self._decoders) + spare, slot_bytes),
            spare=spare,
            small=pickle.dumps(replace(options, limits=small)),
            large=pickle.dumps(options),
            on_decoded=on_decoded,
        )
        self._first = self._first or slots
        return slots

    def close(self) -> None:
        """End every process; what they decode, or would have, is refused."""
        self._closing = True
        gone = RefusalError(503, "closed", "the server is shutting down", retry_after=1)
        self._refuse_all(gone)
        for decoder in self._decoders:
            if decoder.worker is not None:
                decoder.worker.close()
            if decoder.image is not None:
                self._decoded(self._taken_from(decoder), gone)
        for task in self._tasks:
            task.cancel()
        self.memory.__exit__()

    @property
    def loaded(self) -> bool:
        """Whether each decoder has tried to start."""
        return all(d.has_started or d.failure for d in self._decoders)

    @property
    def alive(self) -> int:
        """How many decoders work."""
        return sum(decoder.worker is not None for decoder in self._decoders)

    @property
    def unhealthy_reason(self) -> str | None:
        """Why no image can be decoded, None if some can."""
        failures = [decoder.failure for decoder in self._decoders]
        return failures[0] if all(failures) else None

    def decoding(self, slots: ImageSlots) -> int:
        """Return how many images of a model are being decoded."""
        return sum(d.image is not None and d.image.slots is slots for d in self._decoders)

    def waiting(self, slots: ImageSlots) -> int:
        """Return how many images of a model no decoder has begun."""
        return sum(i.slots is slots for queue in (self._waiting, self._large) for i in queue)

    def has_waiting(self, slots: ImageSlots) -> bool:
        """Return whether there is such an image."""
        return any(i.slots is slots for queue in (self._waiting, self._large) for i in queue)

    def add(self, image: PendingImage) -> None:
        """Decode an image as soon as a decoder and a slot are free."""
        self._queue(image)
        self._dispatch()

    def drop(self, request: PendingRequest) -> None:
        """Forget the images of a request, unless they are being decoded."""
        for queue in (self._waiting, self._large):
            queue.discard(lambda image: image.request is request)

    def release(self, images: Iterable[PendingImage]) -> None:
        """Give the slots of images back."""
        for image in images:
            image.slots.release(image)
        self._dispatch()

    def _queue(self, image: PendingImage) -> None:
        queue = self._large if image.is_large else self._waiting
        queue.add((image.slots, image.request.client), image)

    def _dispatch(self) -> None:
        while self._idle and (image := self._next()) is not None:
            decoder = self._idle.pop()
            assert decoder.worker is not None and image.data is not None
            slots = image.slots
            image.slot = slots.free.pop()
            decoder.image, decoder.begun, decoder.is_late = image, time.monotonic(), False
            image.timings.queue += decoder.begun - image.since
            target = slots.region.offset_of(image.slot), Sample("", data=image.data)
            options = slots.large if image.is_large else slots.small
            decoder.worker.ask([*messages_from_samples(options, [target])])

    def _next(self) -> PendingImage | None:
        def has_slot(key: tuple[ImageSlots, str]) -> bool:
            return bool(key[0].free)

        if self._large:
            busy = sum(d.image is not None and d.image.is_large for d in self._decoders)
            if busy < self._most_large and (found := self._large.next(has_slot)):
                return found
        return self._waiting.next(has_slot)

    def _answered(self, decoder: _Decoder, answer: bytes) -> None:
        error, _ = result_from_answer(answer)
        self._idle.append(decoder)
        image = self._taken_from(decoder)
        again = error is not None and error.code == "too_large" and not image.is_large
        if again:
            image.slots.release(image)
            image.is_large = True
            if not image.request.dropped:
                self._queue(image)
        self._dispatch()  # the decoder first, then those who wait
        if not again:
            self._decoded(image, error)

    def _taken_from(self, decoder: _Decoder) -> PendingImage:
        image, decoder.image = decoder.image, None
        assert image is not None
        image.since = time.monotonic()
        image.timings.decode += image.since - decoder.begun
        return image

    def _decoded(self, image: PendingImage, error: DecodeError | None) -> None:
        image.data = None
        if error is not None or image.request.dropped:
            image.slots.release(image)
        image.slots.on_decoded(image, error)

    def _refuse_all(self, reason: RefusalError) -> None:
        for queue in (self._waiting, self._large):
            for image in queue.discard(lambda _: True):
                image.slots.on_decoded(image, reason)

    # The life of a process

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self, decoder: _Decoder) -> None:
        """Start a process, again where that fails."""
        while not self._closing:
            try:
                worker = await asyncio.to_thread(self._started)
            except (MachineError, EndedError, TimeoutError) as e:
                reason = one_line(e)
                log.error("%s", reason)
                decoder.failure = reason
                if self.unhealthy_reason is not None:
                    self._refuse_all(RefusalError(503, "dead", reason))
                await asyncio.sleep(_RETRY)
                continue
            decoder.failure, decoder.has_started = None, True
            decoder.worker = LoopWorker(
                worker,
                on_answer=partial(self._answered, decoder),
                on_end=partial(self._ended, decoder),
            )
            self._idle.append(decoder)
            self._dispatch()
            return

    def _started(self) -> Worker:
        """On a thread: return a process that has loaded all that images need."""
        assert self._first is not None
        worker = start_decoder(self.memory.fd, self._memory_limit)
        target = self._first.region.offset, Sample("", data=_NO_IMAGE)
        try:
            for message in messages_from_samples(self._first.small, [target]):
                worker.ask(message)
            worker.answer(START_LIMIT)
            if self._closing:  # who waited for it was cancelled
                raise EndedError("the server is shutting down")
        except BaseException:
            worker.close()
            raise
        return worker

    def _ended(self, decoder: _Decoder) -> None:
        self._begin(self._replace(decoder))

    async def _replace(self, decoder: _Decoder) -> None:
        """Settle the image of a process that has ended, and start another."""
        dead, decoder.worker = decoder.worker, None
        assert dead is not None
        if decoder in self._idle:
            self._idle.remove(decoder)
        ended = await asyncio.to_thread(dead.worker.wait, 1)
        await asyncio.to_thread(dead.worker.close)
        if decoder.image is not None:
            limit = self._settings.decode_time if decoder.is_late else None
            self._decoded(self._taken_from(decoder), lost_image(ended or "it hangs", limit))
        self._on_restart()
        await self._start(decoder)

    def _look(self) -> None:
        """End what decodes for too long; the pipe's end is read as any other."""
        latest = time.monotonic() - self._settings.decode_time
        for decoder in self._decoders:
            if decoder.image is not None and decoder.begun < latest and decoder.worker is not None:
                decoder.is_late = True
                decoder.worker.worker.kill()
        if not self._closing:
            self._loop.call_later(_LOOK, self._look)
