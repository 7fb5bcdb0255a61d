"""open_clip: image towers and preprocessing by `open_clip_config.json`."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vit_engine.artefact.contract import Preprocessing
from vit_engine.errors import CheckpointError
from vit_export.families.family import Config, Family
from vit_export.families.image_tower import family_from_open_clip, is_open_clip
from vit_export.families.model_config import ModelConfig
from vit_export.families.values import choice, count, section
from vit_export.files.json_file import read_json
from vit_export.packages.open_clip_model import CONFIG, loaded, open_clip
from vit_export.packages.package import Model, Package, Processor
from vit_export.packages.processor_options import DEFAULTS
from vit_export.packages.texts.open_clip_text import OpenClipTextModel
from vit_export.packages.timm import preprocessing_from_pretrained_cfg

WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)

CROP_MODES: Mapping[str, str] = {"shortest": "center", "longest": "border", "squash": "squash"}
"""What timm, whose transforms these are, calls each `resize_mode`."""
INTERPOLATIONS = {"bicubic": "bicubic", "bilinear": "bilinear"}


def _no_classifier(_: Config) -> Any:
    raise CheckpointError(
        "it is open_clip's, a model without a classifier's head; --embed exports its vectors, "
        "--labels FILE a zero-shot classifier"
    )


def preprocessing_from_open_clip(config: Config, image_size: int) -> Preprocessing:
    """Return what open_clip's `image_transform_v2` does to an image for an input of that size.

    `config` is a checkpoint's `preprocess_cfg`; a key that is null has open_clip's own value.
    """
    given = {key: value for key, value in config.items() if value is not None}
    fill = count(given, "fill_color", 0) if given.get("fill_color") else 0
    mode = choice(given, "resize_mode", "shortest", CROP_MODES)
    clip = DEFAULTS["CLIP"]
    found = preprocessing_from_pretrained_cfg(
        {
            "mean": given.get("mean", clip["image_mean"]),
            "std": given.get("std", clip["image_std"]),
            "interpolation": choice(given, "interpolation", "bicubic", INTERPOLATIONS),
            "crop_pct": 1.0,
            "crop_mode": mode,
        },
        image_size,
    )
    return replace(found, fill=(fill, fill, fill)) if mode == "border" else found


def _preprocessing(
    folder: Path, _: Family, model_config: ModelConfig, image_size: int | None
) -> tuple[Preprocessing, float]:
    config = section(read_json(folder / CONFIG), "preprocess_cfg")
    return preprocessing_from_open_clip(
        config, image_size or model_config.image_size
    ), 1.0 if image_size else 0.0


def _resized_configs(folder: Path, _: Family, size: int, _scale: float) -> dict[str, Any]:
    config = read_json(folder / CONFIG)
    config["model_cfg"]["vision_cfg"]["image_size"] = size
    return {CONFIG: config}


def _model(folder: Path, _: Family, image_size: int | None) -> Model:
    encode: Model = loaded(folder, image_size).encode_image
    return encode


def _processor(folder: Path, preprocessing: Preprocessing, _: float) -> Processor:
    transform = open_clip().transform
    import torch

    config = section(read_json(folder / CONFIG), "preprocess_cfg")
    options = transform.merge_preprocess_dict(transform.PreprocessCfg(), dict(config))
    options["size"] = preprocessing.shape
    transformed = transform.image_transform_v2(transform.PreprocessCfg(**options), is_train=False)
    return lambda images: torch.stack([transformed(image) for image in images])


OPEN_CLIP = Package(
    name="open_clip_torch",
    owns=is_open_clip,
    family=_no_classifier,
    vector_family=family_from_open_clip,
    labels=_no_classifier,
    preprocessing=_preprocessing,
    resized_configs=_resized_configs,
    model=_model,
    processor=_processor,
    config=CONFIG,
    weights=WEIGHTS,
    text_model=OpenClipTextModel,
    library=open_clip,
)
