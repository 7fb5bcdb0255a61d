"""Decoder processes, each with a thread that talks to it; what they do belongs to the event loop.

The threads take images from one queue, out of order as they come to an end, and post to the loop.
"""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from vit_engine.artefact.contract import Contract
from vit_engine.errors import ImageError, MachineError
from vit_engine.images.decode_pool import DecodeJob
from vit_engine.images.decoder_process import DecodeOptions, DecoderProcess, SharedPixels
from vit_engine.machine.processor import usable_cores
from vit_engine.server.core.pending_request import PendingImage, PendingRequest
from vit_engine.server.core.refusal import RefusalError
from vit_engine.server.core.settings import Settings
from vit_engine.sources.sample import Limits, Sample

log = logging.getLogger(__name__)

_RETRY = 1.0  # seconds between attempts to start a decoder that does not start
_PATIENCE = 5.0  # seconds for a thread to end
_NO_IMAGE = b"-"  # makes a decoder load all that images need

DecodeError = ImageError | RefusalError


class Decoders:
    """Images of one model, from files to slots of `pixels` (slots, height, width, 3), uint8.

    Every method is for the event loop, which is also where `on_decoded` is called with an image
    and, where it has no pixels, why; `on_restarts` with how often a process was started again.
    """

    def __init__(
        self,
        name: str,
        contract: Contract,
        settings: Settings,
        *,
        slots: int,
        on_decoded: Callable[[PendingImage, DecodeError | None], None],
        on_restarts: Callable[[int], None],
    ) -> None:
        self._name = name
        self._task = DecodeOptions(
            contract.preprocessing,
            limits=Limits(settings.max_body, settings.max_pixels),
            time_limit=settings.decode_time,
        )
        self._on_decoded, self._on_restarts = on_decoded, on_restarts
        self._workers = max(2, usable_cores())
        # An image waits for each decoder, so that none sleeps until the loop has its turn.
        self._ahead = 2 * self._workers
        self._shared = SharedPixels(
            slots + self._ahead, contract.input.height, contract.input.width
        )
        self.pixels = self._shared.array  # by their slots
        self._slots = list(range(slots + self._ahead))
        self._waiting: deque[PendingImage] = deque()
        self._handed_out: dict[PendingImage, None] = {}  # in order; the first are begun
        self._jobs: queue.SimpleQueue[PendingImage | None] = queue.SimpleQueue()
        self.processes: dict[int, DecoderProcess] = {}
        self._unstarted = set(range(self._workers))  # those that have not tried to start yet
        self._failed: dict[int, str] = {}  # those that do not start, and why
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the decoders."""
        self._loop = asyncio.get_running_loop()
        for number in range(self._workers):
            thread = threading.Thread(
                target=self._work, args=(number,), daemon=True, name=f"{self._name}-decoder"
            )
            thread.start()
            self._threads.append(thread)

    def cancel(self) -> list[PendingImage]:
        """Have every decoder end; return the images that none of them has begun."""
        self._closing.set()
        waiting = self._withdraw()
        for decoder in self.processes.values():
            decoder.cancel()
        for _ in self._threads:
            self._jobs.put(None)
        return waiting

    def join(self) -> None:
        """Wait until the decoders have ended, but not for long; for another thread, once cancelled.

        The memory goes with the last array upon it.
        """
        for thread in self._threads:
            thread.join(_PATIENCE)
        self._shared.__exit__()

    @property
    def loaded(self) -> bool:
        """Whether each decoder has tried to start."""
        return not self._unstarted

    @property
    def unhealthy_reason(self) -> str | None:
        """Why no image can be decoded, None if some can."""
        return next(iter(self._failed.values())) if len(self._failed) == self._workers else None

    @property
    def decoding(self) -> int:
        """How many images are being decoded."""
        return min(len(self._handed_out), len(self.processes))

    @property
    def waiting(self) -> list[PendingImage]:
        """The images that no decoder has begun, in order."""
        return [*islice(self._handed_out, self.decoding, None), *self._waiting]

    def add(self, image: PendingImage) -> None:
        """Decode an image as soon as a decoder and a slot are free."""
        self._waiting.append(image)
        self._hand_out()

    def drop(self, request: PendingRequest) -> None:
        """Forget the images of a request that is `dropped`, unless they are being decoded."""
        self._waiting = deque(i for i in self._waiting if i.request is not request)

    def release(self, images: Iterable[PendingImage]) -> None:
        """Give the slots of images back."""
        for image in images:
            self._release(image)
        self._hand_out()

    def _release(self, image: PendingImage) -> None:
        if image.slot is not None:
            self._slots.append(image.slot)
            image.slot = None

    def _hand_out(self) -> None:
        while self._waiting and self._slots and len(self._handed_out) < self._ahead:
            image = self._waiting.popleft()
            image.slot = self._slots.pop()
            self._handed_out[image] = None
            self._jobs.put(image)

    def _withdraw(self) -> list[PendingImage]:
        """Take back and return every image that no decoder has begun."""
        found = [*self._waiting]
        self._waiting.clear()
        with contextlib.suppress(queue.Empty):
            while (image := self._jobs.get_nowait()) is not None:
                del self._handed_out[image]
                self._release(image)
                found.append(image)
        return found

    def _decoder_started(self, number: int, decoder: DecoderProcess) -> None:
        self._unstarted.discard(number)
        self._failed.pop(number, None)
        self.processes[number] = decoder

    def _decoder_failed(self, number: int, reason: str) -> None:
        self._unstarted.discard(number)
        self.processes.pop(number, None)
        self._failed[number] = reason
        if self.unhealthy_reason is not None and not self._closing.is_set():
            for image in self._withdraw():
                self._on_decoded(image, RefusalError(503, "dead", reason))

    def _image_done(
        self,
        image: PendingImage,
        error: DecodeError | None,
        begun: float,
        ended: float,
        restarts: int,
    ) -> None:
        del self._handed_out[image]
        image.data = None
        image.timings.queue += begun - image.since
        image.timings.decode = ended - begun
        image.since = ended
        if restarts:
            self._on_restarts(restarts)
        if error is not None or image.request.dropped:
            self._release(image)
        self._hand_out()
        self._on_decoded(image, error)

    # On the threads

    def _work(self, number: int) -> None:
        while not self._closing.is_set():
            decoder: DecoderProcess | None = None
            try:
                decoder = DecoderProcess(self._shared, self._task)
                decoder.decode([DecodeJob(Sample("", data=_NO_IMAGE), 0)])
                self._post(self._decoder_started, number, decoder)
                self._decode_with(decoder)
            except MachineError as e:
                log.error("%s: %s", self._name, e)
                self._post(self._decoder_failed, number, str(e))
                self._closing.wait(_RETRY)
            finally:
                if decoder is not None:
                    decoder.close()

    def _decode_with(self, decoder: DecoderProcess) -> None:
        """Decode what comes, until None does; MachineError where it cannot be started again."""
        while (image := self._jobs.get()) is not None:
            begun, restarts = time.monotonic(), decoder.restarts
            error: DecodeError | None = RefusalError(500, "internal", "the decoder failed")
            try:
                if not image.request.dropped:
                    assert image.slot is not None
                    job = DecodeJob(Sample("", data=image.data), image.slot)
                    decoder.decode([job])
                    error = job.error
            except MachineError as e:
                error = RefusalError(503, "dead", str(e))
                raise
            finally:
                more = decoder.restarts - restarts
                self._post(self._image_done, image, error, begun, time.monotonic(), more)

    def _post(self, work: Callable[..., None], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(work, *arguments)
