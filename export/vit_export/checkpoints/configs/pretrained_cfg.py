"""The `pretrained_cfg` of a timm checkpoint, resolved as timm's own eval transform reads it."""

import math
from collections.abc import Mapping
from typing import Any, get_args

from vit_engine.artefact.contract import MAX_COLOUR, Filter, Preprocessing, ResizeRule
from vit_engine.errors import CheckpointError

DEFAULTS: Mapping[str, Any] = {
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 0.875,
    "crop_mode": "center",
}
"""timm's own, for a key that is absent, null, 0 or empty."""

CROP_MODES: Mapping[str, ResizeRule] = {
    "center": "shortest_edge",
    "squash": "squash",
    "border": "within_rounded",
}


def preprocessing_from_pretrained_cfg(config: Mapping[str, Any], image_size: int) -> Preprocessing:
    """Return what `timm.data.create_transform` does to an image for an input of `image_size`.

    `config` is a checkpoint's `pretrained_cfg`. CheckpointError for a value that timm refuses.
    """
    options = {key: config.get(key) or default for key, default in DEFAULTS.items()}
    share, mode = options["crop_pct"], options["crop_mode"]
    if not _is_number(share) or share <= 0 or math.floor(image_size / share) < 1:
        raise CheckpointError(f"crop_pct is {share!r}, expected a share such as 0.875")
    # timm squashes and pads in modes of these names, and crops to the centre in any other.
    if mode not in CROP_MODES:
        raise CheckpointError(f"crop_mode is {mode!r}, expected one of {', '.join(CROP_MODES)}")
    if (name := options["interpolation"]) not in get_args(Filter):
        raise CheckpointError(
            f"interpolation is {name!r}, expected one of {', '.join(get_args(Filter))}"
        )
    mean, std = (_per_channel(options, key) for key in ("mean", "std"))
    if 0 in std:
        raise CheckpointError(f"std is {options['std']}: it divides by zero")
    edge = math.floor(image_size / share)
    red, green, blue = (round(MAX_COLOUR * value) for value in mean)
    return Preprocessing(
        resize=(edge, edge),
        rule=CROP_MODES[mode],
        filter=name,
        crop=(image_size, image_size),
        anchor="centre_half_even",
        fill=(red, green, blue) if mode == "border" else (0, 0, 0),
        mean=mean,
        std=std,
    )


def _per_channel(options: Mapping[str, Any], key: str) -> tuple[float, float, float]:
    value = options[key]
    if not isinstance(value, list | tuple) or len(value) != 3 or not all(map(_is_number, value)):
        raise CheckpointError(f"{key} is {value!r}, expected three numbers")
    return float(value[0]), float(value[1]), float(value[2])


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
