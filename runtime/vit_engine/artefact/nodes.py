"""Nodes and tensors of an ONNX graph, from bytes and to bytes.

Field numbers are those of onnx.proto3.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from vit_engine.artefact.protobuf import Buffer, field, fields, number, numbers, real

MODEL_GRAPH, MODEL_METADATA = 7, 14
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_VALUE_INFO = 1, 5, 13
TENSOR_NAME, TENSOR_EXTERNAL = 8, 13
ENTRY_KEY, ENTRY_VALUE = 1, 2
FLOAT, INT64, FLOAT16 = 1, 7, 10
"""ONNX's numbers of element types."""

_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 3, 4, 5, 7
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_RAW = 1, 2, 9
_TENSOR_LOCATION = 14
_EXTERNAL = 1
_ATTRIBUTE_NAME, _ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_INTS = 1, 2, 3, 8
_ATTRIBUTE_TYPE = 20
_FLOAT, _INT, _INTS = 1, 2, 7


@dataclass(frozen=True)
class Node:
    """A node, with those of its attributes that are numbers; others are 0."""

    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, int | float]


@dataclass(frozen=True)
class Graph:
    """A GraphProto of `model`: its fields, its nodes, and the types and shapes of its weights."""

    model: Buffer
    start: int
    spans: list[tuple[int, int, int]]
    nodes: list[Node]
    weights: dict[str, tuple[int, list[int]]]

    @classmethod
    def from_bytes(cls, model: Buffer, start: int, end: int) -> Self:
        """Read it."""
        spans = list(fields(model, start, end))
        nodes = [node_from_bytes(model, a, b) for kind, a, b in spans if kind == GRAPH_NODE]
        weights = [
            weight_from_bytes(model, a, b) for kind, a, b in spans if kind == GRAPH_INITIALIZER
        ]
        return cls(model, start, spans, nodes, dict(weights))

    @property
    def made_by(self) -> dict[str, Node]:
        """The nodes, by the names of what they give."""
        return {name: n for n in self.nodes for name in n.outputs}

    def with_nodes(
        self,
        replaced: Mapping[str, Iterable[bytes]],
        initializers: Mapping[str, bytes] | None = None,
    ) -> bytes:
        """Return the bytes with other nodes, and other initializers by name.

        `replaced` has the nodes that take a node's place, none or several, by its first output.
        """
        remaining = iter(self.nodes)

        def change(kind: int, a: int, b: int) -> bytes | None:
            if kind == GRAPH_NODE and (name := next(remaining).outputs[0]) in replaced:
                return b"".join(field(kind, new) for new in replaced[name])
            if kind == GRAPH_INITIALIZER and initializers:
                name = weight_from_bytes(self.model, a, b)[0]
                return field(kind, initializers[name]) if name in initializers else None
            return None

        return with_fields(self.model, self.start, self.spans, change)


def with_graph(model: Buffer, rewrite: Callable[[Graph], bytes]) -> bytes:
    """Return a ModelProto with another graph, which `rewrite` makes of the one that it has."""

    def change(kind: int, start: int, end: int) -> bytes | None:
        if kind != MODEL_GRAPH:
            return None
        return field(kind, rewrite(Graph.from_bytes(model, start, end)))

    return with_fields(model, 0, fields(model, 0, len(model)), change)


def with_fields(
    model: Buffer,
    start: int,
    spans: Iterable[tuple[int, int, int]],
    change: Callable[[int, int, int], bytes | None],
) -> bytes:
    """Return the message from `start` on with other fields; `change` gives None for what stays."""
    out: list[bytes] = []
    for kind, a, b in spans:
        changed = change(kind, a, b)
        out.append(model[start:b] if changed is None else changed)
        start = b
    return b"".join(out)


def node(
    op: str,
    inputs: Iterable[str],
    *outputs: str,
    domain: str = "",
    **attributes: int | float | list[int],
) -> bytes:
    """Return a NodeProto, named after its first output; "" stands for an output not wanted."""
    parts = [field(_NODE_INPUT, name) for name in inputs]
    parts += [field(_NODE_OUTPUT, name) for name in outputs]
    parts += [field(_NODE_NAME, f"{outputs[0]}/{op}"), field(_NODE_OP, op)]
    for name, value in attributes.items():
        body = field(_ATTRIBUTE_NAME, name)
        if isinstance(value, int):
            body += field(_ATTRIBUTE_INT, value) + field(_ATTRIBUTE_TYPE, _INT)
        elif isinstance(value, float):
            body += field(_ATTRIBUTE_FLOAT, value) + field(_ATTRIBUTE_TYPE, _FLOAT)
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


def tensor_in_file(model: Buffer, start: int, end: int, location: bytes) -> bytes:
    """Return the TensorProto in model[start:end] with a reference in the place of its bytes.

    `location` is the file that holds the model, as ONNX's external data names it.
    """

    def change(kind: int, a: int, b: int) -> bytes | None:
        if kind != _TENSOR_RAW:
            return None
        entries = {"location": location, "offset": b"%d" % a, "length": b"%d" % (b - a)}
        external = [
            field(TENSOR_EXTERNAL, field(ENTRY_KEY, key) + field(ENTRY_VALUE, value))
            for key, value in entries.items()
        ]
        return b"".join(external) + field(_TENSOR_LOCATION, _EXTERNAL)

    return with_fields(model, start, fields(model, start, end), change)


def renamed_tensor(stored: bytes, name: str) -> bytes:
    """Return a TensorProto with another name."""
    return stored + field(TENSOR_NAME, name)  # of a field given twice the last one counts


def node_from_bytes(model: Buffer, start: int, end: int) -> Node:
    """Return the NodeProto in model[start:end]."""
    texts: dict[int, list[str]] = {}
    attributes: dict[str, int | float] = {}
    for kind, a, b in fields(model, start, end):
        if kind == _NODE_ATTRIBUTE:
            parts = {k: (c, d) for k, c, d in fields(model, a, b)}
            name = model[slice(*parts[_ATTRIBUTE_NAME])].decode()
            attributes[name] = 0
            if whole := parts.get(_ATTRIBUTE_INT):
                attributes[name] = number(model, *whole)
            elif fraction := parts.get(_ATTRIBUTE_FLOAT):
                attributes[name] = real(model, fraction[0])
        elif kind in (_NODE_INPUT, _NODE_OUTPUT, _NODE_OP, _NODE_DOMAIN):
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
