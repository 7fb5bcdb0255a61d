"""Decoding for the Python API: in this process, or each file in another that it may crash."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit_engine.artefact.contract import Preprocessing
from vit_engine.errors import ImageError
from vit_engine.images.decode import image_from_bytes
from vit_engine.images.decode_pool import DecodeJob
from vit_engine.images.decoder_process import DecoderProcess
from vit_engine.images.image_errors import image_errors
from vit_engine.images.image_input import ImageInput, LazyImage
from vit_engine.images.preprocess import (
    is_clipped_to_8bit,
    pixels_from_image,
    pixels_from_rgb,
    rgb_from_image,
)
from vit_engine.sources.read import bytes_from_item
from vit_engine.sources.sample import Sample


class InputDecoder:
    """A `Decoder` that fills `pixels` (slots, height, width, 3) with what a caller gave.

    Files and bytes are decoded by `process` where there is one, which fills the same pixels; PIL
    images and arrays are decoded already, and stay in this process.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        preprocessing: Preprocessing,
        process: DecoderProcess | None = None,
    ) -> None:
        self._pixels, self._preprocessing, self._process = pixels, preprocessing, process
        self._cancelled = False

    def decode(self, jobs: Sequence[DecodeJob[ImageInput]]) -> None:
        """Fill each job's slot of the pixels, or set its error."""
        here = jobs if self._process is None else self._decoded_elsewhere(jobs, self._process)
        for job in here:
            if self._cancelled:
                return
            try:
                with image_errors():
                    self._pixels[job.slot], job.is_clipped_to_8bit = self._pixels_of(job.image)
            except ImageError as e:
                job.error = e
            job.image.image = None  # its memory is needed no more

    def cancel(self) -> None:
        """Have a `decode` that runs in another thread end with the image that it is at."""
        self._cancelled = True
        if self._process is not None:
            self._process.cancel()

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.close()

    def _decoded_elsewhere(
        self, jobs: Sequence[DecodeJob[ImageInput]], process: DecoderProcess
    ) -> list[DecodeJob[ImageInput]]:
        """Have the files among the jobs decoded; return the other jobs."""
        files: list[tuple[DecodeJob[ImageInput], DecodeJob[Sample]]] = []
        others: list[DecodeJob[ImageInput]] = []
        for job in jobs:
            if job.image.error is None and isinstance(job.image.image, Sample):
                files.append((job, DecodeJob(job.image.image, job.slot)))
            else:
                others.append(job)
        process.decode([file for _, file in files])
        for job, file in files:
            job.error, job.is_clipped_to_8bit = file.error, file.is_clipped_to_8bit
            job.image.image = None
        return others

    def _pixels_of(self, given: ImageInput) -> tuple[NDArray[np.uint8], bool]:
        """Return the pixels of an image, and `is_clipped_to_8bit` of one that is decoded here."""
        if given.error is not None:
            raise given.error
        image = given.image
        if isinstance(image, Sample):
            decoded = image_from_bytes(bytes_from_item(image))
            return pixels_from_image(decoded, self._preprocessing), is_clipped_to_8bit(decoded)
        if isinstance(image, LazyImage):
            with image.lock:
                image = rgb_from_image(image.image)
        assert isinstance(image, Image.Image)
        return pixels_from_rgb(image, self._preprocessing), False
