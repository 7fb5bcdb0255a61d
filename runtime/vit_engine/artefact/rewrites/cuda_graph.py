"""The graph of an artefact as the CUDA provider runs it fastest; the file stays as it is.

ONNX Runtime fuses little by itself: a bias, a residual and a norm are three passes over the
activations, and the thirds of a product are copied apart for attention. Operators of its own make
one pass of each: SkipLayerNormalization, and Attention, which takes the product's weights as well.
"""

import mmap
import os
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from vit_engine.artefact.nodes import (
    GRAPH_INITIALIZER,
    Graph,
    Node,
    node,
    tensor_in_file,
    with_graph,
)
from vit_engine.artefact.protobuf import field

DOMAIN = "com.microsoft"
_MODEL_OPSETS, _OPSET_DOMAIN, _OPSET_VERSION = 8, 1, 2


def graph_for_cuda(path: Path, *, attention: bool = True) -> bytes:
    """Return the bytes of a model of fewer passes, with its large weights in `path`.

    ONNX Runtime looks for them in the folder of the file itself, links resolved. Its own Attention
    asks for cuDNN, whether it uses it or not; without `attention` the standard operator stays.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as model:
        location = os.fsencode(path.resolve().name)
        rewritten = with_graph(model, lambda graph: _rewritten(graph, location, attention))
    return rewritten + field(_MODEL_OPSETS, field(_OPSET_DOMAIN, DOMAIN) + field(_OPSET_VERSION, 1))


def _rewritten(graph: Graph, location: bytes, attention: bool) -> bytes:
    found = _Replacements(graph)
    replaced = dict(chain(found.norms(), found.attentions() if attention else ()))
    large = {n.inputs[1] for n in graph.nodes if n.op == "MatMul"}
    places = [(a, b) for kind, a, b in graph.spans if kind == GRAPH_INITIALIZER]
    stored = {
        name: tensor_in_file(graph.model, *place, location)
        for name, place in zip(graph.weights, places, strict=True)
        if name in large
    }
    return graph.with_nodes(replaced, stored)


class _Replacements:
    """What takes the place of some nodes, by their first output."""

    def __init__(self, graph: Graph) -> None:
        self._nodes, self._made_by = graph.nodes, graph.made_by
        self._shapes = {name: shape for name, (_, shape) in graph.weights.items()}
        self._readers = Counter(name for n in graph.nodes for name in n.inputs)

    def norms(self) -> Iterator[tuple[str, list[bytes]]]:
        """Fuse what adds up to a norm's input into the norm; the sum stays, others read it too."""
        fused: set[str] = set()
        for n in self._nodes:
            if n.op == "LayerNormalization" and n.inputs[0] not in fused:
                fused.add(n.inputs[0])
                yield from self._norm(n)

    def attentions(self) -> Iterator[tuple[str, list[bytes]]]:
        """Fuse the product that gives query, key and value of the same tokens into attention."""
        for n in self._nodes:
            if n.op == "Attention":
                yield from self._attention(n)

    def _norm(self, norm: Node) -> Iterator[tuple[str, list[bytes]]]:
        total = self._maker(norm.inputs[0], "Add")
        if total is None or len(norm.inputs) != 3 or norm.attributes.get("axis") != -1:
            return
        skipped, added = total.inputs
        if added in self._shapes:
            if len(self._shapes[added]) != 3:
                return
            skipped, added = added, skipped  # positions, (1, S, D)
        inputs = [added, skipped, *norm.inputs[1:]]
        biased = self._maker(added, "Add")
        if (
            biased
            and self._readers[added] == 1
            and len(self._shapes.get(biased.inputs[1], ())) == 1
        ):
            inputs = [biased.inputs[0], *inputs[1:], biased.inputs[1]]
            yield added, []
        fused = node(
            "SkipLayerNormalization",
            inputs,
            *(norm.outputs[0], "", "", total.outputs[0]),
            domain=DOMAIN,
            epsilon=float(norm.attributes["epsilon"]),
        )
        yield total.outputs[0], [fused]
        yield norm.outputs[0], []

    def _attention(self, attention: Node) -> Iterator[tuple[str, list[bytes]]]:
        heads = attention.attributes.get("q_num_heads")
        usual = {"q_num_heads": heads, "kv_num_heads": heads}
        split = self._maker(attention.inputs[0], "Split")
        if split is None or attention.attributes != usual or split.outputs != attention.inputs:
            return
        biased = self._maker(split.inputs[0], "Add")
        product = self._maker(biased.inputs[0], "MatMul") if biased else None
        if biased is None or product is None or not heads:
            return
        names = (product.outputs[0], biased.outputs[0], *split.outputs)
        width, columns = self._shapes.get(product.inputs[1], (0, 0))
        if columns != 3 * width or any(self._readers[name] > 1 for name in names):
            return
        inputs = [*product.inputs, biased.inputs[1]]
        fused = node("Attention", inputs, attention.outputs[0], domain=DOMAIN, num_heads=int(heads))
        yield attention.outputs[0], [fused]
        for n in (product, biased, split):
            yield n.outputs[0], []

    def _maker(self, name: str, op: str) -> Node | None:
        found = self._made_by.get(name)
        return found if found and found.op == op and not found.domain else None
