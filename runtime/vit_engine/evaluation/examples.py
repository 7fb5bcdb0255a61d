"""Images that show where a model goes wrong: the few of the largest measure, with thumbnails."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vit_engine.errors import printable
from vit_engine.rows.contact_sheet import Section, thumbnail

MAX_SHOWN = 60
"""Images of each sort that are kept."""


class JudgedImage(NamedTuple):
    """An image with a result: `logits` (labels,), and what is true: indices of labels, or values.

    `pixels` (H, W, 3) are the model's input.
    """

    path: str | None
    pixels: NDArray[np.uint8]
    logits: NDArray[np.float32]
    true: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Example:
    """An image: what the report says of it, and the labels and numbers that the page shows."""

    report: dict[str, Any]
    shown: list[tuple[str, float]]


class Examples:
    """The examples of the largest measures, as many as are shown."""

    def __init__(self, title: str, *, thumbnails: bool) -> None:
        self._title, self._thumbnails = title, thumbnails
        self._heap: list[tuple[float, int, Example, str]] = []
        self._order = count()

    def add(self, measure: float, image: JudgedImage, make: Callable[[], Example]) -> None:
        """Keep an image if its measure is among the largest; let the smallest of too many go."""
        if len(self._heap) == MAX_SHOWN and measure <= self._heap[0][0]:
            return
        made = make()
        example = Example({"path": printable(image.path or "-")} | made.report, made.shown)
        picture = thumbnail(image.pixels) if self._thumbnails else ""
        heapq.heappush(self._heap, (measure, -next(self._order), example, picture))
        if len(self._heap) > MAX_SHOWN:
            heapq.heappop(self._heap)

    def _sorted(self) -> list[tuple[float, int, Example, str]]:
        return sorted(self._heap, key=lambda kept: (-kept[0], -kept[1]))

    def report(self) -> list[dict[str, Any]]:
        """Return what the report says, the largest measure first, equal ones as they came."""
        return [example.report for _, _, example, _ in self._sorted()]

    def sections(self) -> list[Section]:
        """Return the part of the page that shows the images, none where there are none."""
        images = [
            {"path": example.report["path"], "image": picture, "topk": example.shown}
            for _, _, example, picture in self._sorted()
        ]
        return [Section(self._title, [], images)] if images else []
