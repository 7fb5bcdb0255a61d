"""What a processor's config, or timm's, resolves to: to the bit what its owner makes of it."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoImageProcessor

from vit_engine.artefact.contract import FILTERS, Preprocessing
from vit_engine.errors import CheckpointError
from vit_engine.images.preprocess import pixels_from_image
from vit_engine.providers.tensors import normalized
from vit_export.packages.preprocessor import (
    PREPROCESSOR,
    PROCESSOR,
    preprocessing_from_config,
    processor_config,
)
from vit_export.packages.timm import preprocessing_from_pretrained_cfg

SIDE = 24
SIZES = [
    *((1, 1), (1, 9), (9, 1), (2, 3), (24, 24), (23, 24), (24, 23), (25, 24), (24, 25), (27, 27)),
    *((28, 28), (37, 50), (50, 37), (48, 48), (49, 48), (48, 49), (64, 64), (31, 97), (97, 31)),
    *((100, 75), (75, 100), (101, 75), (75, 101), (123, 45), (45, 123), (28, 29), (29, 28)),
    *((30, 90), (90, 30), (200, 24), (24, 200), (199, 25), (25, 199), (150, 150), (151, 149)),
    *((160, 120), (120, 160), (161, 121), (121, 161), (320, 240)),
]
"""40 widths and heights: both orientations, odd and even margins, smaller and larger than SIDE."""


def noise(size: tuple[int, int]) -> Image.Image:
    rng = np.random.default_rng(size)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))


def ours(image: Image.Image, resolved: Preprocessing) -> NDArray[np.float32]:
    return normalized(pixels_from_image(image, resolved)[None], resolved)[0]


def processor(folder: Path, config: dict[str, Any]) -> Any:
    """Return transformers' own, in its PIL form."""
    (folder / PREPROCESSOR).write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    return AutoImageProcessor.from_pretrained(folder, backend="pil")


def resolved_from(config: dict[str, Any]) -> Preprocessing:
    return preprocessing_from_config(config, SIDE, default_processor="ViTImageProcessor")


SQUARE = {"height": SIDE, "width": SIDE}
CROPPED = {"do_center_crop": True, "crop_size": SQUARE}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
PROCESSORS: dict[str, dict[str, Any]] = {
    "ViT": {"size": SQUARE},
    "ViT, a number": {"size": SIDE} | IMAGENET,
    "ViT, cropped": {"size": {"shortest_edge": 28}} | CROPPED,
    "ViT, two edges": {"size": {"shortest_edge": 28, "longest_edge": 40}} | CROPPED,
    "ViT, two edges, one null": {"size": {"shortest_edge": 27, "longest_edge": None}} | CROPPED,
    "ViT, within": {"size": {"max_height": 60, "max_width": 90}} | CROPPED,
    "ViT, not to a square": {"size": 31, "default_to_square": False} | CROPPED,
    "ViT, not to a square, null": {"size": 31, "default_to_square": None} | CROPPED,
    "ViT, padding to the batch": {"size": SQUARE, "do_pad": True},
    "ViT, padding nothing": {"size": SQUARE, "do_pad": True, "pad_size": SIDE},
    "ViT, padding with black": {
        "size": {"shortest_edge": 16, "longest_edge": 24},
        "do_pad": True,
        "pad_size": SQUARE,
        "do_normalize": None,
    },
    "ViT, padding below": {
        "size": {"height": 20, "width": 18},
        "do_pad": True,
        "pad_size": SQUARE,
        "image_mean": [0.2, 0.4, 0.6],
    },
    "ViT, padding what fits": {
        "size": {"max_height": 24, "max_width": 22},
        "do_pad": True,
        "pad_size": SQUARE,
        "image_mean": [0, 0, 0],
    },
    "DeiT": {"size": {"height": 28, "width": 28}, "crop_size": SQUARE},
    "DeiT, padding crop": {"size": 20, "crop_size": SIDE},
    "DeiT, uneven": {"size": [31, 27], "crop_size": [SIDE, SIDE], "resample": 1},
    "Beit": {"size": SQUARE},
    "Beit, cropped": {"size": 28, "do_center_crop": True, "crop_size": SIDE},
    "Beit, which never pads": {"size": SIDE, "do_pad": True, "pad_size": 30},
    "Bit": {"size": {"shortest_edge": 28}, "crop_size": SQUARE},
    "Bit, a number": {"size": 27, "crop_size": SIDE} | IMAGENET,
    "Bit, not cropped": {"size": SQUARE, "do_center_crop": None},
    "CLIP": {"size": {"shortest_edge": SIDE}, "crop_size": SQUARE},
    "ChineseCLIP": {"size": {"shortest_edge": 28}, "crop_size": SQUARE},
    "Blip": {"size": SQUARE},
    "Pvt": {"size": SQUARE},
    "CLIP, old": {"size": SIDE, "crop_size": SIDE, "resample": "bilinear", "do_normalize": 1},
    "Siglip": {"size": SQUARE},
    "Siglip, lanczos": {"size": SQUARE, "resample": 1},
    "ConvNext": {"size": {"shortest_edge": SIDE}},
    "ConvNext, a number": {"size": SIDE, "crop_pct": 0.95} | IMAGENET,
    "ConvNext, all of it": {"size": SIDE, "crop_pct": 1.0},
}
OLD: dict[str, dict[str, Any]] = {
    "unnamed": {"size": SIDE} | IMAGENET,
    "old": {"feature_extractor_type": "ViTFeatureExtractor", "size": SIDE, "resample": 3},
    "old DeiT": {"feature_extractor_type": "DeiTFeatureExtractor", "size": 28, "crop_size": SIDE},
}
"""As files were before there were image processors."""


@pytest.mark.parametrize("name", [*PROCESSORS, *OLD])
def test_each_processor_over_forty_sizes(tmp_path: Path, name: str) -> None:
    if name in OLD:
        config = OLD[name]
        theirs, resolved = processor(tmp_path, config), resolved_from(config)
    else:
        kind = f"{name.partition(',')[0]}ImageProcessor"
        config = PROCESSORS[name] | {"image_processor_type": kind}
        theirs, resolved = processor(tmp_path, config), resolved_from(config)
        for suffix in ("Fast", "Pil"):  # other names of the same
            other = config | {"image_processor_type": kind + suffix}
            assert type(processor(tmp_path, other)) is type(theirs)
            assert resolved_from(other) == resolved
    for size in SIZES:
        if min(size) < 9 and ("within" in name or "fits" in name):
            continue  # a strip becomes nothing
        expected = theirs(images=noise(size), return_tensors="np")["pixel_values"][0]
        np.testing.assert_array_equal(ours(noise(size), resolved), expected, err_msg=str(size))


def test_convnext_squashes_large_models(tmp_path: Path) -> None:
    config = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 400}}
    theirs = processor(tmp_path, config)
    resolved = preprocessing_from_config(config, 400, default_processor="ViTImageProcessor")
    expected = theirs(images=noise((123, 45)), return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(ours(noise((123, 45)), resolved), expected)


def test_a_shortest_edge_without_a_word_on_cropping_is_cropped_to_the_model() -> None:
    for size in (SIDE, 28):
        config = {"size": {"shortest_edge": size}}
        assert resolved_from(config) == resolved_from(config | CROPPED)
    for config in (
        {"size": {"shortest_edge": SIDE}, "do_center_crop": False},
        {"size": {"shortest_edge": 20}},
        {"size": {"shortest_edge": SIDE, "longest_edge": 40}},
    ):
        with pytest.raises(CheckpointError, match="without a crop, so images would differ"):
            resolved_from(config)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no resize": ({"do_resize": False}, "do_resize"),
    "a flag that is a number": ({"do_normalize": 2}, "do_normalize is 2, expected true, false or"),
    "another size": ({"size": 32}, r"\(32, 32\).*\(24, 24\)"),
    "no square": ({"size": {"height": 24, "width": 32}}, r"\(24, 32\)"),
    "size of text": ({"size": "24"}, "size is '24'"),
    "size true": ({"size": True}, "size is True"),
    "no crop size": ({"do_center_crop": True}, "crop_size"),
    "resample unknown": ({"resample": 6}, "resample is 6"),
    "resample of text": (
        {"resample": "bicubic"},
        "resample is 'bicubic', .* bilinearly for any word",
    ),
    "factor 0": ({"rescale_factor": 0}, "rescale_factor is 0"),
    "one mean of three": ({"image_mean": [0.5]}, "image_mean is .* one number or three"),
    "deviation 0": ({"image_std": [0.5, 0, 0.5]}, "image_std is .* zero"),
    "deviation nan": ({"image_std": [0.5, float("nan"), 0.5]}, "image_std is .*nan"),
    "size null": ({"size": None}, "size is null"),
    "resample null": ({"resample": None}, "resample is None"),
    "resample of another type": ({"resample": True}, "resample is True, expected 0 to 5"),
    "mean null": ({"image_mean": None}, "image_mean is None"),
    "factor null": ({"rescale_factor": None}, "rescale_factor is None"),
    "resize null": ({"do_resize": None}, "does not resize"),
    "a part null": ({"size": SQUARE | {"longest_edge": None}}, "supported are a number"),
    "longest edge alone": ({"size": {"longest_edge": SIDE}}, "supported are a number"),
    "pixels": ({"size": {"min_pixels": 1, "max_pixels": 9}}, "supported are a number"),
    "crop of an edge": ({"do_center_crop": True, "crop_size": {"shortest_edge": 9}}, "crop_size"),
    "pad of an edge": ({"do_pad": True, "pad_size": {"shortest_edge": 9}}, "pad_size is"),
    "small pad": ({"do_pad": True, "pad_size": 20}, "pad_size is 20, smaller than"),
    "pad to the batch": (
        {"size": {"shortest_edge": 20, "longest_edge": 24}, "do_pad": True},
        "images would differ",
    ),
    "pad with the mean": ({"size": 20, "do_pad": True, "pad_size": SIDE}, "127.5.* no pixel"),
    "crop and pad": (
        {"size": 20, "do_center_crop": True, "crop_size": 20, "do_pad": True, "pad_size": SIDE},
        "crops and then pads",
    ),
    "ConvNext, a square": (
        {"image_processor_type": "ConvNextImageProcessor", "size": SQUARE},
        "wants a shortest_edge",
    ),
    "ConvNext, no share": (
        {"image_processor_type": "ConvNextImageProcessor", "size": SIDE, "crop_pct": None},
        "crop_pct is None",
    ),
    "another processor": ({"image_processor_type": "DPTImageProcessor"}, "'DPTImageProcessor'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_told_in_a_line(name: str) -> None:
    config, words = REFUSED[name]
    with pytest.raises(CheckpointError, match=words) as refusal:
        resolved_from({"size": SIDE} | config)
    assert "\n" not in str(refusal.value)


def drawn_config(rng: random.Random) -> dict[str, Any]:
    """Draw a config that is mostly sensible: a quarter or so gives one shape."""
    edges = {"shortest_edge": rng.randint(16, 30)}
    fitting = [SIDE, SQUARE, [SIDE, SIDE]]
    sizes = [
        *fitting,
        rng.randint(20, 30),
        [rng.randint(20, 30), rng.randint(20, 30)],
        edges,
        edges | {"longest_edge": rng.randint(30, 50)},
        edges | {"longest_edge": None},
        {"max_height": rng.randint(16, 60), "max_width": rng.randint(16, 60)},
        None,
    ]
    colours = [rng.uniform(0.01, 2), [rng.uniform(0.01, 2) for _ in range(3)]]
    mostly = [True] * 9 + [False, None]
    keys = {
        "do_center_crop": [True, True, False, None],
        "crop_size": fitting * 6 + sizes,
        "default_to_square": [True, False, None],
        "resample": [*range(6)] * 3 + [None],
        "do_rescale": mostly,
        "rescale_factor": [1 / 255, 1 / 127.5, 1.0] * 4 + [None],
        "do_normalize": mostly,
        "image_mean": colours * 9 + [None],
        "image_std": colours * 9 + [None],
        "do_pad": [True, False, None],
        "pad_size": fitting * 3 + sizes,
    }
    kinds = ("ViT", "DeiT", "Beit", "Bit", "CLIP", "Siglip", "ConvNext")
    return {
        "image_processor_type": f"{rng.choice(kinds)}ImageProcessor",
        "size": rng.choice(sizes),
    } | {key: rng.choice(values) for key, values in keys.items() if rng.random() < 0.4}


def test_three_hundred_drawn_configs(tmp_path: Path) -> None:
    """What is taken is equal; what is refused, transformers refuses or gives in no one shape."""
    equal, ours_alone = 0, []
    images = [noise(size) for size in ((37, 50), (51, 36), (25, 25))]
    for seed in range(300):
        config = drawn_config(random.Random(seed))
        try:
            theirs = processor(tmp_path, config)
            expected = [np.asarray(theirs(images=i)["pixel_values"][0]) for i in images]
        except (ValueError, AttributeError, TypeError):
            expected = []
        usable = [e.shape for e in expected] == [(3, SIDE, SIDE)] * len(images)
        try:
            resolved = resolved_from(config)
        except CheckpointError as e:
            if usable:
                ours_alone.append(str(e))
            continue
        if not usable:  # an edge without a word on cropping: told above
            assert config.get("do_center_crop") is None, config
            assert resolved.rule == "shortest_edge", config
            continue
        for image, pixels in zip(images, expected, strict=True):
            np.testing.assert_allclose(
                ours(image, resolved), pixels, rtol=0, atol=1e-6 * np.abs(pixels).max()
            )
        equal += 1
    print(f"{equal} equal, refused by us alone: {ours_alone}")
    assert equal > 50
    assert all("no pixel of 8 bits" in e or "crops and then pads" in e for e in ours_alone)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({PREPROCESSOR: {"size": 1}}, {"size": 1}),
        ({PROCESSOR: {"image_processor": {"size": 2}}}, {"size": 2}),
        ({PREPROCESSOR: {"size": 1}, PROCESSOR: {"image_processor": {"size": 2}}}, {"size": 2}),
        ({PREPROCESSOR: {"size": 1}, PROCESSOR: {"processor_class": "X"}}, {"size": 1}),
        ({PREPROCESSOR: {"size": 1}, PROCESSOR: {"image_processor": None}}, {"size": 1}),
        ({PREPROCESSOR: {"size": 1}, PROCESSOR: {"image_processor": {}}}, {}),
    ],
)
def test_the_nested_config_goes_before(
    tmp_path: Path, files: dict[str, Any], expected: dict[str, Any]
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert processor_config(tmp_path) == expected


def test_no_config_at_all(tmp_path: Path) -> None:
    (tmp_path / PROCESSOR).write_text('{"processor_class": "X"}')
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json is missing"):
        processor_config(tmp_path)


TIMM = {
    "nothing said": {},
    "center": {"crop_pct": 0.9, "crop_mode": "center", "interpolation": "bicubic"},
    "all of it": {"crop_pct": 1.0, "interpolation": "bilinear"},
    "squash": {"crop_pct": 1.0, "crop_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3},
    "squash and crop": {"crop_pct": 0.9, "crop_mode": "squash", "interpolation": "lanczos"},
    "border": {"crop_pct": 1.0, "crop_mode": "border"},
    "border and crop": {"crop_pct": 0.85, "crop_mode": "border", "mean": [0.3, 0.5, 0.7]},
    "nulls": {"crop_pct": None, "crop_mode": None, "mean": None, "std": None},
    "odd margins": {"crop_pct": 0.77},
    "above 1": {"crop_pct": 1.2},
}


@pytest.mark.parametrize("side", [SIDE, 23])
@pytest.mark.parametrize("name", TIMM)
def test_timm_over_forty_sizes(name: str, side: int) -> None:
    data = pytest.importorskip("timm.data")
    config = TIMM[name]
    options = data.resolve_data_config(pretrained_cfg=config or {"num_classes": 1000})
    theirs = data.create_transform(**options | {"input_size": (3, side, side)})
    resolved = preprocessing_from_pretrained_cfg(config, side)
    for size in SIZES:
        if name.startswith("border") and min(size) < 9:
            continue  # a strip becomes nothing
        expected = theirs(noise(size)).numpy()
        np.testing.assert_array_equal(ours(noise(size), resolved), expected, err_msg=str(size))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"crop_pct": "all"}, "crop_pct is 'all'"),
        ({"crop_mode": "corner"}, "crop_mode is 'corner', expected one of center, squash, border"),
        ({"interpolation": "random"}, "interpolation is 'random', expected one of nearest"),
        ({"mean": [0.5]}, r"mean is \[0.5\], expected one number or three"),
        ({"std": [1, 0, 1]}, "divides by zero"),
    ],
)
def test_what_timm_is_not_asked_to_do(change: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        preprocessing_from_pretrained_cfg(change, SIDE)


@pytest.mark.parametrize("rule", ["within", "within_rounded"])
def test_a_strip_that_would_shrink_to_nothing_is_an_error_of_its_own(rule: Any) -> None:
    from vit_engine.errors import ImageError

    resolved = Preprocessing(
        (SIDE, SIDE), rule, FILTERS[0], (SIDE, SIDE), "centre", (0, 0, 0), (0.5,) * 3, (0.5,) * 3
    )
    with pytest.raises(ImageError, match="one edge would shrink to 0") as refusal:
        pixels_from_image(Image.new("RGB", (1000, 1)), resolved)
    assert refusal.value.code == "decode"
