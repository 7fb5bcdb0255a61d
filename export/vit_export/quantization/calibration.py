"""Which images int8 weights are rounded after, and which they are judged on: never the same."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit_engine.artefact.contract import Preprocessing
from vit_engine.errors import UsageError, printable
from vit_engine.images.preprocess import pixels_from_image, rgb_from_image
from vit_engine.sources.sample import Sample
from vit_export.samples import draw
from vit_export.samples.images import drawn_samples, items_for, sample_from_item

MOST = 40
"""Images to calibrate on: 7,880 tokens of ViT-B/16."""

JUDGED = 160
"""Images to judge on: one of them is 0.6 % of agreement."""

MOST_USED = MOST + JUDGED
"""Images that make a difference to --calibrate."""

ENOUGH = 20
"""Images to judge on that suffice, with several views of each."""

SAMPLES = 160
"""Views in all, where the images and eight views of each allow."""

CROPS = ((0.0, 0.0, 1.0), (0.0, 0.0, 0.8), (0.2, 0.2, 0.8), (0.1, 0.1, 0.8))
"""Left, top and size of an image's views, as shares of its own; each also mirrored."""


def calibration_items(source: str) -> list[Sample]:
    """Return what --calibrate names; UsageError for fewer than two images."""
    items = items_for("--calibrate", [source])
    if len(items) < 2:
        raise UsageError(
            f"--calibrate: {printable(source)} holds {len(items)} image; one part is for "
            "calibration and one for checking: give at least 2, about 100 is good"
        )
    return items


def split(items: list[Sample] | None) -> tuple[list[Image.Image], Iterator[Image.Image]]:
    """Return the images to calibrate on and those to judge on.

    Of a user's images MOST calibrate, or all but ENOUGH, or half of them; the others judge. With
    None, both are drawn. UsageError for an image that is unreadable.
    """
    if items is None:
        examples = draw.samples(len(draw.LABELS), first=draw.EXAMPLES)
        return [image for image, _ in examples], drawn_samples(JUDGED)
    calibrating, judging = _shared_out(items)
    return (
        [sample_from_item(item, "--calibrate") for item in calibrating],
        (sample_from_item(item, "--calibrate") for item in judging),
    )


def sharing(items: list[Sample]) -> str:
    """Say how many of the images given calibrate and how many judge."""
    calibrating, judging = map(len, _shared_out(items))
    each = f", each in {count} views" if (count := view_count(judging)) > 1 else ""
    return (
        f"of the {len(items)} images given, {calibrating} calibrate (at most {MOST}) and {judging} "
        f"are kept to judge{each}"
    )


def _shared_out(items: list[Sample]) -> tuple[list[Sample], list[Sample]]:
    count = min(MOST, max(len(items) // 2, len(items) - ENOUGH))
    chosen = {i * len(items) // count for i in range(count)}
    rest = [item for i, item in enumerate(items) if i not in chosen]
    return [items[i] for i in sorted(chosen)], rest[:: -(-len(rest) // JUDGED)]


def pixels_of(images: list[Image.Image], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Return the images as the runtime feeds them: (N, H, W, 3)."""
    return np.stack([pixels_from_image(rgb_from_image(i), preprocessing) for i in images])


def view_count(images: int) -> int:
    """Return how many views to take of each of so many images."""
    return max(1, min(2 * len(CROPS), SAMPLES // max(1, images)))


def views_of(image: Image.Image, count: int) -> list[Image.Image]:
    """Return the image itself, then others of its `count` views."""
    views = []
    for left, top, size in CROPS:
        box = [round(v * n) for v, n in zip((left, top), image.size, strict=True)]
        box += [b + max(1, round(size * n)) for b, n in zip(box, image.size, strict=True)]
        part = image.crop((box[0], box[1], box[2], box[3]))
        views += [part, part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    return views[:count]
