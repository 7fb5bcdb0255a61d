"""Decoding in this process, for images that their owner answers for."""

import contextlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit_engine.artefact.contract import Preprocessing
from vit_engine.errors import ImageError
from vit_engine.images.decode import image_from_bytes
from vit_engine.images.decode_pool import Job
from vit_engine.images.decoder_process import DecoderProcess, SharedPixels, Task
from vit_engine.images.given import Given, Unloaded, loaded
from vit_engine.images.pillow import AlteredPillowError, image_errors
from vit_engine.images.preprocess import is_narrowed, pixels_from_image, pixels_from_rgb
from vit_engine.sources.item import Item
from vit_engine.sources.read import bytes_from_item


class LocalDecoder:
    """A `Decoder` in this process, which fills `pixels` (slots, height, width, 3).

    Where Pillow is set here to let half an image pass, another process decodes: one that starts
    with the first such image, within some tenths of a second.
    """

    def __init__(self, pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> None:
        self._pixels, self._preprocessing = pixels, preprocessing
        self._elsewhere: DecoderProcess | None = None
        self._resources = contextlib.ExitStack()
        self._cancelled = False

    def decode(self, jobs: Sequence[Job[Given]]) -> None:
        """Fill each job's slot of the pixels, or set its error."""
        for job in jobs:
            if self._cancelled:
                return
            try:
                with image_errors():
                    self._pixels[job.slot], job.is_narrowed = self._pixels_of(job.image)
            except ImageError as e:
                job.error = e
            job.image.image = None  # its memory is needed no more

    def cancel(self) -> None:
        """Have a `decode` that runs in another thread end with the image that it is at."""
        self._cancelled = True
        if self._elsewhere is not None:
            self._elsewhere.cancel()

    def close(self) -> None:
        """End the other process, if there is one."""
        self._resources.close()

    def _pixels_of(self, given: Given) -> tuple[NDArray[np.uint8], bool]:
        """Return the pixels of an image, and `is_narrowed` of one that is decoded here."""
        if given.error is not None:
            raise given.error
        image = given.image
        if isinstance(image, Unloaded):
            with image.lock:
                image = loaded(image.image)
        if isinstance(image, Image.Image):
            return pixels_from_rgb(image, self._preprocessing), False
        assert image is not None
        data = bytes_from_item(image)
        try:
            decoded = image_from_bytes(data)
            return pixels_from_image(decoded, self._preprocessing), is_narrowed(decoded)
        except AlteredPillowError:
            return self._decoded_elsewhere(Item(image.path, data))

    def _decoded_elsewhere(self, item: Item) -> tuple[NDArray[np.uint8], bool]:
        if self._elsewhere is None:
            shared = self._resources.enter_context(SharedPixels(1, *self._pixels.shape[1:3]))
            self._shared = shared.array
            self._elsewhere = DecoderProcess(shared, Task(self._preprocessing))
            self._resources.callback(self._elsewhere.close)
        job = Job(item, 0)
        self._elsewhere.decode([job])
        if job.error is not None:
            raise job.error
        return self._shared[0], job.is_narrowed
