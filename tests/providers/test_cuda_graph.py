"""The graph as CUDA runs it, beside the one that is in the file; computed on the CPU in fp32."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from support import write_checkpoint
from vit_engine.artefact.metadata import read_contract
from vit_engine.artefact.rewrites.cuda_graph import graph_for_cuda
from vit_engine.providers.provider import SessionSpec
from vit_engine.providers.sessions import open_session
from vit_export.artefact import export
from vit_export.checkpoints.checkpoint import load
from vit_export.families.model_config import Rotary

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


def logits(path: Path, model: bytes | None = None) -> NDArray[np.float32]:
    """Those of the file's own graph, or of `model`, whose weights are in the file."""
    session = open_session(SessionSpec(path, read_contract(path)), {"cpu": {}}, model=model)
    (found,) = session.run(None, {"pixels": PIXELS})
    return np.asarray(found)


def operators(model: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(model).graph.node)


@pytest.mark.parametrize("attention", [True, False])
def test_fewer_operators_give_the_same_logits(tiny_artefact: Path, attention: bool) -> None:
    before = operators(tiny_artefact.read_bytes())
    model = graph_for_cuda(tiny_artefact, attention=attention)
    found = operators(model)
    # Two blocks of two norms, and the last norm's sum goes through a slice.
    assert found["SkipLayerNormalization"] == 4
    assert found["LayerNormalization"] == before["LayerNormalization"] - 4
    fused = 3 if attention else 0  # the product, its bias and the split of the first block
    assert sum(found.values()) == sum(before.values()) - 4 - 3 - fused
    np.testing.assert_allclose(
        logits(tiny_artefact, model), logits(tiny_artefact), rtol=0, atol=2e-5
    )


def test_weights_stay_in_the_file(tiny_artefact: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere.onnx"
    link.symlink_to(tiny_artefact)
    model = graph_for_cuda(link)
    assert len(model) < 0.8 * tiny_artefact.stat().st_size
    after, before = onnx.load_from_string(model), onnx.load(tiny_artefact)
    onnx.load_external_data_for_model(after, str(Path(os.path.realpath(link)).parent))
    weights = {t.name: t for t in after.graph.initializer}
    for tensor in before.graph.initializer:
        same = onnx.numpy_helper.to_array(weights[tensor.name])
        np.testing.assert_array_equal(same, onnx.numpy_helper.to_array(tensor))
    assert after.metadata_props == before.metadata_props
    np.testing.assert_allclose(logits(link, model), logits(tiny_artefact), rtol=0, atol=2e-5)


def test_what_attention_cannot_take_stays_as_it_is(tmp_path: Path) -> None:
    """Queries that are turned by their place, and scores with a bias, have no such operator."""
    for name, architecture, config in (
        ("rotary", "ViTForImageClassification", {}),
        ("relative", "BeitForImageClassification", {"use_relative_position_bias": True}),
    ):
        folder = write_checkpoint(tmp_path / name, architecture=architecture, **config)
        checkpoint = load(str(folder))
        if name == "rotary":
            checkpoint = replace(
                checkpoint, model_config=replace(checkpoint.model_config, rotary=Rotary(100.0))
            )
        path = tmp_path / f"{name}.onnx"
        export(checkpoint, path, precision="fp32", images=None)
        model = graph_for_cuda(path)
        domains = {
            n.domain for n in onnx.load_from_string(model).graph.node if "Attention" in n.op_type
        }
        assert domains == {""}, name
        np.testing.assert_allclose(logits(path, model), logits(path), rtol=0, atol=2e-5)


def test_two_norms_of_one_sum_are_both_there(tiny_artefact: Path, tmp_path: Path) -> None:
    """As in blocks whose attention and MLP both start from the same sum."""
    model = onnx.load(tiny_artefact)
    nodes = model.graph.node
    norms = [n for n in nodes if n.op_type == "LayerNormalization"]
    first, second = norms[0], norms[1]
    twin = onnx.NodeProto.FromString(first.SerializeToString())
    twin.name, twin.output[0] = "twin", "twin"
    both = onnx.helper.make_node("Add", [first.output[0], "twin"], ["both"])
    at = list(nodes).index(first) + 1
    for later in nodes[at:]:
        for i, name in enumerate(later.input):
            if name == first.output[0]:
                later.input[i] = "both"
    nodes.insert(at, both)
    nodes.insert(at, twin)
    assert second.op_type == "LayerNormalization"
    path = tmp_path / "twin.onnx"
    path.write_bytes(model.SerializeToString())
    found = logits(path, graph_for_cuda(path))
    np.testing.assert_allclose(found, logits(path), rtol=0, atol=2e-5)
