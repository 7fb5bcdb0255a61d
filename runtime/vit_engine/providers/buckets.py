"""A session behind fixed device buffers, one pair for each batch size that it runs.

Fixed addresses and shapes let the CUDA provider replay a captured graph, and TensorRT keep to one
profile. A batch goes into the smallest bucket that holds it; what lies behind it is computed too
and thrown away.
"""

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact.contract import Contract
from vit_engine.outputs.kinds import output_from_contract
from vit_engine.providers.availability import import_onnxruntime
from vit_engine.providers.provider import SessionClosedError

if TYPE_CHECKING:
    import onnxruntime

IN_FLIGHT = 2
"""Batches on the device at once: one computes while the next one's pixels are copied."""


def buckets_up_to(largest: int) -> tuple[int, ...]:
    """Return the batch sizes 1, 2, 4, ... and `largest`."""
    return (*(2**i for i in range((largest - 1).bit_length())), largest)


class BucketSession:
    """Runs batches of up to `largest` images through fixed buffers on a device. Thread-safe.

    `device` is ONNX Runtime's name and index, ("cuda", 0). With `graphs`, the provider captures a
    CUDA graph for each pair of buffers on its first run and replays it from then on. Graphs belong
    to the thread that captured them, so one thread of its own makes every run.
    """

    def __init__(
        self,
        session: "onnxruntime.InferenceSession",
        contract: Contract,
        largest: int,
        *,
        device: tuple[str, int],
        graphs: bool,
    ) -> None:
        self.largest, self.buckets = largest, buckets_up_to(largest)
        self._session: onnxruntime.InferenceSession | None = session
        self._contract, self._device, self._graphs = contract, device, graphs
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="compute")
        self._slots: list[_Slot] = []
        self._gate = threading.Condition()
        self._busy = 0
        # Each bucket's places in flight; None stands for buffers not yet made.
        self._free: dict[int, queue.SimpleQueue[_Slot | None]] = {}
        for bucket in self.buckets:
            self._free[bucket] = queue.SimpleQueue()
            for _ in range(IN_FLIGHT):
                self._free[bucket].put(None)

    def run(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return new logits (N, labels) of a feed (N, ...) as the contract's input has it."""
        with self._gate:
            if self._session is None:
                raise SessionClosedError
            self._busy += 1
        try:
            return self._run(inputs)
        finally:
            with self._gate:
                self._busy -= 1
                self._gate.notify_all()

    def _run(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        bucket = next(size for size in self.buckets if size >= len(inputs))
        slot = self._free[bucket].get()
        try:
            slot = slot or self._slot(bucket)
            slot.fill(inputs)
            self._compute.submit(slot.run).result()
            return slot.logits(len(inputs))
        finally:
            self._free[bucket].put(slot)

    def _slot(self, bucket: int) -> "_Slot":
        with self._gate:
            assert self._session is not None  # run() counted itself in
            graph = len(self._slots) if self._graphs else None
            slot = _Slot(self._session, self._contract, self._device, bucket, graph)
            self._slots.append(slot)
        return slot

    def close(self) -> None:
        """Free buffers and session, after the batches on their way; later ones are refused."""
        with self._gate:
            self._session = None
            self._gate.wait_for(lambda: self._busy == 0)
            for slot in self._slots:
                slot.free()
            self._slots.clear()
            self._free.clear()
        self._compute.shutdown()


class _Slot:
    """The device buffers of one batch on its way, bound to the session for good."""

    def __init__(
        self,
        session: "onnxruntime.InferenceSession",
        contract: Contract,
        device: tuple[str, int],
        bucket: int,
        graph: int | None,
    ) -> None:
        ort = import_onnxruntime()
        input_spec, output = contract.input, contract.output
        shape = (bucket, *input_spec.image_shape)
        allocated = ort.OrtValue.ortvalue_from_shape_and_type
        self.session: Any = session
        self.staging = np.zeros(shape, input_spec.dtype)
        self.input: Any = allocated(list(shape), self.staging.dtype.type, *device)
        rows = [bucket, *output_from_contract(output).shape]
        self.output: Any = allocated(rows, np.float32, *device)
        self.binding: Any = session.io_binding()
        self.binding.bind_ortvalue_input(input_spec.name, self.input)
        self.binding.bind_ortvalue_output(output.name, self.output)
        self.options = None
        if graph is not None:
            self.options = ort.RunOptions()
            self.options.add_run_config_entry("gpu_graph_id", str(graph))

    def fill(self, inputs: NDArray[Any]) -> None:
        """Copy the feed to the device; ONNX Runtime returns when it is there."""
        if len(inputs) < len(self.staging):
            self.staging[: len(inputs)] = inputs
            inputs = self.staging
        self.input.update_inplace(inputs)

    def run(self) -> None:
        """Compute; returns when the logits are in the output buffer."""
        self.session.run_with_iobinding(self.binding, self.options)

    def logits(self, size: int) -> NDArray[np.float32]:
        """Return a copy of the first `size` rows: the buffer is another batch's next."""
        return np.array(self.output.numpy()[:size])

    def free(self) -> None:
        """Let go of everything on the device."""
        self.session = self.binding = self.input = self.output = None
