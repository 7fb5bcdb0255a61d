"""What any of these ViTs is, as data; the names and shapes of its tensors follow from it.

Canonical names, by which all that comes after a checkpoint's load knows its tensors:

    cls, distillation, registers              tokens before the patches
    positions                                 position table
    patch, pre_norm, norm, head               .weight and .bias of the layers around the blocks
    blocks.I.norm1  .q .k .v .inner_norm .out attention's half of block I, counted from 0
    blocks.I.relative                         its bias by the distance of two patches
    blocks.I.norm2  .fc1 .gate .mlp_norm .fc2 and the MLP's
    blocks.I.scale1 .scale2                   LayerScale of the two halves
    map.probe                                 the one query of an attention-pooling head
    map.q .k .v .out .norm .fc1 .fc2          its attention, and the MLP behind that

A weight is stored as PyTorch stores it: rows are output channels.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vit_engine.errors import CheckpointError

HiddenAct = Literal[
    "gelu",
    "gelu_new",
    "quick_gelu",
    "silu",
    "relu",
    "mish",
    "leaky_relu",
    "linear",
    "sigmoid",
    "tanh",
]
"""The MLP's non-linearity, in transformers' words: GELU exact, by tanh and by sigmoid; x *
sigmoid(x); the larger of x and 0; x * tanh(log(1 + exp(x))); those that ONNX calls so; none."""

BOUNDED_BELOW = ("gelu", "gelu_new", "quick_gelu", "relu")
"""Of them those whose output is nowhere far below zero."""

Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Rotary:
    """Rotary position embedding of the patches in two axes (RoPE, EVA-02, arXiv:2303.11331).

    Of a head's d channels, neighbours turn as a pair by an angle that grows with the patch's row,
    in the first d/4 pairs, or with its column, in the others: place / theta^(4 i / d) for
    i = 0 .. d/4 - 1.
    """

    theta: float
    reference_grid: int | None = None
    """Patches along a side that places are counted in, whatever the image's; None: the image's."""
    columns_first: bool = False
    """Whether the first pairs turn with the column, the others with the row."""
    centered: bool = False
    """Whether places are those of the patches' centres, from -1 to 1 over the image, times 2 pi
    (DINOv3, arXiv:2508.10104)."""
    in_halves: bool = False
    """Whether what turns as a pair is half a head apart, as stored, and not neighbours."""

    def angles(self, grid: int, channels: int) -> NDArray[np.float64]:
        """Return the angle of each pair of a head's `channels`: (grid², channels / 2)."""
        bands = 1 / self.theta ** (np.arange(channels // 4) / (channels // 4))
        counted = np.arange(grid) * ((self.reference_grid or grid) / grid)
        centres = 2 * np.pi * ((2 * np.arange(grid) + 1) / grid - 1)
        places = centres if self.centered else counted
        turns = np.outer(places, bands)
        rows = np.broadcast_to(turns[:, None], (grid, grid, len(bands)))
        columns = np.broadcast_to(turns[None], (grid, grid, len(bands)))
        axes = [columns, rows] if self.columns_first else [rows, columns]
        return np.concatenate(axes, axis=-1).reshape(grid * grid, -1)


@dataclass(frozen=True)
class ModelConfig:
    """The resolved numbers and choices of a ViT. Images and patches are square, sizes in pixels.

    What patches leave of the image, on its right and at its bottom, is not looked at.
    CheckpointError where no patch fits into it, or heads do not fill the hidden size.
    """

    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    image_size: int
    patch_size: int
    hidden_act: HiddenAct
    layer_norm_eps: float
    prefix: tuple[tuple[str, int], ...] = (("cls", 1),)
    """The kinds of tokens before the patches, in order, and how many of each."""
    positions: Literal["all", "cls", "patches", "none"] = "all"
    """What the position table has rows for: all tokens; CLS and patches; patches; nothing."""
    table_grid: int = 0
    """Patches along a side in the position tables as stored; 0 where they are the image's."""
    antialias: bool = False
    """Whether position tables change size as images of Pillow do: smoothed before they shrink."""
    denser_near: bool = False
    """Whether tables by distance change size as if their rows lay denser near distance 0."""
    no_bias: tuple[str, ...] = ()
    """Layers without a bias, by the last part of their names."""
    pre_norm: bool = False
    layer_scale: bool = False
    inner_norm: bool = False
    """Whether attention's output has a norm before its projection."""
    mlp_norm: bool = False
    """Whether the MLP's inner channels have a norm before the contraction."""
    gated: bool = False
    """Whether the MLP is fc2(hidden_act(gate(x)) * fc1(x))."""
    relative: bool = False
    """Whether attention has a bias by distance (BEiT, arXiv:2106.08254)."""
    rotary: Rotary | None = None
    causal: bool = False
    """Whether a token attends to itself and to those before it alone."""
    norm: Literal["tokens", "pooled", "none"] = "tokens"
    """What the last norm is of: each token, or what is pooled of them."""
    pooled: tuple[str, ...] = ("cls",)
    """What the head reads, side by side: tokens of the prefix, or the mean of the "patches"; or the
    "map" alone, what a head that pools by attention makes of the patches."""
    heads_averaged: bool = False
    """Whether each part of `pooled` has a head of its own, whose logits are averaged."""
    head: Literal["linear", "tanh", "none"] = "linear"
    """What makes the output of what is pooled: a layer, a layer and tanh, or nothing."""
    projection: int = 0
    """Channels that a vector is projected to; 0 where it is not."""
    normalized: bool = False
    """Whether the output is brought to length 1."""

    def __post_init__(self) -> None:
        if self.image_size < self.patch_size:
            raise CheckpointError(
                f"image_size {self.image_size} is below patch_size {self.patch_size}"
            )
        if self.hidden_size % self.heads:
            raise CheckpointError(
                f"hidden_size {self.hidden_size} is not a multiple of its {self.heads} heads"
            )
        if self.rotary and (channels := self.hidden_size // self.heads) % 4:
            raise CheckpointError(
                f"a head has {channels} channels, expected a multiple of 4 for rotary embedding"
            )

    def at(self, image_size: int) -> "ModelConfig":
        """Return the form for images of another size, with the position tables as they are."""
        if image_size == self.image_size:
            return self
        return replace(self, image_size=image_size, table_grid=self.table_grid or self.grid)

    @property
    def grid(self) -> int:
        """Patches along a side of the image."""
        return self.image_size // self.patch_size

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches."""
        return sum(number for _, number in self.prefix)

    @property
    def tokens(self) -> int:
        """Tokens of an image: the prefix, then the patches row by row."""
        return self.num_prefix_tokens + self.grid**2

    @property
    def num_output_tokens(self) -> int:
        """Leading tokens that the last block must compute: those up to the last that is read."""
        if {"patches", "map"} & set(self.pooled):
            return self.tokens
        ends, end = {}, 0
        for name, number in self.prefix:
            end += number
            ends[name] = end
        return max(ends[name] for name in self.pooled)

    @property
    def vector_size(self) -> int:
        """Numbers of the vector of an image, where there are no logits."""
        return self.projection or self.hidden_size * len(self.pooled)

    @property
    def pools_before_fc2(self) -> bool:
        """Whether the last block's fc2 can follow the mean over the patches: it is linear.

        It can where the head reads nothing else, and no norm of each token stands between.
        """
        return self.pooled == ("patches",) and self.norm != "tokens"

    def span(self, name: str) -> tuple[int, int]:
        """Return the first token of a kind, and the one after its last."""
        start = 0
        for kind, number in (*self.prefix, ("patches", self.grid**2)):
            if kind == name:
                return start, start + number
            start += number
        raise KeyError(name)

    def shapes(self, outputs: int) -> Shapes:
        """Yield the canonical name and shape of every tensor of a model of so many outputs."""
        hidden, inner = self.hidden_size, self.intermediate_size
        grid = self.table_grid or self.grid
        for name, number in self.prefix:
            yield name, (number, hidden)
        if self.positions != "none":
            rows = {"all": self.num_prefix_tokens, "cls": 1, "patches": 0}[self.positions]
            yield "positions", (rows + grid**2, hidden)
        yield "patch.weight", (hidden, 3, self.patch_size, self.patch_size)
        yield from self._bias("patch", hidden)
        if self.pre_norm:
            yield from _norm("pre_norm", hidden)
        for i in range(self.layers):
            block = f"blocks.{i}"
            yield from _norm(f"{block}.norm1", hidden)
            for part in ("q", "k", "v"):
                yield from self._linear(f"{block}.{part}", hidden, hidden)
            if self.relative:
                yield f"{block}.relative", ((2 * grid - 1) ** 2 + 3, self.heads)
            if self.inner_norm:
                yield from _norm(f"{block}.inner_norm", hidden)
            yield from self._linear(f"{block}.out", hidden, hidden)
            yield from _norm(f"{block}.norm2", hidden)
            for part in ("fc1", "gate") if self.gated else ("fc1",):
                yield from self._linear(f"{block}.{part}", inner, hidden)
            if self.mlp_norm:
                yield from _norm(f"{block}.mlp_norm", inner)
            yield from self._linear(f"{block}.fc2", hidden, inner)
            if self.layer_scale:
                yield f"{block}.scale1", (hidden,)
                yield f"{block}.scale2", (hidden,)
        if self.norm != "none":
            yield from _norm("norm", hidden)
        if "map" in self.pooled:
            yield "map.probe", (1, hidden)
            for part in ("q", "k", "v", "out"):
                yield from self._linear(f"map.{part}", hidden, hidden)
            yield from _norm("map.norm", hidden)
            yield from self._linear("map.fc1", inner, hidden)
            yield from self._linear("map.fc2", hidden, inner)
        if self.head == "none":
            return
        if self.heads_averaged:
            for part in self.pooled:
                yield from self._linear(f"head.{part}", outputs, hidden)
        else:
            yield from self._linear("head", outputs, hidden * len(self.pooled))

    def _linear(self, layer: str, rows: int, columns: int) -> Shapes:
        yield f"{layer}.weight", (rows, columns)
        yield from self._bias(layer, rows)

    def _bias(self, layer: str, rows: int) -> Shapes:
        if layer.rpartition(".")[2] not in self.no_bias:
            yield f"{layer}.bias", (rows,)


def _norm(layer: str, channels: int) -> Shapes:
    yield f"{layer}.weight", (channels,)
    yield f"{layer}.bias", (channels,)
