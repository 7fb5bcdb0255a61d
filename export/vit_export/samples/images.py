"""Images that an export is calibrated on and held against PyTorch on: a user's, or drawn ones."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from vit_engine.errors import ImageError, UsageError, printable
from vit_engine.images.decode import image_from_item
from vit_engine.sources.find import check_present, samples_from_sources
from vit_engine.sources.sample import Sample
from vit_export.samples import draw

MODES = ("RGB", "RGBA", "L", "P", "CMYK", "1", "LA")
SIZES = (
    *((320, 240), (240, 320), (301, 97), (97, 301), (224, 224), (37, 64), (50, 50), (500, 333)),
    *((333, 500), (257, 255), (255, 257), (641, 480), (480, 641), (800, 200), (200, 800)),
)
"""Widths and heights in pixels: odd and even margins on either side, larger and smaller images."""


def items_for(option: str, sources: Sequence[str]) -> list[Sample]:
    """Return what the sources of the command's `option` name; UsageError if that is no image."""
    try:
        check_present(sources)
        return list(samples_from_sources(sources))
    except UsageError as e:
        raise UsageError(f"{option}: {e}; name a folder of images, or leave out {option}") from e


def sample_from_item(item: Sample, option: str) -> Image.Image:
    """Return the image that the command's `option` led to; UsageError where it cannot be read."""
    try:
        return image_from_item(item)
    except ImageError as e:
        raise UsageError(f"{option}: {printable(item.path)} {e}") from e


def drawn_shapes() -> Iterator[Image.Image]:
    """Yield noise of many sizes, aspect ratios and modes, that no two preprocessings do alike."""
    rng = np.random.default_rng(0)
    for mode, size in zip(itertools.cycle(MODES), SIZES, strict=False):
        image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 4), np.uint8))
        yield image.convert("RGB").convert(mode) if mode != "RGBA" else image


def drawn_samples(count: int) -> Iterator[Image.Image]:
    """Yield `count` images drawn as the demo's held-out ones are, then black, white and noise."""
    yield from (image for image, _ in draw.samples(count))
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    for array in (np.zeros_like(noise), np.full_like(noise, 255), noise):
        yield Image.fromarray(array)
