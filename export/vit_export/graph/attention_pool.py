"""A head that pools tokens by attention (MAP, arXiv:2106.04560): its one query is a constant."""

import numpy as np
from onnxscript import OpBuilder, ir, nn

from vit_export.families.model_config import BOUNDED_BELOW, ModelConfig
from vit_export.graph.layers import Activation, LayerNorm
from vit_export.graph.matmul import MatMul
from vit_export.graph.weights import Weights


class AttentionPool(nn.Module):
    """Tokens (N, T, D) -> (N, D): attention of a learnt query, then an MLP beside a residual.

    With the query known, a token's score in a head is its product with a constant, and the key's
    bias, the same for all tokens, cancels in the softmax. Tokens are averaged before they become
    values: what is computed for each token are `heads` scores, in place of a key and a value.
    """

    def __init__(self, weights: Weights, model_config: ModelConfig) -> None:
        super().__init__()
        heads, self.hidden_size = model_config.heads, model_config.hidden_size
        channels = self.hidden_size // heads
        self.dtype = ir.DataType.from_numpy(weights.dtype)
        query = weights["map.probe"] @ weights["map.q.weight"].T + weights["map.q.bias"]
        key = weights["map.k.weight"].reshape(heads, channels, -1)
        scores = np.einsum("hc,hcd->dh", query.reshape(heads, channels), key)
        self.scores = weights.parameter(scores / channels**0.5)
        value = weights["map.v.weight"].reshape(heads, channels, -1)
        self.value = weights.parameter(value.swapaxes(1, 2))  # (heads, D, channels)
        self.bias = weights.parameter(weights["map.v.bias"])
        self.project = weights.linear(MatMul("out", None, ("map.out",), tokens=1, input_layer=None))
        self.norm = LayerNorm(weights, "map.norm", model_config.layer_norm_eps)
        self.fc1 = weights.linear(MatMul("fc1", None, ("map.fc1",), tokens=1, input_layer=None))
        self.activation = Activation(weights, model_config.hidden_act)
        self.fc2 = weights.linear(
            MatMul(
                "fc2",
                None,
                ("map.fc2",),
                tokens=1,
                input_layer=None,
                after_gelu=model_config.hidden_act in BOUNDED_BELOW,
            )
        )

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        scores = op.Transpose(op.MatMul(x, self.scores), perm=[0, 2, 1])  # (N, heads, T)
        shares = op.Softmax(op.Cast(scores, to=ir.DataType.FLOAT), axis=-1)
        means = op.MatMul(op.Cast(shares, to=self.dtype), x)  # (N, heads, D)
        values = op.MatMul(op.Unsqueeze(means, [2]), self.value)  # (N, heads, 1, channels)
        y = self.project(op, op.Add(op.Reshape(values, [0, self.hidden_size]), self.bias))
        return op.Add(y, self.fc2(op, self.activation(op, self.fc1(op, self.norm(op, y)))))
