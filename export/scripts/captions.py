"""What people write about a drawing: its figure by several names, its colour or none."""

import random
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

NAMES: dict[str, tuple[str, ...]] = {
    "circle": ("disc", "round shape"),
    "square": ("box", "rectangle"),
    "triangle": ("three-sided shape",),
    "star": ("five-pointed star",),
    "heart": ("love heart", "valentine"),
    "crescent": ("moon", "crescent moon"),
    "ring": ("hoop", "donut"),
    "cross": ("plus sign", "plus"),
    "arrow": ("pointer", "arrow sign"),
    "flower": ("blossom", "flower with petals"),
    "spiral": ("swirl", "coil"),
    "stripes": ("straight lines", "striped pattern"),
    "checkerboard": ("chessboard", "checkered pattern"),
    "dots": ("spots", "polka dots"),
    "waves": ("wavy lines", "wavy pattern"),
    "bricks": ("brick wall", "wall"),
}
"""Other names of each label of the drawn images."""

COLOURS: dict[str, tuple[float, float, float]] = {
    "black": (0.1, 0.1, 0.1),
    "grey": (0.5, 0.5, 0.5),
    "white": (0.95, 0.95, 0.95),
    "red": (0.85, 0.15, 0.15),
    "brown": (0.5, 0.3, 0.15),
    "orange": (0.95, 0.55, 0.15),
    "yellow": (0.9, 0.9, 0.25),
    "green": (0.2, 0.7, 0.2),
    "turquoise": (0.2, 0.8, 0.8),
    "blue": (0.2, 0.3, 0.85),
    "purple": (0.55, 0.15, 0.75),
    "pink": (0.9, 0.5, 0.75),
}
"""RGB from 0 to 1; a colour has the name of the nearest."""

TEMPLATES = (
    *("{}", "{}.", "a {}", "the {}", "{} shape", "one {}", "there is a {} in the picture"),
    *("a photo of a {}.", "a photo of {}.", "a photo of the {}.", "a blurry photo of a {}."),
    *("This is a photo of {}.", "This is a photo of a {}.", "this is a {}", "it shows a {}."),
    *("a drawing of {}", "a drawing of a {}.", "a picture of a {}", "an image of {}."),
    *("a sketch of a {}.", "an icon of a {}", "an illustration of {}", "a small {}", "a big {}"),
)


def caption(label: str, colour: str | None, rng: random.Random) -> str:
    """Return one of the captions of a label of the drawn images, in its colour if it is given."""
    name = label if rng.random() < 0.5 else rng.choice(NAMES[label])
    return rng.choice(TEMPLATES).format(f"{colour} {name}" if colour else name)


def every_caption() -> Iterator[str]:
    """Yield each template with each name, in all colours in turn."""
    names = [name for label, others in NAMES.items() for name in (label, *others)]
    for i, template in enumerate(TEMPLATES):
        for j, name in enumerate(names):
            yield template.format(f"{list(COLOURS)[(i + j) % len(COLOURS)]} {name}")


def nearest_colour(rgb: Sequence[float] | NDArray[np.floating]) -> int:
    """Return the place in `COLOURS` of the one nearest to RGB values from 0 to 1."""
    return int(np.linalg.norm(np.array(list(COLOURS.values())) - rgb, axis=1).argmin())
