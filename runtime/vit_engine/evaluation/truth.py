"""The true classes of images: from a CSV file, or from the folders that they lie in."""

import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from vit_engine.artefact.description import short_labels
from vit_engine.errors import UsageError, one_line, printable
from vit_engine.machine.suggestions import did_you_mean
from vit_engine.sources.downloads import is_url
from vit_engine.sources.stores import is_store
from vit_engine.sources.tables.csv_rows import FORMULA, OUR_CSV
from vit_engine.sources.tables.paths import resolved

FOLDERS = "folders"
"""The word that stands for: each image's class is the folder that it lies in."""

_SHOWN = 3  # examples of what is not known


class Classes:
    """Finds a class by what people write of it: label, first synonym, or index."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels
        self._known: dict[str, set[int]] = {}
        short = short_labels(labels)
        for index, label in enumerate(labels):
            for name in (label, short[label]):
                self._known.setdefault(name, set()).add(index)

    def index(self, text: str) -> int | None:
        """Return the index of a class, None where it is none of the model's, or of several."""
        found = self._known.get(text.strip(), set())
        if not found and text.strip().isdecimal() and int(text) < len(self.labels):
            return int(text)
        return next(iter(found)) if len(found) == 1 else None


class Truth:
    """True classes by path. `unknown` counts what names no class of the model, image by image."""

    def __init__(self, classes: Classes, by_path: dict[str, int | str] | None) -> None:
        self._classes, self._by_path = classes, by_path
        self._unmatched = set(by_path or ())
        self.unknown: Counter[str] = Counter()

    def index(self, path: str | None) -> int | None:
        """Return the class of an image, None where nothing is known of it."""
        if path is None:
            return None
        if self._by_path is None:
            text = os.path.basename(os.path.dirname(path))  # noqa: PTH119, PTH120
            found: int | str | None = self._classes.index(text)
            found = text if found is None else found
        else:
            key = _key(path)
            found = self._by_path.get(key)
            self._unmatched.discard(key)
        if isinstance(found, str):
            self.unknown[found] += 1
            return None
        return found

    @property
    def unmatched(self) -> int:
        """How many rows of the file have been no image of the run so far."""
        return len(self._unmatched)

    def remarks(self) -> Iterator[str]:
        """Yield what is to be told of truths that were not used."""
        if self.unknown:
            names = ", ".join(printable(repr(name)) for name, _ in self.unknown.most_common(_SHOWN))
            more = ", ..." if len(self.unknown) > _SHOWN else ""
            total = self.unknown.total()
            images = "1 image is" if total == 1 else f"{total:,} images are"
            yield f"{images} of no class of the model, or of several of one name: {names}{more}"
        if self.unmatched:
            rows = (
                "1 row of the truth is"
                if self.unmatched == 1
                else (f"{self.unmatched:,} rows of the truth are")
            )
            yield f"{rows} no image of this run"


def truth_from_name(name: str, labels: Sequence[str]) -> Truth:
    """Return the truth that `--truth` names: "folders", or a CSV with path and label or index.

    A path is relative to the CSV, or else as it is given. UsageError for a file that cannot be
    read, lacks the columns, names a path that is both, or no class of the model at all.
    """
    classes = Classes(labels)
    if name == FOLDERS:
        return Truth(classes, None)
    shown = printable(name)
    by_path: dict[str, int | str] = {}
    rows: dict[str, int] = {}
    try:
        for number, (path, truth) in enumerate(_rows(Path(name), classes), 1):
            key = _key(path)
            if by_path.setdefault(key, truth) != truth:
                raise UsageError(
                    f"row {number} gives {printable(path)} another class than row {rows[key]}; "
                    "leave one of them"
                )
            rows.setdefault(key, number)
    except UsageError as e:
        raise UsageError(f"--truth {shown}: {e}") from e
    except FileNotFoundError as e:
        raise UsageError(
            f"--truth {shown}: no such file{did_you_mean(name)}; name a CSV with the columns path "
            f"and label, or write --truth {FOLDERS}, where each folder is a class"
        ) from e
    except (OSError, csv.Error, UnicodeError) as e:
        words = (e.strerror if isinstance(e, OSError) else None) or one_line(e)
        raise UsageError(f"--truth {shown}: cannot be read as CSV ({words})") from e
    if not by_path:
        raise UsageError(f"--truth {shown}: has no rows")
    if all(isinstance(truth, str) for truth in by_path.values()):
        ours = ", ".join(map(repr, labels[:_SHOWN]))
        first = next(iter(by_path.values()))
        raise UsageError(
            f"--truth {shown}: no row has a class of the model: the first has {first!r}, the "
            f"model's are {ours}{', ...' if len(labels) > _SHOWN else ''}"
        )
    return Truth(classes, by_path)


def _rows(path: Path, classes: Classes) -> Iterator[tuple[str, int | str]]:
    """Yield the resolved path of each row, and its class, or the text that names none."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        first = file.readline()
        separator = max(",;\t", key=first.count)
        names = [name.strip() for name in next(csv.reader([first], delimiter=separator), [])]
        if names.count("path") != 1 or not {"label", "index"} & set(names):
            raise UsageError(
                f"its columns are {', '.join(map(repr, names)) or 'none'}; expected 'path', and "
                "'label' or 'index'"
            )
        for number, row in enumerate(csv.DictReader(file, names, delimiter=separator), 1):
            name = row["path"] or ""
            if tuple(names) == OUR_CSV and FORMULA.match(name):
                name = name.removeprefix("'")
            if not name:
                raise UsageError(f"row {number} has no path")
            yield _place(name, path, number), _truth(row, number, classes)


def _truth(row: dict[str, str], number: int, classes: Classes) -> int | str:
    label, index = (row.get("label") or "").strip(), (row.get("index") or "").strip()
    by_label = classes.index(label) if label else None
    if not index:
        return label if by_label is None else by_label
    if not index.isdecimal() or int(index) >= len(classes.labels):
        raise UsageError(
            f"row {number} has the index {index!r}; expected a whole number from 0 to "
            f"{len(classes.labels) - 1}"
        )
    if by_label not in (None, int(index)):
        raise UsageError(
            f"row {number} contradicts itself: {label!r} is index {by_label}, and its index is "
            f"{index}; leave out one of the columns"
        )
    return int(index)


def _place(name: str, table: Path, number: int) -> str:
    try:
        return resolved(name, str(table))
    except UsageError as e:
        raise UsageError(f"row {number}: {e}") from e


def _key(path: str) -> str:
    """Return one spelling for all of a file on this machine."""
    if is_url(path) or is_store(path):
        return path
    return os.path.abspath(path)  # noqa: PTH100
