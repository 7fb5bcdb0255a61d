"""What any of these ViTs is, as data; the names and shapes of its tensors follow from it.

Canonical names, by which all that comes after a checkpoint's load knows its tensors:

    cls, positions                            prefix token and position table
    patch, norm, head                         .weight and .bias of the layers around the blocks
    blocks.I.norm1  .q .k .v .out             attention's half of block I, counted from 0
    blocks.I.norm2  .fc1 .fc2                 and the MLP's

A weight is stored as PyTorch stores it: rows are output channels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from vit_engine.errors import CheckpointError

HiddenAct = Literal["gelu", "gelu_new", "quick_gelu"]
"""The MLP's non-linearity, in transformers' words: exact, by tanh, and by sigmoid."""

Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Form:
    """The resolved numbers of a ViT. Images and patches are square, their sizes in pixels.

    CheckpointError where patches do not fill the image, or heads the hidden size.
    """

    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    image_size: int
    patch_size: int
    hidden_act: HiddenAct
    layer_norm_eps: float
    qkv_bias: bool

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise CheckpointError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        if self.hidden_size % self.heads:
            raise CheckpointError(
                f"hidden_size {self.hidden_size} is not a multiple of its {self.heads} heads"
            )

    @property
    def grid(self) -> int:
        """Patches along a side of the image."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Tokens of an image: CLS, then the patches row by row."""
        return 1 + self.grid**2

    def shapes(self, labels: int) -> Shapes:
        """Yield the canonical name and shape of every tensor of a classifier of `labels` labels."""
        hidden, inner = self.hidden_size, self.intermediate_size
        yield "cls", (1, hidden)
        yield "positions", (self.tokens, hidden)
        yield "patch.weight", (hidden, 3, self.patch_size, self.patch_size)
        yield "patch.bias", (hidden,)
        for i in range(self.layers):
            block = f"blocks.{i}"
            yield from _norm(f"{block}.norm1", hidden)
            for part in ("q", "k", "v"):
                yield from _linear(f"{block}.{part}", hidden, hidden, bias=self.qkv_bias)
            yield from _linear(f"{block}.out", hidden, hidden)
            yield from _norm(f"{block}.norm2", hidden)
            yield from _linear(f"{block}.fc1", inner, hidden)
            yield from _linear(f"{block}.fc2", hidden, inner)
        yield from _norm("norm", hidden)
        yield from _linear("head", labels, hidden)


def _linear(layer: str, rows: int, columns: int, *, bias: bool = True) -> Shapes:
    yield f"{layer}.weight", (rows, columns)
    if bias:
        yield f"{layer}.bias", (rows,)


def _norm(layer: str, channels: int) -> Shapes:
    yield f"{layer}.weight", (channels,)
    yield f"{layer}.bias", (channels,)
