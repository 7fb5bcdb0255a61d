"""transformers: preprocessing by an image processor's config, models by the names of classes."""

from functools import partial
from pathlib import Path
from typing import Any

from vit_engine.artefact.contract import Pooling, Preprocessing
from vit_export.families.family import Family
from vit_export.families.known import family_from_config
from vit_export.families.model_config import ModelConfig
from vit_export.families.transformers.config import VISION_ALONE, class_name
from vit_export.files.json_file import read_json
from vit_export.packages.labels import labels_from_config
from vit_export.packages.package import CONFIG, Model, Package, Processor
from vit_export.packages.preprocessor import (
    PREPROCESSOR,
    PROCESSOR,
    preprocessing_from_config,
    processor_config,
)
from vit_export.packages.processor_options import SIZES, fitted_sizes, scaled
from vit_export.packages.texts.transformers_text import TransformersTextModel


def _preprocessing(
    folder: Path, family: Family, model_config: ModelConfig, image_size: int | None
) -> tuple[Preprocessing, float]:
    resolve = partial(
        preprocessing_from_config,
        processor_config(folder),
        default_processor=_default_processor(folder, family),
    )
    any_size = family.takes_any_size or image_size
    own = resolve(None if any_size else model_config.image_size)
    if not image_size:
        return own, 0.0
    scale = image_size / own.shape[0]
    return resolve(image_size, scale=scale), scale


def _default_processor(folder: Path, family: Family) -> str:
    return read_json(folder / CONFIG).get("image_processor_type") or family.image_processor


def _resized_configs(folder: Path, family: Family, size: int, scale: float) -> dict[str, Any]:
    config = read_json(folder / CONFIG)
    config.get("vision_config", config)["image_size"] = size
    resized = {CONFIG: config}
    for name in (PREPROCESSOR, PROCESSOR):
        if (folder / name).exists():
            resized[name] = options = read_json(folder / name)
            if isinstance(nested := options.get("image_processor"), dict):
                options = nested
            options |= fitted_sizes(options, _default_processor(folder, family), scale)
    return resized


def _model(folder: Path, family: Family, image_size: int | None) -> Model:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    name = class_name(read_json(folder / CONFIG), family.architecture)
    model = getattr(transformers, name).from_pretrained(
        folder, local_files_only=True, dtype=torch.float32, attn_implementation="eager"
    )
    model.eval()
    own = _side(getattr(model, "vision_model", model).config.image_size)
    another = image_size not in (None, own)
    told = {"interpolate_pos_encoding": True} if another and not family.takes_any_size else {}
    if family.pooling is None:
        return lambda pixels: model(pixel_values=pixels, **told).logits
    return lambda pixels: vectors(model, family.pooling, pixels, told)


def vectors(model: Any, pooling: Pooling | None, pixels: Any, told: dict[str, bool]) -> Any:
    """Return what the library hands out as vectors (N, size), not normalised.

    `model` is of one of the library's classes, `pixels` (N, 3, H, W); `told` are further arguments.
    """
    import torch

    if hasattr(model, "get_image_features") and pooling != "mean":
        found = model.get_image_features(pixel_values=pixels, **told)
        return getattr(found, "pooler_output", found)  # a tensor in transformers 4
    whole = type(model).__name__.endswith(("Model", "WithProjection"))
    tower = model if whole else model.base_model
    if pooling in ("map", "mean"):  # SigLIP's and CLIP's classifiers name no base
        tower = getattr(tower, "vision_model", tower)
    found = tower(pixel_values=pixels, **told)
    if hasattr(found, "image_embeds"):
        return found.image_embeds
    tokens, pooled = found.last_hidden_state, getattr(found, "pooler_output", None)
    config = tower.config
    patches = (pixels.shape[-1] // _side(config.patch_size)) ** 2
    of_mean = pooled is not None and getattr(config, "use_mean_pooling", False)  # BEiT's
    parts: dict[str, Any] = {
        "pooler": pooled,
        "map": pooled,
        # CLIP's tokens are those before the last norm.
        "cls": pooled if config.model_type.endswith(VISION_ALONE) else tokens[:, 0],
        "mean": pooled if of_mean else tokens[:, -patches:].mean(1),
    }
    return torch.cat([parts[name] for name in str(pooling).split("+")], dim=-1)


def _side(value: Any) -> int:
    return value if isinstance(value, int) else int(value[0])


def _processor(folder: Path, preprocessing: Preprocessing, scale: float) -> Processor:
    """Return the processor on PIL images.

    DINOv3's resizes without Pillow and without rounding; ViT's, which rounds, stands for it.
    One that resizes an edge and is not told whether to crop is told to, as the export is.
    """
    import transformers

    kind: Any = transformers.AutoImageProcessor
    pil: dict[str, Any] = {"backend": "pil"}
    if transformers.__version__.startswith("4."):
        pil = {"use_fast": False}
    if str(processor_config(folder).get("image_processor_type")).startswith("DINOv3"):
        kind = getattr(transformers, "ViTImageProcessorPil", transformers.ViTImageProcessor)
        pil = {}
    processor = kind.from_pretrained(folder, local_files_only=True, **pil)
    if scale:
        for key in SIZES:
            if size := getattr(processor, key, None):
                setattr(processor, key, type(size)(**scaled(dict(size), scale)))
    crop = preprocessing.crop
    if crop and not processor.do_pad and getattr(processor, "do_center_crop", None) is None:
        processor.do_center_crop = True
        processor.crop_size = processor.size.__class__(height=crop[0], width=crop[1])
    return lambda images: processor(images=images, return_tensors="pt")["pixel_values"]


TRANSFORMERS = Package(
    name="transformers",
    owns=lambda _: True,
    family=family_from_config,
    vector_family=partial(family_from_config, vectors=True),
    labels=labels_from_config,
    preprocessing=_preprocessing,
    resized_configs=_resized_configs,
    model=_model,
    processor=_processor,
    text_model=TransformersTextModel,
)
