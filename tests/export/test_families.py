"""Every family: its files come out as transformers' own model computes them."""

import json
import re
import shutil
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from support import TINY, write_checkpoint
from support.graphs import (
    Floats,
    Pixels,
    assert_products_are_as_said,
    drawn_images,
    logits_of,
    noise,
)
from vit_engine.artefact.contract import Precision
from vit_engine.artefact.rewrites.attention import decompose_attention
from vit_engine.artefact.rewrites.cuda_graph import graph_for_cuda
from vit_engine.engine import Engine
from vit_engine.errors import CheckpointError
from vit_engine.options import DEFAULTS
from vit_engine.providers.cuda import CUDA
from vit_engine.providers.provider import SessionSpec
from vit_engine.providers.sessions import open_session
from vit_engine.providers.tensors import feed_from_pixels
from vit_export.artefact import export
from vit_export.checkpoints.checkpoint import Checkpoint, load
from vit_export.eager import eager_outputs
from vit_export.families.family import Family
from vit_export.families.known import FAMILIES
from vit_export.families.transformers.config import ACTIVATIONS
from vit_export.graph.choices import Io
from vit_export.quantization.calibration import pixels_of
from vit_export.quantization.pipeline import quantize
from vit_export.quantization.rotation import rotated

VISION: dict[str, Any] = {"vision_config": {k: v for k, v in TINY.items() if k != "num_labels"}}

VISION_TOWERS = (
    "CLIPForImageClassification",
    "MetaClip2ForImageClassification",
    "SiglipForImageClassification",
)

CASES: dict[str, dict[str, Any]] = {
    "ViTForImageClassification": {},
    "DeiTForImageClassification": {},
    "DeiTForImageClassificationWithTeacher": {},
    "Dinov2ForImageClassification": {},
    "Dinov2WithRegistersForImageClassification": {},
    "BeitForImageClassification": {"use_relative_position_bias": True},
    "Data2VecVisionForImageClassification": {"use_relative_position_bias": True},
    **dict.fromkeys(VISION_TOWERS, VISION),
    "ViTMSNForImageClassification": {},
    "IJepaForImageClassification": {},
}
"""By architecture, what a tiny model's config needs besides conftest.TINY."""

# What a few tokens and heads do to the logits shows only where attention is far from a mean.
SPREAD = 1.5
EMBEDDING_SPREAD = 0.01

FP32 = 2e-5
"""Of the range of the logits: a tanh in place of an exact GELU is 5e-5."""
FP16 = 2e-2


def architecture(family: Family) -> str:
    return family.architecture


DISTINCT = [f for f in FAMILIES if re.match("(ViT|Dinov2|Beit|Siglip)For", f.architecture)]
"""Whose graphs have no like among the others."""

distinct_first = pytest.mark.parametrize(
    "checkpoint",
    [pytest.param(f, marks=[pytest.mark.slow] * (f not in DISTINCT)) for f in FAMILIES],
    indirect=True,
    ids=architecture,
)


@pytest.fixture(scope="module", params=FAMILIES, ids=architecture)
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Checkpoint:
    family: Family = request.param
    folder = tmp_path_factory.mktemp("family")
    write_checkpoint(
        folder,
        architecture=family.architecture,
        spread=SPREAD,
        embedding_spread=EMBEDDING_SPREAD,
        **CASES[family.architecture],
    )
    found = load(str(folder))
    assert found.family is family
    return found


CALIBRATING, JUDGED = slice(8), slice(8, 16)
"""Of the drawn images: those that int8 is calibrated on, and those that all are judged on."""


@pytest.fixture(scope="module")
def expected(checkpoint: Checkpoint) -> Floats:
    """What eager PyTorch says of the images to judge on."""
    return eager_outputs(checkpoint, list(drawn_images()[JUDGED]))


@pytest.fixture(scope="module")
def pixels(checkpoint: Checkpoint) -> Pixels:
    """All images, as the runtime feeds them."""
    return pixels_of(list(drawn_images()), checkpoint.preprocessing)


INPUTS: dict[Precision, Io] = {"fp32": "uint8", "fp16": "hf"}


@pytest.mark.parametrize("precision", INPUTS)
def test_logits_are_those_of_transformers(
    checkpoint: Checkpoint, expected: Floats, pixels: Pixels, tmp_path: Path, precision: Precision
) -> None:
    """In each form in which a provider runs a file: as it is, and as each of them rewrites it."""
    path, pixels = tmp_path / "vit.onnx", pixels[JUDGED]
    export(checkpoint, path, precision=precision, io=INPUTS[precision], images=None)
    with Engine.open(path, provider="cpu") as engine:
        contract = engine.contract
        adapted = engine.run(pixels)
    given = feed_from_pixels(pixels, contract)
    spec = SessionSpec(path, contract)
    rewritten = decompose_attention(path.read_bytes())
    models = [None, rewritten]
    if precision == "fp32":  # the CPU has no half Attention of ONNX Runtime's own
        models.append(graph_for_cuda(path))
    others = [
        open_session(spec, {"cpu": {}}, model=model).run(None, {contract.input.name: given})[0]
        for model in models
    ]
    bound = {"fp32": FP32, "fp16": FP16}[precision] * float(np.ptp(expected))
    for found in (adapted, *others):
        np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


@distinct_first
@pytest.mark.skipif(not find_spec("openvino"), reason="OpenVINO is not installed")
def test_openvino_computes_the_same(
    checkpoint: Checkpoint, expected: Floats, pixels: Pixels, tmp_path: Path
) -> None:
    path = tmp_path / "vit.onnx"
    export(checkpoint, path, precision="fp32", images=None)
    with Engine.open(path, provider="openvino", cache_compiled=False) as engine:
        found = engine.run(pixels[JUDGED])
    np.testing.assert_allclose(found, expected, rtol=0, atol=FP32 * float(np.ptp(expected)))


@pytest.mark.skipif(
    bool(CUDA.unavailable_reason(DEFAULTS)), reason="no GPU that ONNX Runtime can use here"
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_cuda_computes_the_same(
    checkpoint: Checkpoint, expected: Floats, pixels: Pixels, tmp_path: Path, precision: Precision
) -> None:
    path = tmp_path / "vit.onnx"
    export(checkpoint, path, precision=precision, images=None)
    bound = {"fp32": FP32, "fp16": FP16}[precision] * float(np.ptp(expected))
    with Engine.open(path, provider="cuda", max_batch=4) as engine:
        for _ in range(3):  # the run that captures a graph, and those that replay it
            np.testing.assert_allclose(engine.run(pixels[JUDGED]), expected, rtol=0, atol=bound)


@st.composite
def configs(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """Any architecture, and a config of it that transformers takes."""
    architecture = draw(st.sampled_from(list(CASES)))
    heads, patch = draw(st.integers(1, 4)), draw(st.sampled_from([2, 4, 7, 8]))
    config: dict[str, Any] = {
        "num_attention_heads": heads,
        "hidden_size": heads * draw(st.sampled_from([4, 8, 12])),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "intermediate_size": draw(st.integers(1, 40)),
        "patch_size": patch,
        "image_size": patch * draw(st.integers(1, 5)),
        "hidden_act": draw(st.sampled_from(list(ACTIVATIONS))),
        "layer_norm_eps": draw(st.sampled_from([1e-12, 1e-6, 1e-5, 1e-3])),
    }
    if architecture in VISION_TOWERS:
        return architecture, {"vision_config": config, "num_labels": draw(st.integers(1, 6))}
    config["num_labels"] = draw(st.integers(1, 6))
    config["qkv_bias"] = draw(st.booleans())
    if architecture.startswith("Dinov2"):
        config["mlp_ratio"] = draw(st.integers(1, 4))
        config["use_swiglu_ffn"] = draw(st.booleans())
        config["num_register_tokens"] = draw(st.integers(1, 5))
    if architecture.startswith(("Beit", "Data2Vec")):
        config["use_relative_position_bias"] = draw(st.booleans())
        config["use_shared_relative_position_bias"] = not config["use_relative_position_bias"]
        config["use_absolute_position_embeddings"] = draw(st.booleans())
        config["use_mean_pooling"] = draw(st.booleans())
        config["layer_scale_init_value"] = draw(st.sampled_from([0.0, 0.1]))
        config["use_mask_token"] = draw(st.booleans())
    return architecture, config


@pytest.mark.slow
@settings(max_examples=100, deadline=None, derandomize=True)
@given(drawn=configs())
def test_any_config(drawn: tuple[str, dict[str, Any]]) -> None:
    architecture, config = drawn
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), architecture=architecture, spread=SPREAD, **config)
        checkpoint = load(folder)
        images = list(drawn_images()[-6:])
        expected = eager_outputs(checkpoint, images)
        found = logits_of(checkpoint, pixels_of(images, checkpoint.preprocessing))
    extent = max(float(np.abs(expected).max()), 1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5 * FP32 * extent)


OTHER_SIZE = 48


def test_another_image_size(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Where the preprocessor squashes, and for the first family also where it crops."""
    shutil.copytree(checkpoint.folder, tmp_path, dirs_exist_ok=True)
    small, crop = TINY["image_size"], checkpoint.model_config.image_size
    processors = {"ViT": (small, (48, 48))}
    if checkpoint.family is FAMILIES[0]:
        processors["CLIP"] = {"shortest_edge": 40}, (60, 60)
    for kind, (size, resized) in processors.items():
        config = {"image_processor_type": f"{kind}ImageProcessor", "size": size, "crop_size": crop}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
        found = load(str(tmp_path), image_size=OTHER_SIZE)
        assert (found.model_config.image_size, found.preprocessing.resize) == (OTHER_SIZE, resized)
        assert_as_eager(found)
    own = load(str(tmp_path), image_size=small)
    for name, tensor in checkpoint.tensors.items():
        np.testing.assert_array_equal(own.tensors[name], tensor)


@pytest.mark.parametrize(
    "checkpoint",
    [f for f in FAMILIES if f.takes_any_size],
    indirect=True,
    ids=lambda f: f.model_type,
)
def test_position_tables_fit_the_preprocessor_where_the_model_fits_them(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """DINOv2's checkpoints: trained at 518 pixels, with a preprocessor for 224."""
    shutil.copytree(checkpoint.folder, tmp_path, dirs_exist_ok=True)
    config = {"image_processor_type": "ViTImageProcessor", "size": OTHER_SIZE}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    found = load(str(tmp_path))
    assert found.model_config.image_size == OTHER_SIZE
    assert_as_eager(found)


@pytest.mark.parametrize(
    "architecture", ["BeitForImageClassification", "Data2VecVisionForImageClassification"]
)
def test_a_norm_of_the_mean_that_the_config_denies_is_refused(
    tmp_path: Path, architecture: str
) -> None:
    """The library would leave it out, and make up one of each token."""
    write_checkpoint(tmp_path, architecture=architecture)
    config = json.loads((tmp_path / "config.json").read_text()) | {"use_mean_pooling": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"use_mean_pooling is false, .* pooler\.layernorm"):
        load(str(tmp_path))


def assert_as_eager(checkpoint: Checkpoint) -> None:
    images = list(drawn_images()[-6:])
    expected = eager_outputs(checkpoint, images)
    found = logits_of(checkpoint, pixels_of(images, checkpoint.preprocessing))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2 * FP32 * float(np.ptp(expected)))


def test_a_rotated_basis_changes_nothing(checkpoint: Checkpoint) -> None:
    """But the weights: a norm at the start of the stream, or before `out`, keeps those it has."""
    model_config, turned = rotated(checkpoint.model_config, checkpoint.tensors)
    pixels = noise(checkpoint)
    expected = logits_of(checkpoint, pixels)
    found = logits_of(replace(checkpoint, tensors=turned), pixels)
    np.testing.assert_allclose(found, expected, rtol=0, atol=FP32 * np.ptp(expected))
    for layer, kept in (
        ("fc2", model_config.pre_norm),
        ("out", model_config.pre_norm and model_config.inner_norm),
    ):
        before, after = (t[f"blocks.0.{layer}.weight"] for t in (checkpoint.tensors, turned))
        assert np.allclose(before, after) == kept


@pytest.mark.parametrize(
    "checkpoint",
    [pytest.param(f, marks=[pytest.mark.slow] * (f is not DISTINCT[-1])) for f in DISTINCT],
    indirect=True,
    ids=architecture,
)
def test_int8_stays_close(
    checkpoint: Checkpoint, expected: Floats, pixels: Pixels, tmp_path: Path
) -> None:
    quantized = quantize(checkpoint, pixels[CALIBRATING])
    assert quantized.matmuls
    export(checkpoint, tmp_path / "vit.onnx", precision="int8", images=None, quantized=quantized)
    with Engine.open(tmp_path / "vit.onnx", provider="cpu") as engine:
        found = engine.run(pixels[JUDGED])
    assert np.abs(found - expected).mean() < 0.01 * np.ptp(expected)


def test_names_in_memory_mean_the_same_as_names_on_disk(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint.folder, tmp_path, dirs_exist_ok=True)
    weights = tmp_path / "model.safetensors"
    model = getattr(transformers, checkpoint.family.architecture).from_pretrained(tmp_path)
    in_memory = model.state_dict()
    if in_memory.keys() == load_file(weights).keys():
        pytest.skip("transformers stores this family under the names that it has in memory")
    save_file(in_memory, weights)
    found = load(str(tmp_path)).tensors
    assert found.keys() == checkpoint.tensors.keys()
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor, checkpoint.tensors[name])


@distinct_first
def test_products_are_what_the_graph_says(checkpoint: Checkpoint) -> None:
    assert_products_are_as_said(checkpoint)
