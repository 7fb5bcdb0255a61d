"""Images in, labels out: the Python API of the runtime."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact.contract import Contract
from vit_engine.artefact.metadata import DEFAULT_MODEL
from vit_engine.engine import Engine, whole_number
from vit_engine.images.decode_pool import (
    Batch,
    DecodePool,
    Job,
    ahead,
    check_process,
    never,
    slots_for,
)
from vit_engine.images.decoder_process import DecoderProcess, SharedPixels, Task
from vit_engine.images.given import ImageLike, given_from, images_from, taken
from vit_engine.images.local_decoder import LocalDecoder
from vit_engine.machine.processor import usable_cores
from vit_engine.prediction import Prediction, failed
from vit_engine.providers.provider import Compute
from vit_engine.providers.table import DEFAULT_PROVIDER
from vit_engine.scores import Score, Selection, best_scores, selection_from_options
from vit_engine.sources.item import Item


@dataclass(frozen=True)
class LabelledBatch:
    """Images in order of input: `pixels[i]` (H, W, 3) is what `predictions[i]` was made from.

    It is None for an image that could not be decoded. Pixels are views of a buffer that is used
    again: valid until the next batch is asked for.
    """

    predictions: list[Prediction]
    pixels: list[NDArray[np.uint8] | None]


class Classifier:
    """An open model that labels images. A context manager; `classify` is thread-safe.

    It may be opened before a fork: on the CPU a child opens a session of its own when it first
    needs one, on a GPU it is refused at once. It cannot be pickled.
    """

    def __init__(self, engine: Engine) -> None:
        if not isinstance(engine, Engine):
            raise TypeError(
                f"a Classifier is made of an open Engine, not of {engine!r:.80}; "
                "Classifier.load(path) opens a model"
            )
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
        compute: Compute | None = None,
        cuda_graphs: bool = True,
    ) -> "Classifier":
        """Open an artefact by path, or the bundled "demo"; arguments and errors as Engine.open."""
        engine = Engine.open(
            model,
            provider=provider,
            device=device,
            threads=threads,
            max_batch=max_batch,
            compute=compute,
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
        top_k: int | None = None,
        threshold: float | None = None,
        batch: int | None = None,
    ) -> Iterator[Prediction]:
        """Yield one prediction for each image, in order, while later ones are being decoded.

        An image is a path, an http(s) URL, the bytes of an image file, such a file opened with
        'rb' (read from its start, as Pillow does), a PIL image, an Item, or a uint8 array (H, W),
        (H, W, 1), (H, W, 3) in RGB or (H, W, 4), whose alpha is dropped; an array (N, H, W, 3) is
        a batch. One image alone counts as a list of one. What is none, or cannot be read, becomes
        a prediction with its error.

        Images are taken by another thread, some batches ahead; each is copied as it is then, so
        that buffers may be used again. What the iterable raises is raised here, after the images
        before it. `top_k` labels are given, by default 5; with a `threshold`, those whose score
        reaches it, by default all such, perhaps none. `batch` images run at once (by default the
        engine's).

        Raises TypeError for `images` of another kind and for numbers that are not whole,
        UsageError for those below 1, for a threshold that no score of the model can be, and once
        the classifier is closed, before or in the middle of an iteration; also for an iteration
        that a forked child goes on with. ProviderError where the provider fails.
        """
        selection, batch = self._checked(top_k, threshold, batch)
        return self._classified(images_from(images), selection, batch)

    def _classified(
        self, images: Iterable[ImageLike], selection: Selection, batch: int
    ) -> Iterator[Prediction]:
        given, workers, pid = self.contract.input, usable_cores(), os.getpid()
        pixels = np.empty((slots_for(batch, workers), given.height, given.width, 3), np.uint8)
        pool = DecodePool(
            pixels,
            lambda: LocalDecoder(pixels, self.contract.preprocessing),
            batch=batch,
            workers=workers,
            size_of=lambda image: image.size // workers,  # large images for all, not one at a time
        )
        for labelled in self._labelled(pool, taken(images), selection):
            for prediction in labelled.predictions:
                check_process(pid)
                yield prediction

    def _checked(
        self, top_k: int | None, threshold: float | None, batch: int | None
    ) -> tuple[Selection, int]:
        """Return which labels to give, and the number of images at once; errors of `classify`."""
        selection = self._selection(top_k, threshold)
        batch = self.engine.max_batch if batch is None else whole_number("batch", batch)
        self.engine.check_open()
        return selection, batch

    def _selection(self, top_k: int | None, threshold: float | None) -> Selection:
        if threshold is not None and (
            not isinstance(threshold, Real) or isinstance(threshold, bool)
        ):
            raise TypeError(f"threshold is {threshold!r:.80}, it must be a number")
        return selection_from_options(
            self.contract.output,
            top_k=None if top_k is None else whole_number("top_k", top_k),
            threshold=None if threshold is None else float(threshold),
        )

    def stream(
        self,
        items: Iterable[Item],
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        batch: int | None = None,
        task: Task | None = None,
        linger: float | None = None,
        stopped: Callable[[], bool] = never,
    ) -> Iterator[LabelledBatch]:
        """Label a long run of items, in order, batch by batch, each decoded in another process.

        What crashes or hangs its decoder there costs its own row. `task` says by which rules images
        are decoded, `batch` is by default the engine's; `linger` and `stopped` are those of
        `DecodePool.batches`. Raises what `classify` raises, MachineError where no process or
        memory is to be had.
        """
        selection, batch = self._checked(top_k, threshold, batch)
        task = task or Task(self.contract.preprocessing)
        given, workers = self.contract.input, usable_cores()

        def streamed() -> Iterator[LabelledBatch]:
            with SharedPixels(slots_for(batch, workers), given.height, given.width) as shared:
                pool = DecodePool(
                    shared.array,
                    lambda: DecoderProcess(shared, task),
                    batch=batch,
                    workers=workers,
                    size_of=lambda item: len(item.data or b""),
                )
                yield from self._labelled(pool, items, selection, linger=linger, stopped=stopped)

        return streamed()

    def _labelled(
        self,
        pool: DecodePool[Any],
        images: Iterable[Any],
        selection: Selection,
        *,
        linger: float | None = None,
        stopped: Callable[[], bool] = never,
    ) -> Iterator[LabelledBatch]:
        """Run the engine ahead of the caller, who turns logits into rows meanwhile."""

        def running() -> Iterator[tuple[Batch[Any], Future[NDArray[np.float32]]]]:
            for batch in pool.batches(images, linger=linger, stopped=stopped):
                yield batch, self.engine.submit(batch.pixels)

        # The pool ends first: what runs ahead waits for it.
        with contextlib.closing(ahead(running(), stopped)) as results, pool:
            for batch, logits in results:
                self.engine.check_open()
                try:
                    found = self._predictions(logits.result(), selection)
                finally:
                    del logits  # it holds its error, whose traceback holds this frame, and the pool
                decoded = iter(batch.pixels)
                pairs = [
                    (replace(next(found), path=job.image.path), next(decoded))
                    if job.error is None
                    else (failed(job.image.path, job.error), None)
                    for job in batch.jobs
                ]
                yield LabelledBatch([p for p, _ in pairs], [pixels for _, pixels in pairs])
                pool.free(batch)

    def pixels(self, image: ImageLike) -> NDArray[np.uint8]:
        """Return the model's input, uint8 (height, width, 3) in RGB, for one image.

        An image is what it is for `classify`; ImageError for what is none, or cannot be read.
        """
        given = self.contract.input
        pixels = np.empty((1, given.height, given.width, 3), np.uint8)
        job = Job(given_from(image, "the image"), 0)
        with contextlib.closing(LocalDecoder(pixels, self.contract.preprocessing)) as decoder:
            decoder.decode([job])
        if job.error is not None:
            raise job.error
        result: NDArray[np.uint8] = pixels[0]
        return result

    def predictions(
        self,
        logits: NDArray[np.float32],
        top_k: int | None = None,
        *,
        threshold: float | None = None,
    ) -> Iterator[Prediction]:
        """Yield the prediction of each row of logits (N, labels), which names no path yet.

        A row that is not finite becomes a prediction with the error `nonfinite`. `top_k` and
        `threshold` are those of `classify`, with its errors.
        """
        return self._predictions(logits, self._selection(top_k, threshold))

    def _predictions(
        self, logits: NDArray[np.float32], selection: Selection
    ) -> Iterator[Prediction]:
        return map(_prediction, best_scores(logits, self.contract.output, selection))

    def close(self) -> None:
        """Free the engine, after the batch that runs; iterations in the middle raise UsageError."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _prediction(topk: tuple[Score, ...] | None) -> Prediction:
    if topk is None:
        return Prediction(None, error="the model gave NaN or Inf", error_code="nonfinite")
    return Prediction(None, topk)
