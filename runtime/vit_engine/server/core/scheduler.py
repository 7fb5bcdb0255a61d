"""From images to the output of the model: decoded out of order, batched without a wait.

The event loop owns every queue. Processes decode and run batches, and what has come of it is read
on the loop, so nothing here is locked.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from vit_engine.errors import ImageError
from vit_engine.server.core.admission import Admission
from vit_engine.server.core.metrics import Metrics
from vit_engine.server.core.pending_request import (
    DecodeError,
    Outcome,
    PendingImage,
    PendingRequest,
)
from vit_engine.server.core.refusal import RefusalError
from vit_engine.server.core.settings import Settings
from vit_engine.server.decoding.decoders import Decoders
from vit_engine.server.engines.engine_client import EngineClient
from vit_engine.server.engines.messages import OpenEngine

_RETIRE = 0.05  # seconds between looks at whether a model that was replaced has no image left


class Scheduler:
    """One model: `start`, then `submit`, then `close`, all on one event loop.

    Slots for decoded images are bounded; what waits for them is bounded by `submit`, which refuses
    what would be answered too late.
    """

    def __init__(
        self,
        name: str,
        engine: OpenEngine,
        *,
        decoders: Decoders,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self.name, self.decoders, self._metrics = name, decoders, metrics
        info, window = engine.info, engine.window
        self._slots = decoders.slots(
            2 * window, window, info.slot_bytes, info.contract.preprocessing, self._decoded
        )
        self.engine = EngineClient(
            name,
            engine,
            self._slots,
            decoders.memory.fd,
            metrics=metrics,
            on_done=self._complete,
            on_free=decoders.release,
            has_waiting=lambda: decoders.has_waiting(self._slots),
        )
        self.admission = Admission(settings)
        self._images = metrics.images
        self._stage_seconds = {
            stage: metrics.stage_seconds.labels(name, stage)
            for stage in ("queue", "decode", "engine")
        }
        self._closed = False

    def start(self) -> None:
        """Connect to the engine; on the event loop that requests come from."""
        self._loop = asyncio.get_running_loop()
        self.engine.start()

    def close(self) -> None:
        """Leave the engine; what still waits is refused."""
        if not self._closed:
            self._closed = True
            self.engine.close(self._gone())

    async def retire(self, seconds: float) -> None:
        """Close once every image that was taken has been answered, or after so long."""
        end = time.monotonic() + seconds
        while self.admission.depth and time.monotonic() < end:
            await asyncio.sleep(_RETIRE)
        self.close()
        while self.decoders.decoding(self._slots):
            await asyncio.sleep(_RETIRE)
        self._slots.region.free()

    @property
    def ready(self) -> bool:
        """Whether a request would be answered now."""
        return self._loaded and not self._closed and self.alive

    @property
    def _loaded(self) -> bool:
        return self.engine.warm and self.decoders.loaded

    @property
    def alive(self) -> bool:
        """Whether it can still answer, however busy it is: False asks for a new process."""
        return self._unhealthy_reason is None

    @property
    def _unhealthy_reason(self) -> str | None:
        return self.engine.unhealthy_reason or self.decoders.unhealthy_reason

    def submit(self, images: Sequence[bytes | NDArray[Any]], *, client: str = "") -> PendingRequest:
        """Take a request: files of images, or tensors as the graph takes them, one an image.

        RefusalError where it is loading, dead or too busy to answer within the deadline. `client`
        is whose turn it takes.
        """
        if self._closed:
            raise self._gone()
        if (reason := self._unhealthy_reason) is not None:
            raise RefusalError(503, "dead", f"{self.name} does not work: {reason}")
        if not self._loaded:
            raise RefusalError(503, "loading", f"{self.name} is loading", retry_after=1)
        self.admission.admit(len(images), self.engine.rate)
        request = PendingRequest.of(len(images), self._loop, client)
        now = time.monotonic()
        tensors = []
        for index, image in enumerate(images):
            if isinstance(image, bytes):
                self.decoders.add(PendingImage(request, index, self._slots, now, data=image))
            else:
                tensors.append(PendingImage(request, index, self._slots, now, tensor=image))
        self.engine.add(tensors)
        return request

    def drop(self, request: PendingRequest) -> None:
        """Take a request whose client has left, or whose time is up, out of every queue."""
        request.dropped = True
        self.admission.depth -= request.unanswered
        self._images.labels(self.name, "dropped").inc(request.unanswered)
        self.decoders.drop(request)
        self.engine.drop(request)

    def _decoded(self, image: PendingImage, error: DecodeError | None) -> None:
        if error is None and self._closed:
            self._slots.release(image)
            error = self._gone()
        if error is not None:
            self._complete(image, error)
        elif not image.request.dropped:
            self.engine.add([image])

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
            "undecoded": self.decoders.waiting(self._slots),
            "decoding": self.decoders.decoding(self._slots),
            "ready": len(self.engine.ready),
            "engine": self.engine.running,
        }
