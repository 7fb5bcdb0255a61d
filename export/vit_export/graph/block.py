"""One encoder block: attention, then the MLP, each after a norm and beside a residual."""

from onnxscript import OpBuilder, ir, nn

from vit_export.families.form import Form
from vit_export.graph.layers import Activation, LayerNorm
from vit_export.graph.product import Product
from vit_export.graph.weights import Weights


class SelfAttention(nn.Module):
    """Multi-head self-attention with one product for query, key and value.

    With `cls_only` the query is the CLS token's alone: (N, T, D) -> (N, 1, D).
    """

    def __init__(self, weights: Weights, form: Form, block: int, *, cls_only: bool) -> None:
        super().__init__()
        q, k, v, out, norm = (f"blocks.{block}.{n}" for n in ("q", "k", "v", "out", "norm1"))
        self.heads, self.cls_only = form.heads, cls_only
        if cls_only:
            self.query = weights.linear(Product("q", block, (q,), tokens=1, reads=norm))
            self.key_value = weights.linear(
                Product("kv", block, (k, v), tokens=form.tokens, reads=norm)
            )
        else:
            self.qkv = weights.linear(
                Product("qkv", block, (q, k, v), tokens=form.tokens, reads=norm)
            )
        # A channel of attention's output is a mean of that channel of the values.
        self.project = weights.linear(
            Product("out", block, (out,), tokens=1 if cls_only else form.tokens, reads=v)
        )

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        if self.cls_only:
            query = self.query(op, cls_token(op, x))
            key, value = op.Split(self.key_value(op, x), axis=-1, num_outputs=2, _outputs=2)
        else:
            query, key, value = op.Split(self.qkv(op, x), axis=-1, num_outputs=3, _outputs=3)
        y = op.Attention(query, key, value, q_num_heads=self.heads, kv_num_heads=self.heads)
        return self.project(op, y)


class MLP(nn.Module):
    """Expand, activate, contract; x is (N, `tokens`, D)."""

    def __init__(self, weights: Weights, form: Form, block: int, *, tokens: int) -> None:
        super().__init__()
        fc1, fc2, norm = (f"blocks.{block}.{n}" for n in ("fc1", "fc2", "norm2"))
        self.fc1 = weights.linear(Product("fc1", block, (fc1,), tokens=tokens, reads=norm))
        self.activation = Activation(weights, form.hidden_act)
        self.fc2 = weights.linear(
            Product("fc2", block, (fc2,), tokens=tokens, reads=None, after_gelu=True)
        )

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        return self.fc2(op, self.activation(op, self.fc1(op, x)))


class Block(nn.Module):
    """One pre-norm block; `cls_only` keeps the CLS token alone: (N, T, D) -> (N, 1, D)."""

    def __init__(self, weights: Weights, form: Form, index: int, *, cls_only: bool) -> None:
        super().__init__()
        self.cls_only = cls_only
        self.norm1 = LayerNorm(weights, f"blocks.{index}.norm1", form.layer_norm_eps)
        self.attention = SelfAttention(weights, form, index, cls_only=cls_only)
        self.norm2 = LayerNorm(weights, f"blocks.{index}.norm2", form.layer_norm_eps)
        self.mlp = MLP(weights, form, index, tokens=1 if cls_only else form.tokens)

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        residual = cls_token(op, x) if self.cls_only else x
        x = op.Add(residual, self.attention(op, self.norm1(op, x)))
        return op.Add(x, self.mlp(op, self.norm2(op, x)))


def cls_token(op: OpBuilder, x: ir.Value) -> ir.Value:
    """Return the first token: (N, T, D) -> (N, 1, D)."""
    return op.Slice(x, [0], [1], [1])
