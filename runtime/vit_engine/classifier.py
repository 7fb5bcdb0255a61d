"""Images in, labels out: the Python API of the runtime."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit_engine.artefact.contract import Contract
from vit_engine.artefact.metadata import DEFAULT_MODEL
from vit_engine.engine import Engine
from vit_engine.errors import ImageError, UsageError
from vit_engine.images.decode import image_from_bytes, image_from_item
from vit_engine.images.decode_pool import Batch, DecodePool, Job, ahead, slots_for
from vit_engine.images.decoder_process import DecoderProcess, SharedPixels, Task
from vit_engine.images.preprocess import pixels_from_image
from vit_engine.machine.processor import usable_cores
from vit_engine.prediction import Prediction, failed
from vit_engine.providers.table import DEFAULT_PROVIDER
from vit_engine.scores import DEFAULT_TOP_K, best_scores
from vit_engine.sources.item import Item

ImageLike = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8] | Item


@dataclass(frozen=True)
class LabelledBatch:
    """Images in order of input: `pixels[i]` (H, W, 3) is what `predictions[i]` was made from.

    It is None for an image that could not be decoded. Pixels are views of a buffer that is used
    again: valid until the next batch is asked for.
    """

    predictions: list[Prediction]
    pixels: list[NDArray[np.uint8] | None]


class Classifier:
    """An open model that labels images. A context manager; `classify` is thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def load(
        cls,
        model: str | Path = DEFAULT_MODEL,
        *,
        provider: str = DEFAULT_PROVIDER,
        device: int = 0,
        threads: int | None = None,
        max_batch: int | None = None,
        cuda_graphs: bool = True,
    ) -> "Classifier":
        """Open an artefact by path, or the bundled "demo"; arguments and errors as Engine.open."""
        engine = Engine.open(
            model,
            provider=provider,
            device=device,
            threads=threads,
            max_batch=max_batch,
            cuda_graphs=cuda_graphs,
        )
        return cls(engine)

    @property
    def contract(self) -> Contract:
        """What the artefact says of itself."""
        return self.engine.contract

    def classify(
        self,
        images: Iterable[ImageLike] | ImageLike,
        *,
        top_k: int = DEFAULT_TOP_K,
        batch: int | None = None,
    ) -> Iterator[Prediction]:
        """Yield one prediction for each image, in order, while later ones are being decoded.

        An image is a path, an http(s) URL, the bytes of an image file, a PIL image, an RGB uint8
        array (H, W, 3) or an Item; one alone counts as a list of one. What cannot be read becomes a
        prediction with its error.
        """
        batch = self._checked(top_k, batch)
        if isinstance(images, str | os.PathLike | bytes | Image.Image | np.ndarray | Item):
            images = [images]
        return self._classified(images, top_k, batch)

    def _classified(
        self, images: Iterable[ImageLike], top_k: int, batch: int
    ) -> Iterator[Prediction]:
        given, workers = self.contract.input, usable_cores()
        pixels = np.empty((slots_for(batch, workers), given.height, given.width, 3), np.uint8)
        pool = DecodePool(
            pixels, lambda: _InProcessDecoder(pixels, self.pixels), batch=batch, workers=workers
        )
        for labelled in self._labelled(pool, images, top_k):
            yield from labelled.predictions

    def _checked(self, top_k: int, batch: int | None) -> int:
        if top_k < 1:
            raise UsageError(f"top_k is {top_k}, it must be at least 1")
        if batch is None:
            return self.engine.max_batch
        if batch < 1:
            raise UsageError(f"batch is {batch}, it must be at least 1")
        return batch

    def stream(
        self,
        items: Iterable[Item],
        *,
        top_k: int = DEFAULT_TOP_K,
        batch: int | None = None,
        task: Task | None = None,
        linger: float | None = None,
        stopped: Callable[[], bool] = bool,
    ) -> Iterator[LabelledBatch]:
        """Label a long run of items, in order, batch by batch, each decoded in another process.

        What crashes or hangs its decoder there costs its own row. `task` says by which rules images
        are decoded, `batch` is by default the engine's; `linger` and `stopped` are those of
        `DecodePool.batches`.
        """
        batch = self._checked(top_k, batch)
        task = task or Task(self.contract.preprocessing)
        given, workers = self.contract.input, usable_cores()
        with SharedPixels(slots_for(batch, workers), given.height, given.width) as shared:
            pool = DecodePool(
                shared.array,
                lambda: DecoderProcess(shared, task),
                batch=batch,
                workers=workers,
                size_of=lambda item: len(item.data or b""),
            )
            yield from self._labelled(pool, items, top_k, linger=linger, stopped=stopped)

    def _labelled(
        self,
        pool: DecodePool[Any],
        images: Iterable[Any],
        top_k: int,
        *,
        linger: float | None = None,
        stopped: Callable[[], bool] = bool,
    ) -> Iterator[LabelledBatch]:
        """Run the engine ahead of the caller, who turns logits into rows meanwhile."""

        def running() -> Iterator[tuple[Batch[Any], Future[NDArray[np.float32]]]]:
            for batch in pool.batches(images, linger=linger, stopped=stopped):
                yield batch, self.engine.submit(batch.pixels)

        with pool, contextlib.closing(ahead(running(), stopped)) as results:
            for batch, logits in results:
                found = self.predictions(logits.result(), top_k)
                decoded = iter(batch.pixels)
                pairs = [
                    (replace(next(found), path=_path(job.image)), next(decoded))
                    if job.error is None
                    else (failed(_path(job.image), job.error), None)
                    for job in batch.jobs
                ]
                yield LabelledBatch([p for p, _ in pairs], [pixels for _, pixels in pairs])
                pool.free(batch)

    def pixels(self, image: ImageLike) -> NDArray[np.uint8]:
        """Return the model's input (height, width, 3) for one image; ImageError if unreadable."""
        if isinstance(image, bytes):
            image = image_from_bytes(image)
        elif isinstance(image, np.ndarray):
            image = _image_from_array(image)
        elif not isinstance(image, Image.Image):
            image = image_from_item(_item(image))
        return pixels_from_image(image, self.contract.preprocessing)

    def predictions(
        self, logits: NDArray[np.float32], top_k: int = DEFAULT_TOP_K
    ) -> Iterator[Prediction]:
        """Yield the prediction of each row of logits (N, labels), which names no path yet."""
        for topk in best_scores(logits, self.contract.output.labels, top_k):
            if topk is None:
                yield Prediction(None, error="the model gave NaN or Inf", error_code="nonfinite")
            else:
                yield Prediction(None, topk)

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _InProcessDecoder:
    """A `Decoder` in this process."""

    def __init__(
        self, pixels: NDArray[np.uint8], decode: Callable[[ImageLike], NDArray[np.uint8]]
    ) -> None:
        self._pixels, self._decode = pixels, decode

    def decode(self, jobs: Sequence[Job[ImageLike]]) -> None:
        for job in jobs:
            try:
                self._pixels[job.slot] = self._decode(job.image)
            except ImageError as e:
                job.error = e

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        pass


def _item(image: str | os.PathLike[str] | Item) -> Item:
    return image if isinstance(image, Item) else Item(os.fspath(image))


def _path(image: ImageLike) -> str | None:
    return _item(image).path if isinstance(image, str | os.PathLike | Item) else None


def _image_from_array(array: NDArray[np.uint8]) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise UsageError(
            f"the array is {array.dtype} {array.shape}; an image is RGB uint8 (H, W, 3)"
        )
    return Image.fromarray(array)
