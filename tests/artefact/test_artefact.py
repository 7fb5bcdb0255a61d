"""Bad artefacts are refused with words, before anything trusts them."""

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from support import ROOT, Run
from vit_engine.artefact import contract
from vit_engine.artefact.metadata import read_contract
from vit_engine.engine import Engine
from vit_engine.errors import ArtefactError


def stamped(source: Path, path: Path, **changes: object) -> Path:
    """Write a copy of an artefact whose contract has other top-level values."""
    model = onnx.load(source)
    (entry,) = model.metadata_props
    entry.value = json.dumps(json.loads(entry.value) | {"content_sha256": None} | changes)
    onnx.save(model, path)
    return path


def test_the_contract_is_read_without_onnxruntime(tiny_artefact: Path) -> None:
    (entry,) = onnx.load(tiny_artefact).metadata_props
    assert entry.key == contract.KEY
    assert read_contract(tiny_artefact) == contract.loads(entry.value)


def test_a_truncated_artefact(tiny_artefact: Path, tmp_path: Path) -> None:
    data = tiny_artefact.read_bytes()
    cut = tmp_path / "cut.onnx"
    for size in (0, 1, 7, 100, len(data) // 2, len(data) - 1):
        cut.write_bytes(data[:size])
        with pytest.raises(
            ArtefactError, match=r"cut off|empty|no graph|not an ONNX|no 'vit_engine'"
        ):
            read_contract(cut)


def test_bytes_that_are_no_onnx(tmp_path: Path) -> None:
    path = tmp_path / "noise.onnx"
    rng = np.random.default_rng(0)
    for _ in range(300):
        path.write_bytes(rng.bytes(int(rng.integers(1, 400))))
        with pytest.raises(ArtefactError):
            read_contract(path)


def test_a_foreign_onnx(tmp_path: Path) -> None:
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y])), tmp_path / "f")
    with pytest.raises(ArtefactError, match=r"no 'vit_engine' contract.*vit-export"):
        Engine.open(tmp_path / "f", provider="cpu")


@pytest.mark.parametrize("schema", [1, 3])
def test_another_schema(tiny_artefact: Path, tmp_path: Path, schema: int) -> None:
    path = stamped(tiny_artefact, tmp_path / "other.onnx", schema=schema)
    with pytest.raises(ArtefactError, match=f"schema {schema}, this vit-engine reads schema 2"):
        Engine.open(path, provider="cpu")


def test_labels_off_by_one(tiny_artefact: Path, tmp_path: Path) -> None:
    labels = read_contract(tiny_artefact).output.labels[:-1]
    output = {"name": "logits", "labels": labels, "score": "softmax"}
    path = stamped(tiny_artefact, tmp_path / "off.onnx", output=output)
    with pytest.raises(
        ArtefactError, match=r"graph has inputs and outputs .*\[5\].*contract says .*\[4\]"
    ):
        Engine.open(path, provider="cpu")


def test_external_data(tiny_artefact: Path, tmp_path: Path) -> None:
    model = onnx.load(tiny_artefact)
    path = tmp_path / "external.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(ArtefactError, match="weights are in another file"):
        Engine.open(path, provider="cpu")
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../../../etc/passwd"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtefactError, match="weights are in another file"):
        Engine.open(path, provider="cpu")


def test_a_graph_that_onnxruntime_refuses(tiny_artefact: Path, tmp_path: Path) -> None:
    model = onnx.load(stamped(tiny_artefact, tmp_path / "odd.onnx"))
    model.graph.node[3].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(ArtefactError, match="ONNX Runtime cannot open it"):
        Engine.open(tmp_path / "odd.onnx", provider="cpu")


@pytest.mark.parametrize("kind", ["absent", "folder", "unreadable"])
def test_a_file_that_cannot_be_read(tmp_path: Path, kind: str, run_command: Run) -> None:
    path = tmp_path / "vit.onnx"
    if kind == "folder":
        path.mkdir()
    if kind == "unreadable":
        path.write_bytes(b"x")
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("this user reads files whatever their mode")
    ended = run_command("vit-infer", "-m", path, ROOT / "examples/star-01.png")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith(f"vit-infer: {path}: ")
    assert len(ended.stderr.splitlines()) == 1
