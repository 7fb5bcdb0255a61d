"""The graph: the logits of transformers' own model, in few nodes, with one dynamic axis."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support import write_checkpoint
from vit_engine.engine import Engine
from vit_engine.providers.tensors import normalized
from vit_export.artefact import export
from vit_export.checkpoints.checkpoint import load
from vit_export.eager import eager_model
from vit_export.families.transformers.config import ACTIVATIONS
from vit_export.graph.layers import Linear
from vit_export.graph.matmul import MatMul
from vit_export.graph.model import model_from_checkpoint
from vit_export.graph.weights import Weights


@st.composite
def architectures(draw: st.DrawFn) -> dict[str, object]:
    heads, patch = draw(st.integers(1, 4)), draw(st.sampled_from([4, 7, 8]))
    return {
        "num_attention_heads": heads,
        "hidden_size": heads * draw(st.sampled_from([4, 8, 12])),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "intermediate_size": draw(st.integers(3, 40)),
        "patch_size": patch,
        "image_size": patch * draw(st.integers(1, 4)),
        "num_labels": draw(st.integers(1, 7)),
        "qkv_bias": draw(st.booleans()),
        "hidden_act": draw(st.sampled_from(sorted(ACTIVATIONS))),
        "layer_norm_eps": draw(st.sampled_from([1e-12, 1e-6, 1e-3])),
        "seed": draw(st.integers(0, 2**16)),
    }


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(architectures(), st.sampled_from(["uint8", "hf"]), st.sampled_from(["fp32", "fp16"]))
def test_logits_are_those_of_transformers(
    tmp_path_factory: pytest.TempPathFactory,
    architecture: dict[str, object],
    io: str,
    precision: str,
) -> None:
    import torch

    folder = write_checkpoint(tmp_path_factory.mktemp("random"), **architecture)
    checkpoint = load(str(folder))
    path = folder / "vit.onnx"
    export(checkpoint, path, precision=precision, io=io, images=None)
    size = checkpoint.model_config.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
    with Engine.open(path, provider="cpu") as engine:
        found = engine.run(pixels)
    with torch.inference_mode():
        images = torch.from_numpy(normalized(pixels, checkpoint.preprocessing))
        expected = eager_model(checkpoint)(images).numpy()
    tolerance = {"fp32": 1e-4, "fp16": 0.03}[precision] * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("io", ["uint8", "hf"])
def test_twelve_layers_take_few_nodes_and_one_dynamic_axis(tmp_path: Path, io: str) -> None:
    checkpoint = load(str(write_checkpoint(tmp_path, num_hidden_layers=12)))
    export(checkpoint, tmp_path / "vit.onnx", precision="fp16", io=io, images=None)
    model = onnx.load(tmp_path / "vit.onnx")
    nodes = model.graph.node
    assert len(nodes) <= {"uint8": 205, "hf": 330}[io]
    assert ("Attention" in {n.op_type for n in nodes}) == (io == "uint8")
    assert not {n.op_type for n in nodes} & {
        "Shape",
        "Expand",
        "Gather",
        "Constant",
        "ConstantOfShape",
    }
    assert {n.domain for n in nodes} == {""}
    readers = (model.opset_import[0].version, model.ir_version)
    assert readers == {"uint8": (23, 11), "hf": (21, 10)}[io]
    assert all(n.name.startswith("vit/") for n in nodes)
    assert len({n.name for n in nodes}) == len(nodes)
    names = {i.name for i in model.graph.initializer}
    assert {"vit.blocks.0.attention.qkv.weight", "vit.blocks.11.mlp.fc2.bias"} <= names
    (image,), (logits,) = model.graph.input, model.graph.output
    shape = [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim]
    assert shape == ["batch", 32, 32, 3] if io == "uint8" else ["batch", 3, 32, 32]
    assert [d.dim_param or d.dim_value for d in logits.type.tensor_type.shape.dim] == ["batch", 5]
    floats = [i for i in model.graph.initializer if i.data_type != onnx.TensorProto.INT64]
    assert {i.data_type for i in floats} == {onnx.TensorProto.FLOAT16}


def test_the_products_of_two_blocks(tiny_folder: Path) -> None:
    """16 patches and CLS; the last block computes CLS alone."""
    found = []

    def remember(weights: Weights, matmul: MatMul) -> Linear:
        found.append(matmul)
        return Linear(weights, matmul)

    checkpoint = load(str(tiny_folder))
    model_from_checkpoint(checkpoint, precision="fp32", io="uint8", linear=remember)
    q, k, v = (f"blocks.0.{name}" for name in "qkv")
    first = [
        MatMul("qkv", 0, (q, k, v), tokens=17, input_layer="blocks.0.norm1"),
        MatMul("out", 0, ("blocks.0.out",), tokens=17, input_layer=v),
        MatMul("fc1", 0, ("blocks.0.fc1",), tokens=17, input_layer="blocks.0.norm2"),
        MatMul("fc2", 0, ("blocks.0.fc2",), tokens=17, input_layer=None, after_gelu=True),
    ]
    q, k, v = (f"blocks.1.{name}" for name in "qkv")
    last = [
        MatMul("q", 1, (q,), tokens=1, input_layer="blocks.1.norm1"),
        MatMul("kv", 1, (k, v), tokens=17, input_layer="blocks.1.norm1"),
        MatMul("out", 1, ("blocks.1.out",), tokens=1, input_layer=v),
        MatMul("fc1", 1, ("blocks.1.fc1",), tokens=1, input_layer="blocks.1.norm2"),
        MatMul("fc2", 1, ("blocks.1.fc2",), tokens=1, input_layer=None, after_gelu=True),
    ]
    head = MatMul("head", None, ("head",), tokens=1, input_layer="norm")
    assert found == [*first, *last, head]
    assert [str(p) for p in (first[3], head)] == ["block 0 fc2", "head"]


def test_an_hf_artefact_serves_a_client_that_is_not_ours(test_data: Path, tmp_path: Path) -> None:
    from PIL import Image
    from transformers import ViTImageProcessorPil

    folder = test_data / "deit-tiny-imagenet1k"
    checkpoint = load(str(folder))
    export(checkpoint, tmp_path / "hf.onnx", precision="fp32", io="hf", images=None)
    export(checkpoint, tmp_path / "vit.onnx", precision="fp32", images=None)
    paths = sorted((test_data / "imagenet-sample").glob("*.JPEG"))[:6]
    processor = ViTImageProcessorPil.from_pretrained(folder)
    images = [Image.open(p).convert("RGB") for p in paths]
    feed = processor(images=images, return_tensors="np")["pixel_values"]
    session = onnxruntime.InferenceSession(tmp_path / "hf.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"pixel_values": feed})

    from vit_engine.classifier import Classifier

    with Classifier.load(tmp_path / "vit.onnx", provider="cpu") as vit:
        ours = [p.index for p in vit.classify(paths)]
    assert logits.argmax(1).tolist() == ours
    with Classifier.load(tmp_path / "hf.onnx", provider="cpu") as vit:
        assert [p.index for p in vit.classify(paths)] == ours
