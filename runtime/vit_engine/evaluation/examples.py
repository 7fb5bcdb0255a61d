"""Images that show where a model goes wrong: the few of the largest measure, with thumbnails."""

import heapq
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vit_engine.errors import printable
from vit_engine.rows.contact_sheet import Section, thumbnail

MAX_SHOWN = 60
"""Images of each sort that are kept."""


Shown = list[tuple[str, float]]
"""The labels and numbers of an image that the page shows."""


class JudgedImage(NamedTuple):
    """An image with a result: `logits` (labels,), and what is true: indices of labels, or values.

    `pixels` (H, W, 3) are the model's input.
    """

    path: str | None
    pixels: NDArray[np.uint8]
    logits: NDArray[np.float32]
    true: tuple[Any, ...] = ()


class Examples:
    """The examples of the largest measures, as many as are shown."""

    def __init__(self, title: str, *, thumbnails: bool) -> None:
        self._title, self._thumbnails = title, thumbnails
        self._heap: list[tuple[float, int, dict[str, Any], Shown, str]] = []
        self._order = count()

    def add(self, measure: float, image: JudgedImage, found: dict[str, Any], shown: Shown) -> None:
        """Keep an image if its measure is among the largest; let the smallest of too many go.

        `found` is what the report says of it beside its path.
        """
        if len(self._heap) == MAX_SHOWN and measure <= self._heap[0][0]:
            return
        report = {"path": printable(image.path or "-")} | found
        picture = thumbnail(image.pixels) if self._thumbnails else ""
        heapq.heappush(self._heap, (measure, -next(self._order), report, shown, picture))
        if len(self._heap) > MAX_SHOWN:
            heapq.heappop(self._heap)

    def report(self) -> list[dict[str, Any]]:
        """Return what the report says, the largest measure first, equal ones as they came."""
        return [report for _, _, report, _, _ in sorted(self._heap, reverse=True)]

    def sections(self) -> list[Section]:
        """Return the part of the page that shows the images, none where there are none."""
        images = [
            {"path": report["path"], "image": picture, "topk": shown}
            for _, _, report, shown, picture in sorted(self._heap, reverse=True)
        ]
        return [Section(self._title, [], images)] if images else []
