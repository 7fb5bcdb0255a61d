"""What all contenders are given: one checkpoint folder, and the same images as .npy files."""

import csv
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comparison.round_robin import HERE
from vit_engine.artefact.contract import Preprocessing
from vit_engine.errors import ImageError, UsageError
from vit_engine.images.decode import image_from_path
from vit_engine.images.preprocess import normalized, pixels_from_image
from vit_engine.sources.signatures import EXTENSIONS
from vit_export.checkpoints.checkpoint import load
from vit_export.families.form import Form

DEMO = "demo"
HELD_OUT = 320  # drawn images: 20 of each of the demo's classes


@dataclass(frozen=True)
class Model:
    """A checkpoint folder and what the report says of it."""

    name: str
    folder: Path
    weights_sha256: str
    form: Form
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    random: bool = False

    @property
    def gflop(self) -> float:
        """Return the multiply-adds of one image's matrix products, twice, in 1e9.

        The whole architecture's, also for a contender that leaves out what no one reads.
        """
        a = self.form
        patches, tokens, d = a.grid**2, a.tokens, a.hidden_size
        block = 4 * tokens * d * d + 2 * tokens * tokens * d + 2 * tokens * d * a.intermediate_size
        embed = patches * 3 * a.patch_size**2 * d
        return 2 * (embed + a.layers * block + d * len(self.labels)) / 1e9

    def card(self) -> dict[str, Any]:
        """Return what the report says of the model."""
        return {
            "name": self.name,
            "weights_sha256": self.weights_sha256,
            "random": self.random,
            "gflop": self.gflop,
            "labels": len(self.labels),
            **asdict(self.form),
        }


@dataclass(frozen=True)
class Photos:
    """Labelled images: the true class of each file; `source` says where they come from."""

    source: str
    folder: Path
    files: tuple[Path, ...]
    classes: tuple[int, ...]


@dataclass(frozen=True)
class Arrays:
    """The two .npy files of the same images: uint8 NHWC, and float32 NCHW normalised."""

    uint8: Path
    float32: Path
    files: Path | None = None  # the folder that they come from, if from files


def random_model(name: str, cache: Path) -> Model:
    """Return a ViT of `SIZES` with seeded random weights, written to the cache on first use."""
    folder = cache / (name.lower().replace("/", "-") + "-random")
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "comparison.random_vit", name, str(folder)]
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UsageError(f"{name} cannot be made: {done.stderr.strip().splitlines()[-1]}")
    return model_from_name(str(folder), named=f"{name}, seeded random weights", random=True)


def model_from_name(model: str, *, named: str | None = None, random: bool = False) -> Model:
    """Return any model that vit-export takes."""
    found = load(model)
    return Model(
        named or found.model,
        found.folder,
        found.weights_sha256,
        found.form,
        found.preprocessing,
        found.labels,
        random,
    )


def noise(model: Model, count: int, folder: Path) -> Arrays:
    """Write `count` images of random pixels: not zeros, which some kernels are quick on."""
    size = model.form.image_size
    random = np.random.default_rng(0)
    return _written(
        random.integers(0, 256, (count, size, size, 3), np.uint8), model, folder, "noise"
    )


def arrays_from_photos(photos: Photos, model: Model, folder: Path) -> Arrays:
    """Write the photos, preprocessed once for all contenders."""

    def pixels(path: Path) -> NDArray[np.uint8]:
        try:
            return pixels_from_image(image_from_path(path), model.preprocessing)
        except ImageError as e:
            raise UsageError(f"{path}: {e}; take it out of the set") from e

    with ThreadPoolExecutor() as pool:
        raw = np.stack(list(pool.map(pixels, photos.files)))
    return replace(_written(raw, model, folder, "photos"), files=photos.folder)


def drawn_photos(count: int, folder: Path) -> Photos:
    """Draw the demo's held-out images as PNG files."""
    from vit_export.demo import draw

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


def _written(pixels: NDArray[np.uint8], model: Model, folder: Path, name: str) -> Arrays:
    arrays = Arrays(folder / f"{name}-uint8.npy", folder / f"{name}-float32.npy")
    np.save(arrays.uint8, pixels)
    np.save(arrays.float32, normalized(pixels, model.preprocessing))
    return arrays
