"""Rewrites attention in an artefact as it is loaded, for a provider that wants another pattern.

The artefact stays standard.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vit_engine.artefact.nodes import (
    FLOAT,
    FLOAT16,
    GRAPH_INITIALIZER,
    GRAPH_NODE,
    INT64,
    Node,
    node,
    node_from_bytes,
    replace_nodes,
    tensor,
    weight_from_bytes,
    with_graph,
)
from vit_engine.artefact.protobuf import field, fields
from vit_engine.errors import ArtefactError

BEHIND = ("MatMul", "LayerNormalization")
"""What reads attention's output, with its weight second."""

_DTYPES = {FLOAT: np.float32, FLOAT16: np.float16}


@dataclass(frozen=True)
class Attention:
    """One standard Attention node: query (N, S, D), key and value (N, T, D) in, (N, S, D) out.

    A `bias` (1, heads, S, T) is added to the scores before the softmax.
    """

    name: str  # for what takes its place
    inputs: tuple[str, str, str]
    output: str
    heads: int
    width: int  # D
    element: int  # ONNX's number of the element type, a key of _DTYPES
    bias: str | None


Replacement = Callable[[Attention], tuple[list[bytes], list[bytes]]]
"""Attention -> the nodes in its place, and the initializers that they bring."""


def replace_attention(model: bytes, replacement: Replacement) -> bytes:
    """Return an ONNX file's bytes with each Attention node replaced."""
    return with_graph(model, lambda start, end: _graph(model, start, end, replacement))


def primitive(attention: Attention) -> tuple[list[bytes], list[bytes]]:
    """Q scaled first, MatMul, a bias if there is one, Softmax, MatMul: what TensorRT 10 fuses.

    Reshapes and Transposes around it take the heads apart, and put them together again.
    """
    a = attention
    query, key, value = a.inputs
    heads, scale = f"{a.name}/heads", f"{a.name}/scale"
    joined = f"{a.name}/joined"
    initializers = [
        tensor(heads, np.array([0, 0, a.heads, a.width // a.heads]), INT64),
        tensor(joined, np.array([0, 0, a.width]), INT64),
        tensor(scale, np.array([1 / math.sqrt(a.width // a.heads)], _DTYPES[a.element]), a.element),
    ]

    def apart(source: str, label: str, perm: list[int]) -> list[bytes]:
        split = f"{a.name}/{label}/split"
        return [
            node("Reshape", [source, heads], split),
            node("Transpose", [split], f"{a.name}/{label}", perm=perm),
        ]

    nodes = [
        *apart(query, "q", [0, 2, 1, 3]),
        *apart(key, "k", [0, 2, 3, 1]),
        *apart(value, "v", [0, 2, 1, 3]),
        node("Mul", [f"{a.name}/q", scale], f"{a.name}/q/scaled"),
        node("MatMul", [f"{a.name}/q/scaled", f"{a.name}/k"], f"{a.name}/scores"),
        *([node("Add", [f"{a.name}/scores", a.bias], f"{a.name}/biased")] if a.bias else []),
        node(
            "Softmax",
            [f"{a.name}/biased" if a.bias else f"{a.name}/scores"],
            f"{a.name}/weights",
            axis=-1,
        ),
        node("MatMul", [f"{a.name}/weights", f"{a.name}/v"], f"{a.name}/mixed"),
        node("Transpose", [f"{a.name}/mixed"], f"{a.name}/mixed/turned", perm=[0, 2, 1, 3]),
        node("Reshape", [f"{a.name}/mixed/turned", joined], a.output),
    ]
    return nodes, initializers


def _graph(model: bytes, start: int, end: int, replacement: Replacement) -> bytes:
    spans = list(fields(model, start, end))
    nodes = [node_from_bytes(model, a, b) for kind, a, b in spans if kind == GRAPH_NODE]
    weights = dict(
        weight_from_bytes(model, a, b) for kind, a, b in spans if kind == GRAPH_INITIALIZER
    )
    consumers = {name: n for n in nodes for name in n.inputs}
    replaced: dict[str, list[bytes]] = {}
    brought: list[bytes] = []
    for n in nodes:
        if n.op == "Attention" and not n.domain:
            replaced[n.outputs[0]], initializers = replacement(_attention(n, consumers, weights))
            brought += [field(GRAPH_INITIALIZER, t) for t in initializers]
    return replace_nodes(model, start, spans, nodes, replaced) + b"".join(brought)


def _attention(
    found: Node, consumers: dict[str, Node], weights: dict[str, tuple[int, list[int]]]
) -> Attention:
    (output,) = found.outputs
    heads = int(found.attributes.get("q_num_heads", 0))
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
    query, key, value, *bias = found.inputs
    return Attention(
        output, (query, key, value), output, heads, width, element, bias[0] if bias else None
    )
