"""Rewrites attention in an artefact as it is loaded, for a provider that wants another pattern.

The artefact stays standard. Field numbers are those of onnx.proto3.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from vit_runtime.errors import ArtefactError
from vit_runtime.protobuf import field, fields, number, numbers

_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 3, 4, 5, 7
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_INTS, _ATTRIBUTE_TYPE = 1, 3, 8, 20
_INT, _INTS = 2, 7
_INT64 = 7
_DTYPES = {1: np.float32, 10: np.float16}


@dataclass(frozen=True)
class Attention:
    """One standard Attention node: query (N, S, D), key and value (N, T, D) in, (N, S, D) out."""

    name: str  # for what takes its place
    inputs: tuple[str, str, str]
    output: str
    heads: int
    width: int  # D
    element: int  # ONNX's number of the element type, a key of _DTYPES


Replacement = Callable[[Attention], tuple[list[bytes], list[bytes]]]
"""Attention -> the nodes in its place, and the initializers that they bring."""


def replace_attention(model: bytes, replacement: Replacement) -> bytes:
    """Return an ONNX file's bytes with each Attention node replaced."""
    out = []
    position = 0
    for kind, start, end in fields(model, 0, len(model)):
        if kind == _MODEL_GRAPH:
            out.append(field(kind, _graph(model, start, end, replacement)))
        else:
            out.append(model[position:end])
        position = end
    return b"".join(out)


def primitive(attention: Attention) -> tuple[list[bytes], list[bytes]]:
    """Q scaled first, MatMul, Softmax, MatMul, nothing in between: what TensorRT 10 fuses.

    Reshapes and Transposes around it take the heads apart, and put them together again.
    """
    a = attention
    query, key, value = a.inputs
    heads, scale = f"{a.name}/heads", f"{a.name}/scale"
    joined = f"{a.name}/joined"
    initializers = [
        tensor(heads, np.array([0, 0, a.heads, a.width // a.heads]), _INT64),
        tensor(joined, np.array([0, 0, a.width]), _INT64),
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
        node("Softmax", [f"{a.name}/scores"], f"{a.name}/weights", axis=-1),
        node("MatMul", [f"{a.name}/weights", f"{a.name}/v"], f"{a.name}/mixed"),
        node("Transpose", [f"{a.name}/mixed"], f"{a.name}/mixed/turned", perm=[0, 2, 1, 3]),
        node("Reshape", [f"{a.name}/mixed/turned", joined], a.output),
    ]
    return nodes, initializers


def node(
    op: str, inputs: Iterable[str], output: str, *, domain: str = "", **attributes: int | list[int]
) -> bytes:
    """Return a NodeProto of one output, named after it."""
    parts = [field(_NODE_INPUT, name) for name in inputs]
    parts += [field(_NODE_OUTPUT, output), field(_NODE_NAME, f"{output}/{op}"), field(_NODE_OP, op)]
    for name, value in attributes.items():
        body = field(_ATTRIBUTE_NAME, name)
        if isinstance(value, int):
            body += field(_ATTRIBUTE_INT, value) + field(_ATTRIBUTE_TYPE, _INT)
        else:
            body += b"".join(field(_ATTRIBUTE_INTS, i) for i in value)
            body += field(_ATTRIBUTE_TYPE, _INTS)
        parts.append(field(_NODE_ATTRIBUTE, body))
    return b"".join(parts) + (field(_NODE_DOMAIN, domain) if domain else b"")


def tensor(
    name: str, array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]", element: int
) -> bytes:
    """Return a TensorProto that holds the array."""
    dims = b"".join(field(_TENSOR_DIMS, size) for size in array.shape)
    raw = np.ascontiguousarray(array).tobytes()
    return dims + field(_TENSOR_TYPE, element) + field(_TENSOR_NAME, name) + field(_TENSOR_RAW, raw)


@dataclass(frozen=True)
class _Node:
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, int]


def _graph(model: bytes, start: int, end: int, replacement: Replacement) -> bytes:
    spans = list(fields(model, start, end))
    nodes = [_node(model, a, b) for kind, a, b in spans if kind == _GRAPH_NODE]
    weights = dict(_weight(model, a, b) for kind, a, b in spans if kind == _GRAPH_INITIALIZER)
    consumers = {name: n for n in nodes for name in n.inputs}
    out: list[bytes] = []
    brought: list[bytes] = []
    position, remaining = start, iter(nodes)
    for kind, _, b in spans:
        found = next(remaining) if kind == _GRAPH_NODE else None
        if found and found.op == "Attention" and not found.domain:
            replaced, initializers = replacement(_attention(found, consumers, weights))
            out += [field(_GRAPH_NODE, n) for n in replaced]
            brought += [field(_GRAPH_INITIALIZER, t) for t in initializers]
        else:
            out.append(model[position:b])
        position = b
    return b"".join(out + brought)


def _attention(
    found: _Node, consumers: dict[str, _Node], weights: dict[str, tuple[int, list[int]]]
) -> Attention:
    (output,) = found.outputs
    heads = found.attributes.get("q_num_heads", 0)
    expected = {"q_num_heads": heads, "kv_num_heads": heads}
    # The projection behind tells the width: (N, T, D) @ (D, D).
    behind = consumers.get(output)
    weight = weights.get(behind.inputs[1]) if behind and behind.op == "MatMul" else None
    if found.attributes != expected or len(found.inputs) != 3 or weight is None:
        raise ArtefactError(
            f"attention {output} is not as vit-export writes it (query, key and value of one "
            "number of heads, then a projection); export the model again"
        )
    element, (width, _) = weight
    query, key, value = found.inputs
    return Attention(output, (query, key, value), output, heads, width, element)


def _node(model: bytes, start: int, end: int) -> _Node:
    texts: dict[int, list[str]] = {}
    attributes: dict[str, int] = {}
    for kind, a, b in fields(model, start, end):
        if kind == _NODE_ATTRIBUTE:
            parts = {k: (c, d) for k, c, d in fields(model, a, b)}
            value = parts.get(_ATTRIBUTE_INT)
            name = model[slice(*parts[_ATTRIBUTE_NAME])].decode()
            attributes[name] = number(model, *value) if value else 0
        else:
            texts.setdefault(kind, []).append(model[a:b].decode())
    return _Node(
        op=texts[_NODE_OP][0],
        domain=texts.get(_NODE_DOMAIN, [""])[0],
        inputs=tuple(texts.get(_NODE_INPUT, ())),
        outputs=tuple(texts.get(_NODE_OUTPUT, ())),
        attributes=attributes,
    )


def _weight(model: bytes, start: int, end: int) -> tuple[str, tuple[int, list[int]]]:
    """Return an initializer's name, element type and shape."""
    name, element = "", 0
    shape: list[int] = []
    for kind, a, b in fields(model, start, end):
        if kind == _TENSOR_NAME:
            name = model[a:b].decode()
        elif kind == _TENSOR_TYPE:
            element = number(model, a, b)
        elif kind == _TENSOR_DIMS:
            shape += numbers(model, a, b)
    return name, (element, shape)
