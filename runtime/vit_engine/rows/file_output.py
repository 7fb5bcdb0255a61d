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

from vit_engine.errors import UsageError, WriteError, printable
from vit_engine.machine.atomic import replacing, sync_folder
from vit_engine.outputs.prediction import Prediction
from vit_engine.rows.formats import Format
from vit_engine.rows.partial_state import PartialState, Run
from vit_engine.rows.target import PARTIAL, STATE, Target
from vit_engine.sources.item import Item

CHUNK_ROWS, CHUNK_SECONDS = 1000, 0.5
"""A chunk of rows is synced to disk when it has this many, or is this old."""

_BLOCK = 2**20


class FileOutput:
    """An `Output` to a target by way of a .partial beside it, renamed when all rows are there.

    A .partial.state says how much of it is synced: that is what `resume` continues. Opening it
    finds out whether the file can be written, and keeps other processes from it; until `begin`,
    the rows of an interrupted run stay as they are.
    """

    def __init__(self, target: Target, form: Format, *, resume: bool = False) -> None:
        self._target, self._form = target, form
        self.path, self.partial = target.path, target.beside(PARTIAL)
        self._state_path = target.beside(STATE)
        self._partial_name = printable(str(self.partial))
        self.done = self.failed = 0
        self._run = Run({}, {})
        self._rows: list[bytes] = []
        self._paths, self._sha256 = hashlib.sha256(), hashlib.sha256()
        self._rows_kept, self._bytes, self._kept_at = 0, 0, time.monotonic()
        self._begun = self._finished = False
        self._file = self._opened()
        try:
            self._found = self._interrupted(resume=resume)
        except BaseException:
            self._leave_nothing_empty()
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
                self.keep()  # nothing yet: what is in the file from here on has a state beside it
            self._rows.append(self._form.header)
            return items
        found.check_settings(self._run, self.partial)
        for item in islice(items, found.rows):
            self._paths.update(_key(item.path))
        if self._paths.hexdigest() != found.paths:
            raise UsageError(
                f"{self._partial_name}: its {found.rows} rows are not those of the first "
                f"{found.rows} images of these sources; give the sources that it was begun with, "
                "or delete it to start over"
            )
        self.done, self.failed = found.rows, found.failed
        self._rows_kept, self._bytes = found.rows, found.bytes
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
            rows = b"".join(self._rows)
            _write_all(self._file, rows)
            os.fsync(self._file)
            digest = self._sha256.copy()
            digest.update(rows)
            state = PartialState(
                settings=self._run.settings,
                notes=self._run.notes,
                rows=self.done,
                failed=self.failed,
                bytes=self._bytes + len(rows),
                sha256=digest.hexdigest(),
                paths=self._paths.hexdigest(),
            )
            state.write(self._state_path)
            self._sha256, self._rows_kept, self._bytes = digest, state.rows, state.bytes
            self._rows, self._kept_at = [], time.monotonic()

    def finish(self) -> str:
        """All rows are there: give the output its name, or another that is told."""
        told = ""
        if not self._finished:
            self.keep()
            with self._telling():
                self._target.check()  # it may have come there since
                place = self._target.place(labelled=self.done > self.failed)
                self._give_name(place)
                told = self._target.told(place)
                self._finished = True
        with self._telling():
            self._state_path.unlink(missing_ok=True)
            if _is_at(self._file, self.partial):  # else renamed; another run may have a new one
                self.partial.unlink()
        return told

    @property
    def how_to_resume(self) -> str:
        """What to add to the message that a run was interrupted."""
        if self._finished or not self.done:
            return ""
        return f"; {self._partial_name} keeps their rows, continue with --resume"

    def _give_name(self, place: Path) -> None:
        if self._form.convert is None:
            self.partial.replace(place)
            sync_folder(place.parent)
            return
        with replacing(place) as whole:
            self._form.convert(self.partial, whole)

    def _opened(self) -> int:
        """Open the partial file as the only process that does."""
        another = UsageError(f"{self._partial_name}: another vit-infer is writing to it")
        with self._telling():
            with contextlib.suppress(FileExistsError):
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                os.close(os.open(self.partial, flags, 0o666))
            try:
                file = self._target.open_own(self.partial, os.O_RDWR)
            except FileNotFoundError as e:  # its run has just given it its name
                raise another from e
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not _is_at(file, self.partial):  # as above, a moment later
                    raise BlockingIOError
            except OSError as e:
                os.close(file)
                raise (another if isinstance(e, BlockingIOError) else e) from e
        return file

    def _interrupted(self, *, resume: bool) -> PartialState | None:
        """Return the state of the run to continue, None if there is none; refuse to overwrite it.

        A state whose partial file has been deleted vouches for nothing.
        """
        state = PartialState.read(self._target)
        size = os.fstat(self._file).st_size
        if state is None and size:
            raise UsageError(
                f"{self._partial_name}: has {size} bytes, and no state beside it to tell which "
                "run's they are; move it away, or delete it to start over"
            )
        if state is None or not state.rows:
            return None
        if not size:
            return state if resume and self._is_whole(state) else None
        if not resume:
            raise UsageError(
                f"{self._partial_name} has {state.rows} rows of a run that was interrupted; "
                "continue it with --resume, or delete it to start over"
            )
        if size < state.bytes:
            raise UsageError(
                f"{self._partial_name} has {size} bytes, and had {state.bytes} when it was "
                "written; delete it to start over"
            )
        self._sha256 = _sha256(self._file, state.bytes)
        if self._sha256.hexdigest() != state.sha256:
            raise UsageError(
                f"{self._partial_name}: is not what was written there: the sha256 of its first "
                f"{state.bytes} bytes is another one; delete it to start over"
            )
        return state

    def _is_whole(self, state: PartialState) -> bool:
        """Tell whether that run gave the output its name, and only its state is left to delete."""
        if os.fstat(self._file).st_size:
            return False
        try:
            with self.path.open("rb") as file:
                found = _sha256(file.fileno(), state.bytes)
                return file.seek(0, os.SEEK_END) == state.bytes and (
                    found.hexdigest() == state.sha256
                )
        except FileNotFoundError:
            return False

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn a failing disk into a WriteError, and have what fails say which rows are safe."""
        try:
            yield
        except (WriteError, UsageError) as e:
            raise type(e)(f"{e}{self._kept}") from e
        except OSError as e:
            words = f"{printable(str(self.path))}: cannot be written ({e.strerror})"
            raise WriteError(f"{words}{self._kept}") from e

    @property
    def _kept(self) -> str:
        if not self._rows_kept:
            return ""
        return f"; {self._partial_name} keeps what was written, continue with --resume"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exception: type[BaseException] | None, *_: object) -> None:
        """Keep the rows so far; leave no partial file where there are none."""
        if self._begun and not self._finished:
            with contextlib.suppress(WriteError):
                if exception is None or not issubclass(exception, WriteError):
                    self.keep()
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._bytes)  # no torn line
        if not self._finished and not self._rows_kept and self._found is None:
            with contextlib.suppress(OSError):
                self._state_path.unlink(missing_ok=True)
                self.partial.unlink(missing_ok=True)
        os.close(self._file)

    def _leave_nothing_empty(self) -> None:
        with contextlib.suppress(OSError):
            if not os.fstat(self._file).st_size:
                self.partial.unlink(missing_ok=True)


def _is_at(file: int, path: Path) -> bool:
    """Tell whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(file), path.lstat())
    except FileNotFoundError:
        return False


def _write_all(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def _sha256(file: int, size: int) -> "hashlib._Hash":
    """Return the sha256 of the first `size` bytes of an open file, to be gone on with."""
    digest, at = hashlib.sha256(), 0
    while at < size and (part := os.pread(file, min(_BLOCK, size - at), at)):
        digest.update(part)
        at += len(part)
    return digest


def _key(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape") + b"\0"
