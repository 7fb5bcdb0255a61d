"""Attention rewritten as a model is loaded, held to the original on the CPU provider."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from vit_engine.artefact.metadata import read_contract
from vit_engine.artefact.rewrites import attention
from vit_engine.errors import ArtefactError
from vit_engine.outputs.parity import sample_pixels
from vit_engine.providers.provider import SessionSpec
from vit_engine.providers.sessions import open_session


def exported(folder: Path, path: Path, *, precision: str = "fp32", io: str = "uint8") -> Path:
    from vit_export.artefact import export
    from vit_export.checkpoints.checkpoint import load

    export(load(str(folder)), path, precision=precision, io=io, images=None)
    return path


def request_for(path: Path) -> SessionSpec:
    return SessionSpec(path, read_contract(path))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("io", ["uint8", "hf"])
def test_rewritten_attention_gives_the_same_logits(
    tiny_folder: Path, tmp_path: Path, precision: str, io: str
) -> None:
    path = exported(tiny_folder, tmp_path / "vit.onnx", precision=precision, io=io)
    spec = request_for(path)
    model = attention.decompose_attention(path.read_bytes())
    given = spec.contract.input
    rng = np.random.default_rng(0)
    inputs = {
        "uint8": rng.integers(0, 256, (6, 32, 32, 3), np.uint8),
        "float32": rng.standard_normal((6, 3, 32, 32), np.float32),
    }[given.dtype]
    (expected,) = open_session(spec, {"cpu": {}}).run(None, {given.name: inputs})
    (found,) = open_session(spec, {"cpu": {}}, model=model).run(None, {given.name: inputs})
    # The CPU provider computes both in fp32; in fp16 they round at other places.
    tolerance = {"fp32": 1e-5, "fp16": 5e-3}[precision] * np.ptp(expected)
    np.testing.assert_allclose(found, expected, atol=float(tolerance))


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


def test_the_real_model_rewritten(test_data: Path, tmp_path: Path) -> None:
    path = exported(test_data / "deit-tiny-imagenet1k", tmp_path / "vit.onnx")
    spec = request_for(path)
    model = attention.decompose_attention(path.read_bytes())
    inputs = {"pixels": sample_pixels(read_contract(path).input)}
    (expected,) = open_session(spec, {"cpu": {}}).run(None, inputs)
    (found,) = open_session(spec, {"cpu": {}}, model=model).run(None, inputs)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_attention_of_another_kind_is_not_rewritten(tiny_artefact: Path) -> None:
    model = onnx.load(tiny_artefact)
    node = next(n for n in model.graph.node if n.op_type == "Attention")
    node.attribute.append(onnx.helper.make_attribute("is_causal", 1))
    with pytest.raises(ArtefactError, match="is not as vit-export writes it"):
        attention.decompose_attention(model.SerializeToString())
