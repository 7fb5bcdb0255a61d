"""One matrix product of the graph, and what there is to know of it besides its numbers."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["qkv", "q", "kv", "out", "fc1", "fc2", "head"]


@dataclass(frozen=True)
class MatMul:
    """x (N, T, K) @ W (K, M) + b, for one or several of the form's layers that read the same x.

    The graph says so where it makes the product; int8, which rounds some products and leaves
    others, decides by this alone.
    """

    role: Role
    block: int | None  # counted from 0; None outside the blocks
    layers: tuple[str, ...]  # canonical; their outputs, side by side, are the product's M channels
    tokens: int  # T of an image
    input_layer: str | None  # the layer whose channels x has: what scales its outputs scales x
    after_gelu: bool = False  # x is a GELU's output: nothing far below zero

    def __str__(self) -> str:
        return self.role if self.block is None else f"block {self.block} {self.role}"
