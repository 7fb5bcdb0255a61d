"""Memory that decoders write to and engines read: slots for the images of each model."""

import contextlib
import fcntl
import mmap
import os
from typing import Self

import numpy as np
from numpy.typing import NDArray

from vit_engine.errors import MachineError, format_limit
from vit_engine.machine.memory_file import memory_file


class PixelMemory:
    """A file in memory that grows by a region for each model; a context manager."""

    def __init__(self) -> None:
        self.fd = memory_file("pixels")
        with contextlib.suppress(AttributeError, OSError):  # a file on disk has no seals
            # An engine that maps it can rely on every page of it.
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self._size = 0

    def region(self, slots: int, slot_bytes: int) -> "Region":
        """Return a new region; MachineError where there is no memory for it."""
        offset = self._size
        size = -(-slots * slot_bytes // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        try:
            os.ftruncate(self.fd, offset + size)
            memory = mmap.mmap(self.fd, size, offset=offset)
        except OSError as e:
            words = format_limit(e) or e.strerror
            raise MachineError(f"no memory to share for {slots} images: {words}") from e
        self._size += size
        return Region(memory, offset, slots, slot_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the descriptor; the memory goes with the last array upon it."""
        os.close(self.fd)


class Region:
    """`slots` of `slot_bytes` each, from `offset` on; `rows` (slots, slot_bytes) is their bytes."""

    def __init__(self, memory: mmap.mmap, offset: int, slots: int, slot_bytes: int) -> None:
        self._memory, self.offset, self.slots, self.slot_bytes = memory, offset, slots, slot_bytes
        used = memoryview(memory)[: slots * slot_bytes]
        self.rows: NDArray[np.uint8] = np.frombuffer(used, np.uint8).reshape(slots, slot_bytes)

    def offset_of(self, slot: int) -> int:
        """Return where a slot begins in the file."""
        return self.offset + slot * self.slot_bytes

    def free(self) -> None:
        """Give the memory back; what is in the slots is lost."""
        with contextlib.suppress(AttributeError, OSError):  # of a file on disk it is not to be had
            self._memory.madvise(mmap.MADV_REMOVE)
