"""The options of an image processor, with transformers' defaults, and its sizes."""

import re
from collections.abc import Mapping
from typing import Any

from vit_engine.errors import CheckpointError

Options = Mapping[str, Any]

_COMMON: dict[str, Any] = {
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "default_to_square": True,
    "resample": 3,
    "do_center_crop": None,
    "crop_size": None,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_pad": None,
    "pad_size": None,
}
_CROPPED: dict[str, Any] = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
_OPENAI: dict[str, Any] = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_IMAGENET: dict[str, Any] = {
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
_EDGE: dict[str, Any] = _CROPPED | {"size": {"shortest_edge": 224}, "default_to_square": False}
DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": _COMMON | {"resample": 2},
    "DeiT": _COMMON | _CROPPED | {"size": {"height": 256, "width": 256}},
    "Beit": _COMMON | _CROPPED | {"do_center_crop": False},
    "Bit": _COMMON | _EDGE | _OPENAI,
    "CLIP": _COMMON | _EDGE | _OPENAI,
    "ChineseCLIP": _COMMON | _EDGE | _OPENAI,
    "Blip": _COMMON | _OPENAI | {"size": {"height": 384, "width": 384}},
    "Pvt": _COMMON | _IMAGENET,
    "Siglip": _COMMON | {"default_to_square": False},
    "DINOv3ViT": _COMMON | _IMAGENET | {"resample": 2},
    "ConvNext": _COMMON
    | {"size": {"shortest_edge": 384}, "default_to_square": False, "crop_pct": 224 / 256},
}
"""What transformers' image processors have where a file has no such key (their PIL forms)."""

SIZES = ("size", "crop_size", "pad_size")
"""The keys of lengths in pixels."""

_TYPE = re.compile(rf"({'|'.join(DEFAULTS)})ImageProcessor(Fast|Pil)?")
_SIZE_KEYS = (
    {"height", "width"},
    {"shortest_edge"},
    {"shortest_edge", "longest_edge"},
    {"longest_edge"},
    {"max_height", "max_width"},
    {"min_pixels", "max_pixels"},
)


def fitted_sizes(config: Options, default_processor: str, scale: float) -> dict[str, Any]:
    """Return the sizes of an image processor, each multiplied by `scale` and rounded."""
    options = DEFAULTS[kind_of(config, default_processor)] | dict(config)
    return {key: scaled(options[key], scale) for key in SIZES}


def scaled(value: Any, scale: float) -> Any:
    """Return a size, or a list or table of sizes, with each length multiplied and rounded."""
    if isinstance(value, Mapping):
        return {key: scaled(part, scale) for key, part in value.items()}
    if isinstance(value, list):
        return [scaled(part, scale) for part in value]
    return round(value * scale) if _is_length(value) else value


def kind_of(config: Options, default: str) -> str:
    """Return which of DEFAULTS a config is of; CheckpointError for another."""
    name = config.get("image_processor_type")
    if name is None:
        name = config.get("feature_extractor_type")
        name = default if name is None else str(name).replace("FeatureExtractor", "ImageProcessor")
    if not (found := _TYPE.fullmatch(str(name))):
        raise CheckpointError(
            f"the preprocessor is a {name!r}; supported are the image processors of "
            f"{', '.join(DEFAULTS)}"
        )
    return found[1]


def flag(options: Options, key: str) -> bool:
    """Return true or false, which null stands for too."""
    value = options[key]
    if value not in (None, 0, 1):  # true and false are 1 and 0
        raise CheckpointError(f"{key} is {value!r}, expected true, false or null")
    return bool(value)


def size_of(options: Options, key: str, *, to_square: bool) -> dict[str, int]:
    """Return a size by transformers' names for its parts, without those that are null or 0."""
    value = options[key]
    if value is None:
        raise CheckpointError(f"{key} is null, expected a size; transformers refuses it too")
    if type(value) is int:
        value = {"height": value, "width": value} if to_square else {"shortest_edge": value}
    if isinstance(value, list) and len(value) == 2:
        value = {"height": value[0], "width": value[1]}
    if not isinstance(value, dict) or set(value) not in _SIZE_KEYS:
        raise unsupported(key, options[key])
    sizes = {name: part for name, part in value.items() if part is not None}
    if not all(map(_is_length, sizes.values())):
        raise unsupported(key, options[key])
    return sizes


def height_and_width(options: Options, key: str) -> tuple[int, int]:
    """Return a size that has both; CheckpointError for another."""
    size = size_of(options, key, to_square=True)
    if size.keys() != {"height", "width"}:
        raise CheckpointError(f"{key} is {options[key]!r}, expected a height and a width")
    return size["height"], size["width"]


def unsupported(key: str, value: Any) -> CheckpointError:
    """Return the error of a size that is none of those that are read."""
    return CheckpointError(
        f"{key} is {value!r}; supported are a number, [height, width], height with width, "
        "shortest_edge by itself or with longest_edge, max_height with max_width"
    )


def _is_length(value: Any) -> bool:
    return type(value) is int and value > 0
