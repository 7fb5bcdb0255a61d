"""The whole classifier: a checkpoint in, an ONNX model out."""

from onnxscript import GraphBuilder, OpBuilder, ir, nn

from vit_engine.artefact.contract import Precision, Preprocessing
from vit_engine.outputs.embeddings import Embeddings
from vit_export.checkpoints.checkpoint import Checkpoint
from vit_export.families.model_config import ModelConfig
from vit_export.graph.attention_pool import AttentionPool
from vit_export.graph.block import Block
from vit_export.graph.choices import Io, input_from_io
from vit_export.graph.embedding import PatchEmbedding
from vit_export.graph.layers import LabelVectors, LayerNorm, Linear
from vit_export.graph.matmul import MatMul
from vit_export.graph.weights import DTYPES, LinearFactory, Weights

OPSET = 23  # the first with the standard Attention operator
IR_VERSION = 11  # the one that goes with opset 23
HF_OPSET, HF_IR_VERSION = 21, 10
"""Of `--io hf`, which is for readers of others: those since 2024, such as ONNX Runtime 1.18."""
LOGITS, EMBEDDING = "logits", "embedding"
"""The names of the output."""


class ViT(nn.Module):
    """Image -> logits (N, labels) or a vector (N, size), in float32.

    The last block computes nothing that the head does not read: exact, and in ViT-B/16, whose head
    reads CLS alone, 6.9 % fewer multiply-adds.
    """

    def __init__(
        self, weights: Weights, model_config: ModelConfig, preprocessing: Preprocessing, io: Io
    ) -> None:
        super().__init__("vit")
        self.model_config = model_config
        self.embeddings = PatchEmbedding(weights, model_config, preprocessing, io)
        self.blocks = nn.ModuleList(
            [Block(weights, model_config, i) for i in range(model_config.layers)]
        )
        self.norm = (
            None
            if model_config.norm == "none"
            else LayerNorm(weights, "norm", model_config.layer_norm_eps)
        )
        self.map = AttentionPool(weights, model_config) if "map" in model_config.pooled else None
        input_layer = "norm" if self.norm and len(model_config.pooled) == 1 else None
        self.classifier = None
        if model_config.head != "none":
            self.classifier = weights.linear(
                MatMul("head", None, ("head",), tokens=1, input_layer=input_layer)  # x is (N, D)
            )
        self.labels = LabelVectors(weights) if "labels.weight" in weights.tensors else None

    def forward(self, op: OpBuilder, image: ir.Value) -> ir.Value:
        x = self.embeddings(op, image)
        for block in self.blocks:
            x = block(op, x)
        parts = [self.pool(op, x, name) for name in self.model_config.pooled]
        y = parts[0] if len(parts) == 1 else op.Concat(*parts, axis=-1)
        if self.norm and self.model_config.norm == "pooled":
            y = self.norm(op, y)
        if self.classifier:
            y = self.classifier(op, y)
        y = op.Cast(y, to=ir.DataType.FLOAT)
        if self.model_config.head == "tanh":
            y = op.Tanh(y)
        if self.model_config.normalized:
            y = op.Div(y, op.ReduceL2(y, [-1], keepdims=1))
        return self.labels(op, y) if self.labels else y

    def pool(self, op: OpBuilder, x: ir.Value, name: str) -> ir.Value:
        """Return one part of what the head reads: (N, tokens, D) -> (N, D)."""
        model_config = self.model_config
        norm = self.norm if model_config.norm == "tokens" else None
        start, end = model_config.span("patches" if self.map else name)
        tokens = 1 if model_config.pools_before_fc2 else model_config.num_output_tokens
        if tokens > 1 and (start, end) != (0, tokens):
            x = op.Slice(x, [start], [end], [1])
        if self.map:
            return self.map(op, norm(op, x) if norm else x)
        if tokens == 1 or end - start == 1:
            x = op.Squeeze(x, [1])
            return norm(op, x) if norm else x
        return op.ReduceMean(norm(op, x) if norm else x, [1], keepdims=0)


def model_from_checkpoint(
    checkpoint: Checkpoint, *, precision: Precision, io: Io, linear: LinearFactory = Linear
) -> ir.Model:
    """Return the ONNX model; `linear` makes its products, all in float unless told otherwise.

    Input: uint8 `pixels` [batch, H, W, 3], or for "hf" float32 `pixel_values` [batch, 3, H, W].
    Output: float32 `logits` [batch, labels], or `embedding` [batch, size].
    """
    opset, ir_version = (HF_OPSET, HF_IR_VERSION) if io == "hf" else (OPSET, IR_VERSION)
    graph = ir.Graph([], [], nodes=[], opset_imports={"": opset}, name="vit")
    builder = GraphBuilder(graph)
    given = input_from_io(io, checkpoint.model_config.image_size)
    image = builder.input(
        given.name,
        ir.DataType.UINT8 if given.dtype == "uint8" else ir.DataType.FLOAT,
        ["batch", *given.image_shape],
    )
    weights = Weights(checkpoint.tensors, DTYPES[precision], linear, opset)
    vit = ViT(weights, checkpoint.model_config, checkpoint.preprocessing, io)
    output = vit(builder.op, image)
    output.shape = ir.Shape(["batch", *checkpoint.output.shape])
    output.type = ir.TensorType(ir.DataType.FLOAT)
    is_vector = isinstance(checkpoint.output, Embeddings)
    builder.add_output(output, EMBEDDING if is_vector else LOGITS)
    return ir.Model(graph, ir_version=ir_version, producer_name="vit-engine")
