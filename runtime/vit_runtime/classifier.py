"""Images in, labels out: the public API of the runtime."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit_runtime.contract import Contract
from vit_runtime.decode import image_from_bytes
from vit_runtime.engine import DEFAULT_MAX_BATCH, Engine, usable_cores
from vit_runtime.errors import ImageError, UsageError
from vit_runtime.preprocess import pixels_from_image
from vit_runtime.sources import Item, image_from_item

DEFAULT_TOP_K = 5

ImageLike = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8] | Item
_Pending = tuple[str | None, Future[NDArray[np.uint8]]]


@dataclass(frozen=True)
class Score:
    """One label of a prediction; `score` is its softmax probability."""

    label: str
    index: int
    score: float


@dataclass(frozen=True)
class Prediction:
    """One image's labels, best first; or, with an empty `topk`, why it has none."""

    path: str | None  # None for an image that was not named by a path
    topk: tuple[Score, ...] = ()
    error: str | None = None
    error_code: str | None = None

    @property
    def label(self) -> str | None:
        """The best label, None for a failed image."""
        return self.topk[0].label if self.topk else None

    @property
    def index(self) -> int | None:
        """The best label's index in the model's output."""
        return self.topk[0].index if self.topk else None

    @property
    def score(self) -> float | None:
        """The best label's softmax probability."""
        return self.topk[0].score if self.topk else None


class Classifier:
    """An open model that labels images. A context manager; `classify` is thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def load(
        cls, model: str | Path = "vit.onnx", *, provider: str = "cpu", threads: int | None = None
    ) -> "Classifier":
        """Open an artefact by path, or the bundled "demo"; arguments and errors as Engine.open."""
        return cls(Engine.open(model, provider=provider, threads=threads))

    @property
    def contract(self) -> Contract:
        """What the artefact says of itself."""
        return self.engine.contract

    def classify(
        self,
        images: Iterable[ImageLike] | ImageLike,
        *,
        top_k: int = DEFAULT_TOP_K,
        batch: int = DEFAULT_MAX_BATCH,
    ) -> Iterator[Prediction]:
        """Yield one prediction for each image, in order, while later ones are being decoded.

        An image is a path, an http(s) URL, the bytes of an image file, a PIL image, an RGB uint8
        array (H, W, 3) or an Item; one alone counts as a list of one. What cannot be read becomes a
        prediction with its error.
        """
        labels = len(self.contract.output.labels)
        if top_k < 1:
            raise UsageError(f"top_k is {top_k}, it must be at least 1")
        if batch < 1:
            raise UsageError(f"batch is {batch}, it must be at least 1")
        if isinstance(images, str | os.PathLike | bytes | Image.Image | np.ndarray | Item):
            images = [images]
        return self._stream(images, min(top_k, labels), batch)

    def _stream(self, images: Iterable[ImageLike], top_k: int, batch: int) -> Iterator[Prediction]:
        pending: deque[_Pending] = deque()
        pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode")
        try:
            for image in images:
                pending.append((_path(image), pool.submit(self.pixels, image)))
                if len(pending) == 2 * batch:
                    yield from self._predictions([pending.popleft() for _ in range(batch)], top_k)
            while pending:
                size = min(batch, len(pending))
                yield from self._predictions([pending.popleft() for _ in range(size)], top_k)
        finally:
            pool.shutdown(cancel_futures=True)

    def pixels(self, image: ImageLike) -> NDArray[np.uint8]:
        """Return the model's input (height, width, 3) for one image; ImageError if unreadable."""
        if isinstance(image, bytes):
            image = image_from_bytes(image)
        elif isinstance(image, np.ndarray):
            image = _image_from_array(image)
        elif not isinstance(image, Image.Image):
            image = image_from_item(_item(image))
        return pixels_from_image(image, self.contract.preprocessing)

    def _predictions(self, batch: list[_Pending], top_k: int) -> Iterator[Prediction]:
        decoded: list[NDArray[np.uint8] | ImageError] = []
        for _, future in batch:
            try:
                decoded.append(future.result())
            except ImageError as e:
                decoded.append(e)
        arrays = [pixels for pixels in decoded if not isinstance(pixels, ImageError)]
        logits = iter(self.engine.run(np.stack(arrays)) if arrays else ())
        for (path, _), pixels in zip(batch, decoded, strict=True):
            if isinstance(pixels, ImageError):
                yield Prediction(path, error=str(pixels), error_code=pixels.code)
            else:
                yield self.prediction(path, next(logits), top_k)

    def prediction(
        self, path: str | None, logits: NDArray[np.float32], top_k: int = DEFAULT_TOP_K
    ) -> Prediction:
        """Return the `top_k` labels of one image's logits (labels,), equal scores by index."""
        if not np.isfinite(logits).all():
            return Prediction(path, error="the model gave NaN or Inf", error_code="nonfinite")
        exponents = np.exp(logits.astype(np.float64) - logits.max())
        scores = exponents / exponents.sum()
        best = np.argsort(-logits, kind="stable")[:top_k]
        labels = self.contract.output.labels
        return Prediction(path, tuple(Score(labels[i], int(i), float(scores[i])) for i in best))

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


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
