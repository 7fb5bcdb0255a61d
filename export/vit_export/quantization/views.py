"""Crops and mirrored forms of an image: more samples of few images."""

from PIL import Image

SAMPLES = 160
"""Views in all, where the images and eight views of each allow."""

CROPS = ((0.0, 0.0, 1.0), (0.0, 0.0, 0.8), (0.2, 0.2, 0.8), (0.1, 0.1, 0.8))
"""Left, top and size of an image's views, as shares of its own; each also mirrored."""


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
