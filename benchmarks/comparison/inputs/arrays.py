"""The same images for all contenders, as .npy files, so that no one is timed for preparing them."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from comparison.inputs.labelled_images import Photos
from comparison.inputs.models import Model
from vit_engine.errors import ImageError, UsageError
from vit_engine.images.decode import image_from_path
from vit_engine.images.preprocess import pixels_from_image
from vit_engine.providers.tensors import normalized


@dataclass(frozen=True)
class Arrays:
    """The two .npy files of the same images: uint8 NHWC, and float32 NCHW normalised."""

    uint8: Path
    float32: Path
    files: Path | None = None  # the folder that they come from, if from files


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
