"""The layers that the blocks are made of, in float."""

from typing import cast

import numpy as np
from onnxscript import OpBuilder, ir, nn

from vit_export.families.model_config import HiddenAct
from vit_export.graph.matmul import MatMul
from vit_export.graph.weights import Weights, bias_of, matrix_of

QUICK_GELU_SLOPE = 1.702
"""x * sigmoid(1.702 x) is near GELU (Hendrycks and Gimpel, arXiv:1606.08415)."""


OPERATORS = {
    "relu": "Relu",
    "mish": "Mish",
    "leaky_relu": "LeakyRelu",
    "linear": "Identity",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
}
"""The non-linearities that are one operator of ONNX, as it is by default."""


class Linear(nn.Module):
    """x (N, T, K) @ W + b in the artefact's float precision."""

    def __init__(self, weights: Weights, matmul: MatMul) -> None:
        super().__init__()
        self.weight = weights.parameter(matrix_of(matmul, weights.tensors))
        bias = bias_of(matmul, weights.tensors)
        self.bias = None if bias is None else weights.parameter(bias)

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        y = op.MatMul(x, self.weight)
        return y if self.bias is None else op.Add(y, self.bias)


class LabelVectors(nn.Module):
    """Vectors (N, D) beside those of zero-shot labels, as logits (N, labels), always in float32."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.weight = weights.parameter(weights["labels.weight"].T, np.float32)
        self.bias = weights.parameter(weights["labels.bias"], np.float32)

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        return op.Add(op.MatMul(x, self.weight), self.bias)


class LayerNorm(nn.Module):
    """One LayerNormalization node, so that every provider keeps its float32 statistics."""

    def __init__(self, weights: Weights, layer: str, epsilon: float) -> None:
        super().__init__()
        self.weight = weights.parameter(weights[f"{layer}.weight"])
        self.bias = weights.parameter(weights[f"{layer}.bias"])
        self.epsilon = epsilon

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        return op.LayerNormalization(x, self.weight, self.bias, axis=-1, epsilon=self.epsilon)


class Activation(nn.Module):
    """The MLP's non-linearity (see `HiddenAct`)."""

    def __init__(self, weights: Weights, name: HiddenAct) -> None:
        super().__init__()
        self.kind = name
        if name == "quick_gelu":
            self.slope = weights.parameter(np.array(QUICK_GELU_SLOPE))

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        if self.kind == "quick_gelu":
            return op.Mul(x, op.Sigmoid(op.Mul(x, self.slope)))
        if self.kind == "silu":
            return op.Mul(x, op.Sigmoid(x))
        if operator := OPERATORS.get(self.kind):
            return cast("ir.Value", getattr(op, operator)(x))
        return op.Gelu(x, approximate="tanh" if self.kind == "gelu_new" else "none")
