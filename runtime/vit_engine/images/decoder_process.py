"""Decoding in a process of its own: a file that crashes or hangs its decoder costs its own row."""

import contextlib
import json
import mmap
import os
import pickle
import select
import signal
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit_engine.artefact.contract import Preprocessing
from vit_engine.errors import ImageError, MachineError, limit_in_words
from vit_engine.images.decode import image_from_item
from vit_engine.images.decode_pool import Job
from vit_engine.images.preprocess import draft_size, is_narrowed, pixels_from_image
from vit_engine.machine.isolated import command_line, how_it_ended, limit_memory
from vit_engine.sources.downloads import URL_TIMEOUT, is_url
from vit_engine.sources.item import LIMITS, Item, Limits

TIME_LIMIT = 30.0
"""Seconds for one image, by the clock."""

MEMORY = 4 * 2**30
"""Bytes of address space: four times what the largest image within the limits takes."""

_START_LIMIT = 60.0
_STARTS = 3

_SIZE = struct.Struct("<I")  # before each message; an empty answer means decoded
_NARROWED = b"narrowed"  # an answer that means decoded, too
_CHILD = "from vit_engine.images.decoder_process import serve; serve(*map(int, sys.argv[1:4]))"


@dataclass(frozen=True)
class Task:
    """What every image of a run is decoded for, and by which rules."""

    preprocessing: Preprocessing
    limits: Limits = LIMITS
    time_limit: float = TIME_LIMIT
    memory: int = MEMORY
    fast: bool = False  # decode JPEGs at reduced size
    private_redirects: bool = False  # follow redirects of URLs to addresses that are not public

    def pixels(self, item: Item) -> tuple[NDArray[np.uint8], bool]:
        """Return the model's input for one item, and `is_narrowed`; or raise its ImageError."""
        draft = draft_size(self.preprocessing) if self.fast else None
        image = image_from_item(
            item, limits=self.limits, draft=draft, private_redirects=self.private_redirects
        )
        return pixels_from_image(image, self.preprocessing), is_narrowed(image)

    def seconds_for(self, item: Item) -> float:
        """Return the time limit of an item; a download has its own besides."""
        return self.time_limit + (URL_TIMEOUT if is_url(item.path) else 0)


class SharedPixels:
    """A buffer (slots, height, width, 3) that decoder processes write to; a context manager."""

    def __init__(self, slots: int, height: int, width: int) -> None:
        self.fd = os.memfd_create("pixels")
        try:
            os.ftruncate(self.fd, slots * height * width * 3)
            self.array = _mapped(self.fd, (slots, height, width, 3))
        except OSError as e:
            os.close(self.fd)
            words = limit_in_words(e) or f"{e.strerror}; try a smaller -b"
            raise MachineError(f"no memory to share for {slots} decoded images: {words}") from e

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the descriptor; the memory goes with the last array upon it."""
        os.close(self.fd)


class DecoderProcess:
    """A `Decoder` whose work is done by a child process, started again when it has died.

    `restarts` counts how often that was.
    """

    def __init__(self, pixels: SharedPixels, task: Task) -> None:
        self._pixels, self._task = pixels, task
        self._closed = False
        self.restarts = 0
        self._start()

    def decode(self, jobs: Sequence[Job[Item]]) -> None:
        """Fill the jobs' slots or set their errors: `timeout` and `crash` besides the decoder's.

        An image that has its answer lets go of the bytes that it came with.
        """
        if not self._closed and self._child.poll() is not None:
            # It died after its last answer: no image is to blame.
            self._stop()
            self._restart()
        at = 0
        while at < len(jobs) and not self._closed:
            # After a crash, those that came after the culprit are handed to the new process.
            self._send(jobs[at:])
            try:
                for job in jobs[at:]:
                    answer = self._answer(self._task.seconds_for(job.image))
                    job.is_narrowed = answer == _NARROWED
                    decoded = not answer or job.is_narrowed
                    _settle(job, None if decoded else ImageError(*json.loads(answer)))
                    at += 1
            except (EOFError, TimeoutError) as e:
                if self._closed:
                    return
                _settle(jobs[at], ImageError(*self._end(e)))
                at += 1
                self._restart()

    def cancel(self) -> None:
        """Kill the child from any thread; a `decode` that waits for it returns."""
        self._closed = True
        self._child.kill()

    def close(self) -> None:
        """Kill and reap the child."""
        self.cancel()
        self._stop()

    def _restart(self) -> None:
        self.restarts += 1
        self._start()

    def _start(self) -> None:
        """Start the child, again where it dies before it is ready: no image is to blame."""
        for _ in range(_STARTS):
            ended = self._started()
            if ended is None or self._closed:
                return
        raise MachineError(
            f"a decoder process did not start ({ended}, {_STARTS} times); "
            "is enough memory free, and allowed (ulimit -v)?"
        )

    def _started(self) -> str | None:
        """Start the child once and wait until it is ready; return how it ended if it did."""
        request, self._requests = os.pipe()
        self._answers, answer = os.pipe()
        self._pipes: tuple[int, ...] = (self._requests, self._answers)
        given = (request, answer, self._pixels.fd)
        try:
            self._child = subprocess.Popen(
                command_line(_CHILD, *map(str, given)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=given,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                process_group=0,  # ^C is for the parent, which ends its children in its own time
            )
        except OSError as e:
            raise MachineError(
                f"cannot start a process to decode images in: {limit_in_words(e) or e.strerror}"
            ) from e
        finally:
            os.close(request)
            os.close(answer)
        if self._closed:
            self._child.kill()
        try:
            _write(self._requests, pickle.dumps((self._task, self._pixels.array.shape)))
            self._answer(_START_LIMIT)
        except (EOFError, TimeoutError, BrokenPipeError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(1)  # its own end, before ours is put upon it
            code = self._child.poll()
            self._stop()
            return how_it_ended(code) if code is not None else f"not ready in {_START_LIMIT:g} s"
        return None

    def _stop(self) -> None:
        """Reap the child; one that a kill cannot end (a hung disk) is left behind."""
        self._child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(1)
        for pipe in self._pipes:
            os.close(pipe)
        self._pipes = ()

    def _send(self, jobs: Sequence[Job[Item]]) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has died, as its missing answer will tell
            data = [job.image.data for job in jobs]
            sizes = [None if d is None else len(d) for d in data]
            bare = [(job.slot, replace(job.image, data=None)) for job in jobs]
            _write(self._requests, pickle.dumps((bare, sizes)))
            for part in filter(None, data):  # as they are: a copy may be of 256 MiB
                _write_all(self._requests, part)

    def _answer(self, seconds: float) -> bytes:
        """Return what is said of the next image; EOFError or TimeoutError if no answer comes."""
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        if not poll.poll(seconds * 1000):
            raise TimeoutError
        (size,) = _SIZE.unpack(_read(self._answers, _SIZE.size))
        return _read(self._answers, size)

    def _end(self, e: Exception) -> tuple[str, str]:
        """Say how the child came to its end, and see to it that it has."""
        if isinstance(e, TimeoutError):
            self._stop()
            return "timeout", f"was not decoded within {self._task.time_limit:g} s"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(1)  # its own end, before ours is put upon it
        code = self._child.returncode
        self._stop()
        return "crash", f"crashed the decoder ({how_it_ended(code)})"


def _settle(job: Job[Item], error: ImageError | None) -> None:
    job.error = error
    job.image = replace(job.image, data=None)  # the bytes have done their part


def serve(requests: int, answers: int, memory: int) -> None:
    """Decode what the parent asks for until it closes the pipe; the life of the child."""
    with os.fdopen(requests, "rb") as given:
        task, shape = pickle.loads(_message(given))
        pixels = _mapped(memory, shape)
        limit_memory(task.memory + pixels.nbytes)
        Image.MAX_IMAGE_PIXELS = task.limits.max_pixels
        _write(answers, b"")
        while message := _message(given):
            jobs, sizes = pickle.loads(message)
            data = [None if size is None else given.read(size) for size in sizes]
            for slot, bare in jobs:
                item = replace(bare, data=data.pop(0))
                # The parent ends us when we are late. Should it be gone, SIGALRM does.
                signal.setitimer(signal.ITIMER_REAL, task.seconds_for(item) + 5)
                answer = b""
                try:
                    pixels[slot], narrowed = task.pixels(item)
                    answer = _NARROWED if narrowed else b""
                except ImageError as e:
                    answer = json.dumps([e.code, str(e)]).encode()
                except MemoryError:
                    answer = json.dumps(
                        ["too_large", "needs more memory than decoding one image may use"]
                    ).encode()
                signal.setitimer(signal.ITIMER_REAL, 0)
                _write(answers, answer)


def _mapped(fd: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.ndarray(shape, np.uint8, mmap.mmap(fd, 0))


def _write(fd: int, message: bytes) -> None:
    _write_all(fd, _SIZE.pack(len(message)) + message)


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def _message(file: BinaryIO) -> bytes:
    """Return the next message, empty at the end of the pipe."""
    size = file.read(_SIZE.size)
    return file.read(*_SIZE.unpack(size)) if len(size) == _SIZE.size else b""


def _read(fd: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(fd, min(size, 2**20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
