"""What a provider is: a row of the table, what it is asked to open, and what it opens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact.contract import Contract, Precision
from vit_engine.machine.threads import open_together
from vit_engine.options import DEFAULTS, GPU_PROVIDERS, Compute, EngineOptions, ProviderName


@dataclass(frozen=True)
class SessionSpec:
    """What is to be opened, and how; the batch sizes are the engine's to choose."""

    path: Path
    contract: Contract
    options: EngineOptions = DEFAULTS


@dataclass(frozen=True)
class Unavailable:
    """Why a provider cannot run here, and the line to paste, or the step, that mends it."""

    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.fix}"


class SessionClosedError(Exception):
    """The session was closed while this batch was on its way; its successor takes the batch."""


class Session(Protocol):
    """An open session: feeds of up to `largest` images in, logits out. Thread-safe."""

    @property
    def largest(self) -> int:
        """The most images in a feed."""

    def run(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return new logits (N, labels) of a feed (N, ...) as the contract's input has it."""

    def close(self) -> None:
        """Free the session."""


class DeviceSessions:
    """Sessions of one model on several devices, as one: whichever is free takes the next batch."""

    def __init__(self, sessions: Sequence[Session], in_flight: int) -> None:
        self._sessions, self.largest = sessions, min(each.largest for each in sessions)
        self._free: SimpleQueue[Session] = SimpleQueue()
        for _ in range(in_flight):  # a batch for each device, before any gets a second
            for session in sessions:
                self._free.put(session)

    def run(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return new logits (N, labels) of a feed (N, ...) as the contract's input has it."""
        session = self._free.get()
        try:
            return session.run(inputs)
        finally:
            self._free.put(session)

    def close(self) -> None:
        """Free the sessions."""
        for session in self._sessions:
            session.close()


@dataclass(frozen=True)
class Provider:
    """Where a model can run: all that the rest of the house knows of it."""

    name: ProviderName
    precisions: tuple[Precision, ...]
    """Of artefacts whose operators it has."""
    computes: tuple[Compute, ...]
    """What may be asked for, the first unless told otherwise; none where the artefact decides."""
    default_batch: Callable[[EngineOptions], int]
    """Images at once that keep it busy."""
    in_flight: int
    """Batches at once: more than one where copies go on under the compute of another batch."""
    unavailable_reason: Callable[[EngineOptions], Unavailable | None]
    """What keeps it from running here; loads the libraries that it needs."""
    open: Callable[[SessionSpec, int], Session]
    """Opens an artefact on one device for batches of up to a size."""

    def open_on_devices(self, spec: SessionSpec, largest: int) -> Session:
        """Open an artefact for batches of up to a size, on each device that is named."""
        first, *others = spec.options.of_each_device
        if not others:
            return self.open(replace(spec, options=first), largest)
        # While a CUDA graph is captured no other thread of the process may allocate.
        each = [replace(one, cuda_graphs=False) for one in (first, *others)]
        opening = [partial(self.open, replace(spec, options=one), largest) for one in each]
        return DeviceSessions(open_together(opening), self.in_flight)

    @property
    def is_gpu(self) -> bool:
        """Whether it runs on a GPU, and not on the CPU."""
        return self.name in GPU_PROVIDERS
