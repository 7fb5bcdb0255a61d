"""Images in, labels out: the Python API of the runtime."""

import contextlib
import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact.contract import Contract
from vit_engine.artefact.metadata import DEFAULT_MODEL
from vit_engine.engine import Engine
from vit_engine.errors import ImageError, UsageError, printable
from vit_engine.images.decode_pool import Batch, DecodeJob, DecodePool, Decoder, slots_for
from vit_engine.images.decoder_process import (
    TIME_LIMIT,
    DecodeOptions,
    DecoderProcess,
    SharedPixels,
)
from vit_engine.images.image_input import (
    ImageInput,
    ImageLike,
    as_inputs,
    images_from,
    input_from_image,
)
from vit_engine.images.input_decoder import InputDecoder
from vit_engine.images.preprocess import format_clipped_to_8bit
from vit_engine.machine.processor import usable_cores
from vit_engine.machine.threads import check_process, never, prefetch
from vit_engine.options import DEFAULTS, EngineOptions, checked_int
from vit_engine.outputs.kinds import OutputKind
from vit_engine.outputs.prediction import Prediction
from vit_engine.outputs.scores import ScoreOptions, Selection
from vit_engine.sources.sample import Sample

log = logging.getLogger(__name__)

T = TypeVar("T", ImageInput, Sample)


@dataclass(frozen=True)
class LabelledBatch:
    """Images in order of input: `pixels[i]` (H, W, 3) is what `predictions[i]` was made from.

    It is None for an image that could not be decoded. Pixels are views of a buffer that is used
    again: valid until the next batch is asked for. `clipped_to_8bit` counts the images that had
    greys of more than 8 bits. `logits[i]` (labels,) are those of an image that was decoded.
    """

    predictions: list[Prediction]
    pixels: list[NDArray[np.uint8] | None]
    clipped_to_8bit: int = 0
    logits: list[NDArray[np.float32] | None] = field(default_factory=list)


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
        options: EngineOptions = DEFAULTS,
        **changes: Any,
    ) -> "Classifier":
        """Open an artefact by path, or the bundled "demo"; arguments and errors as Engine.open."""
        return cls(Engine.open(model, options, **changes))

    @property
    def contract(self) -> Contract:
        """What the artefact says of itself."""
        return self.engine.contract

    @property
    def output(self) -> OutputKind:
        """The kind of output that the model gives."""
        return self.engine.output

    def classify(
        self,
        images: Iterable[ImageLike] | ImageLike,
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        batch: int | None = None,
        urls: bool = False,
        isolated: bool = False,
        timeout: float | None = None,
    ) -> Iterator[Prediction]:
        """Yield one prediction for each image, in order, while later ones are being decoded.

        An image is a path, with `urls` also a URL (http, https or an object store's), the bytes of
        an image file, such a file opened with 'rb' (read from its start, as Pillow does), a PIL
        image, a Sample, or a uint8 array (H, W), (H, W, 1), (H, W, 3) in RGB or (H, W, 4), whose
        alpha is dropped; an array (N, H, W, 3) is a batch. One image alone counts as a list of one.
        What is none, or cannot be read, becomes a prediction with its error.

        Images are taken by another thread, some batches ahead; each is copied as it is then, so
        that buffers may be used again. What the iterable raises is raised here, after the images
        before it. `top_k` labels are given, by default 5; with a `threshold`, those whose score
        reaches it, by default all such, perhaps none. `batch` images run at once (by default the
        engine's).

        With `isolated`, files and bytes are decoded as by vit-infer, in other processes with a
        limit of memory and a `timeout` of seconds (by default 30): one that crashes or hangs its
        decoder is a prediction with the error `crash` or `timeout`. PIL images and arrays are
        decoded already, and stay here.

        Raises TypeError for `images` of another kind and for numbers that are not whole,
        UsageError for those below 1, for a threshold that no score of the model can be, for a
        timeout that is not above 0, or without `isolated`, and once
        the classifier is closed, before or in the middle of an iteration; also for an iteration
        that a forked child goes on with. ProviderError where the provider fails.
        """
        selection, batch = self._checked(top_k, threshold, batch)
        decode_options = None
        if isolated:
            decode_options = DecodeOptions(
                self.contract.preprocessing, time_limit=_seconds(timeout)
            )
        elif timeout is not None:
            raise UsageError("a timeout needs isolated=True: this process cannot end a decoder")
        taking = as_inputs(images_from(images), urls=urls)
        return self._classified(self._batches(taking, selection, batch, decode_options))

    def _classified(self, batches: Iterator[LabelledBatch]) -> Iterator[Prediction]:
        pid, clipped_to_8bit = os.getpid(), 0
        with contextlib.closing(cast(Generator[LabelledBatch], batches)):
            for labelled in batches:
                clipped_to_8bit += labelled.clipped_to_8bit
                for prediction in labelled.predictions:
                    check_process(pid)
                    yield prediction
        if clipped_to_8bit:
            log.warning("%s", format_clipped_to_8bit(clipped_to_8bit))

    def _batches(
        self,
        images: Iterator[ImageInput],
        selection: Selection,
        batch: int,
        decode_options: DecodeOptions | None,
    ) -> Generator[LabelledBatch]:
        """Label images here, or by `decode_options` in other processes."""

        def new_decoder(shared: SharedPixels) -> InputDecoder:
            process = None if decode_options is None else DecoderProcess(shared, decode_options)
            return InputDecoder(shared.array, self.contract.preprocessing, process)

        workers = usable_cores()
        return self._labelled(
            images,
            selection,
            batch,
            new_decoder,
            size_of=lambda image: image.size // workers,  # large ones for all, not one by one
        )

    def logits(
        self,
        images: Iterable[ImageLike] | ImageLike,
        *,
        batch: int | None = None,
        urls: bool = False,
    ) -> NDArray[np.float32]:
        """Return the logits (N, labels) of images, in order; what they are is told by `classify`.

        Raises what `classify` raises, and the ImageError of the first image that cannot be read.
        """
        selection, batch = self._checked(1, None, batch)
        rows: list[NDArray[np.float32]] = []
        batches = self._batches(as_inputs(images_from(images), urls=urls), selection, batch, None)
        with contextlib.closing(batches):
            for labelled in batches:
                for prediction, row in zip(labelled.predictions, labelled.logits, strict=True):
                    if row is None:
                        name = f"images[{len(rows)}]"
                        if prediction.path:
                            name += f", {printable(prediction.path)},"
                        code = prediction.error_code or "decode"
                        raise ImageError(code, f"{name} {prediction.error}")
                    rows.append(row.copy())
        return np.stack(rows) if rows else np.empty((0, *self.output.shape), np.float32)

    def probabilities(
        self,
        images: Iterable[ImageLike] | ImageLike,
        *,
        batch: int | None = None,
        urls: bool = False,
    ) -> NDArray[np.float64]:
        """Return the scores (N, labels) of images, in order: softmax or sigmoid, as the model has.

        Raises what `logits` raises, and UsageError for a regression, which has no probabilities.
        """
        if self.output.function == "none":
            raise UsageError(
                "this model gives the values of a regression, not probabilities; logits() has them"
            )
        return self.output.scores(self.logits(images, batch=batch, urls=urls))

    def _checked(
        self, top_k: int | None, threshold: float | None, batch: int | None
    ) -> tuple[Selection, int]:
        """Return which labels to give, and the number of images at once; errors of `classify`."""
        selection = self._selection(top_k, threshold)
        batch = self.engine.max_batch if batch is None else checked_int("batch", batch)
        self.engine.check_open()
        return selection, batch

    def _selection(self, top_k: int | None, threshold: float | None) -> Selection:
        if threshold is not None and (
            not isinstance(threshold, Real) or isinstance(threshold, bool)
        ):
            raise TypeError(f"threshold is {threshold!r:.80}, it must be a number")
        return self.output.selection(
            ScoreOptions(
                top_k=None if top_k is None else checked_int("top_k", top_k),
                threshold=None if threshold is None else float(threshold),
            )
        )

    def stream(
        self,
        samples: Iterable[Sample],
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        batch: int | None = None,
        decode_options: DecodeOptions | None = None,
        batch_timeout: float | None = None,
        stopped: Callable[[], bool] = never,
    ) -> Iterator[LabelledBatch]:
        """Label a long run of items, in order, batch by batch, each decoded in another process.

        What crashes or hangs its decoder there costs its own row. `decode_options` says by which
        rules images are decoded, `batch` is by default the engine's; `batch_timeout` and `stopped`
        are those of `DecodePool.batches`. Raises what `classify` raises, MachineError where no
        process or memory is to be had.
        """
        selection, batch = self._checked(top_k, threshold, batch)
        decode_options = decode_options or DecodeOptions(self.contract.preprocessing)
        return self._labelled(
            samples,
            selection,
            batch,
            lambda shared: DecoderProcess(shared, decode_options),
            size_of=lambda item: len(item.data or b""),
            batch_timeout=batch_timeout,
            stopped=stopped,
        )

    def _labelled(
        self,
        images: Iterable[T],
        selection: Selection,
        batch_size: int,
        new_decoder: Callable[[SharedPixels], Decoder[T]],
        *,
        size_of: Callable[[T], int],
        batch_timeout: float | None = None,
        stopped: Callable[[], bool] = never,
    ) -> Generator[LabelledBatch]:
        """Run the engine ahead of the caller, who turns logits into rows meanwhile."""
        input_spec, workers = self.contract.input, usable_cores()
        slots = slots_for(batch_size, workers)

        def running(pool: DecodePool[T]) -> Iterator[tuple[Batch[T], Future[NDArray[np.float32]]]]:
            for batch in pool.batches(images, batch_timeout=batch_timeout, stopped=stopped):
                yield batch, self.engine.submit(batch.pixels)

        with SharedPixels(slots, input_spec.height, input_spec.width) as shared:
            pool = DecodePool(
                shared.array,
                lambda: new_decoder(shared),
                batch=batch_size,
                workers=workers,
                size_of=size_of,
            )
            # The pool ends first: what runs ahead waits for it.
            with contextlib.closing(prefetch(running(pool), stopped)) as results, pool:
                for batch, logits in results:
                    self.engine.check_open()
                    try:
                        values = logits.result()
                        paths = [job.image.path for job in batch.jobs if job.error is None]
                        found = self.output.results(values, selection, paths)
                    finally:
                        del (
                            logits
                        )  # it holds its error, whose traceback holds this frame, and the pool
                    decoded, rows = iter(batch.pixels), iter(values)
                    pairs = [
                        (next(found), next(decoded))
                        if job.error is None
                        else (self.output.failed(job.image.path, job.error), None)
                        for job in batch.jobs
                    ]
                    yield LabelledBatch(
                        [p for p, _ in pairs],
                        [pixels for _, pixels in pairs],
                        sum(job.is_clipped_to_8bit for job in batch.jobs),
                        [None if job.error else next(rows) for job in batch.jobs],
                    )
                    pool.free(batch)

    def pixels(self, image: ImageLike, *, urls: bool = False) -> NDArray[np.uint8]:
        """Return the model's input, uint8 (height, width, 3) in RGB, for one image.

        An image is what it is for `classify`; ImageError for what is none, or cannot be read.
        """
        input_spec = self.contract.input
        pixels = np.empty((1, input_spec.height, input_spec.width, 3), np.uint8)
        job = DecodeJob(input_from_image(image, "the image", urls=urls), 0)
        with contextlib.closing(InputDecoder(pixels, self.contract.preprocessing)) as decoder:
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
        return self.output.results(logits, self._selection(top_k, threshold))

    def close(self) -> None:
        """Free the engine, after the batch that runs; iterations in the middle raise UsageError."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _seconds(timeout: float | None) -> float:
    if timeout is None:
        return TIME_LIMIT
    if not 0 < timeout < float("inf"):
        raise UsageError(f"timeout is {timeout}, it must be a number of seconds above 0")
    return float(timeout)
