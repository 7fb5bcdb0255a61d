"""What a front and an engine's process say to each other; pixels and results stay in memory.

A front connects and says where its slots are, with the descriptor of their memory. It is answered
once the engine is warm. From then on it sends slots, and is sent those that are done.
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact.contract import Contract
from vit_engine.outputs.kinds import output_from_contract

HELLO = struct.Struct("<QII")
"""Of a front: where its slots begin in the memory, how many there are, of how many bytes."""

LENGTH = struct.Struct("<I")
"""Before the answer to that, a pickled EngineInfo: its bytes."""

DONE = struct.Struct("<IIdI")
"""Slots that are done: how many follow; the images of their batch, in one front's message of each
batch and 0 in the others'; its seconds; bytes of UTF-8 that say why it failed, after the slots."""

SLOT = np.dtype("<u4")
"""A slot that is to run: twice its number, one more where it holds a tensor of the graph's type."""

_ALIGNMENT = 64


@dataclass(frozen=True)
class EngineInfo:
    """An open engine; `seconds` is what its largest batch takes, `load_seconds` what it took
    until every batch had run, `fault` why it cannot run one."""

    contract: Contract
    provider: str
    max_batch: int
    in_flight: int
    seconds: float = 0.0
    load_seconds: float = 0.0
    fault: str | None = None

    @property
    def window(self) -> int:
        """How many images it is handed at once: a batch more than it runs."""
        return self.max_batch * (1 + self.in_flight)

    @property
    def slot_bytes(self) -> int:
        """How much memory an image needs: for its pixels, a tensor, or its output."""
        input_spec = self.contract.input
        pixels = input_spec.height * input_spec.width * 3
        tensor = int(np.prod(input_spec.image_shape)) * np.dtype(input_spec.dtype).itemsize
        result = 4 * int(np.prod(output_from_contract(self.contract.output).shape))
        return -(-max(pixels, tensor, result) // _ALIGNMENT) * _ALIGNMENT


@dataclass(frozen=True)
class OpenEngine:
    """Where a model's engines can be reached, by device ("cuda:0", "cpu"), and what each is."""

    addresses: Mapping[str, str]
    info: EngineInfo

    @property
    def window(self) -> int:
        """How many images they are handed at once: a batch more each than it runs."""
        return len(self.addresses) * self.info.window


class SlotViews:
    """What slots hold, over the same bytes: `pixels` (slots, H, W, 3) uint8, `tensors` as the graph
    takes them, `results` (slots, ...) float32."""

    def __init__(
        self, memory: memoryview | mmap.mmap, slots: int, slot_bytes: int, contract: Contract
    ) -> None:
        def view(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
            one = np.empty(shape, dtype)
            return np.ndarray((slots, *shape), dtype, memory, strides=(slot_bytes, *one.strides))

        input_spec = contract.input
        shape = output_from_contract(contract.output).shape
        self.pixels = view((input_spec.height, input_spec.width, 3), np.dtype(np.uint8))
        self.tensors = view(input_spec.image_shape, np.dtype(input_spec.dtype))
        self.results = view(shape, np.dtype(np.float32))
