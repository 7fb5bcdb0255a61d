"""An open model that images are sent through: decoding, the engine ahead of the caller, results."""

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact.contract import Contract
from vit_engine.artefact.metadata import DEFAULT_MODEL
from vit_engine.engine import Engine
from vit_engine.errors import ImageError, printable
from vit_engine.images.decode_pool import Batch, DecodeJob, DecodePool, Decoder, slots_for
from vit_engine.images.decoder_process import DecodeOptions, DecoderProcess, SharedPixels
from vit_engine.images.image_input import (
    ImageInput,
    ImageLike,
    as_inputs,
    images_from,
    input_from_image,
)
from vit_engine.images.input_decoder import InputDecoder
from vit_engine.machine.processor import usable_cores
from vit_engine.machine.threads import never, prefetch
from vit_engine.options import DEFAULTS, EngineOptions, checked_int
from vit_engine.outputs.kinds import OutputKind
from vit_engine.outputs.scores import ScoreOptions, Selection
from vit_engine.sources.sample import Sample

T = TypeVar("T", ImageInput, Sample)


@dataclass(frozen=True)
class LabelledBatch:
    """Images in order of input: `pixels[i]` (H, W, 3) is what `predictions[i]` was made from.

    Predictions are what the model's kind of output gives: a Prediction each, or an Embedding. The
    pixels are None for an image that could not be decoded. They are views of a buffer that is used
    again: valid until the next batch is asked for. `clipped_to_8bit` counts the images that had
    greys of more than 8 bits. `logits[i]` are the numbers (labels,), or (size,) of a vector, of an
    image that was decoded.
    """

    predictions: list[Any]
    pixels: list[NDArray[np.uint8] | None]
    clipped_to_8bit: int = 0
    logits: list[NDArray[np.float32] | None] = field(default_factory=list)


class ImageModel:
    """An open model of any kind of output. A context manager; what runs images is thread-safe.

    It may be opened before a fork: on the CPU a child opens a session of its own when it first
    needs one, on a GPU it is refused at once. It cannot be pickled.
    """

    def __init__(self, engine: Engine) -> None:
        if not isinstance(engine, Engine):
            name = type(self).__name__
            raise TypeError(
                f"{name} takes an open Engine, not {engine!r:.80}; {name}.load(path) opens a model"
            )
        self.engine = engine

    @classmethod
    def load(
        cls,
        model: str | Path = DEFAULT_MODEL,
        options: EngineOptions = DEFAULTS,
        **changes: Any,
    ) -> Self:
        """Open an artefact by path, or the bundled "demo"; arguments and errors as Engine.open.

        UsageError where its kind of output is not the one of this class.
        """
        engine = Engine.open(model, options, **changes)
        try:
            return cls(engine)
        except BaseException:
            engine.close()
            raise

    @property
    def contract(self) -> Contract:
        """What the artefact says of itself."""
        return self.engine.contract

    @property
    def output(self) -> OutputKind:
        """The kind of output that the model gives."""
        return self.engine.output

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
        """Give the results of a long run of items, in order, batch by batch.

        Each item is decoded in another process: what crashes or hangs its decoder there costs its
        own row. `top_k` and `threshold` are for labels, as in `Classifier.classify`.
        `decode_options` says by which rules images are decoded, `batch` is by default the engine's;
        `batch_timeout` and `stopped` are those of `DecodePool.batches`. Raises what
        `Classifier.classify` raises, MachineError where no process or memory is to be had.
        """
        selection, batch = self._checked(top_k, threshold, batch)
        decode_options = decode_options or DecodeOptions(self.contract.preprocessing)
        return self._run(
            samples,
            selection,
            batch,
            lambda shared: DecoderProcess(shared, decode_options),
            size_of=lambda item: len(item.data or b""),
            batch_timeout=batch_timeout,
            stopped=stopped,
        )

    def pixels(self, image: ImageLike, *, urls: bool = False) -> NDArray[np.uint8]:
        """Return the model's input, uint8 (height, width, 3) in RGB, for one image.

        An image is what it is for `Classifier.classify`; ImageError for what is none, or cannot be
        read.
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

    def close(self) -> None:
        """Free the engine, after the batch that runs; iterations in the middle raise UsageError."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _checked(
        self, top_k: int | None, threshold: float | None, batch: int | None
    ) -> tuple[Selection, int]:
        """Return which results to give, and the number of images at once; errors of `classify`."""
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

    def _outputs(
        self,
        images: Iterable[ImageLike] | ImageLike,
        batch: int | None,
        *,
        urls: bool,
    ) -> NDArray[np.float32]:
        """Return the model's outputs (N, ...) for images, in order.

        Raises the ImageError of the first that cannot be read.
        """
        selection, batch = self._checked(None, None, batch)
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

    def _batches(
        self,
        images: Iterator[ImageInput],
        selection: Selection,
        batch: int,
        decode_options: DecodeOptions | None,
    ) -> Generator[LabelledBatch]:
        """Run images that are decoded here, or by `decode_options` in other processes."""

        def new_decoder(shared: SharedPixels) -> InputDecoder:
            process = None if decode_options is None else DecoderProcess(shared, decode_options)
            return InputDecoder(shared.array, self.contract.preprocessing, process)

        workers = usable_cores()
        return self._run(
            images,
            selection,
            batch,
            new_decoder,
            size_of=lambda image: image.size // workers,  # large ones for all, not one by one
        )

    def _run(
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
        """Run the engine ahead of the caller, who turns its outputs into rows meanwhile."""
        input_spec, workers = self.contract.input, usable_cores()
        slots = slots_for(batch_size, workers, self.engine.in_flight)

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
                        # It holds its error, whose traceback holds this frame, and the pool.
                        del logits
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
