"""One encoder block: attention, then the MLP, each after a norm and beside a residual."""

import numpy as np
from onnxscript import OpBuilder, ir, nn

from vit_export.families.model_config import BOUNDED_BELOW, ModelConfig
from vit_export.graph.layers import Activation, LayerNorm
from vit_export.graph.matmul import MatMul
from vit_export.graph.positions import Rotation, distance_bias
from vit_export.graph.weights import Weights

ATTENTION_OPSET = 23
"""The first with the standard Attention operator."""


class SelfAttention(nn.Module):
    """Multi-head self-attention with one product for query, key and value.

    With fewer `num_output_tokens` than there are tokens, only the leading ones ask: (N, T, D) ->
    (N, num_output_tokens, D).
    """

    def __init__(
        self, weights: Weights, model_config: ModelConfig, block: int, *, num_output_tokens: int
    ) -> None:
        super().__init__()
        q, k, v, inner, out = (f"blocks.{block}.{n}" for n in ("q", "k", "v", "inner_norm", "out"))
        norm = f"blocks.{block}.norm1"
        self.heads, self.num_output_tokens, self.all_ask = (
            model_config.heads,
            num_output_tokens,
            num_output_tokens == model_config.tokens,
        )
        if self.all_ask:
            self.qkv = weights.linear(
                MatMul("qkv", block, (q, k, v), tokens=model_config.tokens, input_layer=norm)
            )
        else:
            self.query = weights.linear(
                MatMul("q", block, (q,), tokens=num_output_tokens, input_layer=norm)
            )
            self.key_value = weights.linear(
                MatMul("kv", block, (k, v), tokens=model_config.tokens, input_layer=norm)
            )
        self.causal = {"is_causal": 1} if model_config.causal else {}
        self.channels, self.scale = model_config.hidden_size // model_config.heads, None
        if weights.opset < ATTENTION_OPSET:
            self.scale = weights.parameter(np.array(self.channels**-0.5))
        self.query_rotation = self.key_rotation = None
        if model_config.rotary:
            self.key_rotation = Rotation(
                weights, model_config, model_config.rotary, tokens=model_config.tokens
            )
            # A token of the prefix turns by nothing.
            self.query_rotation = self.key_rotation if self.all_ask else None
        self.bias = None
        if model_config.relative:
            self.bias = weights.parameter(
                distance_bias(weights, model_config, block)[:, :, :num_output_tokens]
            )
        self.norm = (
            LayerNorm(weights, inner, model_config.layer_norm_eps)
            if model_config.inner_norm
            else None
        )
        # A channel of attention's output is a mean of that channel of the values.
        input_layer = inner if model_config.inner_norm else v
        self.project = weights.linear(
            MatMul("out", block, (out,), tokens=num_output_tokens, input_layer=input_layer)
        )

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        if self.all_ask:
            query, key, value = op.Split(self.qkv(op, x), axis=-1, num_outputs=3, _outputs=3)
        else:
            query = self.query(op, leading(op, x, self.num_output_tokens))
            key, value = op.Split(self.key_value(op, x), axis=-1, num_outputs=2, _outputs=2)
        if self.key_rotation:
            key = self.key_rotation(op, key)
        if self.query_rotation:
            query = self.query_rotation(op, query)
        if self.scale:
            y = self.spelled_out(op, query, key, value)
        else:
            inputs = [query, key, value, *([self.bias] if self.bias else [])]
            heads = {"q_num_heads": self.heads, "kv_num_heads": self.heads}
            y = op.Attention(*inputs, **heads, **self.causal)
        return self.project(op, self.norm(op, y) if self.norm else y)

    def spelled_out(
        self, op: OpBuilder, query: ir.Value, key: ir.Value, value: ir.Value
    ) -> ir.Value:
        """Return what `Attention` gives where no token is hidden from another."""
        query, key, value = (
            op.Transpose(op.Reshape(x, [0, 0, self.heads, self.channels]), perm=perm)
            for x, perm in ((query, [0, 2, 1, 3]), (key, [0, 2, 3, 1]), (value, [0, 2, 1, 3]))
        )
        scores = op.MatMul(op.Mul(query, self.scale), key)
        if self.bias:
            scores = op.Add(scores, self.bias)
        y = op.Transpose(op.MatMul(op.Softmax(scores, axis=-1), value), perm=[0, 2, 1, 3])
        return op.Reshape(y, [0, 0, self.heads * self.channels])


class MLP(nn.Module):
    """Expand, activate, contract; x is (N, `tokens`, D). With `pooled`, their mean: (N, 1, D)."""

    def __init__(
        self, weights: Weights, model_config: ModelConfig, block: int, *, tokens: int, pooled: bool
    ) -> None:
        super().__init__()
        fc1, gate, inner, fc2, norm = (
            f"blocks.{block}.{n}" for n in ("fc1", "gate", "mlp_norm", "fc2", "norm2")
        )
        self.gated, self.pooled = model_config.gated, pooled
        layers = (fc1, gate) if model_config.gated else (fc1,)
        self.fc1 = weights.linear(MatMul("fc1", block, layers, tokens=tokens, input_layer=norm))
        self.activation = Activation(weights, model_config.hidden_act)
        self.norm = (
            LayerNorm(weights, inner, model_config.layer_norm_eps)
            if model_config.mlp_norm
            else None
        )
        input_layer = inner if model_config.mlp_norm else fc1 if model_config.gated else None
        after_gelu = (
            not model_config.mlp_norm
            and not model_config.gated
            and model_config.hidden_act in BOUNDED_BELOW
        )
        self.fc2 = weights.linear(
            MatMul(
                "fc2",
                block,
                (fc2,),
                tokens=1 if pooled else tokens,
                input_layer=input_layer,
                after_gelu=after_gelu,
            )
        )

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        y = self.fc1(op, x)
        if self.gated:
            y, gate = op.Split(y, axis=-1, num_outputs=2, _outputs=2)
            y = op.Mul(self.activation(op, gate), y)
        else:
            y = self.activation(op, y)
        if self.norm:
            y = self.norm(op, y)
        if self.pooled:
            y = op.ReduceMean(y, [1])
        return self.fc2(op, y)


class Block(nn.Module):
    """One pre-norm block: (N, T, D) -> (N, T, D).

    The last one computes only what the head reads: the leading tokens that it keeps, or where the
    head reads the mean of the patches, that mean: (N, kept, D) or (N, 1, D).
    """

    def __init__(self, weights: Weights, model_config: ModelConfig, index: int) -> None:
        super().__init__()
        last = index == model_config.layers - 1
        self.tokens, self.num_prefix_tokens = model_config.tokens, model_config.num_prefix_tokens
        self.num_output_tokens = model_config.num_output_tokens if last else model_config.tokens
        self.pooled = last and model_config.pools_before_fc2
        self.norm1 = LayerNorm(weights, f"blocks.{index}.norm1", model_config.layer_norm_eps)
        self.attention = SelfAttention(
            weights, model_config, index, num_output_tokens=self.num_output_tokens
        )
        self.norm2 = LayerNorm(weights, f"blocks.{index}.norm2", model_config.layer_norm_eps)
        patches = self.num_output_tokens - self.num_prefix_tokens
        self.mlp = MLP(
            weights,
            model_config,
            index,
            tokens=patches if self.pooled else self.num_output_tokens,
            pooled=self.pooled,
        )

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        residual = (
            x if self.num_output_tokens == self.tokens else leading(op, x, self.num_output_tokens)
        )
        x = op.Add(residual, self.attention(op, self.norm1(op, x)))
        if not self.pooled:
            return op.Add(x, self.mlp(op, self.norm2(op, x)))
        if self.num_prefix_tokens:
            x = op.Slice(x, [self.num_prefix_tokens], [self.tokens], [1])
        return op.Add(op.ReduceMean(x, [1]), self.mlp(op, self.norm2(op, x)))


def leading(op: OpBuilder, x: ir.Value, tokens: int) -> ir.Value:
    """Return the first tokens: (N, T, D) -> (N, tokens, D)."""
    return op.Slice(x, [0], [tokens], [1])
