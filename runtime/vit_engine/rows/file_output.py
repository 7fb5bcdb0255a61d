"""Rows to a file that appears whole, and that a later run resumes where one was interrupted."""

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Self

from vit_engine.atomic import replacing, sync_folder
from vit_engine.errors import UsageError, WriteError
from vit_engine.prediction import Prediction
from vit_engine.rows.formats import Format
from vit_engine.rows.partial_state import PartialState, Run
from vit_engine.sources.item import Item

CHUNK_ROWS, CHUNK_SECONDS = 1000, 0.5
"""A chunk of rows is synced to disk when it has this many, or is this old."""


class FileOutput:
    """An `Output` to `path` by way of `path`.partial, which is renamed when all rows are there.

    `path`.partial.state says how much of it is synced: that is what `resume` continues. Opening it
    finds out whether the file can be written, and keeps other processes from it; until `begin`,
    the rows of an interrupted run stay as they are.
    """

    def __init__(self, path: Path, form: Format, *, resume: bool = False) -> None:
        self.path, self.partial = path, path.with_name(path.name + ".partial")
        self._state_path = path.with_name(path.name + ".partial.state")
        self._form = form
        self.done = self.failed = 0
        self._run = Run({}, {})
        self._rows: list[bytes] = []
        self._paths = hashlib.sha256()
        self._bytes, self._kept_at = 0, time.monotonic()
        self._begun = self._finished = False
        self._file = self._opened()
        try:
            self._found = self._interrupted(resume=resume)
        except BaseException:
            os.close(self._file)
            raise

    def begin(self, items: Iterator[Item], run: Callable[[], Run], /) -> Iterator[Item]:
        """Start the file, or take up the rows that are there; return the items still to come.

        UsageError where those rows are not the first of this run.
        """
        self._run, found = run(), self._found
        if found is None:
            with self._telling():
                os.ftruncate(self._file, 0)
                self._begun = True
                self._rows.append(self._form.header)
                self.keep()
            return items
        found.check_settings(self._run, self.partial)
        for item in islice(items, found.rows):
            self._paths.update(_key(item.path))
        if self._paths.hexdigest() != found.paths:
            raise UsageError(
                f"{self.partial}: its {found.rows} rows are not those of the first {found.rows} "
                "images of these sources; give the sources that it was begun with, or delete it "
                "to start over"
            )
        self.done, self.failed, self._bytes = found.rows, found.failed, found.bytes
        if self._is_whole(found):
            self._finished = True
            return iter(())
        os.ftruncate(self._file, found.bytes)
        os.lseek(self._file, 0, os.SEEK_END)
        self._begun = True
        return items

    def write(self, predictions: Iterable[Prediction]) -> None:
        """Add a batch of rows; they are safe once a chunk is full or old enough."""
        for prediction in predictions:
            self._rows.append(self._form.line(prediction))
            self._paths.update(_key(prediction.path or ""))
            self.done += 1
            self.failed += prediction.error is not None
        if len(self._rows) >= CHUNK_ROWS or time.monotonic() - self._kept_at > CHUNK_SECONDS:
            self.keep()

    def keep(self) -> None:
        """Write and sync the rows so far, then the state that vouches for them."""
        with self._telling():
            _write_all(self._file, b"".join(self._rows))
            os.fsync(self._file)
            size = os.lseek(self._file, 0, os.SEEK_CUR)
            run, paths = self._run, self._paths.hexdigest()
            state = PartialState(run.settings, run.notes, self.done, self.failed, size, paths)
            state.write(self._state_path)
            self._bytes, self._rows, self._kept_at = size, [], time.monotonic()

    def finish(self) -> None:
        """All rows are there: give the output its name."""
        if not self._finished:
            self.keep()
        with self._telling():
            if not self._finished:
                self._give_name()
                self._finished = True
            self._state_path.unlink(missing_ok=True)
            if _is_at(self._file, self.partial):  # else renamed; another run may have a new one
                self.partial.unlink()

    @property
    def how_to_resume(self) -> str:
        """What to add to the message that a run was interrupted."""
        if self._finished or not self.done:
            return ""
        return f"; {self.partial} keeps their rows, continue with --resume"

    def _give_name(self) -> None:
        if self._form.convert is None:
            self.partial.replace(self.path)
            sync_folder(self.path.parent)
            return
        with replacing(self.path) as whole:
            self._form.convert(self.partial, whole)

    def _opened(self) -> int:
        """Open the partial file as the only process that does."""
        with self._telling():
            file = os.open(self.partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_at(file, self.partial):  # its run has just given it its name
                raise BlockingIOError
        except BlockingIOError as e:
            os.close(file)
            raise UsageError(f"{self.partial}: another vit-infer is writing to it") from e
        return file

    def _interrupted(self, *, resume: bool) -> PartialState | None:
        """Return the state of the run to continue, None if there is none; refuse to overwrite it.

        A state whose partial file has been deleted vouches for nothing.
        """
        state = PartialState.read(self._state_path)
        if state is None or not state.rows:
            return None
        size = os.fstat(self._file).st_size
        if not size:
            return state if resume and self._is_whole(state) else None
        if not resume:
            raise UsageError(
                f"{self.partial} has {state.rows} rows of a run that was interrupted; "
                "continue it with --resume, or delete it to start over"
            )
        if size < state.bytes:
            raise UsageError(
                f"{self.partial} has {size} bytes, and had {state.bytes} when it was written; "
                "delete it to start over"
            )
        return state

    def _is_whole(self, state: PartialState) -> bool:
        """Tell whether that run gave the output its name, and only its state is left to delete."""
        if os.fstat(self._file).st_size:
            return False
        try:
            return self.path.stat().st_size == state.bytes
        except FileNotFoundError:
            return False

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn a failing disk into a WriteError that says what is safe."""
        kept = f"; {self.partial} keeps what was written, continue with --resume"
        try:
            yield
        except WriteError as e:
            raise WriteError(f"{e}{kept if self._bytes else ''}") from e
        except OSError as e:
            raise WriteError(
                f"{self.path}: cannot be written ({e.strerror}){kept if self._bytes else ''}"
            ) from e

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exception: type[BaseException] | None, *_: object) -> None:
        """Keep the rows so far; leave no partial file where there are none."""
        with contextlib.suppress(WriteError, OSError):
            if self._begun and not self._finished:
                if exception is None or not issubclass(exception, WriteError):
                    self.keep()
                else:
                    os.ftruncate(self._file, self._bytes)  # no torn line
        if not self._finished and not self.done and self._found is None:
            with contextlib.suppress(OSError):
                self._state_path.unlink(missing_ok=True)
                self.partial.unlink(missing_ok=True)
        os.close(self._file)


def _is_at(file: int, path: Path) -> bool:
    """Tell whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _write_all(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def _key(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape") + b"\0"
