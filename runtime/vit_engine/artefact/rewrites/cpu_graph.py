"""The graph of a float artefact as a CPU runs it; the file stays as it is.

- FP16 weights get a cast to FP32, which ONNX Runtime folds as it loads. Left to itself it casts
  around every node without an FP16 kernel, and takes GELU apart.
- Queries, keys and values get a product each. One product for all is what a GPU wants; on a CPU
  it is slower, and the copies that part it cost as much again.
- The weights of the products are not copied: the graph refers to where they lie in the file.
"""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from vit_engine.artefact.nodes import (
    FLOAT,
    FLOAT16,
    GRAPH_INITIALIZER,
    GRAPH_NODE,
    GRAPH_VALUE_INFO,
    Graph,
    Node,
    node,
    renamed_tensor,
    tensor_in_file,
    weight_from_bytes,
    with_fields,
    with_graph,
)
from vit_engine.artefact.protobuf import field


def graph_for_cpu(path: Path) -> bytes:
    """Return the bytes of a model that computes in FP32, with its large weights in `path`.

    ONNX Runtime looks for them in the folder of the file itself, links resolved.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as model:
        location = os.fsencode(path.resolve().name)
        return with_graph(model, lambda graph: _rewritten(graph, location))


def _rewritten(graph: Graph, location: bytes) -> bytes:
    model = graph.model
    large = {n.inputs[1] for n in graph.nodes if n.op == "MatMul"}
    replaced, remaining = _replaced(graph), iter(graph.nodes)
    casts: list[bytes] = []

    def change(kind: int, a: int, b: int) -> bytes | None:
        if kind == GRAPH_INITIALIZER:
            name, (element, _) = weight_from_bytes(model, a, b)
            stored = tensor_in_file(model, a, b, location) if name in large else model[a:b]
            if element == FLOAT16:
                casts.append(field(GRAPH_NODE, node("Cast", [f"{name}/half"], name, to=FLOAT)))
                stored = renamed_tensor(stored, f"{name}/half")
            return field(kind, stored)
        if kind == GRAPH_NODE and (name := next(remaining).outputs[0]) in replaced:
            return b"".join(field(kind, new) for new in replaced[name])
        return b"" if kind == GRAPH_VALUE_INFO else None  # it may still say FP16

    rest = with_fields(model, graph.start, graph.spans, change)
    return b"".join(casts) + rest


def _replaced(graph: Graph) -> dict[str, list[bytes]]:
    """Return what takes the place of some nodes, by their first output."""
    made_by = graph.made_by
    replaced: dict[str, list[bytes]] = {}
    for n in graph.nodes:
        if n.op == "Cast" and n.attributes.get("to") == FLOAT16:
            replaced[n.outputs[0]] = [node("Cast", n.inputs, n.outputs[0], to=FLOAT)]
        elif n.op == "Split":
            before = made_by[n.inputs[0]]
            add = before if before.op == "Add" else None
            product = made_by[add.inputs[0]] if add else before
            if product.op == "MatMul":
                replaced[product.outputs[0]] = []
                if add:
                    replaced[add.outputs[0]] = []
                replaced[n.outputs[0]] = list(_apart(product, add, n.outputs))
    return replaced


def _apart(product: Node, add: Node | None, outputs: tuple[str, ...]) -> Iterator[bytes]:
    """Yield a product, and a sum with its part of the bias, for each part of a Split's input."""
    source, weight = product.inputs
    weights = [f"{name}/weight" for name in outputs]
    yield node("Split", [weight], *weights, axis=1, num_outputs=len(outputs))
    if add is None:
        for name, part in zip(outputs, weights, strict=True):
            yield node("MatMul", [source, part], name)
        return
    biases = [f"{name}/bias" for name in outputs]
    yield node("Split", [add.inputs[1]], *biases, axis=0, num_outputs=len(outputs))
    for name, part, bias in zip(outputs, weights, biases, strict=True):
        yield node("MatMul", [source, part], f"{name}/product")
        yield node("Add", [f"{name}/product", bias], name)
