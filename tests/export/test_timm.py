"""timm's ViTs: their files come out as timm's own model computes them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from support.graphs import Floats, assert_products_are_as_said, drawn_images, logits_of
from vit_engine.artefact.contract import Pooling, Precision
from vit_engine.artefact.rewrites.attention import decompose_attention
from vit_engine.artefact.rewrites.cuda_graph import graph_for_cuda
from vit_engine.engine import Engine
from vit_engine.providers.provider import SessionSpec
from vit_engine.providers.sessions import open_session
from vit_engine.providers.tensors import feed_from_pixels
from vit_export.artefact import export
from vit_export.checkpoints.canonical import canonical
from vit_export.checkpoints.checkpoint import Checkpoint, VectorOptions, load
from vit_export.eager import eager_outputs
from vit_export.families.model_config import ModelConfig
from vit_export.families.pooling import PARTS
from vit_export.families.timm.architectures import ARCHITECTURES
from vit_export.families.timm.vision_transformer import POOLS, family_from_timm
from vit_export.files.json_file import read_json
from vit_export.graph.choices import Io
from vit_export.packages.timm import IMAGENET, labels_from_timm
from vit_export.quantization.calibration import pixels_of
from vit_export.quantization.pipeline import quantize

timm = pytest.importorskip("timm")

ACTIVATIONS: dict[type, str] = {
    timm.layers.GELU: "gelu",
    torch.nn.GELU: "gelu",
    timm.layers.GELUTanh: "gelu_new",
    timm.layers.QuickGELU: "quick_gelu",
    torch.nn.SiLU: "silu",
}

BLOCKS = (timm.models.vision_transformer.Block, timm.models.beit.Block, timm.models.eva.EvaBlock)

SMALL = {"embed_dim": 64, "depth": 2, "num_heads": 2}

CASES: dict[str, dict[str, Any]] = {
    "test_vit": {},
    "test_vit2": {},
    "vit_tiny_patch16_224": SMALL | {"img_size": 64},
    "vit_base_patch8_224": SMALL | {"img_size": 32},
    "vit_base_patch16_224_miil": SMALL | {"img_size": 64},
    "flexivit_small": SMALL | {"img_size": 64},
    "deit_tiny_patch16_224": SMALL | {"img_size": 64},
    "deit3_small_patch16_224": SMALL | {"img_size": 64},
    "deit_tiny_distilled_patch16_224": SMALL | {"img_size": 64},
    "vit_base_patch32_clip_224": SMALL | {"img_size": 96},
    "vit_base_patch32_clip_quickgelu_224": SMALL | {"img_size": 96},
    "vit_small_patch14_dinov2": SMALL | {"img_size": 56},
    "vit_small_patch14_reg4_dinov2": SMALL | {"img_size": 56},
    "vit_giant_patch14_reg4_dinov2": SMALL | {"img_size": 56, "embed_dim": 96},
    "vit_intern300m_patch14_448": SMALL | {"img_size": 56},  # of its table: images are of 448
    "vit_betwixt_patch16_reg4_gap_256": SMALL | {"img_size": 64},
    "vit_medium_patch16_gap_256": SMALL | {"img_size": 64},
    "vit_wee_patch16_reg1_gap_256": SMALL | {"img_size": 64},
    "beit_base_patch16_224": SMALL | {"img_size": 64},
    "beitv2_base_patch16_224": SMALL | {"img_size": 64},
    "beit3_base_patch16_224": SMALL | {"img_size": 64},
    "eva_large_patch14_196": SMALL | {"img_size": 56},
    "eva_giant_patch14_224": SMALL | {"img_size": 56},
    "eva_giant_patch14_clip_224": SMALL | {"img_size": 56},
    "eva02_tiny_patch14_224": SMALL | {"img_size": 56},
    "eva02_base_patch14_224": SMALL | {"img_size": 56},
    "eva02_base_patch16_clip_224": SMALL | {"img_size": 64},
    "vit_base_patch16_siglip_gap_224": SMALL | {"img_size": 64},
    "vit_so400m_patch14_siglip_gap_384": SMALL | {"img_size": 62},  # 6 pixels over
    "vit_so400m_patch16_siglip_gap_256": SMALL | {"img_size": 64},
    "vit_base_patch16_siglip_224": SMALL | {"img_size": 64},
    "vit_so150m_patch16_reg4_map_256": SMALL | {"img_size": 64},
    "vit_small_patch16_dinov3": SMALL | {"img_size": 64},
    "vit_small_plus_patch16_dinov3_qkvb": SMALL | {"img_size": 64},
    "vit_medium_patch16_rope_reg1_gap_256": SMALL | {"img_size": 64},
    "vit_small_patch16_rope_224": SMALL | {"img_size": 64},
    "vit_small_patch16_rope_ape_224": SMALL | {"img_size": 64},
}
"""By architecture, the arguments that make a tiny model of it."""

BOUND = 1e-5
"""Of what images change in the logits; float32 rounds to a quarter of it at most."""

STREAM = ("patch_embed", "attn.proj", "fc2")
"""The layers whose outputs add up to what norms read."""

UNLIKE_TRANSFORMERS = (
    "vit_giant_patch14_reg4_dinov2",
    "beit3_base_patch16_224",
    "eva02_tiny_patch14_224",
    "eva02_base_patch14_224",
    "eva02_base_patch16_clip_224",
    "vit_small_patch16_rope_224",
)
"""Those whose products differ from those of every family of transformers."""

EVAL = {"crop_pct": 0.9, "mean": [0.5, 0.4, 0.3], "std": [0.5, 0.3, 0.2]}


def write_timm(folder: Path, architecture: str, *, labels: int = 7, **arguments: Any) -> Path:
    """Write a random model as timm does, scaled so that every part of it shows in the logits."""

    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=labels, **arguments)
    randomise(model)
    names = {"label_names": [f"name {i}" for i in range(labels)]}
    timm.models.save_for_hf(
        model, str(folder), model_config=names, safe_serialization=True, data_config=EVAL
    )
    return folder


def randomise(model: torch.nn.Module) -> None:
    """Draw weights with which attention is sharp, and the norms' input small beside an epsilon."""

    parameters = dict(model.named_parameters())
    # A norm before the blocks makes the stream large, and what blocks add must be as large.
    small = ("patch_embed",) if "norm_pre.weight" in parameters else STREAM
    with torch.no_grad():
        for name, parameter in parameters.items():
            stream = any(part in name for part in small)
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
            if ("norm" in name and name.endswith("weight")) or "gamma" in name:
                parameter.normal_(1.0, 0.2)
            elif "token" in name or "latent" in name or "pos_embed" in name:
                parameter.normal_(0, 0.02)
            elif parameter.dim() == 1 or "relative" in name:
                parameter.normal_(0, 0.02 if stream else 1.0)
            else:
                sharp = any(part in name for part in ("qkv", "q_proj", "k_proj", "fc1"))
                scale = 0.02 if stream else 2.0 if sharp else 1.0
                parameter.normal_(0, scale / fan_in**0.5)


@pytest.fixture(scope="module", params=CASES)
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Checkpoint:
    folder = tmp_path_factory.mktemp("timm")
    return load(str(write_timm(folder, request.param, **CASES[request.param])))


IMAGES = list(drawn_images()[-8:])


def logits(checkpoint: Checkpoint) -> Floats:
    return logits_of(checkpoint, pixels_of(IMAGES, checkpoint.preprocessing))


@pytest.fixture(scope="module")
def expected(checkpoint: Checkpoint) -> Floats:
    """What timm says of the images."""
    return eager_outputs(checkpoint, IMAGES)


def test_logits_are_those_of_timm(checkpoint: Checkpoint, expected: Floats) -> None:
    across = np.ptp(expected, axis=0).max()
    assert across > 0.05 * np.ptp(expected)
    found = logits(checkpoint)
    np.testing.assert_allclose(found, expected, rtol=0, atol=BOUND * across)


def test_what_leaves_no_tensor_is_seen(checkpoint: Checkpoint) -> None:
    """So that the test before this one can fail: another value of each trait moves the logits."""
    expected = logits(checkpoint)
    for change in other_traits(checkpoint.model_config):
        found = logits(replace(checkpoint, model_config=replace(checkpoint.model_config, **change)))
        moved = np.abs(found - expected).max() / np.ptp(expected, axis=0).max()
        assert moved > 2 * BOUND, change


INPUTS: dict[Precision, Io] = {"fp32": "uint8", "fp16": "hf"}


@pytest.mark.parametrize("precision", INPUTS)
def test_an_export_is_verified(
    checkpoint: Checkpoint, tmp_path: Path, precision: Precision
) -> None:
    """As the CPU runs it, and then in the forms in which TensorRT and CUDA do."""
    path = tmp_path / "vit.onnx"
    contract = export(checkpoint, path, precision=precision, io=INPUTS[precision], images=IMAGES)
    bound = {"fp32": 1e-5, "fp16": 1e-2}[precision]
    assert contract.parity
    assert contract.parity.reference.startswith(f"timm {timm.__version__}, torch ")
    assert contract.parity.max_abs_diff < bound * contract.parity.logit_range
    given = feed_from_pixels(pixels_of(IMAGES, checkpoint.preprocessing), contract)
    expected = logits(checkpoint)
    models = [decompose_attention(path.read_bytes())]
    if precision == "fp32":  # the CPU has no half Attention of ONNX Runtime's own
        models.append(graph_for_cuda(path))
    for model in models:
        session = open_session(SessionSpec(path, contract), {"cpu": {}}, model=model)
        (found,) = session.run(None, {contract.input.name: given})
        np.testing.assert_allclose(found, expected, rtol=0, atol=bound * np.ptp(expected))


@pytest.mark.parametrize("checkpoint", UNLIKE_TRANSFORMERS, indirect=True)
def test_int8_stays_close(checkpoint: Checkpoint, expected: Floats, tmp_path: Path) -> None:
    path = tmp_path / "vit.onnx"
    pixels = pixels_of(list(drawn_images()), checkpoint.preprocessing)
    quantized = quantize(checkpoint, pixels[:8])
    assert quantized.matmuls
    export(checkpoint, path, precision="int8", images=None, quantized=quantized)
    with Engine.open(path, provider="cpu") as engine:
        found = engine.run(pixels[8:])
    assert np.abs(found - expected).mean() < 0.02 * np.ptp(expected, axis=0).max()


@pytest.mark.parametrize("checkpoint", UNLIKE_TRANSFORMERS, indirect=True)
def test_products_are_what_the_graph_says(checkpoint: Checkpoint) -> None:
    assert_products_are_as_said(checkpoint)


@pytest.mark.parametrize("architecture", ["test_vit", "eva02_tiny_patch14_224"])
def test_what_transformers_saves_of_it(tmp_path: Path, architecture: str) -> None:
    """A timm_wrapper: the same tensors under `timm_model.`, other keys in config.json."""
    plain = load(str(write_timm(tmp_path / "timm", architecture, **CASES[architecture])))
    config = read_json(plain.folder / "config.json")
    wrapper = transformers.TimmWrapperConfig.from_dict(config).to_dict()
    wrapper["architectures"] = ["TimmWrapperForImageClassification"]
    folder = tmp_path / "wrapper"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(wrapper))
    state = load_file(plain.folder / "model.safetensors")
    save_file({f"timm_model.{k}": v for k, v in state.items()}, folder / "model.safetensors")
    wrapped = load(str(folder))
    assert (wrapped.model_config, wrapped.output) == (plain.model_config, plain.output)
    np.testing.assert_array_equal(logits(wrapped), logits(plain))
    np.testing.assert_array_equal(eager_outputs(wrapped, IMAGES), eager_outputs(plain, IMAGES))


@pytest.mark.parametrize(
    ("architecture", "labels", "pooling"),
    [
        ("vit_small_patch14_reg4_dinov2", 0, None),
        ("vit_small_patch14_reg4_dinov2", 7, "cls+mean"),
        ("vit_betwixt_patch16_reg4_gap_256", 0, None),
        ("vit_base_patch32_clip_quickgelu_224", 7, None),
        ("beit_base_patch16_224", 0, "cls"),
        ("eva02_tiny_patch14_224", 7, None),
        ("vit_small_patch16_dinov3", 0, None),
        ("vit_base_patch16_siglip_224", 0, None),
        ("vit_base_patch16_siglip_224", 7, "mean"),
        ("vit_so150m_patch16_reg4_map_256", 0, None),
    ],
)
@pytest.mark.parametrize("grid", [None, 3])
def test_vectors_are_those_of_timm(
    tmp_path: Path, architecture: str, labels: int, pooling: Pooling | None, grid: int | None
) -> None:
    folder = write_timm(tmp_path, architecture, labels=labels, **CASES[architecture])
    vectors = VectorOptions(pooling, normalized=grid is None)
    checkpoint = load(str(folder), vectors=vectors)
    size = grid and grid * checkpoint.model_config.patch_size
    checkpoint = load(str(folder), vectors=vectors, image_size=size)
    found, expected = logits(checkpoint), eager_outputs(checkpoint, IMAGES)
    assert found.shape == (len(IMAGES), 128 if pooling == "cls+mean" else 64)
    across = np.ptp(expected, axis=0).max()
    assert across > 0.05 * np.ptp(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=BOUND * across)


def test_labels_of_imagenet() -> None:
    for number, subset in IMAGENET.items():
        found = labels_from_timm({"num_classes": number, "pretrained_cfg": {}})
        assert found == tuple(timm.data.ImageNetInfo(subset).label_descriptions())
        assert timm.data.infer_imagenet_subset({"num_classes": number}) == subset


@pytest.mark.parametrize("grid", [3, 7])
def test_images_of_another_size(checkpoint: Checkpoint, grid: int) -> None:
    """Tables are resampled and turns computed anew as timm does it."""
    size = grid * checkpoint.model_config.patch_size
    resized = load(str(checkpoint.folder), image_size=size)
    expected = eager_outputs(resized, IMAGES)
    across = np.ptp(expected, axis=0).max()
    np.testing.assert_allclose(logits(resized), expected, rtol=0, atol=BOUND * across)


def other_traits(model_config: ModelConfig) -> Iterator[dict[str, Any]]:
    if not model_config.relative:  # whose tables show them
        yield {"heads": 2 * model_config.heads}
    yield {"layer_norm_eps": 1e-5 if model_config.layer_norm_eps == 1e-6 else 1e-6}
    acts = {"gelu": "gelu_new", "gelu_new": "gelu", "quick_gelu": "gelu", "silu": "gelu"}
    yield {"hidden_act": acts[model_config.hidden_act]}
    if model_config.pooled == ("patches",):
        if model_config.prefix[:1] == (("cls", 1),):
            yield {"pooled": ("cls",)}
    elif model_config.pooled != ("map",):
        yield {"pooled": ("patches",) * len(model_config.pooled)}
    if model_config.norm == "pooled" and "patches" in model_config.pooled:
        yield {"norm": "tokens"}
    if rotary := model_config.rotary:
        yield {"rotary": None}
        yield {"rotary": replace(rotary, theta=rotary.theta / 2)}
        yield {"rotary": replace(rotary, columns_first=not rotary.columns_first)}
        if not rotary.centered:
            yield {"rotary": replace(rotary, reference_grid=model_config.grid + 1)}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_table_is_what_timm_has(architecture: str) -> None:
    """Every tensor has its place, and what leaves none is as in timm's own model."""
    model = of_shapes(architecture)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    size = model.patch_embed.img_size[0]
    config = {"architecture": architecture, "pretrained_cfg": {"input_size": [3, size, size]}}
    family = family_from_timm(config)
    model_config = family.model_config(config, lambda: shapes)
    block = model.blocks[0]
    acts = {type(m) for m in block.modules() if type(m) in ACTIVATIONS}
    assert model_config.heads == block.attn.num_heads
    assert {m.eps for m in model.modules() if hasattr(m, "eps")} == {model_config.layer_norm_eps}
    assert {ACTIVATIONS[act] for act in acts} == {model_config.hidden_act}
    assert PARTS[POOLS[model.global_pool]] == model_config.pooled[:1]
    assert not getattr(model, "pool_include_prefix", False)
    assert type(block) in BLOCKS
    assert {type(m) for m in model.modules() if "Norm" in type(m).__name__} == {
        timm.layers.LayerNorm
    }
    rope = getattr(model, "rope", None)
    assert (rope is None) == (model_config.rotary is None)
    if model_config.rotary:
        turned = rope.get_embed([model_config.grid] * 2)[:, : rope.dim].double()
        angles = model_config.rotary.angles(
            model_config.grid, model_config.hidden_size // model_config.heads
        )
        sines = np.sin(angles)
        pairs = np.tile(sines, 2) if model_config.rotary.in_halves else sines.repeat(2, axis=1)
        np.testing.assert_allclose(turned, pairs, atol=1e-5)
    found = canonical(zeros(shapes), family, model_config, 7)
    assert found.keys() == {name for name, _ in model_config.shapes(7)}


def of_shapes(architecture: str) -> Any:
    """A model of one or two blocks whose tensors have shapes and no contents, but for RoPE's."""

    with torch.device("meta"):
        model = timm.create_model(architecture, num_classes=7)
    if rope := getattr(model, "rope", None):
        model.rope = rope.to_empty(device="cpu")
        rope.reset_parameters()
    return model


def zeros(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Floats]:
    """Arrays of these shapes that take no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
