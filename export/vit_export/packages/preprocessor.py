"""preprocessor_config.json or processor_config.json, resolved as transformers would read it."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vit_engine.artefact.contract import (
    FILTERS,
    MAX_COLOUR,
    Anchor,
    Filter,
    Preprocessing,
    ResizeRule,
)
from vit_engine.errors import CheckpointError
from vit_export.families.values import is_number, per_channel, positive
from vit_export.files.json_file import read_json

PROCESSOR, PREPROCESSOR = "processor_config.json", "preprocessor_config.json"
"""Where transformers looks for an image processor, in this order; in the first it is nested."""

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
_CLIP: dict[str, Any] = _CROPPED | {
    "size": {"shortest_edge": 224},
    "default_to_square": False,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": _COMMON | {"resample": 2},
    "DeiT": _COMMON | _CROPPED | {"size": {"height": 256, "width": 256}},
    "Beit": _COMMON | _CROPPED | {"do_center_crop": False},
    "Bit": _COMMON | _CLIP,
    "CLIP": _COMMON | _CLIP,
    "Siglip": _COMMON | {"default_to_square": False},
    "DINOv3ViT": _COMMON
    | {"resample": 2, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
    "ConvNext": _COMMON
    | {"size": {"shortest_edge": 384}, "default_to_square": False, "crop_pct": 224 / 256},
}
"""What transformers' image processors have where a file has no such key (their PIL forms)."""

SIZES = ("size", "crop_size", "pad_size")
"""The keys of lengths in pixels."""

NEVER_PAD = ("Beit", "ConvNext")
"""Processors that pass over do_pad."""

CONVNEXT_SQUASHES = 384
"""From which size a ConvNext processor squashes; below, it crops."""

_TYPE = re.compile(rf"({'|'.join(DEFAULTS)})ImageProcessor(Fast|Pil)?")
_SIZE_KEYS = (
    {"height", "width"},
    {"shortest_edge"},
    {"shortest_edge", "longest_edge"},
    {"longest_edge"},
    {"max_height", "max_width"},
    {"min_pixels", "max_pixels"},
)


@dataclass(frozen=True)
class _Geometry:
    """From an image to the input's shape: the fields of that name of `Preprocessing`."""

    rule: ResizeRule
    resize: tuple[int, int]
    crop: tuple[int, int] | None = None
    anchor: Anchor = "centre"

    @property
    def shape(self) -> tuple[int, int] | None:
        """The (height, width) of every image, None where they differ."""
        return self.crop or (self.resize if self.rule == "squash" else None)


def processor_config(folder: Path) -> Options:
    """Read the image processor's config as transformers finds it; CheckpointError without any."""
    if (folder / PROCESSOR).exists():
        nested = read_json(folder / PROCESSOR).get("image_processor")
        if isinstance(nested, dict):
            return nested
        if nested is not None:
            raise CheckpointError(f"{PROCESSOR}: image_processor is {nested!r}, not an object")
    return read_json(folder / PREPROCESSOR)


def preprocessing_from_config(
    config: Options, image_size: int | None, *, default_processor: str, scale: float = 1
) -> Preprocessing:
    """Resolve an image processor's config; the result is always `image_size` pixels square.

    With None it is any square. `default_processor` is transformers' image processor where the
    config names none; all its sizes are multiplied by `scale`. A key that is null has no value:
    false for a `do_*`, and no default in its place.

    Where an edge is resized and nothing says whether to crop, the model's size is cropped to.
    Other rescale factors r are folded in: `(u8 * r - mean) / std` is
    `(u8 / 255 - mean / (255 r)) / (std / (255 r))`. `CheckpointError` for what is unsupported, and
    for what transformers refuses.
    """
    kind = _kind(config, default_processor)
    options = DEFAULTS[kind] | dict(config) | fitted_sizes(config, default_processor, scale)
    if not _flag(options, "do_resize"):
        raise CheckpointError("the preprocessor does not resize (do_resize false); it must")
    mean, std = _normalisation(options)
    geometry = (_convnext if kind == "ConvNext" else _geometry)(options)
    unsaid = options["do_center_crop"] is None and not options["do_pad"]
    side = image_size or geometry.resize[0]
    if unsaid and geometry.rule == "shortest_edge" and geometry.resize[0] >= side:
        geometry = replace(geometry, crop=geometry.crop or (side, side))
    fill = (0, 0, 0)
    if _flag(options, "do_pad") and kind not in NEVER_PAD:
        geometry, fill = _padded(geometry, options, mean)
    if geometry.shape is None:
        raise CheckpointError(
            f"size is {options['size']!r} without a crop, so images would differ in shape"
        )
    if geometry.shape[0] != geometry.shape[1]:
        raise CheckpointError(f"the preprocessor gives {geometry.shape}; supported are squares")
    if image_size and geometry.shape != (image_size, image_size):
        raise CheckpointError(
            f"the preprocessor gives {geometry.shape}, the model takes {(image_size, image_size)}; "
            f"--image-size {geometry.shape[0]} exports the model for the preprocessor's size"
        )
    return Preprocessing(
        resize=geometry.resize,
        rule=geometry.rule,
        filter=_filter(options["resample"]),
        crop=geometry.crop,
        anchor=geometry.anchor,
        fill=fill,
        mean=mean,
        std=std,
    )


def fitted_sizes(config: Options, default_processor: str, scale: float) -> dict[str, Any]:
    """Return the sizes of an image processor, each multiplied by `scale` and rounded."""
    options = DEFAULTS[_kind(config, default_processor)] | dict(config)
    return {key: scaled(options[key], scale) for key in SIZES}


def scaled(value: Any, scale: float) -> Any:
    """Return a size, or a list or table of sizes, with each length multiplied and rounded."""
    if isinstance(value, Mapping):
        return {key: scaled(part, scale) for key, part in value.items()}
    if isinstance(value, list):
        return [scaled(part, scale) for part in value]
    return round(value * scale) if _is_length(value) else value


def _kind(config: Options, default: str) -> str:
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


def _flag(options: Options, key: str) -> bool:
    value = options[key]
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(f"{key} is {value!r}, expected true, false or null")
    return bool(value)


def _geometry(options: Options) -> _Geometry:
    size = _size(options, "size", to_square=bool(_flag(options, "default_to_square")))
    match size:
        case {"shortest_edge": int(short), "longest_edge": int(long)}:
            geometry = _Geometry("edges", (short, long))
        case {"shortest_edge": int(short)}:
            geometry = _Geometry("shortest_edge", (short, short))
        case {"max_height": int(height), "max_width": int(width)}:
            geometry = _Geometry("within", (height, width))
        case {"height": int(height), "width": int(width)}:
            geometry = _Geometry("squash", (height, width))
        case _:
            raise _unsupported("size", options["size"])
    return _cropped(geometry, options)


def _convnext(options: Options) -> _Geometry:
    size = _size(options, "size", to_square=bool(_flag(options, "default_to_square")))
    side, share = size.get("shortest_edge"), options["crop_pct"]
    if side is None:
        raise CheckpointError(
            f"size is {options['size']!r}; a ConvNext processor wants a shortest_edge"
        )
    if side >= CONVNEXT_SQUASHES:
        return _cropped(_Geometry("squash", (side, side)), options)
    if not is_number(share) or share <= 0 or int(side / share) < 1:
        raise CheckpointError(f"crop_pct is {share!r}, expected a share such as 0.875")
    if _flag(options, "do_center_crop") and _height_and_width(options, "crop_size") != (side, side):
        raise CheckpointError(
            f"crop_size is {options['crop_size']!r} after a ConvNext processor's own crop to {side}"
        )
    edge = int(side / share)
    return _Geometry("shortest_edge", (edge, edge), (side, side))


def _cropped(geometry: _Geometry, options: Options) -> _Geometry:
    if not _flag(options, "do_center_crop"):
        return geometry
    return replace(geometry, crop=_height_and_width(options, "crop_size"))


def _padded(
    geometry: _Geometry, options: Options, mean: tuple[float, ...]
) -> tuple[_Geometry, tuple[int, int, int]]:
    """Pad below and to the right, as transformers does after normalising: with the colour `mean`.

    Without a size transformers pads to the largest image of a batch, which changes nothing where
    all are of one shape.
    """
    black = (0, 0, 0)
    if options["pad_size"] is None or _height_and_width(options, "pad_size") == geometry.shape:
        return geometry, black
    if geometry.crop is not None:
        raise CheckpointError("the preprocessor crops and then pads; supported is either")
    if geometry.rule == "shortest_edge":
        raise CheckpointError("do_pad after a shortest_edge: images may be larger than pad_size")
    height, width = _height_and_width(options, "pad_size")
    # Of a shortest and a longest edge the second bounds both.
    largest = (geometry.resize[1],) * 2 if geometry.rule == "edges" else geometry.resize
    if height < largest[0] or width < largest[1]:
        raise CheckpointError(
            f"pad_size is {options['pad_size']!r}, smaller than images of {largest}"
        )
    red, green, blue = (round(MAX_COLOUR * value) for value in mean)
    exact = all(
        math.isclose(MAX_COLOUR * value, whole, abs_tol=1e-4) and 0 <= whole <= MAX_COLOUR
        for value, whole in zip(mean, (red, green, blue), strict=True)
    )
    if not exact:
        raise CheckpointError(
            "the preprocessor pads with 0 after normalising (do_pad), which is the colour "
            f"{tuple(round(MAX_COLOUR * value, 3) for value in mean)}: no pixel of 8 bits has it"
        )
    padded = _Geometry(geometry.rule, geometry.resize, (height, width), "top_left")
    return padded, (red, green, blue)


def _size(options: Options, key: str, *, to_square: bool) -> dict[str, int]:
    """Return a size by transformers' names for its parts, without those that are null or 0."""
    value = options[key]
    if value is None:
        raise CheckpointError(f"{key} is null, expected a size; transformers refuses it too")
    if type(value) is int:
        value = {"height": value, "width": value} if to_square else {"shortest_edge": value}
    if isinstance(value, list) and len(value) == 2:
        value = {"height": value[0], "width": value[1]}
    if not isinstance(value, dict) or set(value) not in _SIZE_KEYS:
        raise _unsupported(key, options[key])
    sizes = {name: part for name, part in value.items() if part is not None}
    if not all(map(_is_length, sizes.values())):
        raise _unsupported(key, options[key])
    return sizes


def _height_and_width(options: Options, key: str) -> tuple[int, int]:
    size = _size(options, key, to_square=True)
    if size.keys() != {"height", "width"}:
        raise CheckpointError(f"{key} is {options[key]!r}, expected a height and a width")
    return size["height"], size["width"]


def _unsupported(key: str, value: Any) -> CheckpointError:
    return CheckpointError(
        f"{key} is {value!r}; supported are a number, [height, width], height with width, "
        "shortest_edge alone or with longest_edge, max_height with max_width"
    )


def _filter(resample: Any) -> Filter:
    if type(resample) is not int or resample not in range(len(FILTERS)):
        raise CheckpointError(f"resample is {resample!r}, expected 0 to 5 (Pillow's filters)")
    return FILTERS[resample]


def _normalisation(
    options: Options,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and std for pixels from 0 to 1."""
    factor = positive(options, "rescale_factor", 1) if _flag(options, "do_rescale") else 1
    scale = MAX_COLOUR * factor
    if not _flag(options, "do_normalize"):
        return (0.0, 0.0, 0.0), (1 / scale, 1 / scale, 1 / scale)
    mean, std = (per_channel(options, key) for key in ("image_mean", "image_std"))
    if 0 in std:
        raise CheckpointError(f"image_std is {options['image_std']}: it divides by zero")
    return (
        (mean[0] / scale, mean[1] / scale, mean[2] / scale),
        (std[0] / scale, std[1] / scale, std[2] / scale),
    )


def _is_length(value: Any) -> bool:
    return type(value) is int and value > 0
