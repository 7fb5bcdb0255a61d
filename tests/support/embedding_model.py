"""A model that gives vectors: pixels times a random matrix, small enough to make in a moment."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vit_engine.artefact.contract import Contract, EmbeddingOutput, Identity, Input, Preprocessing
from vit_export.artefact import write_metadata

SIDE, SIZE = 16, 24
SPACE = "5" * 64


def write_embedding_model(
    path: Path,
    *,
    seed: int = 0,
    noise: float = 0.0,
    scale: float = 1.0,
    normalized: bool = True,
    space: str = SPACE,
    size: int = SIZE,
) -> Contract:
    """Write an artefact; `noise` is a share of its weights' spread, `scale` their last factor."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(SIDE * SIDE * 3, size)).astype(np.float32) / 100
    weights += noise / 100 * np.random.default_rng(99).normal(size=weights.shape)
    constants = {
        "flat": np.array([0, -1], np.int64),
        "half": np.array(127.5, np.float32),
        "weights": (scale * weights).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["float", "half"], ["centred"]),
        helper.make_node("Reshape", ["centred", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weights"], ["vectors" if normalized else "embedding"]),
    ]
    if normalized:
        nodes.append(helper.make_node("LpNormalization", ["vectors"], ["embedding"], axis=1, p=2))
    graph = helper.make_graph(
        nodes,
        "embedding",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", size])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path)
    contract = Contract(
        identity=Identity("tiny/embedder", None, "0" * 64, "fp32", "the tests"),
        input=Input("pixels", "uint8", "NHWC", SIDE, SIDE),
        preprocessing=Preprocessing(
            (SIDE, SIDE), "squash", "bilinear", None, "centre", (0, 0, 0), (0.5,) * 3, (0.5,) * 3
        ),
        output=EmbeddingOutput("embedding", size, "cls", normalized, space),
        parity=None,
    )
    return write_metadata(path, contract, path.stat().st_size)
