"""Attention rewritten as a model is loaded; its logits are tested family by family."""

from pathlib import Path

import onnx
import pytest

from vit_engine.artefact.rewrites import attention
from vit_engine.errors import ArtefactError


def test_the_rewritten_model_is_sound_and_only_its_attention_is_new(tiny_artefact: Path) -> None:
    data = tiny_artefact.read_bytes()
    before = onnx.load_from_string(data)
    after = onnx.load_from_string(attention.decompose_attention(data))
    onnx.checker.check_model(after, full_check=True)
    kinds = [node.op_type for node in after.graph.node]
    assert "Attention" not in kinds
    start = kinds.index("Softmax")
    assert kinds[start - 2 : start + 2] == ["Mul", "MatMul", "Softmax", "MatMul"]
    kept = [node for node in before.graph.node if node.op_type != "Attention"]
    assert all(node in after.graph.node for node in kept)
    assert list(after.metadata_props) == list(before.metadata_props)
    assert list(after.opset_import) == list(before.opset_import)
    names = [value.name for value in after.graph.initializer]
    assert len(names) == len(set(names))
    assert [t.name for t in before.graph.initializer] == names[: len(before.graph.initializer)]


def test_attention_of_another_kind_is_not_rewritten(tiny_artefact: Path) -> None:
    model = onnx.load(tiny_artefact)
    node = next(n for n in model.graph.node if n.op_type == "Attention")
    node.attribute.append(onnx.helper.make_attribute("is_causal", 1))
    with pytest.raises(ArtefactError, match="is not as vit-export writes it"):
        attention.decompose_attention(model.SerializeToString())
