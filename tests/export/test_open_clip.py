"""open_clip's folders: vectors of its image towers as its own `encode_image` computes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from support.graphs import drawn_images, logits_of
from vit_engine.errors import CheckpointError
from vit_engine.images.preprocess import pixels_from_image
from vit_engine.providers.tensors import normalized
from vit_export.checkpoints.checkpoint import Checkpoint, VectorOptions, load
from vit_export.eager import eager_outputs, eager_pixels
from vit_export.quantization.calibration import pixels_of

open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")

IMAGES = list(drawn_images()[-6:])
BOUND = 1e-5

OWN = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 64}
TEXT = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
SIGLIP = {"timm_model_name": "vit_base_patch32_siglip_256", "image_size": 256}

MODELS: dict[str, dict[str, Any]] = {
    "usual": {"vision_cfg": OWN},
    "quick_gelu": {"vision_cfg": OWN, "quick_gelu": True},
    "averaged": {
        "vision_cfg": OWN | {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True}
    },
    "scaled": {
        "vision_cfg": OWN
        | {"ls_init_value": 0.1, "mlp_ratio": 2.5, "norm_kwargs": {"eps": 1e-6}}
        | {"act_kwargs": {"approximate": "tanh"}},
        "custom_text": True,
    },
    "siglip": {
        "vision_cfg": SIGLIP | {"timm_pool": "map", "timm_proj": "none"},
        "custom_text": True,
        "init_logit_bias": -10,
        "embed_dim": 768,
    },
    "timm": {"vision_cfg": {"timm_model_name": "test_vit", "image_size": 160, "timm_pool": ""}},
    "timm_head": {
        "vision_cfg": {
            "timm_model_name": "test_vit",
            "image_size": 160,
            "timm_pool": "token",
            "timm_proj": "",
        }
    },
}
PREPROCESSING = {"resize_mode": "squash", "interpolation": "bilinear", "mean": [0.5, 0.4, 0.3]}


def write_open_clip(folder: Path, model: dict[str, Any], *, pickled: bool = False) -> Path:
    """Write a random model as open_clip does, scaled so that every part of it shows."""
    torch.manual_seed(0)
    config = {"embed_dim": 24, "text_cfg": TEXT} | model
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": PREPROCESSING})
    )
    made = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.dim() == 1 and name.endswith("weight"):
                parameter.normal_(1.0, 0.2)
            elif name.startswith("visual"):
                fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
                parameter.normal_(0, (2.0 if "mlp" in name else 1.0) / fan_in**0.5)
    state = made.state_dict()
    if pickled:
        torch.save(state, folder / "open_clip_pytorch_model.bin")
    else:
        save_file(state, folder / "open_clip_model.safetensors")
    return folder


def assert_as_open_clip(checkpoint: Checkpoint) -> None:
    expected = eager_outputs(checkpoint, IMAGES)
    found = logits_of(checkpoint, pixels_of(IMAGES, checkpoint.preprocessing))
    across = np.ptp(expected, axis=0).max()
    assert across > 0.05 * np.ptp(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=BOUND * across)


@pytest.mark.parametrize("model", MODELS)
def test_vectors_are_those_of_open_clip(tmp_path: Path, model: str) -> None:
    folder = write_open_clip(tmp_path, MODELS[model], pickled=model == "usual")
    assert_as_open_clip(load(str(folder), vectors=VectorOptions()))


@pytest.mark.parametrize(("model", "size"), [("usual", 112), ("timm", 112)])
def test_images_of_another_size(tmp_path: Path, model: str, size: int) -> None:
    folder = write_open_clip(tmp_path, MODELS[model])
    options = VectorOptions(normalized=False)
    assert_as_open_clip(load(str(folder), vectors=options, image_size=size))


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("filter_", ["bicubic", "bilinear"])
def test_preprocessing_is_that_of_open_clip(tmp_path: Path, mode: str, filter_: str) -> None:
    folder = write_open_clip(tmp_path, MODELS["usual"])
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    changes = {"resize_mode": mode, "interpolation": filter_, "mean": None, "fill_color": 9}
    config["preprocess_cfg"] |= changes
    path.write_text(json.dumps(config))
    checkpoint = load(str(folder), vectors=VectorOptions())
    rng = np.random.default_rng(0)
    sizes = [(64, 64), (97, 200), (201, 98), (40, 51), (31, 500)]
    images = [Image.fromarray(rng.integers(0, 256, (*s, 3), np.uint8)) for s in sizes]
    for image, expected in zip(images, eager_pixels(checkpoint, images), strict=True):
        pixels = pixels_from_image(image, checkpoint.preprocessing)[None]
        found = normalized(pixels, checkpoint.preprocessing)
        np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quick_gelu": "yes"}, "quick_gelu is 'yes'"),
        ({"embed_dim": 25}, "tensor visual.proj"),
        ({"multimodal_cfg": {}}, "CoCa"),
        ({"vision_cfg": OWN | {"layers": [1, 1, 1, 1]}}, "a ResNet"),
        ({"vision_cfg": OWN | {"attentional_pool": True}}, "vision_cfg has attentional_pool"),
        ({"vision_cfg": OWN | {"pool_type": "none"}}, "pool_type is 'none'"),
        ({"vision_cfg": OWN | {"act_kwargs": {"inplace": True}}}, "act_kwargs has inplace"),
        ({"vision_cfg": OWN | {"no_ln_pre": True}}, "unexpected tensor visual.ln_pre"),
        ({"vision_cfg": {"timm_model_name": "resnet50"}}, "'resnet50' is not supported"),
        ({"vision_cfg": {"timm_model_name": "test_vit", "timm_proj": "mlp"}}, "timm_proj is 'mlp'"),
    ],
)
def test_what_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    folder = write_open_clip(tmp_path, MODELS["usual"])
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"] |= change
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=words):
        load(str(folder), vectors=VectorOptions())


def test_other_poolings_and_a_classifier_are_refused(tmp_path: Path) -> None:
    folder = str(write_open_clip(tmp_path, MODELS["usual"]))
    with pytest.raises(CheckpointError, match="--pool mean: this model has cls"):
        load(folder, vectors=VectorOptions("mean"))
    with pytest.raises(CheckpointError, match="--embed"):
        load(folder)
