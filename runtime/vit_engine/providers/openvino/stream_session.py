"""Sessions of a model that OpenVINO has compiled, in several streams.

The streams share one set of weights: each has some of the threads and takes a part of a batch,
which scales where one product on all cores would wait at its barriers. A batch of few images has a
model of one stream, on all threads.
"""

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact.contract import Contract
from vit_engine.errors import VitError
from vit_engine.outputs.kinds import output_from_contract
from vit_engine.providers.provider import SessionClosedError

log = logging.getLogger(__name__)


class _Streams:
    """A compiled model, and a request for each of its streams."""

    def __init__(self, compiled: Any, count: int) -> None:
        self.count = count
        self.free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(count):
            self.free.put(compiled.create_infer_request())


class StreamSession:
    """Batches of up to `largest` images, shared out among the streams of a compiled model.

    Where the images are so few that half of the streams would be idle, the second such batch and
    those after it have a model of one stream, which is `compiled` then and arranges the weights of
    its products for itself: the first may be the rest of a folder, for which that would not pay.
    Thread-safe. OpenVINO compiles for a batch size when it first meets it, and keeps that.
    """

    def __init__(
        self, compiled: Callable[[int], Any], contract: Contract, largest: int, streams: int
    ) -> None:
        self.largest = largest
        self._compiled = compiled
        self._shape = output_from_contract(contract.output).shape
        self._shared = _Streams(compiled(streams), streams)
        self._single = self._shared if streams == 1 else None
        self._few = 0  # batches of few images so far
        self._turn = threading.Lock()
        self._closed = False

    def run(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return new logits (N, labels) of a feed (N, ...) as the contract's input has it."""
        inputs = np.ascontiguousarray(inputs)
        with self._turn:  # or two callers could wait for each other's requests
            if self._closed:
                raise SessionClosedError
            model = self._model_for(len(inputs))
            size = max(1, -(-len(inputs) // model.count))
            starts = range(0, len(inputs), size)
            requests = [model.free.get() for _ in starts]
        try:
            for start, spec in zip(starts, requests, strict=True):
                spec.start_async([inputs[start : start + size]], share_inputs=True)
            logits = np.empty((len(inputs), *self._shape), np.float32)
            for start, spec in zip(starts, requests, strict=True):
                spec.wait()
                logits[start : start + size] = spec.get_output_tensor(0).data
            return logits
        finally:
            for spec in requests:
                spec.wait()  # where one has failed, others may still be at work
                model.free.put(spec)

    def _model_for(self, images: int) -> _Streams:
        if 2 * images > self._shared.count:
            return self._shared
        self._few += 1
        if self._single is None and self._few > 1:
            try:
                self._single = _Streams(self._compiled(1), 1)
            except VitError as e:
                log.warning("%s; batches of few images stay on a part of the threads", e)
                self._single = self._shared
        return self._single or self._shared

    def close(self) -> None:
        """Free the models, after the batches on their way; later ones are refused."""
        with self._turn:
            if not self._closed:
                self._closed = True
                for model in {self._shared, self._single or self._shared}:
                    for _ in range(model.count):
                        model.free.get()
