"""What the products read: a float pass over the calibration images."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnxscript import OpBuilder, ir, nn

from vit_export.checkpoints.checkpoint import Checkpoint
from vit_export.families.model_config import ModelConfig
from vit_export.graph.layers import Linear
from vit_export.graph.matmul import MatMul
from vit_export.graph.model import model_from_checkpoint
from vit_export.graph.weights import Array, Weights
from vit_export.quantization.model_session import open_model_session

READ_SHARE = 0.3
"""The part in the statistics of the prefix tokens that the head reads: the logits feel the rounding
of a CLS token as much as that of a hundred patches."""

BATCH = 4
"""Images at once in the float pass."""


@dataclass(eq=False)
class Statistics:
    """Of one product's input x over the calibration images, its tokens weighed."""

    total: Array  # (K,) sum of x
    matmuls: NDArray[np.float32]  # (K, K) x' x
    weight: float = 0.0  # of all tokens

    @classmethod
    def empty(cls, channels: int) -> "Statistics":
        """Return the statistics of no tokens."""
        return cls(np.zeros(channels), np.zeros((channels, channels), np.float32))

    def add(self, x: NDArray[np.float32], weights: Array) -> None:
        """Count the tokens of x (images, tokens, K) in, each with its weight (tokens,)."""
        self.total += weights @ x.sum(0, dtype=np.float64)
        rows = (x * np.sqrt(weights)[:, None].astype(np.float32)).reshape(-1, x.shape[-1])
        self.matmuls += rows.T @ rows
        self.weight += len(x) * float(weights.sum())

    def scaled(self, scale: Array) -> "Statistics":
        """Return the statistics of x * scale, for a scale (K,)."""
        matmuls = (self.matmuls * np.outer(scale, scale)).astype(np.float32)
        return Statistics(self.total * scale, matmuls, self.weight)

    def size(self) -> Array:
        """Return each channel's root mean square (K,)."""
        return np.asarray(np.sqrt(self.matmuls.diagonal() / self.weight))

    def mean(self) -> Array:
        """Return each channel's mean (K,)."""
        return np.asarray(self.total / self.weight)


@dataclass(frozen=True, eq=False)
class Activations:
    """All products of a graph, and what those over every patch of an image read."""

    matmuls: tuple[MatMul, ...]
    statistics: Mapping[MatMul, Statistics]


def activations_of(checkpoint: Checkpoint, pixels: NDArray[np.uint8]) -> Activations:
    """Run the float graph on the images (N, H, W, 3) and look at what its products read."""
    tapped: dict[MatMul, _Tapped] = {}

    def tap(weights: Weights, matmul: MatMul) -> nn.Module:
        tapped[matmul] = _Tapped(weights, matmul)
        return tapped[matmul]

    model = model_from_checkpoint(checkpoint, precision="fp32", io="uint8", linear=tap)
    patches = checkpoint.model_config.grid**2
    inputs = {p: m.input for p, m in tapped.items() if p.tokens >= patches}
    weights = token_weights(checkpoint.model_config)
    for value in inputs.values():
        value.type = ir.TensorType(ir.DataType.FLOAT)
        model.graph.outputs.append(value)
    session = open_model_session(model)
    names = [str(value.name) for value in inputs.values()]
    statistics: dict[MatMul, Statistics] = {}
    for start in range(0, len(pixels), BATCH):
        found = session.run(names, {"pixels": pixels[start : start + BATCH]})
        for matmul, x in zip(inputs, found, strict=True):
            statistics.setdefault(matmul, Statistics.empty(x.shape[-1])).add(
                x, weights[-matmul.tokens :]
            )
    return Activations(tuple(tapped), statistics)


def token_weights(model_config: ModelConfig) -> Array:
    """Return how much each token counts (tokens,): a patch 1, what is read before them more."""
    weights = np.ones(model_config.tokens)
    read = [
        i
        for name in model_config.pooled
        if name not in ("patches", "map")
        for i in range(*model_config.span(name))
    ]
    if read:
        others = model_config.tokens - len(read)
        weights[read] = READ_SHARE / (1 - READ_SHARE) * others / len(read)
    return weights


class _Tapped(Linear):
    """A Linear that remembers the value it read."""

    input: ir.Value

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        self.input = x
        return super().forward(op, x)
