"""Widens an FP16 artefact to FP32 for a CPU that has no FP16 arithmetic; the file stays as it is.

Left to itself ONNX Runtime casts around every node without an FP16 kernel, and takes GELU apart.
With one cast behind each weight instead, which it folds as it loads, it has the FP32 graph to run.
"""

import mmap
from pathlib import Path

from vit_runtime.errors import ArtefactError
from vit_runtime.nodes import (
    FLOAT,
    FLOAT16,
    GRAPH_INITIALIZER,
    GRAPH_NODE,
    GRAPH_VALUE_INFO,
    MODEL_GRAPH,
    TENSOR_NAME,
    node,
    node_from_bytes,
    weight_from_bytes,
)
from vit_runtime.protobuf import field, fields, prefix

Piece = bytes | memoryview


def widened(path: Path) -> bytes:
    """Return an ONNX file's bytes with its FP16 weights cast, and all else computed, in FP32."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as model:
        return _model(model)


def _model(model: mmap.mmap) -> bytes:
    out: list[Piece] = []
    position = 0
    for kind, start, end in fields(model, 0, len(model)):
        if kind == MODEL_GRAPH:
            pieces = _graph(model, start, end)
            out += [prefix(kind, sum(map(len, pieces))), *pieces]
        else:
            out.append(model[position:end])
        position = end
    return b"".join(out)


def _graph(model: mmap.mmap, start: int, end: int) -> list[Piece]:
    """Return the graph's fields: the casts first, the weights' bytes not copied."""
    casts: list[Piece] = []
    rest: list[Piece] = []
    view = memoryview(model)
    position = start
    for kind, a, b in fields(model, start, end):
        if kind == GRAPH_INITIALIZER and weight_from_bytes(model, a, b)[1][0] == FLOAT16:
            name, (before, after) = _name_of_tensor(model, a, b)
            renamed: list[Piece] = [
                view[a:before],
                field(TENSOR_NAME, f"{name}/half"),
                view[after:b],
            ]
            casts.append(field(GRAPH_NODE, node("Cast", [f"{name}/half"], name, to=FLOAT)))
            rest += [prefix(kind, sum(map(len, renamed))), *renamed]
        elif kind == GRAPH_NODE and (cast := _cast_to_half(model, a, b)):
            rest.append(field(kind, cast))
        elif kind != GRAPH_VALUE_INFO:  # it would still say FP16
            rest.append(view[position:b])
        position = b
    return casts + rest


def _name_of_tensor(model: mmap.mmap, start: int, end: int) -> tuple[str, tuple[int, int]]:
    """Return a tensor's name, and where the field of its name begins and ends."""
    position = start
    for kind, a, b in fields(model, start, end):
        if kind == TENSOR_NAME:
            return model[a:b].decode(), (position, b)
        position = b
    raise ArtefactError("a weight has no name; export the model again")


def _cast_to_half(model: mmap.mmap, start: int, end: int) -> bytes | None:
    """Return the node with FP32 in the place of FP16 if it is a Cast to that."""
    found = node_from_bytes(model, start, end)
    if found.op != "Cast" or found.attributes.get("to") != FLOAT16:
        return None
    return node("Cast", found.inputs, found.outputs[0], to=FLOAT)
