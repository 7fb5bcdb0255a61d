"""A request on its way: its images, the time that each has taken, and who waits for them."""

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_engine.errors import ImageError
from vit_engine.server.core.refusal import RefusalError

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
    """An outcome for each image, `done` when every one is there; `dropped` if nobody waits."""

    outcomes: list[Outcome | None]
    timings: list[Timings]
    done: "asyncio.Future[None]"
    unanswered: int
    dropped: bool = False

    @classmethod
    def of(cls, images: int, loop: asyncio.AbstractEventLoop) -> "PendingRequest":
        """Return a request of so many images."""
        timings = [Timings() for _ in range(images)]
        return cls([None] * images, timings, loop.create_future(), images)

    def results(self) -> list[NDArray[np.float32] | ImageError]:
        """Return the outcome of each image, once all are there; a RefusalError is raised."""
        found = []
        for outcome in self.outcomes:
            if isinstance(outcome, RefusalError):
                raise outcome
            assert outcome is not None
            found.append(outcome)
        return found


@dataclass(eq=False, slots=True)
class PendingImage:
    """One image: `data` is its file until it is decoded to a `slot`; or it came as a `tensor`."""

    request: PendingRequest
    index: int
    since: float  # when it entered the queue that it is in
    data: bytes | None = None
    tensor: NDArray[Any] | None = None
    slot: int | None = None

    @property
    def timings(self) -> Timings:
        """Those of this image."""
        return self.request.timings[self.index]
