"""Every family of `--embed`, pooled in each way that it allows, beside transformers itself."""

import json
import re
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from onnxscript import nn
from PIL import Image
from safetensors.torch import load_file, save_file

from support import TINY, slow_case, write_checkpoint
from support.graphs import Floats, drawn_images, faults, read_by_products
from vit_engine.artefact.contract import EmbeddingParity, Pooling, Precision
from vit_engine.errors import CheckpointError, ParityError
from vit_engine.images.preprocess import pixels_from_image
from vit_engine.outputs.embeddings import Embeddings, cosines
from vit_export.artefact import export
from vit_export.checkpoints.checkpoint import Checkpoint, VectorOptions, load
from vit_export.eager import eager_outputs
from vit_export.families.known import VECTOR_FAMILIES
from vit_export.graph.layers import Linear
from vit_export.graph.matmul import MatMul
from vit_export.graph.model import model_from_checkpoint
from vit_export.graph.weights import LinearFactory, Weights
from vit_export.quantization.calibration import pixels_of
from vit_export.quantization.model_session import open_model_session
from vit_export.quantization.pipeline import quantize
from vit_export.verify import check_neighbours

VISION: dict[str, Any] = {"vision_config": {k: v for k, v in TINY.items() if k != "num_labels"}}
TEXT: dict[str, Any] = {
    "text_config": {k: TINY[k] for k in ("hidden_size", "num_attention_heads", "intermediate_size")}
    | {"num_hidden_layers": 1, "vocab_size": 50, "max_position_embeddings": 8}
}
NO_BIAS = {f"{part}_bias": False for part in ("query", "value", "proj", "mlp")}
RELATIVE = {"use_relative_position_bias": True}
TOKENS: tuple[Pooling, ...] = ("cls", "mean", "cls+mean")


@dataclass(frozen=True)
class Case:
    """A class of transformers, and what it allows, its default first."""

    architecture: str
    poolings: tuple[Pooling, ...]
    config: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.architecture, *(key for key in self.config if "config" not in key)])


CASES = (
    Case("ViTModel", ("pooler", *TOKENS)),
    Case("ViTForImageClassification", TOKENS),
    Case("ViTForMaskedImageModeling", TOKENS, {"encoder_stride": 8}),
    Case("DeiTModel", ("pooler", *TOKENS)),
    Case("DeiTForImageClassification", TOKENS),
    Case("DeiTForImageClassificationWithTeacher", TOKENS),
    Case("DeiTForMaskedImageModeling", TOKENS, {"encoder_stride": 8}),
    Case("ViTMSNModel", TOKENS),
    Case("ViTMSNForImageClassification", TOKENS),
    Case("IJepaModel", ("mean",)),
    Case("IJepaForImageClassification", ("mean",)),
    Case("Dinov2Model", TOKENS),
    Case("Dinov2Model", TOKENS, {"use_swiglu_ffn": True}),
    Case("Dinov2ForImageClassification", ("cls+mean", "cls", "mean")),
    Case("Dinov2WithRegistersModel", TOKENS),
    Case("Dinov2WithRegistersForImageClassification", ("cls+mean", "cls", "mean")),
    Case("DINOv3ViTModel", TOKENS),
    Case("DINOv3ViTModel", TOKENS, {"num_register_tokens": 3, "use_gated_mlp": True} | NO_BIAS),
    Case("BeitModel", ("mean",), RELATIVE),
    Case("BeitModel", TOKENS, {"use_mean_pooling": False}),
    Case("BeitForImageClassification", ("mean",), RELATIVE),
    Case("Data2VecVisionModel", ("mean",), RELATIVE),
    Case("Data2VecVisionModel", TOKENS, {"use_mean_pooling": False}),
    Case("Data2VecVisionForImageClassification", ("mean",), RELATIVE),
    Case("CLIPModel", ("cls",), VISION | TEXT),
    Case("CLIPVisionModelWithProjection", ("cls",)),
    Case("CLIPVisionModel", ("cls",)),
    Case("CLIPForImageClassification", ("mean",), VISION),
    Case("MetaClip2Model", ("cls",), VISION | TEXT),
    Case("MetaClip2VisionModelWithProjection", ("cls",)),
    Case("MetaClip2VisionModel", ("cls",)),
    Case("MetaClip2ForImageClassification", ("mean",), VISION),
    Case("SiglipModel", ("map", "mean"), VISION | TEXT),
    Case("SiglipVisionModel", ("map", "mean")),
    Case("SiglipVisionModel", ("mean",), {"vision_use_head": False}),
    Case("SiglipForImageClassification", ("mean", "map"), VISION),
)

FAST = {
    *("ViTModel", "DINOv3ViTModel-num_register_tokens-use_gated_mlp", "SiglipModel", "CLIPModel"),
    *("Dinov2WithRegistersForImageClassification", "BeitModel-use_relative_position_bias"),
}
"""The cases whose graphs have least in common; those beside them are slow."""

CALIBRATING, JUDGED = slice(8), slice(8, 16)
MIN_COSINE: dict[Precision, float] = {"fp32": 1 - 1e-9, "fp16": 1 - 1e-4}
OTHER_SIZE = 48


def as_case(case: Case) -> Any:
    return pytest.param(case, marks=[pytest.mark.slow] * (str(case) not in FAST))


def images() -> list[Image.Image]:
    return list(drawn_images()[JUDGED])


def vectors_of(
    checkpoint: Checkpoint, precision: Precision = "fp32", linear: LinearFactory = Linear
) -> Floats:
    model = model_from_checkpoint(checkpoint, precision=precision, io="uint8", linear=linear)
    pixels = pixels_of(images(), checkpoint.preprocessing)
    found: Floats = open_model_session(model).run(None, {"pixels": pixels})[0]
    return found


def tokens_of_the_last_block(checkpoint: Checkpoint) -> int:
    found = {}

    def noted(weights: Weights, matmul: MatMul) -> nn.Module:
        found[matmul.role, matmul.block] = matmul.tokens
        return Linear(weights, matmul)

    model_from_checkpoint(checkpoint, precision="fp32", io="uint8", linear=noted)
    return found["out", checkpoint.model_config.layers - 1]


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def folder(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vectors")
    return write_checkpoint(
        path, architecture=case.architecture, spread=1.5, embedding_spread=0.01, **case.config
    )


@pytest.fixture(scope="module")
def checkpoints(case: Case, folder: Path) -> dict[Pooling, Checkpoint]:
    return {p: load(str(folder), vectors=VectorOptions(p)) for p in case.poolings}


def test_no_class_is_left_out() -> None:
    known = {name for f in VECTOR_FAMILIES for name in (f.architecture, *f.classes)}
    assert known == {case.architecture for case in CASES}


@pytest.mark.parametrize("case", [as_case(case) for case in CASES], ids=str, indirect=True)
def test_vectors_are_those_of_transformers(checkpoints: dict[Pooling, Checkpoint]) -> None:
    """The directions, of length 1; of the last block no more is computed than is read."""
    for pooling, checkpoint in checkpoints.items():
        expected = eager_outputs(checkpoint, images())
        assert expected.shape[1:] == checkpoint.output.shape
        for precision, least in MIN_COSINE.items():
            found = vectors_of(checkpoint, precision)
            np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
            assert cosines(found, expected).min() > least, (pooling, precision)
        read = 1 if pooling in ("cls", "pooler") else checkpoint.model_config.tokens
        assert tokens_of_the_last_block(checkpoint) == read, pooling


def test_the_default_is_what_the_library_hands_out(case: Case, folder: Path) -> None:
    """As long as that is, if asked for; at another image size; and what a model lacks is told."""
    checkpoint = load(str(folder), vectors=VectorOptions(normalized=False), image_size=OTHER_SIZE)
    assert isinstance(checkpoint.output, Embeddings)
    assert checkpoint.output.pooling == case.poolings[0]
    expected = eager_outputs(checkpoint, images())
    bound = 2e-5 * float(np.abs(expected).max())
    np.testing.assert_allclose(vectors_of(checkpoint), expected, rtol=0, atol=bound)
    lacking: Pooling = "map" if "map" not in case.poolings else "cls"
    allowed = ", ".join(case.poolings)
    with pytest.raises(CheckpointError, match=rf"--pool {lacking}: .* has {re.escape(allowed)}$"):
        load(str(folder), vectors=VectorOptions(lacking))


def test_names_in_memory_mean_the_same_as_names_on_disk(
    case: Case, checkpoints: dict[Pooling, Checkpoint], folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    model = getattr(transformers, case.architecture).from_pretrained(folder)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    found = load(str(tmp_path), vectors=VectorOptions(case.poolings[0])).tensors
    expected = checkpoints[case.poolings[0]].tensors
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor, expected[name])


INT8 = [
    slow_case(Case("ViTModel", ("pooler",))),
    Case("DINOv3ViTModel", ("cls+mean",), {"num_register_tokens": 3, "use_gated_mlp": True}),
    slow_case(Case("SiglipVisionModel", ("map",))),
]


@pytest.mark.parametrize("case", INT8, ids=str, indirect=True)
def test_int8_stays_close(checkpoints: dict[Pooling, Checkpoint]) -> None:
    (checkpoint,) = checkpoints.values()
    pixels = pixels_of(list(drawn_images()[CALIBRATING]), checkpoint.preprocessing)
    quantized = quantize(checkpoint, pixels)
    assert quantized.matmuls
    found = vectors_of(quantized.checkpoint, "int8", quantized.linear)
    expected = eager_outputs(checkpoint, images())
    assert cosines(found, expected).min() > 0.998
    matmuls, inputs = read_by_products(checkpoint)
    assert list(faults(checkpoint, matmuls, inputs)) == []


MUTATIONS: list[tuple[str, dict[str, Any]]] = [
    ("ViTModel", {"hidden_act": "relu"}),
    ("ViTModel", {"pooler_act": "relu"}),
    ("ViTModel", {"pooler_output_size": 16}),
    ("ViTModel", {"qkv_bias": False}),
    ("ViTModel", {"num_attention_heads": 4}),
    ("Dinov2Model", {"use_swiglu_ffn": True}),
    ("Dinov2WithRegistersModel", {"num_register_tokens": 3}),
    ("DINOv3ViTModel", {"rope_theta": 30.0}),
    ("DINOv3ViTModel", {"use_gated_mlp": True}),
    ("DINOv3ViTModel", {"key_bias": True}),
    ("DINOv3ViTModel", {"mlp_bias": False}),
    ("DINOv3ViTModel", {"num_attention_heads": 16}),
    ("BeitModel", {"use_mean_pooling": False}),
    ("SiglipVisionModel", {"vision_use_head": False}),
    ("SiglipVisionModel", {"hidden_act": "quick_gelu"}),
    ("SiglipVisionModel", {"num_patches": 16}),
    ("CLIPVisionModelWithProjection", {"projection_dim": 16}),
    ("CLIPVisionModelWithProjection", {"hidden_act": "gelu"}),
]


@pytest.mark.parametrize(("architecture", "change"), MUTATIONS, ids=str)
def test_a_config_that_says_otherwise_is_followed_or_refused(
    tmp_path: Path, architecture: str, change: dict[str, Any]
) -> None:
    """As the library follows it, or with an error of either; never in silence."""
    write_checkpoint(tmp_path, architecture=architecture, spread=1.5)
    before = vectors_of(load(str(tmp_path), vectors=VectorOptions()))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    try:
        checkpoint = load(str(tmp_path), vectors=VectorOptions())
        expected = eager_outputs(checkpoint, images())
    except CheckpointError:
        return
    found = vectors_of(checkpoint)
    assert cosines(found, before).min() < 0.99999
    assert cosines(found, expected).min() > MIN_COSINE["fp32"]


@pytest.mark.parametrize("architecture", ["ViTModel", "CLIPVisionModel", "SiglipVisionModel"])
def test_where_no_class_is_named_it_is_that_of_the_type(tmp_path: Path, architecture: str) -> None:
    write_checkpoint(tmp_path, architecture=architecture, spread=1.5)
    config = json.loads((tmp_path / "config.json").read_text())
    unnamed = {k: v for k, v in config.items() if k != "architectures"}
    (tmp_path / "config.json").write_text(json.dumps(unnamed))
    assert type(transformers.AutoModel.from_pretrained(tmp_path)).__name__ == architecture
    checkpoint = load(str(tmp_path), vectors=VectorOptions())
    expected = eager_outputs(checkpoint, images())
    assert cosines(vectors_of(checkpoint), expected).min() > MIN_COSINE["fp32"]


@pytest.mark.parametrize(
    ("architecture", "tensor"),
    [
        ("SiglipVisionModel", "head.probe"),
        ("CLIPVisionModelWithProjection", "visual_projection.weight"),
        ("ViTModel", "pooler.dense.weight"),
        ("BeitModel", "pooler.layernorm.weight"),
        ("DINOv3ViTModel", "embeddings.register_tokens"),
    ],
)
def test_a_missing_tensor_is_named(tmp_path: Path, architecture: str, tensor: str) -> None:
    write_checkpoint(tmp_path, architecture=architecture)
    stored = load_file(tmp_path / "model.safetensors")
    rest = {name: value for name, value in stored.items() if not name.endswith(tensor)}
    assert len(rest) == len(stored) - 1
    save_file(rest, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"tensor \S*{re.escape(tensor)} .* is missing"):
        load(str(tmp_path), vectors=VectorOptions())


REFUSED = [
    ("ViTModel", {}, "without a classifier's head; --embed exports its vectors;"),
    ("SiglipModel", VISION | TEXT, "--embed exports its vectors, --labels FILE a zero-shot"),
]


@pytest.mark.parametrize(("architecture", "config", "words"), REFUSED)
def test_without_a_head_there_is_a_hint(
    tmp_path: Path, architecture: str, config: dict[str, Any], words: str
) -> None:
    write_checkpoint(tmp_path, architecture=architecture, **config)
    with pytest.raises(CheckpointError, match=words):
        load(str(tmp_path))


def test_dinov3_resizes_to_within_a_level_of_its_library(tmp_path: Path) -> None:
    """Whose own processor, of torchvision, resizes what it has divided by 255."""
    write_checkpoint(tmp_path, architecture="DINOv3ViTModel")
    stored = tmp_path / "preprocessor_config.json"
    config = json.loads(stored.read_text()) | {
        "image_processor_type": "DINOv3ViTImageProcessorFast"
    }
    stored.write_text(json.dumps(config))
    preprocessing = load(str(tmp_path), vectors=VectorOptions()).preprocessing
    for image in images():
        whole = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] / 255
        resized = torch.nn.functional.interpolate(
            whole, preprocessing.resize, mode="bilinear", antialias=True
        )
        found = pixels_from_image(image, preprocessing)
        assert np.abs(found - 255 * resized[0].permute(1, 2, 0).numpy()).max() <= 1


def test_what_half_precision_cannot_hold_is_told(tmp_path: Path) -> None:
    checkpoint = load(
        str(write_checkpoint(tmp_path, architecture="ViTModel")), vectors=VectorOptions("mean")
    )
    tensors = dict(checkpoint.tensors)
    for name in ("blocks.0.fc2.bias", "blocks.1.fc2.bias"):  # each of them fits, the sum does not
        tensors[name] = tensors[name] + 5e4
    with pytest.raises(ParityError, match=r"the fp16 graph gives NaN or Inf on \d+ of .*--fp32"):
        export(
            replace(checkpoint, tensors=tensors),
            tmp_path / "vit.onnx",
            precision="fp16",
            images=images(),
        )


def test_neighbours_that_do_not_stay_are_refused() -> None:
    """Cosines to the reference may all be near 1 where images lie closer than that."""
    few = EmbeddingParity("PyTorch", 100, 0.999, 0.9999, 0.75, 0.01)
    with pytest.raises(ParityError, match=r"int8 graph keeps 75.0% .*allowed 80%"):
        check_neighbours(few, "int8", name="the int8 graph")
    check_neighbours(replace(few, recall=0.81), "int8", name="the int8 graph")
