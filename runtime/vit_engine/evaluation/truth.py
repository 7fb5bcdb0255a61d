"""The truth about images: from a CSV file, or from the folders that they lie in."""

import io
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from vit_engine.errors import ImageError, UsageError, did_you_mean, one_line, printable
from vit_engine.evaluation.class_names import ClassNames, Fact, composed
from vit_engine.outputs.scores import Scores
from vit_engine.sources.files import open_regular
from vit_engine.sources.tables.csv_rows import csv_rows
from vit_engine.sources.tables.paths import resolved
from vit_engine.sources.urls import is_remote

FOLDERS = "folders"
"""The word that stands for: each image's class is the folder that it lies in."""

_SHOWN = 3  # examples of what is not known
_MAX_MISSING = 10_000  # images without a truth, among which one of another spelling is looked for


class GroundTruth:
    """What is true of images, by path; `unknown` counts labels that are not known, by image."""

    def __init__(
        self,
        facts: dict[str, Fact] | None,
        fact_of: Callable[[str], Fact],
        remark: Callable[[], str] = lambda: "",
    ) -> None:
        self._facts, self._fact_of, self._remark = facts, fact_of, remark
        self._unmatched = set(facts or ())
        self._missing: dict[str, str] = {}  # by what spellings of a name have in common
        self.unknown: Counter[str] = Counter()

    def of(self, path: str | None) -> Fact:
        """Return what is true of an image."""
        if path is None:
            return Fact(None)
        if self._facts is None:
            fact = self._fact_of(folder_of(path))
        else:
            key = _key(path)
            fact = self._facts.get(key, Fact(None))
            self._unmatched.discard(key)
            if key not in self._facts and len(self._missing) < _MAX_MISSING:
                self._missing[_sketch(key)] = key
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
            for key in self._unmatched:
                if other := self._missing.get(_sketch(key)):
                    yield (
                        f"the truth has {printable(repr(key))}, this run {printable(repr(other))}: "
                        "folders, slashes, case and accents (NFC or NFD) must be the same"
                    )
                    break
        if remark := self._remark():
            yield remark


def truth_from_name(name: str, output: Scores, folders: Iterable[str] = ()) -> GroundTruth:
    """Return the truth that `--truth` names: "folders", or a CSV file with a column `path`.

    Beside it are the columns `label` or `index` or, for a regression, `value` or one column for
    each of its labels. Where labels are free of each other an image may have several of them, in a
    cell or in several rows, or none. A path is relative to the file, or else as it is given. The
    names of classes, of the file or of the `folders` that the images lie in, are read as labels or
    as indices, all in one way: where the folders are not known, as the first that is known.
    UsageError for a file that cannot be read, lacks the columns, contradicts itself or has no label
    of the model at all.
    """
    if name == FOLDERS:
        if output.function == "none":
            raise UsageError(
                f"--truth {FOLDERS} is for labels, and this model gives the values of a "
                "regression; name a CSV file with the columns path and value"
            )
        labels = ClassNames(output)
        labels.choose(folders)
        return GroundTruth(None, labels.fact, labels.remark)
    labels = ClassNames(output)
    try:
        facts = _facts(name, output, labels)
    except FileNotFoundError as e:
        raise UsageError(
            f"--truth {printable(name)}: no such file{did_you_mean(name)}; name a CSV with the "
            f"columns path and label, or write --truth {FOLDERS}, where each folder is a class"
        ) from e
    except (OSError, ImageError, UsageError) as e:
        message = (e.strerror if isinstance(e, OSError) else None) or one_line(e, 1000)
        raise UsageError(f"--truth {printable(name)}: {message}") from e
    return GroundTruth(facts, lambda _: Fact(None), labels.remark)


def folder_of(path: str) -> str:
    """Return the name of the folder that an image lies in."""
    return os.path.basename(os.path.dirname(path))  # noqa: PTH119, PTH120


def _rows(name: str) -> Iterator[list[str]]:
    """Yield the names of the columns of a CSV file, then the cells of each row."""
    with io.BufferedReader(open_regular(name)) as file:
        names, rows = csv_rows(file, "path")
        yield names
        for _, cells in rows:
            if isinstance(cells, ImageError):
                raise UsageError(str(cells))
            yield cells


def _facts(name: str, output: Scores, labels: ClassNames) -> dict[str, Fact]:
    """Return what a CSV file says, by the key of each path."""
    facts: dict[str, Fact] = {}
    first_rows: dict[str, int] = {}
    rows = _rows(name)
    names = next(rows)
    fact_of = _reader(names, output, labels)
    if "label" in names:
        labels.choose(cell for row in rows for cell in row[names.index("label") :][:1])
    for number, cells in enumerate(islice(_rows(name), 1, None), 1):
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


def _reader(
    names: Sequence[str], output: Scores, labels: ClassNames
) -> Callable[[dict[str, str]], Fact]:
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
    return labels.fact_of_row


def _value(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise UsageError(f"has {text!r:.40} where a number is expected")
    return found


def _both(one: Fact, other: Fact) -> Fact:
    if one == other:
        return one
    known = {*(one.true or ()), *(other.true or ())}
    unknown = tuple(dict.fromkeys((*one.unknown, *other.unknown)))
    is_known = one.true is not None or other.true is not None
    return Fact(tuple(sorted(known)) if is_known else None, unknown)


def _sketch(path: str) -> str:
    """Return what two names of a file have in common that were written on different machines."""
    return composed(os.path.basename(path.replace("\\", "/"))).casefold()  # noqa: PTH119


def _key(path: str) -> str:
    """Return one spelling for all of a file on this machine."""
    return path if is_remote(path) else os.path.abspath(path)  # noqa: PTH100
