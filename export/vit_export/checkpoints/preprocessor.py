"""preprocessor_config.json, of the old form or the new, resolved as transformers would read it."""

import math
import re
from typing import Any

from vit_engine.artefact.contract import FILTERS, Filter, Preprocessing
from vit_engine.errors import CheckpointError

# What transformers assumes for an absent key (ViTImageProcessorPil, DeiTImageProcessorPil).
COMMON = {
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_pad": False,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": COMMON | {"size": 224, "resample": 2, "do_center_crop": False},
    "DeiT": COMMON | {"size": 256, "resample": 3, "do_center_crop": True, "crop_size": 224},
}


def preprocessing_from_config(
    config: dict[str, Any], image_size: int, *, default_processor: str
) -> Preprocessing:
    """Resolve a preprocessor config; the result is always `image_size` pixels square.

    `default_processor` is transformers' image processor where the config names none.

    Other rescale factors r are folded in: `(u8 * r - mean) / std` is
    `(u8 / 255 - mean / (255 r)) / (std / (255 r))`. `CheckpointError` for what is unsupported.
    """
    given = {key: value for key, value in config.items() if value is not None}
    options = DEFAULTS[_kind(given, default_processor)] | given
    if not _flag(options, "do_resize"):
        raise CheckpointError("the preprocessor does not resize (do_resize false); it must")
    if _flag(options, "do_pad"):
        raise CheckpointError(
            "the preprocessor pads (do_pad true); only resizing and cropping are supported"
        )

    resize, shortest_edge = _size(options["size"])
    crop = _crop(options) if _flag(options, "do_center_crop") else None
    if shortest_edge and crop is None:
        raise CheckpointError(
            "size is a shortest_edge without a crop, so images would differ in shape"
        )
    if (crop or resize) != (image_size, image_size):
        raise CheckpointError(
            f"the preprocessor gives {crop or resize}, the model takes {(image_size, image_size)}"
        )

    scale = 255 * _rescale_factor(options)
    normalize = _flag(options, "do_normalize")
    mean, std = (_per_channel(options, key) for key in ("image_mean", "image_std"))
    if not normalize:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if 0 in std:
        raise CheckpointError(f"image_std is {options['image_std']}: it divides by zero")
    return Preprocessing(
        resize=resize,
        shortest_edge=shortest_edge,
        filter=_filter(options["resample"]),
        crop=crop,
        mean=(mean[0] / scale, mean[1] / scale, mean[2] / scale),
        std=(std[0] / scale, std[1] / scale, std[2] / scale),
    )


def _kind(config: dict[str, Any], default: str) -> str:
    name = config.get("image_processor_type", config.get("feature_extractor_type", default))
    found = re.fullmatch(r"(ViT|DeiT)(ImageProcessor(Fast|Pil)?|FeatureExtractor)", str(name))
    if not found:
        raise CheckpointError(
            f"the preprocessor is a {name!r}; supported are the image processors and feature "
            "extractors of ViT and DeiT"
        )
    return found[1]


def _flag(options: dict[str, Any], key: str) -> bool:
    value = options[key]
    if not isinstance(value, bool):
        raise CheckpointError(f"{key} is {value!r}, expected true or false")
    return value


def _size(value: Any) -> tuple[tuple[int, int] | None, int | None]:
    """Return ((height, width), None) to squash, or (None, shortest edge) to keep the aspect."""
    if isinstance(value, dict):
        sizes = {k: v for k, v in value.items() if v is not None}
        if set(sizes) == {"shortest_edge"} and _is_length(sizes["shortest_edge"]):
            return None, sizes["shortest_edge"]
        value = [sizes["height"], sizes["width"]] if set(sizes) == {"height", "width"} else sizes
    if _is_length(value):
        value = [value, value]
    if isinstance(value, list) and len(value) == 2 and all(map(_is_length, value)):
        return (value[0], value[1]), None
    raise CheckpointError(
        f"size is {value!r}; supported are a number, [height, width], height with width, "
        "or shortest_edge"
    )


def _crop(options: dict[str, Any]) -> tuple[int, int]:
    crop, _ = _size(options["crop_size"]) if "crop_size" in options else (None, None)
    if crop is None:
        raise CheckpointError("do_center_crop without a crop_size of height and width")
    return crop


def _filter(resample: Any) -> Filter:
    if type(resample) is not int or resample not in range(len(FILTERS)):
        raise CheckpointError(f"resample is {resample!r}, expected 0 to 5 (Pillow's filters)")
    return FILTERS[resample]


def _rescale_factor(options: dict[str, Any]) -> float:
    if not _flag(options, "do_rescale"):
        return 1.0
    factor = options["rescale_factor"]
    if not _is_number(factor) or factor <= 0:
        raise CheckpointError(f"rescale_factor is {factor!r}, expected a number above 0")
    return float(factor)


def _per_channel(options: dict[str, Any], key: str) -> tuple[float, float, float]:
    value = options[key]
    values = [value] * 3 if _is_number(value) else value
    if not isinstance(values, list) or len(values) != 3 or not all(map(_is_number, values)):
        raise CheckpointError(f"{key} is {value!r}, expected one number or three")
    return float(values[0]), float(values[1]), float(values[2])


def _is_length(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
