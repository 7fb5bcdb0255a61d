"""The modules of an int8 artefact's products: weights by output channel, activations by token.

All of it is standard operators: the step of each token stands outside the product, which is
QuantizeLinear and DequantizeLinear by constants around a MatMul. That is the form which engines
replace by their int8 kernels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxscript import OpBuilder, ir, nn

from vit_export.graph.layers import Linear
from vit_export.graph.matmul import MatMul
from vit_export.graph.weights import LinearFactory, Weights, matrix_of

LEVELS = 127
"""Of a weight, and of an activation of either sign: -127 to 127 steps."""

GELU_MIN = 0.1701
"""No GELU goes further below zero: erf and tanh reach -0.1700, the sigmoid form -0.1636."""

GELU_ZERO = 28
"""The uint8 that stands for zero after a GELU. 28 steps reach down to GELU_MIN, so a step is at
least GELU_MIN / 28, that of a token whose largest value is 1.4; the other 227 go to that value."""


@dataclass(frozen=True, eq=False)
class Int8Weights:
    """x @ (matrix * scale) + bias, rounded: matrix int8 (K, M), scale and bias float64 (M,)."""

    matrix: NDArray[np.int8]
    scale: NDArray[np.float64]
    bias: NDArray[np.float64]


class Int8Linear(nn.Module):
    """x (N, T, K) -> x @ W + b, with x in 8 bits by a step of each token's own.

    No token's rounding depends on its neighbours, so neither does an image's label on the rest of
    its batch.
    """

    def __init__(self, weights: Int8Weights, matmul: MatMul) -> None:
        super().__init__()
        self.inputs, self.outputs = weights.matrix.shape
        self.tokens = matmul.tokens
        self.after_gelu = after_gelu = matmul.after_gelu
        self.weight = _parameter(weights.matrix)
        self.scale = _parameter(weights.scale.astype(np.float32))
        self.bias = _parameter(weights.bias.astype(np.float32))
        levels = 255 - GELU_ZERO if after_gelu else LEVELS
        self.step = _parameter(np.float32(1 / levels))
        self.zero = _parameter(np.uint8(GELU_ZERO) if after_gelu else np.int8(0))
        # A token of zeros has a size all the same.
        self.least = _parameter(np.float32(GELU_MIN / GELU_ZERO * levels if after_gelu else 1e-12))

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        """Emit the product."""
        x = op.Reshape(x, [-1, self.inputs])  # ONNX Runtime makes a product of each image else
        largest = op.ReduceMax(x if self.after_gelu else op.Abs(x), [-1], keepdims=1)
        size = op.Max(largest, self.least)
        q = op.QuantizeLinear(op.Div(x, size), self.step, self.zero)
        y = op.MatMul(
            op.DequantizeLinear(q, self.step, self.zero),
            op.DequantizeLinear(self.weight, self.scale, axis=1),
        )
        y = op.Add(op.Mul(y, size), self.bias)
        result: ir.Value = op.Reshape(y, [-1, self.tokens, self.outputs])
        return result


class _HalfStored(Linear):
    """A Linear that keeps half a file's bytes; ONNX Runtime widens the weights when it loads."""

    def __init__(self, weights: Weights, matmul: MatMul) -> None:
        super().__init__(weights, matmul)
        self.weight = _parameter(matrix_of(matmul, weights.tensors).astype(np.float16))

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        """Emit the product."""
        y: ir.Value = op.MatMul(x, op.Cast(self.weight, to=ir.DataType.FLOAT))
        if self.bias is not None:
            y = op.Add(y, self.bias)
        return y


def linear_with_int8(int8_weights: Mapping[MatMul, Int8Weights]) -> LinearFactory:
    """Return what makes an int8 graph's products: those with `int8_weights`, others in float."""

    def linear(weights: Weights, matmul: MatMul) -> nn.Module:
        if matmul in int8_weights:
            return Int8Linear(int8_weights[matmul], matmul)
        return _HalfStored(weights, matmul)

    return linear


def _parameter(array: NDArray[Any] | np.generic) -> nn.Parameter:
    whole = np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array)
    return nn.Parameter(whole.shape, data=ir.tensor(whole))
