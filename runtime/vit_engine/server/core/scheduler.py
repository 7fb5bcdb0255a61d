"""One model at work: which requests it takes, their images to decoders and batches, and back.

The event loop owns every queue. Threads decode and run batches, and post to the loop what has come
of it, so nothing here is locked.
"""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from numpy.typing import NDArray

from vit_engine.engine import Engine
from vit_engine.errors import ImageError
from vit_engine.server.core.admission import Admission
from vit_engine.server.core.batcher import Batcher
from vit_engine.server.core.decoders import DecodeError, Decoders
from vit_engine.server.core.metrics import Metrics
from vit_engine.server.core.pending_request import Outcome, PendingImage, PendingRequest
from vit_engine.server.core.refusal import RefusalError
from vit_engine.server.core.settings import Settings


class Scheduler:
    """One model: `start`, then `submit`, then `close`, all on one event loop.

    Decoder processes and slots for decoded images are bounded; what waits for them is bounded by
    `submit`, which refuses what would be answered too late.
    """

    def __init__(self, name: str, engine: Engine, settings: Settings, metrics: Metrics) -> None:
        self.name, self.engine = name, engine
        self.decoders = Decoders(
            name,
            engine.contract,
            settings,
            slots=engine.max_batch * (2 + engine.in_flight),
            on_decoded=self._decoded,
            on_restarts=metrics.decoder_restarts.labels(name).inc,
        )
        self.batcher = Batcher(
            name,
            engine,
            self.decoders,
            hang_timeout=settings.hang_timeout,
            metrics=metrics,
            on_done=self._complete,
        )
        self.admission = Admission(settings)
        self._images = metrics.images
        self._stage_seconds = {
            stage: metrics.stage_seconds.labels(name, stage)
            for stage in ("queue", "decode", "engine")
        }
        self._closed = False
        self._show(metrics)

    def start(self) -> None:
        """Start the decoders and the first batches; on the event loop that requests come from."""
        self._loop = asyncio.get_running_loop()
        self.decoders.start()
        self.batcher.start()

    async def close(self) -> None:
        """End the decoders and the engine; what still waits is refused. Takes moments."""
        if self._closed:
            return
        self._closed = True
        for image in [*self.decoders.cancel(), *self.batcher.cancel()]:
            self._complete(image, self._gone())
        await asyncio.to_thread(self.decoders.join)
        await asyncio.to_thread(self.batcher.join)

    @property
    def ready(self) -> bool:
        """Whether a request would be answered now."""
        return self._loaded and not self._closed and self.alive

    @property
    def _loaded(self) -> bool:
        return self.batcher.warm and self.decoders.loaded

    @property
    def alive(self) -> bool:
        """Whether it can still answer, however busy it is: False asks for a new process."""
        return self._unhealthy_reason is None

    @property
    def _unhealthy_reason(self) -> str | None:
        return self.batcher.unhealthy_reason or self.decoders.unhealthy_reason

    def submit(self, images: Sequence[bytes | NDArray[Any]]) -> PendingRequest:
        """Take a request: files of images, or tensors as the graph takes them, one an image.

        RefusalError where it is loading, dead or too busy to answer within the deadline.
        """
        if self._closed:
            raise self._gone()
        if (reason := self._unhealthy_reason) is not None:
            raise RefusalError(503, "dead", f"{self.name} does not work: {reason}")
        if not self._loaded:
            raise RefusalError(503, "loading", f"{self.name} is loading", retry_after=1)
        self.admission.admit(len(images), self.batcher.rate)
        request = PendingRequest.of(len(images), self._loop)
        now = time.monotonic()
        tensors = []
        for index, image in enumerate(images):
            if isinstance(image, bytes):
                self.decoders.add(PendingImage(request, index, now, data=image))
            else:
                tensors.append(PendingImage(request, index, now, tensor=image))
        self.batcher.add(tensors)
        return request

    def drop(self, request: PendingRequest) -> None:
        """Take a request whose client has left, or whose time is up, out of every queue."""
        request.dropped = True
        self.admission.depth -= request.unanswered
        self._images.labels(self.name, "dropped").inc(request.unanswered)
        self.decoders.drop(request)
        self.batcher.drop(request)

    def _decoded(self, image: PendingImage, error: DecodeError | None) -> None:
        if self._closed:
            error = self._gone()
        if error is not None:
            self._complete(image, error)
        elif not image.request.dropped:
            self.batcher.add([image])

    def _complete(self, image: PendingImage, outcome: Outcome) -> None:
        request = image.request
        if request.dropped:
            return
        request.outcomes[image.index] = outcome
        request.unanswered -= 1
        self.admission.depth -= 1
        if not request.unanswered:
            request.done.set_result(None)
        code = outcome.code if isinstance(outcome, ImageError | RefusalError) else "ok"
        self._images.labels(self.name, code).inc()
        timings = image.timings
        self._stage_seconds["queue"].observe(timings.queue)
        if image.tensor is None:
            self._stage_seconds["decode"].observe(timings.decode)
        if code == "ok":
            self._stage_seconds["engine"].observe(timings.engine)

    def _gone(self) -> RefusalError:
        return RefusalError(503, "closed", f"{self.name} is shutting down", retry_after=1)

    def depths(self) -> dict[str, int]:
        """Return how many images are at each stage."""
        return {
            "undecoded": len(self.decoders.waiting),
            "decoding": self.decoders.decoding,
            "ready": len(self.batcher.ready),
            "engine": self.batcher.running,
        }

    def _show(self, metrics: Metrics) -> None:
        """Have the metrics look up what they do not count."""
        for stage in self.depths():
            depth = partial(lambda stage: self.depths()[stage], stage)
            metrics.queue_images.labels(self.name, stage).set_function(depth)
        metrics.decoders.labels(self.name).set_function(lambda: len(self.decoders.processes))
