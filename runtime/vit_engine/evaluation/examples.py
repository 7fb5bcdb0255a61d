"""Images that show where a model goes wrong: the few of the largest measure, with thumbnails."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_engine.errors import printable
from vit_engine.rows.contact_sheet import Section, thumbnail

MAX_SHOWN = 60
"""Images of each sort that are kept."""

Pixels = NDArray[np.uint8]


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

    def add(
        self, measure: float, path: str | None, pixels: Pixels | None, make: Callable[[], Example]
    ) -> None:
        """Keep an image if its measure is among the largest; let the smallest of too many go."""
        if len(self._heap) == MAX_SHOWN and measure <= self._heap[0][0]:
            return
        made = make()
        name = {"path": printable(path or "-")}
        example = Example(name | made.report, made.shown)
        picture = thumbnail(pixels) if self._thumbnails and pixels is not None else ""
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
