"""The Triton repository, read with Triton's own protobuf and fed as it says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from support import Run
from support.embedding_model import SIZE, write_embedding_model
from vit_engine.artefact.contract import KEY
from vit_engine.artefact.metadata import path_from_name, read_contract
from vit_engine.engine import Engine
from vit_engine.errors import ArtefactError
from vit_engine.providers import tensorrt
from vit_export import triton

DTYPES = {"TYPE_UINT8": np.uint8, "TYPE_FP32": np.float32}


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The demo, by what its graph takes."""
    from vit_export.artefact import export
    from vit_export.checkpoints.checkpoint import load

    hf = tmp_path_factory.mktemp("hf") / "model.onnx"
    export(load("demo"), hf, precision="fp32", io="hf", images=None)
    return {"uint8": path_from_name("demo"), "hf": hf}


def config_of(folder: Path) -> Any:
    return text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def tensor(given: Any, batch: int) -> np.ndarray[Any, Any]:
    dtype = DTYPES[model_config_pb2.DataType.Name(given.data_type)]
    return np.random.default_rng(0).integers(0, 255, (batch, *given.dims)).astype(dtype)


@pytest.mark.parametrize("io", ["uint8", "hf"])
@pytest.mark.parametrize("with_tensorrt", [False, True])
def test_described_tensors_run(
    artefacts: dict[str, Path], tmp_path: Path, io: str, with_tensorrt: bool
) -> None:
    contract = read_contract(artefacts[io])
    folder = triton.write(artefacts[io], tmp_path, with_tensorrt=with_tensorrt)
    config = config_of(folder)
    (given,), (output,) = config.input, config.output
    session = onnxruntime.InferenceSession(folder / "1" / "model.onnx")
    for batch in (1, 3):
        feed = tensor(given, batch)
        (logits,) = session.run([output.name], {given.name: feed})
        assert list(logits.shape) == [batch, *output.dims]
        assert logits.dtype == DTYPES[model_config_pb2.DataType.Name(output.data_type)]
    original = onnxruntime.InferenceSession(artefacts[io])
    (expected,) = original.run([output.name], {given.name: feed})
    np.testing.assert_allclose(logits, expected, atol=0.02 * np.ptp(expected))
    assert config.parameters["score"].string_value == contract.output.score
    labels = (folder / output.label_filename).read_text().splitlines()
    assert labels == list(contract.output.labels)


def test_vectors_have_a_space_and_no_labels(tmp_path: Path) -> None:
    contract = write_embedding_model(tmp_path / "vectors.onnx")
    folder = triton.write(tmp_path / "vectors.onnx", tmp_path)
    config = config_of(folder)
    (output,) = config.output
    assert (output.name, list(output.dims), output.label_filename) == ("embedding", [SIZE], "")
    assert config.parameters["space"].string_value == contract.output.space  # type: ignore[union-attr]
    assert not (folder / "labels.txt").exists()


@pytest.mark.parametrize("io", ["uint8", "hf"])
def test_queue_is_bounded_and_warm(artefacts: dict[str, Path], tmp_path: Path, io: str) -> None:
    config = config_of(triton.write(artefacts[io], tmp_path))
    assert (config.name, config.backend) == ("vit", "onnxruntime")
    policy = config.dynamic_batching.default_queue_policy
    assert policy.max_queue_size > config.max_batch_size > 1
    assert policy.timeout_action == model_config_pb2.ModelQueuePolicy.REJECT
    assert policy.default_timeout_microseconds > 0
    assert config.dynamic_batching.max_queue_delay_microseconds > 0
    assert [group.count for group in config.instance_group] == [2]
    given = config.input[0]
    for warm, batch in zip(config.model_warmup, (1, config.max_batch_size), strict=True):
        sample = warm.inputs[given.name]
        assert (warm.batch_size, sample.zero_data) == (batch, True)
        assert (sample.data_type, list(sample.dims)) == (given.data_type, list(given.dims))
    assert not config.HasField("optimization")


def test_tensorrt_has_the_profile_of_vit_infer(artefacts: dict[str, Path], tmp_path: Path) -> None:
    path = artefacts["uint8"]
    folder = triton.write(path, tmp_path, with_tensorrt=True)
    config = config_of(folder)
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    ours = tensorrt.profile(read_contract(path).input, config.max_batch_size)
    assert accelerator.name == "tensorrt"
    assert dict(accelerator.parameters) == {"precision_mode": "FP16", **ours}
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    nodes = onnx.load(folder / "1" / "model.onnx").graph.node
    assert "Attention" not in {node.op_type for node in nodes}


def test_model_stays_an_artefact(artefacts: dict[str, Path], tmp_path: Path) -> None:
    folder = triton.write(artefacts["uint8"], tmp_path, with_tensorrt=True)
    original = read_contract(artefacts["uint8"])
    with Engine.open(folder / "1" / "model.onnx", provider="cpu") as engine:
        found = engine.contract
    assert original.content_sha256 != found.content_sha256
    assert replace(found, content_sha256=original.content_sha256) == original
    entries = onnx.load(folder / "1" / "model.onnx").metadata_props
    assert [entry.key for entry in entries] == [KEY]


def test_only_artefacts_are_served(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"\x08\x07")
    with pytest.raises(ArtefactError):
        triton.write(tmp_path / "x.onnx", tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_command_writes_it_beside_the_artefact(
    tiny_folder: Path, tmp_path: Path, run_command: Run
) -> None:
    out, folder = tmp_path / "vit.onnx", tmp_path / "repository"
    refused = run_command("vit-export", tiny_folder, "-o", out, "--triton-tensorrt")
    assert refused.returncode == 2
    assert "--triton-tensorrt only makes sense together with --triton DIR" in refused.stderr
    given = ("--no-verify", "--triton", folder)
    ended = run_command("vit-export", tiny_folder, "-o", out, *given)
    assert ended.returncode == 0, ended.stderr
    assert (folder / "vit/1/model.onnx").read_bytes() == out.read_bytes()
    assert config_of(folder / "vit").input[0].name == "pixels"
