"""FP16 artefacts as a CPU without FP16 arithmetic loads them."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from vit_export.artefact import export
from vit_export.checkpoint import load
from vit_runtime import machine
from vit_runtime.engine import Engine
from vit_runtime.widen import widened

on_x86 = pytest.mark.skipif(not machine.is_x86(), reason="other processors keep FP16 arithmetic")


@pytest.fixture(scope="module", params=["uint8", "hf"])
def half(
    request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("half") / "vit.onnx"
    export(load(str(tiny_folder)), path, precision="fp16", io=request.param, images=None)
    return path


def test_weights_stay_half_and_all_else_is_single(half: Path) -> None:
    before, after = onnx.load(half), onnx.load_from_string(widened(half))
    onnx.checker.check_model(after, full_check=True)
    assert after.metadata_props == before.metadata_props
    weights = {t.name: t for t in after.graph.initializer}
    for weight in before.graph.initializer:
        kept = weights.get(f"{weight.name}/half") or weights[weight.name]
        assert np.array_equal(numpy_helper.to_array(kept), numpy_helper.to_array(weight))
        assert kept.name.endswith("/half") == (weight.data_type == TensorProto.FLOAT16)
    inferred = onnx.shape_inference.infer_shapes(after, strict_mode=True)
    kinds = {value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    assert TensorProto.FLOAT in kinds
    assert TensorProto.FLOAT16 not in kinds


@on_x86
def test_only_the_rounding_of_the_weights_is_left(
    half: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole.onnx"
    export(load(str(tiny_folder)), whole, precision="fp32", images=None)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3), np.uint8)
    logits = []
    for path, widen in ((whole, True), (half, True), (half, False)):
        with Engine.open(path, provider="cpu", widen=widen) as engine:
            logits.append(engine.run(pixels))
    exact, widely, narrowly = logits
    assert np.abs(widely - exact).max() < 2e-3 * np.ptp(exact)
    assert np.abs(widely - exact).mean() < np.abs(narrowly - exact).mean()


@on_x86
def test_no_activation_is_cast(half: Path, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(widened(half), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(options.optimized_model_filepath).graph.node
    casts = [node for node in nodes if node.op_type == "Cast"]
    assert len(casts) <= 2, "the pixels, and the logits to what they are"
    assert not {"Erf", "Sum"} & {node.op_type for node in nodes}, "GELU is one node"
