"""Images that an export is calibrated on and held against PyTorch on: a user's, or drawn ones."""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from vit_engine.errors import ImageError, UsageError, printable
from vit_engine.images.decode import image_from_item
from vit_engine.sources.find import check_present, items_from_sources
from vit_engine.sources.item import Item
from vit_export.demo import draw


def items_for(option: str, sources: Sequence[str]) -> list[Item]:
    """Return what the sources of the command's `option` name; UsageError if that is no image."""
    try:
        check_present(sources)
        return list(items_from_sources(sources))
    except UsageError as e:
        raise UsageError(f"{option}: {e}; name a folder of images, or leave out {option}") from e


def sample_from_item(item: Item, option: str) -> Image.Image:
    """Return the image that the command's `option` led to; UsageError where it cannot be read."""
    try:
        return image_from_item(item)
    except ImageError as e:
        raise UsageError(f"{option}: {printable(item.path)} {e}") from e


def drawn_samples(count: int) -> Iterator[Image.Image]:
    """Yield `count` images drawn as the demo's held-out ones are, then black, white and noise."""
    yield from (image for image, _ in draw.samples(count))
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    for array in (np.zeros_like(noise), np.full_like(noise, 255), noise):
        yield Image.fromarray(array)
