"""Images in tars, read in a child process: one that is made to take memory or time takes little.

The child walks the tar with the standard library and tells of each image: its name, and where its
bytes are, or the bytes themselves.
"""

import pickle
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from vit_engine.errors import ImageError, one_line, printable
from vit_engine.machine.worker import Channel, EndedError, Worker
from vit_engine.sources.archives.tar_members import TarMembers
from vit_engine.sources.files import read_error
from vit_engine.sources.sample import LIMITS, Sample

MEMORY = 2**30
"""Bytes of address space of the child: a few times the largest member's."""

TIME_LIMIT = 30.0
"""Seconds without a sign of life; the time that one image has, too."""

_SIGN_OF_LIFE = 1.0  # seconds between two, where there is nothing else to tell


def items_from_tar(path: str, *, all_files: bool, skipped: Counter[str]) -> Iterator[Sample]:
    """Yield a tar's images in its order, by extension or signature, as `path`/member.

    A member of a plain tar is a span of it. Those of a gzipped one come with their bytes, up to the
    limit. What is wrong with the tar is an item `path` with an error, in its place among the
    members. `skipped` is that of `folders.is_wanted`. MachineError where no child can be started.
    """
    with Worker(serve, purpose="read a tar in", memory=MEMORY) as worker:
        worker.wait_until_ready()
        worker.ask(pickle.dumps({"path": path, "all_files": all_files, "limits": LIMITS}))
        try:
            yield from _answers(worker, skipped)
        except EndedError as e:
            yield Sample(path, error=ImageError("crash", f"ended the process that reads it ({e})"))
        except TimeoutError:
            words = f"could not be read: nothing came for {TIME_LIMIT:g} s"
            yield Sample(path, error=ImageError("timeout", words))


def _answers(worker: Worker, skipped: Counter[str]) -> Iterator[Sample]:
    """Yield what `serve` tells of one tar."""
    while True:
        message = worker.answer(TIME_LIMIT)
        if not message:  # a sign of life
            continue
        found = pickle.loads(message)
        if isinstance(found, Counter):
            skipped.update(found)
            return
        if found.data is not None:
            found = replace(found, data=worker.answer(TIME_LIMIT))
        yield found


def serve(channel: Channel) -> None:
    """Read each tar that is asked for; the life of the child."""
    told = time.monotonic()

    def report_progress() -> None:
        nonlocal told
        if (now := time.monotonic()) > told + _SIGN_OF_LIFE:
            channel.answer()
            told = now

    for request in channel.requests():
        skipped = Counter[str]()
        tar = TarMembers(**pickle.loads(request), skipped=skipped, report_progress=report_progress)
        for found in members_of(tar):
            if found.data is not None:  # its bytes follow as they are
                channel.answer(pickle.dumps(replace(found, data=b"")))
                channel.answer(found.data)
            else:
                channel.answer(pickle.dumps(found))
        channel.answer(pickle.dumps(skipped))


def members_of(tar: TarMembers) -> Iterator[Sample]:
    """Yield a tar's images, and an item for whatever ends it."""
    try:
        yield from tar.samples()
    except ImageError as e:
        yield Sample(tar.path, error=e)
    except OSError as e:
        yield Sample(tar.path, error=read_error(e))
    except MemoryError:
        words = "needs more memory than reading a tar may use"
        yield Sample(tar.path, error=ImageError("too_large", words))
    except Exception as e:  # noqa: BLE001  what the libraries make of damage cannot be foreseen
        words = f"cannot be read further: {printable(one_line(e))}"
        yield Sample(tar.path, error=ImageError("decode", words))
