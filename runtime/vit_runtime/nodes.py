"""Nodes and tensors of an ONNX graph, from bytes and to bytes.

Field numbers are those of onnx.proto3.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from vit_runtime.protobuf import Buffer, field, fields, number, numbers

MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_VALUE_INFO = 1, 5, 13
TENSOR_NAME = 8
FLOAT, INT64, FLOAT16 = 1, 7, 10
"""ONNX's numbers of element types."""

_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 3, 4, 5, 7
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_RAW = 1, 2, 9
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_INTS, _ATTRIBUTE_TYPE = 1, 3, 8, 20
_INT, _INTS = 2, 7


@dataclass(frozen=True)
class Node:
    """A node, with those of its attributes that are integers."""

    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, int]


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
    return dims + field(_TENSOR_TYPE, element) + field(TENSOR_NAME, name) + field(_TENSOR_RAW, raw)


def node_from_bytes(model: Buffer, start: int, end: int) -> Node:
    """Return the NodeProto in model[start:end]."""
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
    return Node(
        op=texts[_NODE_OP][0],
        domain=texts.get(_NODE_DOMAIN, [""])[0],
        inputs=tuple(texts.get(_NODE_INPUT, ())),
        outputs=tuple(texts.get(_NODE_OUTPUT, ())),
        attributes=attributes,
    )


def weight_from_bytes(model: Buffer, start: int, end: int) -> tuple[str, tuple[int, list[int]]]:
    """Return an initializer's name, element type and shape."""
    name, element = "", 0
    shape: list[int] = []
    for kind, a, b in fields(model, start, end):
        if kind == TENSOR_NAME:
            name = model[a:b].decode()
        elif kind == _TENSOR_TYPE:
            element = number(model, a, b)
        elif kind == _TENSOR_DIMS:
            shape += numbers(model, a, b)
    return name, (element, shape)
