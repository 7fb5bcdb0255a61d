"""The graph of an int8 artefact for an engine that rounds activations by itself.

The file says how ONNX Runtime is to round them, step by step. OpenVINO does the same within its
product, a step for each token, where the graph has a plain product of float activations and of
weights in 8 bits. The weights, their scales and all that stays in float are those of the file.
"""

import mmap
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vit_engine.artefact.nodes import (
    GRAPH_OUTPUT,
    Graph,
    Node,
    node,
    value_name,
    with_graph,
)
from vit_engine.errors import ArtefactError

INT8_PRODUCT = "MatMulIntegerToFloat"


def dynamic_int8(model: bytes) -> bytes:
    """Return an int8 artefact's model with plain products, for an engine that rounds their input.

    ArtefactError if the products are not as vit-export writes them.
    """
    return with_graph(model, _rewritten)


def min_input_channels(path: Path) -> int:
    """Return the channels of the input of an int8 artefact's narrowest int8 product.

    ArtefactError if the products are not as vit-export writes them.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as model:
        graph = Graph.of(model)
    try:
        return min(graph.weights[p.weight][1][0] for p in _products(graph).values())
    except (KeyError, IndexError) as e:
        raise _unknown(str(e)) from e


def _products(graph: Graph) -> dict[str, "_Product"]:
    """Return the int8 products by their outputs."""
    made_by, read_by = graph.made_by, defaultdict[str, list[Node]](list)
    for n in graph.nodes:
        for name in n.inputs:
            read_by[name].append(n)
    found = [_product(n, made_by, read_by) for n in graph.nodes if n.op == INT8_PRODUCT]
    if not found:
        raise ArtefactError("the artefact is called int8 and has no int8 product")
    return {product.output: product for product in found}


def _rewritten(graph: Graph) -> bytes:
    model, products = graph.model, _products(graph)
    outputs = [value_name(model, a, b) for kind, a, b in graph.spans if kind == GRAPH_OUTPUT]
    needed = _needed(outputs, graph.made_by, products)
    replaced: dict[str, list[bytes]] = {
        n.outputs[0]: [] for n in graph.nodes if n.outputs[0] not in needed
    }
    replaced |= {name: product.nodes() for name, product in products.items()}
    return graph.with_nodes(replaced)


@dataclass(frozen=True)
class _Product:
    """x @ (weight * scale) + bias: the names of what it reads and gives."""

    x: str
    weight: str
    scale: str
    bias: str
    output: str

    def nodes(self) -> list[bytes]:
        """Return it with its input in float."""
        widened, product = f"{self.output}/weight", f"{self.output}/product"
        return [
            node("DequantizeLinear", [self.weight, self.scale], widened, axis=1),
            node("MatMul", [self.x, widened], product),
            node("Add", [product, self.bias], self.output),
        ]


def _product(
    found: Node, made_by: Mapping[str, Node], read_by: Mapping[str, list[Node]]
) -> _Product:
    """Return what an int8 product computes, from x before it is rounded to the bias behind."""

    def only(name: str, op: str) -> Node:
        readers = read_by.get(name, [])
        if len(readers) != 1 or readers[0].op != op:
            raise _unknown(found.outputs[0])
        return readers[0]

    rounding = made_by.get(found.inputs[0])
    flat = made_by.get(rounding.inputs[0]) if rounding else None
    if rounding is None or flat is None or (rounding.op, flat.op) != ("QuantizeLinear", "Reshape"):
        raise _unknown(found.outputs[0])
    by_token = only(found.outputs[0], "Mul")
    shifted = only(by_token.outputs[0], "Add")
    shaped = only(shifted.outputs[0], "Reshape")
    bias = shifted.inputs[1]
    return _Product(flat.inputs[0], found.inputs[1], found.inputs[3], bias, shaped.outputs[0])


def _needed(
    outputs: list[str], made_by: Mapping[str, Node], replaced: Mapping[str, _Product]
) -> set[str]:
    """Return the first outputs of all nodes that the outputs still depend on."""
    needed: set[str] = set()
    waiting = list(outputs)
    while waiting:
        name = waiting.pop()
        if (maker := made_by.get(name)) is None or maker.outputs[0] in needed:
            continue
        needed.add(maker.outputs[0])
        product = replaced.get(name)
        waiting += [product.x] if product else maker.inputs
    return needed


def _unknown(name: str) -> ArtefactError:
    return ArtefactError(
        f"the int8 product {name} is not as vit-export writes it; export the model again"
    )
