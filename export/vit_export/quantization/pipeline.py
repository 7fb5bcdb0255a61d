"""int8 weights for a checkpoint, rounded so that its own activations feel it least.

1. A rotation mixes the channels between the blocks, so that none stands out: exact.
2. A float pass over the calibration images gathers, for the input x of every product over all
   patches, its mean and x' x.
3. SmoothQuant moves what is large in x into the weights: exact.
4. GPTQ rounds the weights so that x @ W changes least.
5. Each product runs in int8 alone; those whose rounding the logits feel most for their arithmetic
   go back to float, as few as suffice.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact.contract import Calibration
from vit_export.checkpoints.checkpoint import Checkpoint
from vit_export.graph.matmul import MatMul
from vit_export.graph.weights import LinearFactory, bias_of, matrix_of
from vit_export.quantization.activations import activations_of
from vit_export.quantization.gptq import int8_from_matrix
from vit_export.quantization.operators import Int8Weights, linear_with_int8
from vit_export.quantization.rotation import rotated
from vit_export.quantization.sensitivity import FloatShare, float_share, sensitivity_of
from vit_export.quantization.smoothquant import smoothed

NAMED = 3
"""Products that a message names as the most sensitive."""


@dataclass(frozen=True, eq=False)
class Quantized:
    """A checkpoint with its scales folded in, and the products that run in int8."""

    checkpoint: Checkpoint
    matmuls: Mapping[MatMul, Int8Weights]
    sensitivity: Mapping[MatMul, float]  # see sensitivity_of; those that stay in float are in it
    in_float: FloatShare
    calibration: Calibration

    @property
    def linear(self) -> LinearFactory:
        """What makes the graph's products."""
        return linear_with_int8(self.matmuls)

    def most_sensitive(self) -> str:
        """Name the int8 products that the logits feel most, for a person to read."""
        matmuls = [str(matmul) for matmul in self.sensitivity if matmul in self.matmuls]
        return "most sensitive to int8: " + ", ".join(matmuls[:NAMED])


def quantize(
    checkpoint: Checkpoint,
    pixels: NDArray[np.uint8],
    progress: Callable[[str], None] = lambda _words: None,
    *,
    views: int = 1,
) -> Quantized:
    """Round the blocks' products to int8 after calibration images (N * views, H, W, 3).

    The views of an image follow it; they help to choose what stays in float, and the images alone
    do all else. `progress` is told of each step, in words.

    Products over what the head reads alone stay in float, as does the patch embedding: they are 1 %
    of the arithmetic. The same pixels give the same bytes on the same machine; another's BLAS may
    round a weight near the middle of two steps to the other side.
    """
    progress("running the calibration images")
    samples, pixels = pixels, pixels[::views]
    model_config, tensors = rotated(checkpoint.model_config, checkpoint.tensors)
    checkpoint = replace(checkpoint, model_config=model_config, tensors=tensors)
    tensors, statistics = smoothed(checkpoint.tensors, activations_of(checkpoint, pixels))
    int8_weights = {}
    for done, (matmul, found) in enumerate(statistics.items()):
        progress(f"rounding {matmul} ({done} of {len(statistics)} products)")
        matrix, bias = matrix_of(matmul, tensors), bias_of(matmul, tensors)
        int8_weights[matmul] = int8_from_matrix(
            matrix, np.zeros(matrix.shape[1]) if bias is None else bias, found
        )
    checkpoint = replace(checkpoint, tensors=tensors)
    sensitivity = sensitivity_of(checkpoint, int8_weights, pixels, progress)
    in_float = float_share(checkpoint, int8_weights, sensitivity, samples, progress)
    return Quantized(
        checkpoint,
        {p: weights for p, weights in int8_weights.items() if p not in in_float.matmuls},
        sensitivity,
        in_float,
        Calibration(len(pixels), hashlib.sha256(pixels.tobytes()).hexdigest()),
    )
