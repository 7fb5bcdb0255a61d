"""The input is bit for bit what Hugging Face's PIL processors make of the same image."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from transformers.image_utils import load_image
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from vit_engine.artefact.contract import FILTERS, Preprocessing
from vit_engine.errors import ImageError
from vit_engine.images.preprocess import pixels_from_image, rgb_from_image
from vit_engine.providers.tensors import normalized

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "F")
SIXTEEN = ("I;16", "I;16L", "I;16B")


def preprocessing(resize=(224, 224), shortest_edge=None, crop=None, filter_name="bilinear"):
    rule = "squash" if shortest_edge is None else "shortest_edge"
    edges = resize if shortest_edge is None else (shortest_edge, shortest_edge)
    return Preprocessing(edges, rule, filter_name, crop, "centre", (0, 0, 0), MEAN, STD)


def noise(mode: str, size: tuple[int, int], seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    width, height = size
    if mode in SIXTEEN:
        data = rng.integers(0, 2**16, (height, width), np.uint16)
        return Image.frombytes(mode, size, data.astype(">u2" if mode == "I;16B" else "<u2"))
    if mode == "I":
        return Image.fromarray(rng.integers(-300, 70000, (height, width), np.int32))
    if mode == "F":
        return Image.fromarray(rng.uniform(-100, 400, (height, width)).astype(np.float32))
    if mode == "1":
        return Image.fromarray(rng.integers(0, 256, (height, width), np.uint8)).convert("1")
    bands = len(Image.new(mode, (1, 1)).getbands())
    image = Image.frombytes(mode, size, rng.bytes(width * height * bands))
    if mode in ("P", "PA"):
        image.putpalette(rng.bytes(768))
    return image


def theirs(image: Image.Image, pre: Preprocessing, normalise: bool = False) -> np.ndarray:
    """HWC uint8, or CHW float32, by transformers alone."""
    if pre.rule == "squash":
        size = dict(zip(("height", "width"), pre.resize, strict=True))
    else:
        size = {"shortest_edge": pre.resize[0]}
    cropped = pre.crop is not None
    processor = (DeiTImageProcessorPil if cropped else ViTImageProcessorPil)(
        size=size,
        crop_size=dict(zip(("height", "width"), pre.crop or (1, 1), strict=True)),
        do_center_crop=cropped,
        resample=FILTERS.index(pre.filter),
        do_rescale=normalise,
        do_normalize=normalise,
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    pixels = processor(load_image(image))["pixel_values"][0]
    return pixels if normalise else np.moveaxis(pixels, 0, -1)


@pytest.mark.parametrize("mode", MODES + SIXTEEN)
@pytest.mark.parametrize("size", [(1, 1), (37, 64), (224, 224), (301, 97)])
def test_every_mode_equals_hugging_face(mode, size):
    image = noise(mode, size)
    ours = pixels_from_image(image, preprocessing())
    assert ours.dtype == np.uint8 and ours.shape == (224, 224, 3)
    np.testing.assert_array_equal(ours, theirs(image, preprocessing()))


@pytest.mark.filterwarnings("ignore:Palette images:UserWarning")
@pytest.mark.parametrize("info", [{"transparency": 3}, {"transparency": bytes(range(256))}])
def test_transparent_palettes_equal_hugging_face(info):
    image = noise("P", (50, 40))
    image.info.update(info)
    ours = pixels_from_image(image, preprocessing())
    with warnings.catch_warnings(action="ignore"):
        np.testing.assert_array_equal(ours, theirs(image, preprocessing()))


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    filter_name=st.sampled_from(FILTERS),
    edge=st.one_of(st.none(), st.integers(1, 260)),
    resize=st.tuples(st.integers(1, 260), st.integers(1, 260)),
    crop=st.one_of(st.none(), st.tuples(st.integers(1, 260), st.integers(1, 260))),
)
def test_every_resize_and_crop_equals_hugging_face(size, filter_name, edge, resize, crop):
    if edge is not None:
        resize, crop = None, crop or (edge, edge)
    pre = preprocessing(resize, edge, crop, filter_name)
    image = noise("RGB", size, seed=size[0] * 1000 + size[1])
    np.testing.assert_array_equal(pixels_from_image(image, pre), theirs(image, pre))


def test_normalised_input_equals_hugging_face():
    image = Image.fromarray(np.arange(256 * 3, dtype=np.uint8).reshape(16, 16, 3))
    pre = preprocessing(resize=(16, 16), filter_name="nearest")
    ours = normalized(pixels_from_image(image, pre)[None], pre)
    assert ours.dtype == np.float32 and ours.shape == (1, 3, 16, 16)
    np.testing.assert_array_equal(ours[0], theirs(image, pre, normalise=True))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(10))
def test_orientation_is_applied_to_every_format(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / "image"
    noise("RGB", (40, 24)).resize((80, 48)).save(path, kind, exif=exif)
    pre = preprocessing(resize=(32, 32))
    with Image.open(path) as image:
        ours = pixels_from_image(image, pre)
    np.testing.assert_array_equal(ours, theirs(load_image(str(path)), pre))
    with Image.open(path) as image:
        rgb = rgb_from_image(image)
    assert rgb.size == ((48, 80) if orientation in (5, 6, 7, 8) else (80, 48))


def test_exif_that_raises_means_no_rotation(monkeypatch):
    image = noise("RGB", (40, 24))
    monkeypatch.setattr(image, "getexif", lambda: {}["no"], raising=False)
    assert rgb_from_image(image).size == (40, 24)


@pytest.mark.parametrize(
    ("size", "pre"),
    [
        ((50_000, 1), preprocessing(None, 256, (224, 224))),
        ((1, 50_000), preprocessing(None, 256, (224, 224))),
        ((1, 1_000_000), preprocessing()),
    ],
)
def test_strips_that_would_explode_are_refused(size, pre):
    with pytest.raises(ImageError, match="passes through") as refusal:
        pixels_from_image(Image.new("RGB", size), pre)
    assert refusal.value.code == "too_large"


def test_strips_that_fit_are_resized():
    image = noise("RGB", (50_000, 1))
    np.testing.assert_array_equal(
        pixels_from_image(image, preprocessing()), theirs(image, preprocessing())
    )
