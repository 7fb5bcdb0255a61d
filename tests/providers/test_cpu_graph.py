"""The graph as a CPU runs it, beside the one that is in the file."""

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from support import write_checkpoint
from vit_engine.artefact.rewrites.cpu_graph import graph_for_cpu
from vit_engine.engine import Engine
from vit_engine.errors import ArtefactError
from vit_engine.providers import cpu
from vit_export.artefact import export
from vit_export.checkpoints.checkpoint import load


@pytest.fixture(scope="module", params=["uint8", "hf"])
def half(
    request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("half") / "vit.onnx"
    export(load(str(tiny_folder)), path, precision="fp16", io=request.param, images=None)
    return path


@pytest.fixture(scope="module")
def whole(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "vit.onnx"
    export(load(str(tiny_folder)), path, precision="fp32", images=None)
    return path


def test_weights_stay_half_and_all_else_is_single(half: Path) -> None:
    before, after = onnx.load(half), onnx.load_from_string(graph_for_cpu(half))
    assert any(t.data_location == TensorProto.EXTERNAL for t in after.graph.initializer)
    onnx.load_external_data_for_model(after, str(half.parent))
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


def test_only_the_rounding_of_the_weights_is_left(half: Path, whole: Path) -> None:
    logits = []
    for path, optimize_graph in ((whole, True), (half, True), (half, False)):
        with Engine.open(path, provider="cpu", optimize_graph=optimize_graph) as engine:
            logits.append(engine.run(noise()))
    exact, widely, narrowly = logits
    assert np.abs(widely - exact).max() < 2e-3 * np.ptp(exact)
    assert np.abs(widely - exact).mean() < np.abs(narrowly - exact).mean()


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_products_of_their_own_change_no_logit(tmp_path: Path, qkv_bias: bool) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", qkv_bias=qkv_bias)
    path = tmp_path / "vit.onnx"
    export(load(str(folder)), path, precision="fp32", images=None)
    with Engine.open(path, provider="cpu") as engine:
        apart = engine.run(noise())
    with Engine.open(path, provider="cpu", optimize_graph=False) as engine:
        np.testing.assert_allclose(apart, engine.run(noise()), rtol=0, atol=1e-5)
    assert "Split" not in operators(path, tmp_path)


def test_no_activation_is_cast(half: Path, tmp_path: Path) -> None:
    found = operators(half, tmp_path)
    assert found.count("Cast") <= 2, "the pixels, and the logits to what they are"
    assert not {"Erf", "Sum"} & set(found), "GELU is one node"


def test_the_file_is_let_go_of_once_it_is_open(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"not utf-8 \xe9")
    path, link = folder / os.fsdecode(b"\xe9.onnx"), tmp_path / "links" / "model"
    folder.mkdir()
    link.parent.mkdir()
    link.symlink_to(path)
    shutil.copy(whole, path)
    with Engine.open(link, provider="cpu") as engine:
        before = engine.run(noise())
        assert os.fsencode(path) not in Path("/proc/self/maps").read_bytes()
        path.write_bytes(bytes(path.stat().st_size))
        assert np.array_equal(engine.run(noise()), before)


def test_a_file_that_changes_while_it_is_opened_is_refused(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vit.onnx"
    shutil.copy(whole, path)

    def written_to(source: Path) -> bytes:
        graph = graph_for_cpu(source)
        other = tmp_path / "other.onnx"
        shutil.copy(whole, other)
        other.replace(path)
        return graph

    monkeypatch.setattr(cpu, "graph_for_cpu", written_to)
    with pytest.raises(ArtefactError, match="is another file by now"):
        Engine.open(path, provider="cpu")


def noise() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3), np.uint8)


def operators(path: Path, tmp_path: Path) -> list[str]:
    """Return the operators that ONNX Runtime runs for the adapted graph."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(path.parent)
    )
    onnxruntime.InferenceSession(graph_for_cpu(path), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
