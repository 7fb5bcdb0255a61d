"""Images whose classes are known: drawn ones, or a folder of the user's."""

import csv
from dataclasses import dataclass
from pathlib import Path

from vit_engine.errors import UsageError
from vit_engine.sources.signatures import EXTENSIONS
from vit_export.samples import draw


@dataclass(frozen=True)
class Photos:
    """Labelled images: the true class of each file; `source` says where they come from."""

    source: str
    folder: Path
    files: tuple[Path, ...]
    classes: tuple[int, ...]


def drawn_photos(count: int, folder: Path) -> Photos:
    """Draw the demo's held-out images as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    files, classes = [], []
    for i, (image, index) in enumerate(draw.samples(count)):
        path = folder / f"{i:04}-{draw.LABELS[index]}.png"
        image.save(path, compress_level=1)
        files.append(path)
        classes.append(index)
    source = "drawn, held out from the demo's training"
    return Photos(source, folder, tuple(files), tuple(classes))


def photos_from_folder(folder: Path, labels: tuple[str, ...]) -> Photos:
    """Read a folder with labels.csv (file, index), or with a folder of images for each class.

    A class folder is named by its label, by its index, or, where there are as many folders as
    labels, counted in sorted order (as torchvision's ImageFolder does).
    """
    if not folder.is_dir():
        raise UsageError(f"--data {folder}: no such folder")
    folder = folder.resolve()
    table = folder / "labels.csv"
    named = _from_table(table) if table.exists() else _from_class_folders(folder, labels)
    for path, index in named:
        if not 0 <= index < len(labels):
            raise UsageError(f"{path.name} has class {index}, the model has {len(labels)} classes")
        if not path.is_file():
            raise UsageError(f"{table} lists {path.name}, which is not there")
    if not named:
        raise UsageError(f"--data {folder}: no images; expected labels.csv or class folders")
    files, classes = zip(*named, strict=True)
    return Photos(folder.name, folder, files, classes)


def _from_table(table: Path) -> list[tuple[Path, int]]:
    with table.open(newline="", encoding="utf-8") as lines:
        rows = csv.DictReader(lines)
        if not {"file", "index"} <= set(rows.fieldnames or ()):
            raise UsageError(f"{table} has columns {rows.fieldnames}, expected file and index")
        try:
            return [(table.parent / row["file"], int(row["index"])) for row in rows]
        except (TypeError, ValueError) as e:
            raise UsageError(f"{table}: line {rows.line_num}: {e}") from e


def _from_class_folders(folder: Path, labels: tuple[str, ...]) -> list[tuple[Path, int]]:
    classes = sorted(p for p in folder.iterdir() if p.is_dir())
    by_name = {label: i for i, label in enumerate(labels)}
    found = []
    for place, path in enumerate(classes):
        if path.name in by_name:
            index = by_name[path.name]
        elif path.name.isdecimal():
            index = int(path.name)
        elif len(classes) == len(labels):
            index = place
        else:
            raise UsageError(
                f"class folder {path.name!r} is no label and no index of the model, and "
                f"{len(classes)} folders are not its {len(labels)} labels in order"
            )
        images = sorted(p for p in path.iterdir() if p.suffix.lower() in EXTENSIONS)
        found += [(image, index) for image in images]
    return found
