"""Decoding in a process of its own: a file that crashes or hangs its decoder costs its own row."""

import functools
import json
import mmap
import os
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit_engine.artefact.contract import Preprocessing
from vit_engine.errors import ImageError, MachineError, format_limit
from vit_engine.images.decode import image_from_item
from vit_engine.images.decode_pool import DecodeJob
from vit_engine.images.preprocess import draft_size, is_clipped_to_8bit, pixels_from_image
from vit_engine.machine.memory_file import memory_file
from vit_engine.machine.worker import Channel, EndedError, Worker
from vit_engine.sources.downloads import URL_TIMEOUT
from vit_engine.sources.sample import LIMITS, MAX_PIXELS, Limits, Sample
from vit_engine.sources.urls import is_url

TIME_LIMIT = 30.0
"""Seconds for one image, by the clock."""

MEMORY = 4 * 2**30
"""Bytes of address space: four times what the largest image within the limits takes."""

_STARTS = 3
_NARROWED = b"narrowed"  # an answer that means decoded, as an empty one does


@dataclass(frozen=True)
class DecodeOptions:
    """What every image of a run is decoded for, and by which rules."""

    preprocessing: Preprocessing
    limits: Limits = LIMITS
    time_limit: float = TIME_LIMIT
    memory: int = MEMORY
    fast: bool = False  # decode JPEGs at reduced size
    private_redirects: bool = False  # follow redirects of URLs to addresses that are not public

    def pixels(self, item: Sample) -> tuple[NDArray[np.uint8], bool]:
        """Return the model's input for a sample, and `is_clipped_to_8bit`; or raise ImageError.

        For a process of its own, which it may crash.
        """
        draft = draft_size(self.preprocessing) if self.fast else None
        image = image_from_item(
            item,
            limits=self.limits,
            draft=draft,
            private_redirects=self.private_redirects,
            plugins=True,
        )
        pixels = pixels_from_image(image, self.preprocessing, max_pixels=self.limits.max_pixels)
        return pixels, is_clipped_to_8bit(image)

    @property
    def memory_for_one(self) -> int:
        """The bytes of address space: more where the limit of pixels was raised."""
        return max(self.memory, self.memory * self.limits.max_pixels // MAX_PIXELS)

    def seconds_for(self, item: Sample) -> float:
        """Return the time limit of an item; a download has its own besides."""
        return self.time_limit + (URL_TIMEOUT if is_url(item.path) else 0)


class SharedPixels:
    """A buffer (slots, height, width, 3) that decoder processes write to; a context manager."""

    def __init__(self, slots: int, height: int, width: int) -> None:
        self.fd = memory_file("pixels")
        try:
            os.ftruncate(self.fd, slots * height * width * 3)
            memory = mmap.mmap(self.fd, 0)
        except OSError as e:
            os.close(self.fd)
            words = format_limit(e) or f"{e.strerror}; try smaller batches"
            raise MachineError(f"no memory to share for {slots} decoded images: {words}") from e
        self.array = np.ndarray((slots, height, width, 3), np.uint8, memory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the descriptor; the memory goes with the last array upon it."""
        os.close(self.fd)


class DecoderProcess:
    """A `Decoder` whose work is done by a child process, started again when it has died.

    `restarts` counts how often that was.
    """

    def __init__(self, pixels: SharedPixels, decode_options: DecodeOptions) -> None:
        self._pixels, self._task = pixels, decode_options
        self._closed = False
        self.restarts = 0
        self._start()

    def decode(self, jobs: Sequence[DecodeJob[Sample]]) -> None:
        """Fill the jobs' slots or set their errors: `timeout` and `crash` besides the decoder's.

        An image that has its answer lets go of the bytes that it came with.
        """
        if not self._closed and not self._worker.is_alive():
            self._restart()  # it died after its last answer: no image is to blame
        at = 0
        while at < len(jobs) and not self._closed:
            # After a crash, those that came after the culprit are handed to the new process.
            self._send(jobs[at:])
            try:
                for job in jobs[at:]:
                    answer = self._worker.answer(self._task.seconds_for(job.image))
                    error, job.is_clipped_to_8bit = result_from_answer(answer)
                    _settle(job, error)
                    at += 1
            except (EndedError, TimeoutError) as e:
                if self._closed:
                    return
                limit = self._task.time_limit if isinstance(e, TimeoutError) else None
                _settle(jobs[at], lost_image(str(e), limit))
                at += 1
                self._restart()

    def cancel(self) -> None:
        """Kill the child from any thread; a `decode` that waits for it returns."""
        self._closed = True
        self._worker.kill()

    def close(self) -> None:
        """Kill and reap the child."""
        self._closed = True
        self._worker.close()

    def _restart(self) -> None:
        self._worker.close()
        self.restarts += 1
        self._start()

    def _start(self) -> None:
        """Start the child; a run that is closed meanwhile needs none."""

        def keep(worker: Worker) -> bool:
            self._worker = worker
            if self._closed:
                worker.kill()
            return not self._closed

        start_decoder(self._pixels.fd, self._task.memory_for_one, keep)

    def _send(self, jobs: Sequence[DecodeJob[Sample]]) -> None:
        size = self._pixels.array[0].nbytes
        targets = [(job.slot * size, job.image) for job in jobs]
        for message in messages_from_samples(pickle.dumps(self._task), targets):
            self._worker.ask(message)


def start_decoder(
    pixels: int, memory: int, keep: Callable[[Worker], bool] = lambda _: True
) -> Worker:
    """Return a decoder at work on a descriptor of pixels; MachineError where it does not start.

    Where it dies before it is ready it is started again: no image is to blame. `keep` is given
    each one as it starts, and says whether it is still wanted.
    """
    for left in reversed(range(_STARTS)):
        worker = Worker(serve, purpose="decode images in", memory=memory, pass_fds=(pixels,))
        is_wanted = keep(worker)
        worker.ask(pickle.dumps(pixels))
        try:
            worker.wait_until_ready()
        except MachineError:
            if is_wanted and not left:
                raise
        else:
            break
        if not is_wanted:
            break
    return worker


def messages_from_samples(
    decode_options: bytes, targets: Sequence[tuple[int, Sample]]
) -> Iterator[bytes]:
    """Yield what a decoder is sent: pickled DecodeOptions, and samples with where their pixels go.

    That is a number of bytes into its descriptor. It answers each sample in turn.
    """
    bare = [(at, replace(item, data=None), item.data is None) for at, item in targets]
    yield pickle.dumps((decode_options, bare))
    for _, item in targets:
        if item.data is not None:
            yield item.data  # as it is: a copy may be of 256 MiB


def result_from_answer(answer: bytes) -> tuple[ImageError | None, bool]:
    """Return what came of a sample: its error, and `is_clipped_to_8bit`."""
    is_clipped_to_8bit = answer == _NARROWED
    decoded = not answer or is_clipped_to_8bit
    return None if decoded else ImageError(*json.loads(answer)), is_clipped_to_8bit


def lost_image(ended: str, time_limit: float | None) -> ImageError:
    """Return the error of an image whose decoder ended, or was ended at the time limit."""
    if time_limit is not None:
        return ImageError("timeout", f"was not decoded within {time_limit:g} s")
    return ImageError("crash", f"crashed the decoder ({ended})")


def _settle(job: DecodeJob[Sample], error: ImageError | None) -> None:
    job.error = error
    job.image = replace(job.image, data=None)  # the bytes have done their part


def serve(channel: Channel) -> None:
    """Decode what the parent asks for until it closes the pipe; the life of the child."""
    requests = channel.requests()
    pixels = pickle.loads(next(requests))
    decode_options_of = functools.lru_cache(maxsize=64)(pickle.loads)
    for message in requests:
        pickled_options, jobs = pickle.loads(message)
        decode_options: DecodeOptions = decode_options_of(pickled_options)
        Image.MAX_IMAGE_PIXELS = decode_options.limits.max_pixels
        data = [None if is_bare else next(requests) for _, _, is_bare in jobs]
        for at, bare, _ in jobs:
            item = replace(bare, data=data.pop(0))
            # The parent ends us when we are late. Should it be gone, SIGALRM does.
            signal.setitimer(signal.ITIMER_REAL, decode_options.seconds_for(item) + 5)
            answer = b""
            try:
                found, clipped_to_8bit = decode_options.pixels(item)
                os.pwrite(pixels, np.ascontiguousarray(found).data, at)
                answer = _NARROWED if clipped_to_8bit else b""
            except ImageError as e:
                answer = json.dumps([e.code, str(e)]).encode()
            except MemoryError:
                answer = json.dumps(
                    ["too_large", "needs more memory than decoding one image may use"]
                ).encode()
            signal.setitimer(signal.ITIMER_REAL, 0)
            channel.answer(answer)
