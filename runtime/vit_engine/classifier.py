"""Images in, labels out: the Python API of the runtime."""

import contextlib
import logging
import os
from collections.abc import Generator, Iterable, Iterator
from typing import Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from vit_engine.engine import Engine
from vit_engine.errors import UsageError
from vit_engine.image_model import ImageModel, LabelledBatch
from vit_engine.images.decoder_process import TIME_LIMIT, DecodeOptions
from vit_engine.images.image_input import ImageLike, as_inputs, images_from
from vit_engine.images.preprocess import format_clipped_to_8bit
from vit_engine.machine.threads import check_process
from vit_engine.outputs.prediction import Prediction
from vit_engine.outputs.scores import Scores

log = logging.getLogger(__name__)


class Classifier(ImageModel):
    """An `ImageModel` that labels images; UsageError for an embedding model."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        if not isinstance(engine.output, Scores):
            raise UsageError(
                f"{engine.contract.identity.model} gives vectors, not labels: it is an embedding "
                "model; open it with Embedder.load(path)"
            )
        self._scores = engine.output

    @property
    def output(self) -> Scores:
        """The labels, and what makes scores of logits."""
        return self._scores

    @overload
    def __call__(self, images: ImageLike, **options: Any) -> Prediction: ...

    @overload
    def __call__(self, images: Iterable[ImageLike], **options: Any) -> list[Prediction]: ...

    def __call__(
        self, images: ImageLike | Iterable[ImageLike], **options: Any
    ) -> Prediction | list[Prediction]:
        """Return the prediction of an image, or a list of those of several.

        `options` and errors are those of `classify`.
        """
        found = list(self.classify(images, **options))
        return found if images_from(images) is images else found[0]

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

        Images are taken by another thread, some batches ahead; each is copied as it is then. What
        the iterable raises is raised here, after the images before it. `top_k` labels are given, by
        default 5; with a `threshold`, those whose score reaches it, by default all such, perhaps
        none. `batch` images run at once (by default the engine's).

        With `isolated`, files and bytes are decoded in other processes with a limit of memory and a
        `timeout` of seconds (by default 30): one that crashes or hangs its decoder is a prediction
        with the error `crash` or `timeout`. PIL images and arrays are decoded already.

        TypeError for `images` of another kind and for numbers that are not whole, UsageError for
        numbers out of range, for a timeout without `isolated`, once the classifier is closed, and
        in a forked child that goes on with an iteration. ProviderError where the provider fails.
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
        return self._outputs(images, batch, urls=urls)

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


def _seconds(timeout: float | None) -> float:
    if timeout is None:
        return TIME_LIMIT
    if not 0 < timeout < float("inf"):
        raise UsageError(f"timeout is {timeout}, it must be a number of seconds above 0")
    return float(timeout)
