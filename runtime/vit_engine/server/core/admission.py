"""Which requests are taken: none that would wait too long, and so many bytes at once."""

import math
from dataclasses import dataclass
from typing import Self

from vit_engine.server.core.refusal import RefusalError
from vit_engine.server.core.settings import Settings

_MEMORY = 0.9  # of the rate measured so far, what a new batch leaves


@dataclass
class Rate:
    """Images a second while there was always one waiting; older batches count for less."""

    images: float = 0.0
    seconds: float = 0.0
    last: float | None = None  # when the last batch ended, if images waited then

    def add(self, now: float, images: int, *, waiting: bool) -> None:
        """Count a batch that has ended now; `waiting` tells whether other images wait."""
        if self.last is not None:
            self.images = _MEMORY * self.images + images
            self.seconds = _MEMORY * self.seconds + now - self.last
        self.last = now if waiting else None

    def wait(self, images: int) -> float:
        """Return the seconds that so many images will take, 0 where that is not known."""
        return images * self.seconds / self.images if self.images else 0.0


class Admission:
    """How many images of one model have no outcome yet, and somebody who waits for it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.depth = 0

    def admit(self, images: int, rate: Rate) -> None:
        """Take so many images more; RefusalError where they would be answered too late."""
        wait, depth = rate.wait(self.depth + images), self.depth
        too_many = depth + images > self._settings.max_images
        if depth and (too_many or wait > self._settings.deadline):
            raise RefusalError(
                429,
                "busy",
                f"{depth} images wait already, which would take {wait:.1f} s; try again later",
                retry_after=max(1, min(60, math.ceil(wait / 2))),
            )
        self.depth += images


class MemoryLimit:
    """Bytes of bodies that a server may hold at once."""

    def __init__(self, size: int) -> None:
        self.size, self.held = size, 0


class MemoryReservation:
    """What one request holds of the limit: a context manager, which gives it back."""

    def __init__(self, limit: MemoryLimit) -> None:
        self._limit, self._size = limit, 0

    def grow(self, size: int) -> None:
        """Take more; RefusalError where all requests together would hold too much."""
        if self._limit.held + size > self._limit.size:
            raise RefusalError(
                429,
                "busy",
                f"requests in flight hold {self._limit.held} of {self._limit.size} bytes; "
                "send this one again later",
                retry_after=1,
            )
        self._limit.held += size
        self._size += size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._limit.held -= self._size
        self._size = 0
