"""How people name the classes of images: by label or by index, all of them in one way."""

import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from vit_engine.errors import UsageError, printable
from vit_engine.outputs.scores import Scores

SEPARATOR = "|"
"""Between several labels of an image."""

NONE = "none"
"""The label, or the folder, of an image that has no label of a model whose labels are free."""


class Fact(NamedTuple):
    """What is true of an image: the indices of its labels, or its values; None if not known.

    `unknown` are its labels that are none of the model's, or several of one name.
    """

    true: tuple[int, ...] | tuple[float, ...] | None
    unknown: tuple[str, ...] = ()


class ClassNames:
    """Finds labels by what people write of them: the label or its first synonym, or its index."""

    def __init__(self, output: Scores) -> None:
        self._labels, self._free = output.labels, output.function == "sigmoid"
        self._by_index: bool | None = None  # not chosen yet
        self._known: dict[str, set[int]] = {}
        for index, label in enumerate(output.labels):
            for name in (label, output.short_labels[label]):
                self._known.setdefault(composed(name), set()).add(index)

    def choose(self, names: Iterable[str]) -> None:
        """Read all names as labels or all as indices: as what more of them are."""
        parts = {part for name in names for part in self._parts(name)}
        indices = sum(self._number(part) is not None for part in parts)
        labels = sum(part in self._known for part in parts)
        self._by_index = indices > labels if indices or labels else None

    def remark(self) -> str:
        """Say that names were read as indices, "" where they were not."""
        first = printable(repr(self._labels[0]))
        return f"names of classes are read as indices: 0 is {first}" if self._by_index else ""

    def _parts(self, text: str) -> list[str]:
        text = composed(text.strip())
        several = self._free and text not in self._known
        return [part.strip() for part in text.split(SEPARATOR)] if several else [text]

    def _number(self, text: str) -> int | None:
        text = text.removesuffix(".0")  # as pandas and Excel write a column that has gaps
        is_short = text.isdecimal() and len(text) < 10
        return int(text) if is_short and int(text) < len(self._labels) else None

    def _index(self, text: str) -> int | None:
        if self._by_index is None:
            self.choose([text])
        if self._by_index:
            return self._number(text)
        found = self._known.get(text, set())
        return next(iter(found)) if len(found) == 1 else None

    def fact(self, text: str) -> Fact:
        """Return what a cell of labels, or the name of a folder, says."""
        if self._free and text.strip() in ("", NONE):
            return Fact(())
        parts = {part: self._index(part) for part in self._parts(text)}
        known = sorted({i for i in parts.values() if i is not None})
        return Fact(tuple(known) or None, tuple(p for p, i in parts.items() if i is None))

    def fact_of_row(self, row: dict[str, str]) -> Fact:
        """Return what a row with `label`, `index` or both says."""
        label, index = row.get("label", "").strip(), row.get("index", "").strip()
        if not index:
            return self.fact(label)
        parts = [p.strip() for p in index.split(SEPARATOR)] if self._free else [index]
        indices = {n for part in parts if (n := self._number(part)) is not None}
        if len(indices) < len(set(parts)):
            raise UsageError(
                f"has the index {index!r:.40}; expected a whole number from 0 to "
                f"{len(self._labels) - 1}"
            )
        by_index = Fact(tuple(sorted(indices)))
        by_label = self.fact(label) if label else Fact(None)
        if by_label.true not in (None, by_index.true):
            raise UsageError(
                f"contradicts itself: the label is {label!r}, and its index {index}; leave out one "
                "of the columns"
            )
        return by_index


def composed(text: str) -> str:
    """Return one spelling for all of a text that looks the same: macOS takes accents apart."""
    return unicodedata.normalize("NFC", text)
