"""The truth about images: from a CSV file, or from the folders that they lie in."""

import io
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from vit_engine.errors import ImageError, UsageError, did_you_mean, one_line, printable
from vit_engine.outputs.scores import Scores
from vit_engine.sources.files import open_regular
from vit_engine.sources.tables.csv_rows import csv_rows
from vit_engine.sources.tables.paths import resolved
from vit_engine.sources.urls import is_remote

FOLDERS = "folders"
"""The word that stands for: each image's class is the folder that it lies in."""

SEPARATOR = "|"
"""Between several labels of an image."""

NONE = "none"
"""The label, or the folder, of an image that has no label of a model whose labels are free."""

_SHOWN = 3  # examples of what is not known


class Fact(NamedTuple):
    """What is true of an image: the indices of its labels, or its values; None if not known.

    `unknown` are its labels that are none of the model's, or several of one name.
    """

    true: tuple[int, ...] | tuple[float, ...] | None
    unknown: tuple[str, ...] = ()


class GroundTruth:
    """What is true of images, by path; `unknown` counts labels that are not known, by image."""

    def __init__(self, facts: dict[str, Fact] | None, fact_of: Callable[[str], Fact]) -> None:
        self._facts, self._fact_of = facts, fact_of
        self._unmatched = set(facts or ())
        self.unknown: Counter[str] = Counter()

    def of(self, path: str | None) -> Fact:
        """Return what is true of an image."""
        if path is None:
            return Fact(None)
        if self._facts is None:
            fact = self._fact_of(os.path.basename(os.path.dirname(path)))  # noqa: PTH119, PTH120
        else:
            fact = self._facts.get(_key(path), Fact(None))
            self._unmatched.discard(_key(path))
        self.unknown.update(fact.unknown)
        return fact

    @property
    def unmatched(self) -> int:
        """How many images of the file have been none of the run so far."""
        return len(self._unmatched)

    def remarks(self) -> Iterator[str]:
        """Yield what is to be said of truths that were not used."""
        if self.unknown:
            names = ", ".join(printable(repr(name)) for name, _ in self.unknown.most_common(_SHOWN))
            yield (
                f"true labels that are none of the model's, or several of one name: "
                f"{self.unknown.total():,} ({names}{', ...' * (len(self.unknown) > _SHOWN)})"
            )
        if self.unmatched:
            yield f"images of the truth that are not in this run: {self.unmatched:,}"


def truth_from_name(name: str, output: Scores) -> GroundTruth:
    """Return the truth that `--truth` names: "folders", or a CSV file with a column `path`.

    Beside it are the columns `label` or `index` or, for a regression, `value` or one column for
    each of its labels. Where labels are free of each other an image may have several of them, in a
    cell or in several rows, or none. A path is relative to the file, or else as it is given.
    UsageError for a file that cannot be read, lacks the columns, contradicts itself or has no label
    of the model at all.
    """
    if name == FOLDERS:
        if output.function == "none":
            raise UsageError(
                f"--truth {FOLDERS} is for labels, and this model gives the values of a "
                "regression; name a CSV file with the columns path and value"
            )
        return GroundTruth(None, _Labels(output).fact)
    try:
        facts = _facts(name, output)
    except FileNotFoundError as e:
        raise UsageError(
            f"--truth {printable(name)}: no such file{did_you_mean(name)}; name a CSV with the "
            f"columns path and label, or write --truth {FOLDERS}, where each folder is a class"
        ) from e
    except (OSError, ImageError, UsageError) as e:
        message = (e.strerror if isinstance(e, OSError) else None) or one_line(e, 1000)
        raise UsageError(f"--truth {printable(name)}: {message}") from e
    return GroundTruth(facts, lambda _: Fact(None))


def _facts(name: str, output: Scores) -> dict[str, Fact]:
    """Return what a CSV file says, by the key of each path."""
    facts: dict[str, Fact] = {}
    first_rows: dict[str, int] = {}
    with io.BufferedReader(open_regular(name)) as file:
        names, rows = csv_rows(file, "path")
        fact_of = _reader(names, output)
        for number, cells in rows:
            if isinstance(cells, ImageError):
                raise UsageError(str(cells))
            row = dict(zip(names, cells, strict=False))
            if not row.get("path"):
                raise UsageError(f"row {number} has no path")
            try:
                key, fact = _key(resolved(row["path"], name)), fact_of(row)
            except UsageError as e:
                raise UsageError(f"row {number}: {e}") from e
            before = facts.setdefault(key, fact)
            if output.function == "sigmoid":
                facts[key] = _both(before, fact)
            elif before != fact:
                raise UsageError(
                    f"row {number} says of {printable(row['path'])} something else than row "
                    f"{first_rows[key]}; leave one of them"
                )
            first_rows.setdefault(key, number)
    if not facts:
        raise UsageError("has no rows")
    if all(fact.true is None for fact in facts.values()):
        ours = ", ".join(map(repr, output.labels[:_SHOWN]))
        found = next(iter(facts.values())).unknown[0]
        raise UsageError(
            f"no row has a label of the model: the first has {found!r}, the model's are {ours}"
            f"{', ...' if len(output.labels) > _SHOWN else ''}"
        )
    return facts


def _reader(names: Sequence[str], output: Scores) -> Callable[[dict[str, str]], Fact]:
    """Return what makes a fact of a row with these columns."""
    if output.function == "none":
        one = len(output.labels) == 1 and "value" in names
        wanted, expected = ("value",) if one else output.labels, "'value', or one for each label"
        is_there = set(wanted) <= set(names)
    else:
        wanted, expected = (), "'label' or 'index'"
        is_there = bool({"label", "index"} & set(names))
    if names.count("path") != 1 or not is_there:
        found = one_line(", ".join(map(repr, names)))
        raise UsageError(f"its columns are {found}; expected 'path', and {expected}")
    if wanted:
        return lambda row: Fact(tuple(_value(row.get(column, "")) for column in wanted))
    return _Labels(output).fact_of_row


def _value(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise UsageError(f"has {text!r:.40} where a number is expected")
    return found


class _Labels:
    """Finds labels by what people write of them: the label, its first synonym, or its index."""

    def __init__(self, output: Scores) -> None:
        self._count, self._free = len(output.labels), output.function == "sigmoid"
        self._known: dict[str, set[int]] = {}
        for index, label in enumerate(output.labels):
            for name in (label, output.short_labels[label]):
                self._known.setdefault(name, set()).add(index)

    def _number(self, text: str) -> int | None:
        is_short = text.isdecimal() and len(text) < 10
        return int(text) if is_short and int(text) < self._count else None

    def _index(self, text: str) -> int | None:
        found = self._known.get(text)
        if not found:
            return self._number(text)
        return next(iter(found)) if len(found) == 1 else None

    def fact(self, text: str) -> Fact:
        """Return what a cell of labels, or the name of a folder, says."""
        text = text.strip()
        index = self._index(text)
        if index is not None or not self._free:
            return Fact((index,)) if index is not None else Fact(None, (text,))
        if text in ("", NONE):
            return Fact(())
        parts = {part.strip(): self._index(part.strip()) for part in text.split(SEPARATOR)}
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
                f"has the index {index!r:.40}; expected a whole number from 0 to {self._count - 1}"
            )
        by_index = Fact(tuple(sorted(indices)))
        by_label = self.fact(label) if label else Fact(None)
        if by_label.true not in (None, by_index.true):
            raise UsageError(
                f"contradicts itself: the label is {label!r}, and its index {index}; leave out one "
                "of the columns"
            )
        return by_index


def _both(one: Fact, other: Fact) -> Fact:
    if one == other:
        return one
    known = {*(one.true or ()), *(other.true or ())}
    unknown = tuple(dict.fromkeys((*one.unknown, *other.unknown)))
    is_known = one.true is not None or other.true is not None
    return Fact(tuple(sorted(known)) if is_known else None, unknown)


def _key(path: str) -> str:
    """Return one spelling for all of a file on this machine."""
    return path if is_remote(path) else os.path.abspath(path)  # noqa: PTH100
