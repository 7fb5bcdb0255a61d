"""A model's engines as its scheduler sees them: images go in, rows of the output come back."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

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
from vit_engine.server.engines.engine_link import Done, EngineLink
from vit_engine.server.engines.messages import EngineInfo, OpenEngine, SlotViews

log = logging.getLogger(__name__)


@dataclass
class Stats:
    """What has gone through since the start, for the statistics of the inference protocol."""

    last: float = 0.0  # seconds since the epoch
    batches: dict[int, list[float]] = field(default_factory=dict)  # size: [runs, seconds]


class EngineClient:
    """A model's engines, one on each device; every method is for the event loop.

    `on_done` is given each image with its row of the output, or why it has none. What the engines
    have no place for waits here, where a client that leaves can be dropped.
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
        self._name, self._metrics = name, metrics
        info, region = engine.info, slots.region
        self._on_done, self._on_free, self._has_waiting = on_done, on_free, has_waiting
        self.contract, self.provider, self.max_batch = info.contract, info.provider, info.max_batch
        self.output = output_from_contract(info.contract.output)
        self._window = info.window
        self._tensor_slots = [*slots.spare]
        self._views = SlotViews(region.rows.data, region.slots, region.slot_bytes, info.contract)
        self._load_seconds = metrics.load_seconds.labels(name)
        self._sizes = metrics.batch_images.labels(name)
        self._links = {
            device: EngineLink(
                address,
                region,
                fd,
                on_warm=self._warmed,
                on_done=partial(self._done, device),
                on_end=self._ended,
            )
            for device, address in engine.addresses.items()
        }
        self.ready: deque[PendingImage] = deque()  # not with an engine yet
        self.rate, self.stats = Rate(), Stats()

    def start(self) -> None:
        """Connect, and again whenever a connection has ended."""
        for link in self._links.values():
            link.start()

    def close(self, reason: RefusalError) -> None:
        """Leave the engines; what waits for them is refused."""
        for link in self._links.values():
            self._refuse(link.close(), reason)
        self._refuse(self._taken_back(), reason)

    @property
    def warm(self) -> bool:
        """Whether there is an engine that has run every size of batch."""
        return any(link.warm for link in self._links.values())

    @property
    def warm_devices(self) -> dict[str, bool]:
        """Whether that is so, by device."""
        return {device: link.warm for device, link in self._links.items()}

    @property
    def unhealthy_reason(self) -> str | None:
        """Why no batch will end, None where one may."""
        reasons = [link.unhealthy_reason for link in self._links.values()]
        return reasons[0] if all(reasons) else None

    @property
    def running(self) -> int:
        """How many images are with the engines."""
        return sum(len(link.running) for link in self._links.values())

    def add(self, images: Iterable[PendingImage]) -> None:
        """Have images run with the next batch."""
        self.ready.extend(images)
        self._dispatch()

    def drop(self, request: PendingRequest) -> None:
        """Forget the images of a request, unless they are with an engine."""
        dropped = [image for image in self.ready if image.request is request]
        if dropped:
            self.ready = deque(image for image in self.ready if image.request is not request)
            self._free(dropped)

    def _dispatch(self) -> None:
        """Give each image that is ready to the engine that has the fewest."""
        warm, now = [link for link in self._links.values() if link.warm], time.monotonic()
        while self.ready and warm:
            link = min(warm, key=lambda link: len(link.running))
            if len(link.running) >= self._window:
                break
            image = self.ready.popleft()
            if image.tensor is not None:
                image.slot = self._tensor_slots.pop()
                self._views.tensors[image.slot] = image.tensor
            image.timings.queue += now - image.since
            image.since = now
            link.put(image)
        for link in warm:
            link.send()

    def _warmed(self, info: EngineInfo) -> None:
        engines = sum(self.warm_devices.values())
        self.rate = Rate(engines * info.max_batch, info.seconds)
        self._load_seconds.set(info.load_seconds)
        self._dispatch()

    def _done(self, device: str, images: list[PendingImage], done: Done) -> None:
        outcomes: list[Outcome]
        if done.failure:
            failure = RefusalError(500, "engine", f"the engine failed: {done.failure}")
            outcomes = [failure] * len(images)
        else:
            outcomes = list(self._views.results[done.slots])  # copies: slots are free from here on
        self._free(images)
        self.rate.add(
            time.monotonic(), len(images), waiting=bool(self.ready) or self._has_waiting()
        )
        if done.batch_images:
            runs = self.stats.batches.setdefault(done.batch_images, [0, 0.0])
            runs[0] += 1
            runs[1] += done.seconds
            self.stats.last = time.time()
            self._sizes.observe(done.batch_images)
            ended = "failed" if done.failure else "ok"
            self._metrics.engine_runs.labels(self._name, device, ended).inc()
        self._dispatch()  # the engine first, then those who wait
        for image, outcome in zip(images, outcomes, strict=True):
            image.timings.engine = done.seconds
            self._on_done(image, outcome)

    def _ended(self, lost: list[PendingImage]) -> None:
        """Refuse what an engine had; what is ready waits for the others, where there are any."""
        log.error("the engine of %s has ended; another is awaited", self._name)
        if not self.warm:
            lost += self._taken_back()
        reason = f"the engine of {self._name} has ended; another is being started"
        self._refuse(lost, RefusalError(503, "dead", reason, retry_after=1))

    def _taken_back(self) -> list[PendingImage]:
        images = [*self.ready]
        self.ready.clear()
        return images

    def _refuse(self, images: list[PendingImage], reason: RefusalError) -> None:
        self._free(images)
        for image in images:
            self._on_done(image, reason)

    def _free(self, images: list[PendingImage]) -> None:
        for image in images:
            if image.tensor is not None and image.slot is not None:
                self._tensor_slots.append(image.slot)
                image.slot = None
        self._on_free(images)
