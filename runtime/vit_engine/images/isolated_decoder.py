"""Decoding for the Python API as the command does it: each file in a process that it may crash."""

from collections.abc import Sequence

from vit_engine.images.decode_pool import Job
from vit_engine.images.decoder_process import DecoderProcess, SharedPixels, Task
from vit_engine.images.given import Given
from vit_engine.images.local_decoder import LocalDecoder
from vit_engine.sources.item import Item


class IsolatedDecoder:
    """A `Decoder` of files and bytes in another process; what is decoded already stays in this."""

    def __init__(self, pixels: SharedPixels, task: Task) -> None:
        self._process = DecoderProcess(pixels, task)
        self._local = LocalDecoder(pixels.array, task.preprocessing)

    def decode(self, jobs: Sequence[Job[Given]]) -> None:
        """Fill each job's slot of the pixels, or set its error."""
        files: list[tuple[Job[Given], Job[Item]]] = []
        others: list[Job[Given]] = []
        for job in jobs:
            if job.image.error is None and isinstance(job.image.image, Item):
                files.append((job, Job(job.image.image, job.slot)))
            else:
                others.append(job)
        self._process.decode([file for _, file in files])
        for job, file in files:
            job.error, job.is_narrowed = file.error, file.is_narrowed
            job.image.image = None  # its memory is needed no more
        self._local.decode(others)

    def cancel(self) -> None:
        """Have a `decode` that runs in another thread end soon."""
        self._process.cancel()
        self._local.cancel()

    def close(self) -> None:
        """End the process."""
        self._process.close()
        self._local.close()
