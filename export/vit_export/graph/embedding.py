"""An image as tokens."""

import numpy as np
from onnxscript import OpBuilder, ir, nn

from vit_engine.artefact.contract import Preprocessing
from vit_export.families.form import Form
from vit_export.graph.choices import Io
from vit_export.graph.weights import Weights


class PatchEmbedding(nn.Module):
    """Image -> (N, tokens, D): one product for the patches, a constant row for CLS.

    uint8 input (N, H, W, 3): u = (pixel - 128) / 128 is exact in float16; the rest of
    (pixel / 255 - mean) / std goes into weight and bias. Normalised input (N, 3, H, W): as it is.
    """

    def __init__(self, weights: Weights, form: Form, preprocessing: Preprocessing, io: Io) -> None:
        super().__init__()
        self.patch, self.grid = form.patch_size, form.grid
        self.dtype = ir.DataType.from_numpy(weights.dtype)
        self.io = io
        kernel, bias = weights["patch.weight"], weights["patch.bias"]  # (D, 3, P, P), (D,)
        if io == "uint8":
            mean, std = np.array(preprocessing.mean), np.array(preprocessing.std)
            bias = bias + np.einsum("dcpq,c->d", kernel, (128 / 255 - mean) / std)
            kernel = (kernel * (128 / 255 / std)[:, None, None]).transpose(0, 2, 3, 1)
            self.center = weights.parameter(np.array(128.0))
            self.unit = weights.parameter(np.array(1 / 128))
        self.weight = weights.parameter(kernel.reshape(len(kernel), -1).T)
        rows = weights["positions"]  # (tokens, D), CLS first
        rows[1:] += bias
        rows[:1] += weights["cls"]
        self.position = weights.parameter(rows[None])

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
