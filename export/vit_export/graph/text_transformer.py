"""The text tower: tokens in, a vector out."""

from onnxscript import GraphBuilder, OpBuilder, ir, nn

from vit_engine.artefact.contract import Precision
from vit_engine.artefact.text_contract import INPUT, OUTPUT
from vit_export.families.text_config import TextConfig
from vit_export.graph.block import Block
from vit_export.graph.layers import LayerNorm, Linear
from vit_export.graph.matmul import MatMul
from vit_export.graph.model import IR_VERSION, OPSET
from vit_export.graph.weights import DTYPES, Tensors, Weights


class TextTransformer(nn.Module):
    """Token ids (N, T) -> vectors (N, size) of length 1, in float32."""

    def __init__(self, weights: Weights, config: TextConfig) -> None:
        super().__init__("text")
        self.config = config
        self.words = weights.parameter(weights.tensors["words"])
        self.positions = weights.parameter(weights.tensors["positions"][: config.length])
        self.blocks = nn.ModuleList([Block(weights, config, i) for i in range(config.layers)])
        self.norm = LayerNorm(weights, "norm", config.layer_norm_eps)
        self.head = weights.linear(MatMul("head", None, ("head",), tokens=1, input_layer="norm"))

    def forward(self, op: OpBuilder, ids: ir.Value) -> ir.Value:
        tokens = op.Shape(ids, start=1, end=2)
        x = op.Add(op.Gather(self.words, ids), op.Slice(self.positions, [0], tokens, [0]))
        for block in self.blocks:
            x = block(op, x)
        y = self.head(op, self.norm(op, self.pool(op, x, ids)))
        y = op.Cast(y, to=ir.DataType.FLOAT)
        return op.Div(y, op.ReduceL2(y, [-1], keepdims=1))

    def pool(self, op: OpBuilder, x: ir.Value, ids: ir.Value) -> ir.Value:
        """Return the token whose vector is the text's: (N, T, D) -> (N, D)."""
        at = self.config.pooled_at
        if at == "last":
            return op.Squeeze(op.Slice(x, [-1], [2**31 - 1], [1]), [1])
        if at != "highest":
            ids = op.Equal(ids, at)
        place = op.ArgMax(op.Cast(ids, to=ir.DataType.INT32), axis=1, keepdims=1)  # the first one
        return op.GatherND(x, place, batch_dims=1)


def model_from_text_tower(
    tensors: Tensors, config: TextConfig, *, precision: Precision
) -> ir.Model:
    """Return the ONNX model, of the tensors that the config names; see `text_contract.INPUT`."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name="text")
    builder = GraphBuilder(graph)
    ids = builder.input(INPUT, ir.DataType.INT64, ["batch", "tokens"])
    tower = TextTransformer(Weights(tensors, DTYPES[precision], Linear, OPSET), config)
    output = tower(builder.op, ids)
    output.shape = ir.Shape(["batch", len(tensors["head.weight"])])
    output.type = ir.TensorType(ir.DataType.FLOAT)
    builder.add_output(output, OUTPUT)
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="vit-engine")
