"""One encoder block: attention, then the MLP, each after a norm and beside a residual."""

from onnxscript import OpBuilder, ir, nn

from vit_export.families.form import Form
from vit_export.graph.layers import Activation, LayerNorm
from vit_export.graph.positions import Rotation, distance_bias
from vit_export.graph.product import Product
from vit_export.graph.weights import Weights


class SelfAttention(nn.Module):
    """Multi-head self-attention with one product for query, key and value.

    With fewer tokens `kept` than there are, only the leading ones ask: (N, T, D) -> (N, kept, D).
    """

    def __init__(self, weights: Weights, form: Form, block: int, *, kept: int) -> None:
        super().__init__()
        q, k, v, inner, out = (f"blocks.{block}.{n}" for n in ("q", "k", "v", "inner_norm", "out"))
        norm = f"blocks.{block}.norm1"
        self.heads, self.kept, self.all_ask = form.heads, kept, kept == form.tokens
        if self.all_ask:
            self.qkv = weights.linear(
                Product("qkv", block, (q, k, v), tokens=form.tokens, reads=norm)
            )
        else:
            self.query = weights.linear(Product("q", block, (q,), tokens=kept, reads=norm))
            self.key_value = weights.linear(
                Product("kv", block, (k, v), tokens=form.tokens, reads=norm)
            )
        self.turned = self.turned_keys = None
        if form.rotary:
            self.turned_keys = Rotation(weights, form, form.rotary, tokens=form.tokens)
            # A token of the prefix turns by nothing.
            self.turned = self.turned_keys if self.all_ask else None
        self.bias = None
        if form.relative:
            self.bias = weights.parameter(distance_bias(weights, form, block)[:, :, :kept])
        self.norm = LayerNorm(weights, inner, form.layer_norm_eps) if form.inner_norm else None
        # A channel of attention's output is a mean of that channel of the values.
        reads = inner if form.inner_norm else v
        self.project = weights.linear(Product("out", block, (out,), tokens=kept, reads=reads))

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        if self.all_ask:
            query, key, value = op.Split(self.qkv(op, x), axis=-1, num_outputs=3, _outputs=3)
        else:
            query = self.query(op, leading(op, x, self.kept))
            key, value = op.Split(self.key_value(op, x), axis=-1, num_outputs=2, _outputs=2)
        if self.turned_keys:
            key = self.turned_keys(op, key)
        if self.turned:
            query = self.turned(op, query)
        inputs = [query, key, value, *([self.bias] if self.bias else [])]
        y = op.Attention(*inputs, q_num_heads=self.heads, kv_num_heads=self.heads)
        return self.project(op, self.norm(op, y) if self.norm else y)


class MLP(nn.Module):
    """Expand, activate, contract; x is (N, `tokens`, D). With `pooled`, their mean: (N, 1, D)."""

    def __init__(
        self, weights: Weights, form: Form, block: int, *, tokens: int, pooled: bool
    ) -> None:
        super().__init__()
        fc1, gate, inner, fc2, norm = (
            f"blocks.{block}.{n}" for n in ("fc1", "gate", "mlp_norm", "fc2", "norm2")
        )
        self.gated, self.pooled = form.gated, pooled
        layers = (fc1, gate) if form.gated else (fc1,)
        self.fc1 = weights.linear(Product("fc1", block, layers, tokens=tokens, reads=norm))
        self.activation = Activation(weights, form.hidden_act)
        self.norm = LayerNorm(weights, inner, form.layer_norm_eps) if form.mlp_norm else None
        reads = inner if form.mlp_norm else fc1 if form.gated else None
        after_gelu = not form.mlp_norm and not form.gated and form.hidden_act != "silu"
        self.fc2 = weights.linear(
            Product(
                "fc2",
                block,
                (fc2,),
                tokens=1 if pooled else tokens,
                reads=reads,
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

    def __init__(self, weights: Weights, form: Form, index: int) -> None:
        super().__init__()
        last = index == form.layers - 1
        self.tokens, self.before = form.tokens, form.before
        self.kept = form.kept if last else form.tokens
        self.pooled = last and form.pools_before_fc2
        self.norm1 = LayerNorm(weights, f"blocks.{index}.norm1", form.layer_norm_eps)
        self.attention = SelfAttention(weights, form, index, kept=self.kept)
        self.norm2 = LayerNorm(weights, f"blocks.{index}.norm2", form.layer_norm_eps)
        patches = self.kept - self.before
        self.mlp = MLP(
            weights, form, index, tokens=patches if self.pooled else self.kept, pooled=self.pooled
        )

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        residual = x if self.kept == self.tokens else leading(op, x, self.kept)
        x = op.Add(residual, self.attention(op, self.norm1(op, x)))
        if not self.pooled:
            return op.Add(x, self.mlp(op, self.norm2(op, x)))
        if self.before:
            x = op.Slice(x, [self.before], [self.tokens], [1])
        return op.Add(op.ReduceMean(x, [1]), self.mlp(op, self.norm2(op, x)))


def leading(op: OpBuilder, x: ir.Value, tokens: int) -> ir.Value:
    """Return the first tokens: (N, T, D) -> (N, tokens, D)."""
    return op.Slice(x, [0], [tokens], [1])
