"""preprocessor_config.json or processor_config.json, resolved as transformers would read it."""

import math
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
from vit_export.packages.processor_options import (
    DEFAULTS,
    Options,
    fitted_sizes,
    flag,
    height_and_width,
    kind_of,
    size_of,
    unsupported,
)

PROCESSOR, PREPROCESSOR = "processor_config.json", "preprocessor_config.json"
"""Where transformers looks for an image processor, in this order; in the first it is nested."""

NEVER_PAD = ("Beit", "ConvNext")
"""Processors that pass over do_pad."""

CONVNEXT_SQUASHES = 384
"""From which size a ConvNext processor squashes; below, it crops."""


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


def default_config(processor: str, image_size: int) -> dict[str, Any]:
    """Return the config of a processor's own values, its sizes fitted to the model's images."""
    own = preprocessing_from_config({}, None, default_processor=processor).shape[0]
    sizes = fitted_sizes({}, processor, image_size / own)
    return {"image_processor_type": processor, **{k: v for k, v in sizes.items() if v}}


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
    kind = kind_of(config, default_processor)
    options = DEFAULTS[kind] | dict(config) | fitted_sizes(config, default_processor, scale)
    if not flag(options, "do_resize"):
        raise CheckpointError("the preprocessor does not resize (do_resize false); it must")
    mean, std = _normalisation(options)
    geometry = (_convnext if kind == "ConvNext" else _geometry)(options)
    unsaid = options["do_center_crop"] is None and not options["do_pad"]
    side = image_size or geometry.resize[0]
    if unsaid and geometry.rule == "shortest_edge" and geometry.resize[0] >= side:
        geometry = replace(geometry, crop=geometry.crop or (side, side))
    fill = (0, 0, 0)
    if flag(options, "do_pad") and kind not in NEVER_PAD:
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


def _geometry(options: Options) -> _Geometry:
    size = size_of(options, "size", to_square=flag(options, "default_to_square"))
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
            raise unsupported("size", options["size"])
    return _cropped(geometry, options)


def _convnext(options: Options) -> _Geometry:
    size = size_of(options, "size", to_square=flag(options, "default_to_square"))
    side, share = size.get("shortest_edge"), options["crop_pct"]
    if side is None:
        raise CheckpointError(
            f"size is {options['size']!r}; a ConvNext processor wants a shortest_edge"
        )
    if side >= CONVNEXT_SQUASHES:
        return _cropped(_Geometry("squash", (side, side)), options)
    if not is_number(share) or share <= 0 or int(side / share) < 1:
        raise CheckpointError(f"crop_pct is {share!r}, expected a share such as 0.875")
    if flag(options, "do_center_crop") and height_and_width(options, "crop_size") != (side, side):
        raise CheckpointError(
            f"crop_size is {options['crop_size']!r} after a ConvNext processor's own crop to {side}"
        )
    edge = int(side / share)
    return _Geometry("shortest_edge", (edge, edge), (side, side))


def _cropped(geometry: _Geometry, options: Options) -> _Geometry:
    if not flag(options, "do_center_crop"):
        return geometry
    return replace(geometry, crop=height_and_width(options, "crop_size"))


def _padded(
    geometry: _Geometry, options: Options, mean: tuple[float, ...]
) -> tuple[_Geometry, tuple[int, int, int]]:
    """Pad below and to the right, as transformers does after normalising: with the colour `mean`.

    Without a size transformers pads to the largest image of a batch, which changes nothing where
    all are of one shape.
    """
    black = (0, 0, 0)
    if options["pad_size"] is None or height_and_width(options, "pad_size") == geometry.shape:
        return geometry, black
    if geometry.crop is not None:
        raise CheckpointError("the preprocessor crops and then pads; supported is either")
    if geometry.rule == "shortest_edge":
        raise CheckpointError("do_pad after a shortest_edge: images may be larger than pad_size")
    height, width = height_and_width(options, "pad_size")
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


def _filter(resample: Any) -> Filter:
    if type(resample) is int and resample in range(len(FILTERS)):
        return FILTERS[resample]
    if str(resample).lower() in ("bilinear", "2", "2.0"):
        return "bilinear"
    raise CheckpointError(
        f"resample is {resample!r}, expected 0 to 5, the numbers of {', '.join(FILTERS)}; "
        "transformers resizes bilinearly for any word"
    )


def _normalisation(
    options: Options,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return mean and std for pixels from 0 to 1."""
    factor = positive(options, "rescale_factor", 1) if flag(options, "do_rescale") else 1
    scale = MAX_COLOUR * factor
    if not flag(options, "do_normalize"):
        return (0.0, 0.0, 0.0), (1 / scale, 1 / scale, 1 / scale)
    mean, std = (per_channel(options, key) for key in ("image_mean", "image_std"))
    if 0 in std:
        raise CheckpointError(f"image_std is {options['image_std']}: it divides by zero")
    return (
        (mean[0] / scale, mean[1] / scale, mean[2] / scale),
        (std[0] / scale, std[1] / scale, std[2] / scale),
    )
