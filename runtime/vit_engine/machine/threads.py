"""Threads of one process: starting, joining and bounding them, and an iterator on one."""

import os
import queue
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from vit_engine.errors import MachineError, UsageError, format_limit

T = TypeVar("T")


class Closable(Protocol):
    """What is open until it is closed."""

    def close(self) -> None:
        """Free what it holds."""


OpenT = TypeVar("OpenT", bound=Closable)

POLL = 0.1
"""Seconds between looks at whether to stop."""

MOMENT = 0.2
"""Seconds for a thread that runs code which is not ours to end."""

_PATIENCE = 3.0  # seconds for what is under way when we stop


def never() -> bool:
    """Return False: what nobody stops is not `stopped`."""
    return False


def check_process(pid: int) -> None:
    """Raise UsageError unless `pid` is this process: threads do not follow a fork."""
    if os.getpid() != pid:
        raise UsageError(
            f"this iteration began in process {pid}, and its threads stayed there at the fork: "
            "iterate in the child over a call of its own"
        )


def start(work: Callable[..., None], *arguments: object) -> threading.Thread:
    """Return a thread that works; MachineError where there is none to be had."""
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    try:
        thread.start()
    except RuntimeError as e:
        raise MachineError(f"cannot start a thread to decode images: {format_limit(e) or e}") from e
    return thread


def open_together(openings: Sequence[Callable[[], OpenT]]) -> list[OpenT]:
    """Return what they open, side by side; where one raises that is raised, and none stays open."""
    with ThreadPoolExecutor(len(openings)) as pool:
        opening = [pool.submit(each) for each in openings]
    try:
        return [each.result() for each in opening]
    except BaseException:
        for each in opening:
            if each.exception() is None:
                each.result().close()
        raise


def join(thread: threading.Thread, seconds: float | None = None) -> None:
    """Wait for a thread, unless that could never end.

    Garbage collection may close an iteration on one of its own threads, or when the interpreter
    has stopped all but one, which Python 3.13 takes for running still.
    """
    if thread is not threading.current_thread() and not sys.is_finalizing():
        thread.join(seconds)


class ByteSemaphore:
    """Bytes that may be held at a time. Who wants more than there are in all waits for all."""

    def __init__(self, size: int) -> None:
        self._all = self._left = size
        self._changed = threading.Condition()

    def take(self, size: int, *, wait: bool) -> bool:
        """Take so many; tell whether it did, which without `wait` it may not have."""
        with self._changed:
            while self._left < min(size, self._all):
                if not wait:
                    return False
                self._changed.wait()
            self._left -= size
            return True

    def give(self, size: int) -> None:
        """Give so many back."""
        with self._changed:
            self._left += size
            self._changed.notify_all()


def prefetch(source: Iterator[T], stopped: Callable[[], bool] = never) -> Generator[T, None, None]:
    """Yield what `source` yields, which runs on a thread of its own, as far ahead as it can.

    Once `stopped`, what is under way is waited for no longer than a few seconds.
    """
    found: queue.SimpleQueue[tuple[T] | BaseException | None] = queue.SimpleQueue()
    closed = threading.Event()

    def work() -> None:
        try:
            for item in source:
                found.put((item,))
                if closed.is_set():
                    return
            found.put(None)
        except BaseException as e:  # noqa: BLE001  raised again in the caller's thread
            assert e.__traceback__ is not None
            found.put(e.with_traceback(e.__traceback__.tb_next))  # less this frame, which holds it

    thread, pid = start(work), os.getpid()
    patience = _PATIENCE
    try:
        while True:
            check_process(pid)
            try:
                result = found.get(timeout=POLL)
            except queue.Empty:
                patience -= POLL * stopped()
                if patience < 0:
                    return
                continue
            if result is None:
                return
            if isinstance(result, BaseException):
                try:
                    raise result
                finally:
                    del result  # its traceback holds this frame
            yield result[0]
    finally:
        if os.getpid() == pid:
            closed.set()
            join(thread, MOMENT)
