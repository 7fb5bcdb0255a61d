"""A request on its way: its images, the time that each has taken, and who waits for them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_engine.errors import ImageError
from vit_engine.server.core.refusal import RefusalError
from vit_engine.server.decoding.pixel_memory import Region

DecodeError = ImageError | RefusalError
"""Why an image has no pixels."""

Outcome = NDArray[np.float32] | ImageError | RefusalError
"""What became of an image: its row of the model's output, or why it has none."""


@dataclass(slots=True)
class Timings:
    """Seconds that an image spent waiting, being decoded, and in the engine with its batch."""

    queue: float = 0.0
    decode: float = 0.0
    engine: float = 0.0


@dataclass(eq=False, slots=True)
class PendingRequest:
    """An outcome for each image, `done` when every one is there; `dropped` if nobody waits.

    `client` tells those apart who take turns.
    """

    outcomes: list[Outcome | None]
    timings: list[Timings]
    done: "asyncio.Future[None]"
    unanswered: int
    client: str = ""
    dropped: bool = False

    @classmethod
    def of(cls, images: int, loop: asyncio.AbstractEventLoop, client: str) -> "PendingRequest":
        """Return a request of so many images."""
        timings = [Timings() for _ in range(images)]
        return cls([None] * images, timings, loop.create_future(), images, client)

    def results(self) -> list[NDArray[np.float32] | ImageError]:
        """Return the outcome of each image, once all are there; a RefusalError is raised."""
        found = []
        for outcome in self.outcomes:
            if isinstance(outcome, RefusalError):
                raise outcome
            assert outcome is not None
            found.append(outcome)
        return found


class ImageSlots:
    """One model's slots in shared memory, and what its images are decoded for.

    `small` and `large` are pickled DecodeOptions: those of every image, and those of an image that
    is known to have many pixels. `on_decoded` is called with each image, and why it has no pixels
    where it has none. The last `spare` slots are not for images: `spare` has their numbers.
    """

    def __init__(
        self,
        region: Region,
        *,
        spare: int,
        small: bytes,
        large: bytes,
        on_decoded: Callable[["PendingImage", DecodeError | None], object],
    ) -> None:
        self.region, self.small, self.large = region, small, large
        self.on_decoded = on_decoded
        self.spare = range(region.slots - spare, region.slots)
        self.free = list(range(region.slots - spare))

    def release(self, image: "PendingImage") -> None:
        """Give the slot of an image back."""
        if image.slot is not None:
            self.free.append(image.slot)
            image.slot = None


@dataclass(eq=False, slots=True)
class PendingImage:
    """One image: `data` is its file until it is decoded to a slot; or it came as a `tensor`.

    `slot` is one of `slots`, where it has pixels or is to have them.
    """

    request: PendingRequest
    index: int
    slots: ImageSlots
    since: float  # when it entered the queue that it is in
    data: bytes | None = None
    tensor: NDArray[Any] | None = None
    slot: int | None = None
    is_large: bool = False  # it has more pixels than most, as its decoder has found

    @property
    def timings(self) -> Timings:
        """Those of this image."""
        return self.request.timings[self.index]
