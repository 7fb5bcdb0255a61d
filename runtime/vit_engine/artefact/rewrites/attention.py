"""Rewrites attention in an artefact as it is loaded, for a provider that wants another pattern.

The artefact stays standard.
"""

import math

import numpy as np

from vit_engine.artefact.nodes import (
    FLOAT,
    FLOAT16,
    GRAPH_INITIALIZER,
    INT64,
    Graph,
    Node,
    node,
    tensor,
    with_graph,
)
from vit_engine.artefact.protobuf import field
from vit_engine.errors import ArtefactError

BEHIND = ("MatMul", "LayerNormalization")
"""What reads attention's output, with its weight second."""

_DTYPES = {FLOAT: np.float32, FLOAT16: np.float16}


def decompose_attention(model: bytes) -> bytes:
    """Return an ONNX file's bytes with products and a softmax for each Attention node.

    ArtefactError if one is not as vit-export writes it.
    """
    return with_graph(model, _rewritten)


def _decomposed(attention: Node, width: int, element: int) -> tuple[list[bytes], list[bytes]]:
    """Return Q scaled, MatMul, a bias if there is one, Softmax, MatMul: what TensorRT 10 fuses.

    Reshapes and Transposes around it take the heads apart, and put them together again. Behind the
    nodes come the initializers that they read. `width` is D of query (N, S, D), key and value
    (N, T, D), `element` ONNX's number of their type; the bias is (1, heads, S, T).
    """
    query, key, value, *bias = attention.inputs
    (name,) = attention.outputs
    count = int(attention.attributes["q_num_heads"])
    heads, scale, joined = f"{name}/heads", f"{name}/scale", f"{name}/joined"
    initializers = [
        tensor(heads, np.array([0, 0, count, width // count]), INT64),
        tensor(joined, np.array([0, 0, width]), INT64),
        tensor(scale, np.array([1 / math.sqrt(width // count)], _DTYPES[element]), element),
    ]

    def apart(source: str, label: str, perm: list[int]) -> list[bytes]:
        split = f"{name}/{label}/split"
        return [
            node("Reshape", [source, heads], split),
            node("Transpose", [split], f"{name}/{label}", perm=perm),
        ]

    nodes = [
        *apart(query, "q", [0, 2, 1, 3]),
        *apart(key, "k", [0, 2, 3, 1]),
        *apart(value, "v", [0, 2, 1, 3]),
        node("Mul", [f"{name}/q", scale], f"{name}/q/scaled"),
        node("MatMul", [f"{name}/q/scaled", f"{name}/k"], f"{name}/scores"),
        *([node("Add", [f"{name}/scores", *bias], f"{name}/biased")] if bias else []),
        node("Softmax", [f"{name}/{'biased' if bias else 'scores'}"], f"{name}/weights", axis=-1),
        node("MatMul", [f"{name}/weights", f"{name}/v"], f"{name}/mixed"),
        node("Transpose", [f"{name}/mixed"], f"{name}/mixed/turned", perm=[0, 2, 1, 3]),
        node("Reshape", [f"{name}/mixed/turned", joined], name),
    ]
    return nodes, initializers


def _rewritten(graph: Graph) -> bytes:
    consumers = {name: n for n in graph.nodes for name in n.inputs}
    replaced: dict[str, list[bytes]] = {}
    brought: list[bytes] = []
    for n in graph.nodes:
        if n.op == "Attention" and not n.domain:
            element, width = _element_and_width(n, consumers, graph.weights)
            replaced[n.outputs[0]], initializers = _decomposed(n, width, element)
            brought += [field(GRAPH_INITIALIZER, t) for t in initializers]
    return graph.with_nodes(replaced) + b"".join(brought)


def _element_and_width(
    found: Node, consumers: dict[str, Node], weights: dict[str, tuple[int, list[int]]]
) -> tuple[int, int]:
    (output,) = found.outputs
    heads = found.attributes.get("q_num_heads")
    expected = {"q_num_heads": heads, "kv_num_heads": heads}
    # The projection behind tells the width, (D, D), or the norm that is before it, (D,).
    behind = consumers.get(output)
    weight = weights.get(behind.inputs[1]) if behind and behind.op in BEHIND else None
    if found.attributes != expected or len(found.inputs) not in (3, 4) or weight is None:
        raise ArtefactError(
            f"attention {output} is not as vit-export writes it (query, key and value of one "
            "number of heads, then a projection); export the model again"
        )
    element, (width, *_) = weight
    return element, width
