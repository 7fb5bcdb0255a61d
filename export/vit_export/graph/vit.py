"""A ViT classifier written as ONNX modules: checkpoint in, ONNX model out.

The modules read as a PyTorch ViT; each `forward` emits nodes. All numerics of the artefact live
here: weights are widened to float64, folded, and rounded once to the artefact's precision.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxscript import GraphBuilder, OpBuilder, ir, nn

from vit_engine.artefact.contract import Preprocessing
from vit_export.checkpoints.checkpoint import Architecture, Checkpoint

OPSET = 23  # the first with the standard Attention operator
IR_VERSION = 11  # the one that goes with opset 23
PRECISIONS: dict[str, np.dtype[Any]] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "int8": np.dtype(np.float32),
}
"""What the weights are rounded to; in an int8 artefact, those that stay in float."""
INPUTS = {"uint8": "pixels", "hf": "pixel_values"}
"""The two input conventions and the input's name in each; the output is `logits` in both."""

Array = NDArray[np.float64]


class Weights:
    """The checkpoint's tensors by name, widened to float64, narrowed once on the way in."""

    def __init__(
        self,
        tensors: Mapping[str, NDArray[np.generic]],
        dtype: np.dtype[Any],
        linear: "LinearFactory",
    ) -> None:
        self.tensors, self.dtype, self._linear = tensors, dtype, linear

    def __getitem__(self, name: str) -> Array:
        return self.tensors[name].astype(np.float64)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def parameter(self, array: Array) -> nn.Parameter:
        """Return the array as a graph weight in the artefact's precision."""
        narrow = np.ascontiguousarray(array.astype(self.dtype))
        return nn.Parameter(narrow.shape, data=ir.tensor(narrow))

    def linear(self, *layers: str) -> nn.Module:
        """Return one product for the layers, in the form that the artefact gives them."""
        return self._linear(self, *layers)


LinearFactory = Callable[..., nn.Module]
"""(weights, *layers) -> a module from x (N, T, K) to x @ W + b."""


class Linear(nn.Module):
    """x @ W + b; several checkpoint layers that read the same x become one product."""

    def __init__(self, weights: Weights, *layers: str) -> None:
        super().__init__()
        matrices = [weights[f"{layer}.weight"].T for layer in layers]
        self.weight = weights.parameter(np.concatenate(matrices, axis=1))
        self.bias = None
        if f"{layers[0]}.bias" in weights:
            biases = [weights[f"{layer}.bias"] for layer in layers]
            self.bias = weights.parameter(np.concatenate(biases))

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        y = op.MatMul(x, self.weight)
        return y if self.bias is None else op.Add(y, self.bias)


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
    """The MLP's non-linearity; names as in transformers' `ACT2FN`."""

    def __init__(self, weights: Weights, name: str) -> None:
        super().__init__()
        self.kind = name
        if name == "quick_gelu":
            self.slope = weights.parameter(np.array(1.702))

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        if self.kind == "quick_gelu":
            return op.Mul(x, op.Sigmoid(op.Mul(x, self.slope)))
        return op.Gelu(x, approximate="tanh" if self.kind == "gelu_new" else "none")


class PatchEmbedding(nn.Module):
    """Image -> (N, 1 + patches, D): one product for the patches, a constant row for CLS.

    uint8 input (N, H, W, 3): u = (pixel - 128) / 128 is exact in float16; the rest of
    (pixel / 255 - mean) / std goes into weight and bias. Normalised input (N, 3, H, W): as it is.
    """

    def __init__(
        self,
        weights: Weights,
        architecture: Architecture,
        preprocessing: Preprocessing,
        io: str,
    ) -> None:
        super().__init__()
        self.patch = architecture.patch_size
        self.grid = architecture.image_size // architecture.patch_size
        self.dtype = ir.DataType.from_numpy(weights.dtype)
        self.io = io
        kernel = weights["vit.embeddings.patch_embeddings.projection.weight"]  # (D, 3, P, P)
        bias = weights["vit.embeddings.patch_embeddings.projection.bias"]
        if io == "uint8":
            mean, std = np.array(preprocessing.mean), np.array(preprocessing.std)
            bias = bias + np.einsum("dcpq,c->d", kernel, (128 / 255 - mean) / std)
            kernel = (kernel * (128 / 255 / std)[:, None, None]).transpose(0, 2, 3, 1)
            self.center = weights.parameter(np.array(128.0))
            self.unit = weights.parameter(np.array(1 / 128))
        self.weight = weights.parameter(kernel.reshape(len(kernel), -1).T)
        rows = weights["vit.embeddings.position_embeddings"].copy()  # (1, 1 + patches, D)
        rows[:, 1:] += bias
        rows[:, :1] += weights["vit.embeddings.cls_token"]
        self.position = weights.parameter(rows)

    def forward(self, op: OpBuilder, image: ir.Value) -> ir.Value:
        p, g = self.patch, self.grid
        x = op.Cast(image, to=self.dtype)
        if self.io == "uint8":
            x = op.Mul(op.Sub(x, self.center), self.unit)
            x = op.Transpose(op.Reshape(x, [0, g, p, g, 3 * p]), perm=[0, 1, 3, 2, 4])
        else:
            x = op.Transpose(op.Reshape(x, [0, 3, g, p, g, p]), perm=[0, 2, 4, 1, 3, 5])
        x = op.MatMul(op.Reshape(x, [0, g * g, 3 * p * p]), self.weight)
        # A row of zeros takes CLS's place: unlike Expand it needs no Shape, which would run on the
        # host and keep the graph out of a CUDA graph.
        return op.Add(op.Pad(x, [0, 1, 0, 0, 0, 0]), self.position)


class SelfAttention(nn.Module):
    """Multi-head attention with one product for query, key and value.

    With `cls_only` the query is the CLS token's alone: (N, T, D) -> (N, 1, D).
    """

    def __init__(
        self, weights: Weights, layer: str, architecture: Architecture, cls_only: bool
    ) -> None:
        super().__init__()
        query, key, value = (f"{layer}.attention.attention.{n}" for n in ("query", "key", "value"))
        self.heads, self.cls_only = architecture.heads, cls_only
        if cls_only:
            self.query = weights.linear(query)
            self.key_value = weights.linear(key, value)
        else:
            self.qkv = weights.linear(query, key, value)
        self.project = weights.linear(f"{layer}.attention.output.dense")

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        if self.cls_only:
            query = self.query(op, cls_token(op, x))
            key, value = op.Split(self.key_value(op, x), axis=-1, num_outputs=2, _outputs=2)
        else:
            query, key, value = op.Split(self.qkv(op, x), axis=-1, num_outputs=3, _outputs=3)
        y = op.Attention(query, key, value, q_num_heads=self.heads, kv_num_heads=self.heads)
        return self.project(op, y)


class MLP(nn.Module):
    """Expand, activate, contract; on every token of x."""

    def __init__(self, weights: Weights, layer: str, architecture: Architecture) -> None:
        super().__init__()
        self.fc1 = weights.linear(f"{layer}.intermediate.dense")
        self.activation = Activation(weights, architecture.hidden_act)
        self.fc2 = weights.linear(f"{layer}.output.dense")

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        return self.fc2(op, self.activation(op, self.fc1(op, x)))


class Block(nn.Module):
    """One pre-norm encoder block; `cls_only` keeps the CLS token alone: (N, T, D) -> (N, 1, D)."""

    def __init__(
        self, weights: Weights, architecture: Architecture, index: int, cls_only: bool
    ) -> None:
        super().__init__()
        layer, epsilon = f"vit.encoder.layer.{index}", architecture.layer_norm_eps
        self.cls_only = cls_only
        self.norm1 = LayerNorm(weights, f"{layer}.layernorm_before", epsilon)
        self.attention = SelfAttention(weights, layer, architecture, cls_only)
        self.norm2 = LayerNorm(weights, f"{layer}.layernorm_after", epsilon)
        self.mlp = MLP(weights, layer, architecture)

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        residual = cls_token(op, x) if self.cls_only else x
        x = op.Add(residual, self.attention(op, self.norm1(op, x)))
        return op.Add(x, self.mlp(op, self.norm2(op, x)))


class ViT(nn.Module):
    """Image -> logits (N, labels) in float32.

    The classifier reads the CLS token alone, so the last block computes nothing else: exact, and
    6.9 % fewer multiply-adds in ViT-B/16.
    """

    def __init__(self, weights: Weights, checkpoint: Checkpoint, io: str) -> None:
        super().__init__("vit")
        architecture = checkpoint.architecture
        last = architecture.layers - 1
        self.embeddings = PatchEmbedding(weights, architecture, checkpoint.preprocessing, io)
        self.blocks = nn.ModuleList(
            [Block(weights, architecture, i, cls_only=i == last) for i in range(last + 1)]
        )
        self.norm = LayerNorm(weights, "vit.layernorm", architecture.layer_norm_eps)
        self.classifier = weights.linear("classifier")

    def forward(self, op: OpBuilder, image: ir.Value) -> ir.Value:
        x = self.embeddings(op, image)
        for block in self.blocks:
            x = block(op, x)
        logits = self.classifier(op, self.norm(op, op.Squeeze(x, [1])))
        return op.Cast(logits, to=ir.DataType.FLOAT)


def cls_token(op: OpBuilder, x: ir.Value) -> ir.Value:
    """Return the first token: (N, T, D) -> (N, 1, D)."""
    return op.Slice(x, [0], [1], [1])


def model_from_checkpoint(
    checkpoint: Checkpoint, *, precision: str, io: str, linear: LinearFactory = Linear
) -> ir.Model:
    """Return the ONNX model; `precision` is a key of PRECISIONS, `io` one of INPUTS.

    `linear` makes the products: `Linear` in float, `Quantized.linear` in int8.

    Input: uint8 `pixels` [batch, H, W, 3], or for "hf" float32 `pixel_values` [batch, 3, H, W].
    Output: float32 `logits` [batch, labels].
    """
    size = checkpoint.architecture.image_size
    graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name="vit")
    builder = GraphBuilder(graph)
    if io == "uint8":
        image = builder.input(INPUTS[io], ir.DataType.UINT8, ["batch", size, size, 3])
    else:
        image = builder.input(INPUTS[io], ir.DataType.FLOAT, ["batch", 3, size, size])
    weights = Weights(checkpoint.tensors, PRECISIONS[precision], linear)
    logits = ViT(weights, checkpoint, io)(builder.op, image)
    logits.shape = ir.Shape(["batch", len(checkpoint.labels)])
    logits.type = ir.TensorType(ir.DataType.FLOAT)
    builder.add_output(logits, "logits")
    for node in graph:
        graph.opset_imports.setdefault(node.domain, 1)  # int8 has an operator of ONNX Runtime's own
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="vit-engine")
