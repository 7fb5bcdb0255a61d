"""Reading archives in a child process: one that is made to take memory or time takes little.

The child walks the archive with the standard library's readers and tells of each image: its name,
and where its bytes are, or the bytes themselves.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, Literal

from vit_engine.errors import ImageError, one_line, printable
from vit_engine.machine.worker import Channel, EndedError, Worker
from vit_engine.sources.archives.tars import tar_members
from vit_engine.sources.archives.zips import zip_members
from vit_engine.sources.files import read_error
from vit_engine.sources.item import LIMITS, Item, Limits, Span

MEMORY = 2 * 2**30
"""Bytes of address space of the child: a few times the largest member's, or a long directory."""

TIME_LIMIT = 30.0
"""Seconds without a sign of life; the time that one image has, too."""

_SIGN_OF_LIFE = 1.0  # seconds between two, where there is nothing else to tell

Kind = Literal["tar", "zip"]


def items_from_archive(
    path: str, kind: Kind, *, all_files: bool, passed_over: Counter[str] | None = None
) -> Iterator[Item]:
    """Yield an archive's images in its order, by extension or signature, as `path`/member.

    A member is a span of the archive; that of a gzipped tar comes with its bytes, up to the limit.
    What is wrong with the archive is an item `path` with an error, in its place among the members.
    `passed_over` is that of `folders.walked`. MachineError where no child can be started.
    """
    counts = Counter[str]() if passed_over is None else passed_over
    with Worker(serve, purpose=f"read a {kind} in", memory=MEMORY) as worker:
        worker.wait_until_ready()
        worker.ask(json.dumps([kind, path, all_files, asdict(LIMITS)]).encode())
        error = None
        try:
            while "end" not in (told := json.loads(worker.answer(TIME_LIMIT))):
                if "passed over" in told:
                    counts[told["passed over"]] += 1
                elif "path" in told:
                    yield _item(told, path, worker)
        except EndedError as e:
            error = ImageError("crash", f"ended the process that reads it ({e})")
        except TimeoutError:
            error = ImageError("timeout", f"could not be read: nothing came for {TIME_LIMIT:g} s")
        if error is not None:
            yield Item(path, error=error)


def serve(channel: Channel) -> None:
    """Read the archive that is asked for; the life of the child."""
    for request in channel.requests():
        kind, path, all_files, limits = json.loads(request)
        members = {"tar": tar_members, "zip": zip_members}[kind](
            path,
            all_files=all_files,
            limits=Limits(**limits),
            report_progress=_signs_of_life(channel),
        )
        for found in _with_errors(path, members):
            if isinstance(found, str):
                _tell(channel, {"passed over": found})
            else:
                _tell_item(channel, found)
        _tell(channel, {"end": True})


def _with_errors(path: str, members: Iterator[Item | str]) -> Iterator[Item | str]:
    """Yield the members, and for an item whatever ends them."""
    try:
        yield from members
    except ImageError as e:
        yield Item(path, error=e)
    except OSError as e:
        yield Item(path, error=read_error(e))
    except MemoryError:
        words = "needs more memory than reading an archive may use"
        yield Item(path, error=ImageError("too_large", words))
    except Exception as e:  # noqa: BLE001  what the libraries make of damage is not for us to foresee
        words = f"cannot be read further: {printable(one_line(e))}"
        yield Item(path, error=ImageError("decode", words))


def _signs_of_life(channel: Channel) -> Callable[[], None]:
    told = time.monotonic()

    def report_progress() -> None:
        nonlocal told
        if (now := time.monotonic()) > told + _SIGN_OF_LIFE:
            _tell(channel, {})
            told = now

    return report_progress


def _tell(channel: Channel, message: dict[str, Any]) -> None:
    channel.answer(json.dumps(message).encode())


def _tell_item(channel: Channel, item: Item) -> None:
    span = item.span and (item.span.start, item.span.size, item.span.unpacked, item.span.crc)
    error = item.error and (item.error.code, str(item.error))
    has_data = item.data is not None
    _tell(channel, {"path": item.path, "span": span, "error": error, "has data": has_data})
    if item.data is not None:
        channel.answer(item.data)


def _item(told: dict[str, Any], archive: str, worker: Worker) -> Item:
    return Item(
        told["path"],
        data=worker.answer(TIME_LIMIT) if told["has data"] else None,
        span=Span(archive, *told["span"]) if told["span"] else None,
        error=ImageError(*told["error"]) if told["error"] else None,
    )
