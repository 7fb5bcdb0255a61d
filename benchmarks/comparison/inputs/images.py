"""The same images for all contenders: labelled files, and arrays so that no one prepares them."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from comparison.inputs.models import Model
from vit_engine.errors import ImageError, UsageError
from vit_engine.evaluation.truth import FOLDERS, truth_from_name
from vit_engine.images.decode import image_from_path
from vit_engine.images.preprocess import pixels_from_image
from vit_engine.outputs.scores import Scores
from vit_engine.providers.tensors import normalized
from vit_engine.sources.signatures import EXTENSIONS
from vit_export.samples import draw


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


def drawn_photos(count: int, folder: Path) -> Photos:
    """Draw the demo's held-out images as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {}
    for i, (image, index) in enumerate(draw.samples(count)):
        path = folder / f"{i:04}-{draw.LABELS[index]}.png"
        image.save(path, compress_level=1)
        named[path] = index
    source = "drawn, held out from the demo's training"
    return Photos(source, folder, tuple(named), tuple(named.values()))


def photos_from_folder(folder: Path, labels: tuple[str, ...]) -> Photos:
    """Read a folder with labels.csv, as vit-eval's --truth, or with a folder for each class.

    A class folder is named by its label or its index; where none is, and there are as many as
    labels, they are counted in sorted order (as torchvision's ImageFolder does). UsageError where
    the true class of any image is not known; without labels no class is asked for.
    """
    folder, table = folder.resolve(), folder.resolve() / "labels.csv"
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS)
    if not files:
        raise UsageError(f"--data {folder}: no images; expected labels.csv or class folders")
    if not labels:
        return Photos(folder.name, folder, tuple(files), (0,) * len(files))
    source, names = str(table) if table.exists() else FOLDERS, {path.parent.name for path in files}
    truth = truth_from_name(source, Scores(labels, "softmax"), names)
    named = {path: int(fact.true[0]) for path in files if (fact := truth.of(str(path))).true}
    classes = sorted({path.parent for path in files})
    if not named and len(classes) == len(labels):
        named = {path: classes.index(path.parent) for path in files}
    if (unknown := len(files) - len(named)) or truth.unmatched:
        words = f"{unknown} of its {len(files)} images have no true class"
        raise UsageError(f"--data {folder}: {'; '.join([words, *truth.remarks()])}")
    return Photos(folder.name, folder, tuple(named), tuple(named.values()))


def noise(model: Model, count: int, folder: Path) -> Arrays:
    """Write `count` images of random pixels: not zeros, which some kernels are quick on."""
    size = model.model_config.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    return _written(pixels, model, folder / "noise", None)


def arrays_from_photos(photos: Photos, model: Model, folder: Path) -> Arrays:
    """Write the photos, preprocessed once for all contenders."""

    def pixels(path: Path) -> NDArray[np.uint8]:
        try:
            return pixels_from_image(image_from_path(path), model.preprocessing)
        except ImageError as e:
            raise UsageError(f"{path}: {e}; take it out of the set") from e

    with ThreadPoolExecutor() as pool:
        raw = np.stack(list(pool.map(pixels, photos.files)))
    return _written(raw, model, folder / "photos", photos.folder)


def _written(pixels: NDArray[np.uint8], model: Model, path: Path, files: Path | None) -> Arrays:
    arrays = Arrays(Path(f"{path}-uint8.npy"), Path(f"{path}-float32.npy"), files)
    np.save(arrays.uint8, pixels)
    np.save(arrays.float32, normalized(pixels, model.preprocessing))
    return arrays
