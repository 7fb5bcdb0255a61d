"""An image as tokens."""

import numpy as np
from onnxscript import OpBuilder, ir, nn

from vit_engine.artefact.contract import Preprocessing
from vit_export.families.model_config import ModelConfig
from vit_export.graph.choices import Io
from vit_export.graph.layers import LayerNorm
from vit_export.graph.weights import Array, Weights


class PatchEmbedding(nn.Module):
    """Image -> (N, tokens, D): one product for the patches, constant rows for the prefix.

    uint8 input (N, H, W, 3): u = (pixel - 128) / 128 is exact in float16; the rest of
    (pixel / 255 - mean) / std goes into weight and bias. Normalised input (N, 3, H, W): as it is.
    """

    def __init__(
        self, weights: Weights, model_config: ModelConfig, preprocessing: Preprocessing, io: Io
    ) -> None:
        super().__init__()
        self.patch, self.grid, self.num_prefix_tokens = (
            model_config.patch_size,
            model_config.grid,
            model_config.num_prefix_tokens,
        )
        self.all_is_seen = model_config.image_size == model_config.grid * model_config.patch_size
        self.dtype = ir.DataType.from_numpy(weights.dtype)
        self.io = io
        kernel = weights["patch.weight"]  # (D, 3, P, P)
        bias = (
            weights["patch.bias"] if "patch" not in model_config.no_bias else np.zeros(len(kernel))
        )
        if io == "uint8":
            mean, std = np.array(preprocessing.mean), np.array(preprocessing.std)
            bias = bias + np.einsum("dcpq,c->d", kernel, (128 / 255 - mean) / std)
            kernel = (kernel * (128 / 255 / std)[:, None, None]).transpose(0, 2, 3, 1)
            self.center = weights.parameter(np.array(128.0))
            self.unit = weights.parameter(np.array(1 / 128))
        self.weight = weights.parameter(kernel.reshape(len(kernel), -1).T)
        self.position = weights.parameter(_constant_rows(weights, model_config, bias)[None])
        self.norm = (
            LayerNorm(weights, "pre_norm", model_config.layer_norm_eps)
            if model_config.pre_norm
            else None
        )

    def forward(self, op: OpBuilder, image: ir.Value) -> ir.Value:
        p, g = self.patch, self.grid
        if not self.all_is_seen:
            axes = [1, 2] if self.io == "uint8" else [2, 3]
            image = op.Slice(image, [0, 0], [g * p, g * p], axes)
        x = op.Cast(image, to=self.dtype)
        if self.io == "uint8":
            x = op.Mul(op.Sub(x, self.center), self.unit)
            x = op.Transpose(op.Reshape(x, [0, g, p, g, 3 * p]), perm=[0, 1, 3, 2, 4])
        else:
            x = op.Transpose(op.Reshape(x, [0, 3, g, p, g, p]), perm=[0, 2, 4, 1, 3, 5])
        x = op.MatMul(op.Reshape(x, [0, g * g, 3 * p * p]), self.weight)
        if self.num_prefix_tokens:
            # Rows of zeros take the prefix's place: unlike Expand they need no Shape, which would
            # run on the host and keep the graph out of a CUDA graph.
            x = op.Pad(x, [0, self.num_prefix_tokens, 0, 0, 0, 0])
        x = op.Add(x, self.position)
        return self.norm(op, x) if self.norm else x


def _constant_rows(weights: Weights, model_config: ModelConfig, bias: Array) -> Array:
    """Return what is added to each token (tokens, D): itself, its position, the patches' bias."""
    rows = np.zeros((model_config.tokens, model_config.hidden_size))
    rows[model_config.num_prefix_tokens :] = bias
    for name, _ in model_config.prefix:
        rows[slice(*model_config.span(name))] += weights[name]
    if model_config.positions != "none":
        table = weights["positions"]
        patches = model_config.grid**2
        rows[model_config.num_prefix_tokens :] += table[-patches:]
        rows[: len(table) - patches] += table[:-patches]
    return rows
