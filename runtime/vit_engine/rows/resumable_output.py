"""Rows to a file that appears whole, and that a later run resumes where one was interrupted."""

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Self

from vit_engine.errors import UsageError, WriteError, one_line, printable
from vit_engine.machine.atomic import replacing, sync_folder
from vit_engine.machine.output_file import PARTIAL, STATE, OutputFile
from vit_engine.outputs.kinds import Result
from vit_engine.rows.formats import Format
from vit_engine.rows.resume_state import ResumeState, Settings
from vit_engine.sources.sample import Sample

CHUNK_ROWS, CHUNK_SECONDS = 1000, 0.5
"""A chunk of rows is synced to disk when it has this many, or is this old."""

_LARGEST_STATE = 2**26  # bytes: what it says of a run fitted into the arguments of a process


class ResumableOutput:
    """An `Output` to a file by way of a .partial beside it, renamed when all rows are there.

    A .partial.state says how much of it is synced: that is what `resume` continues, and whose
    state stays, so that a later one can tell whether the whole file is its own. Opening it finds
    out whether the file can be written, and keeps other processes from it; until `begin`, the rows
    of an interrupted run stay as they are. A file that `is_whole` is not written again.
    """

    def __init__(self, target: OutputFile, format_name: Format, *, resume: bool = False) -> None:
        self._target, self._form, self._resume = target, format_name, resume
        self._partial, self._state_path = target.beside(PARTIAL), target.beside(STATE)
        self._name = printable(str(self._partial))
        self.done = self.failed = 0
        self._settings: Settings = {}
        self._rows: list[bytes] = []
        self._paths = hashlib.sha256()
        self._rows_kept, self._bytes_kept, self._kept_at = 0, 0, time.monotonic()
        self._begun = self._finished = self.is_whole = False
        with self._explained():
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._locked()
        try:
            self._found = self._interrupted()
        except BaseException:
            self._close()
            raise

    def begin(
        self, samples: Iterator[Sample], settings: Callable[[], Settings], /
    ) -> Iterator[Sample]:
        """Start the file, or take up the rows that are there; return the items still to come.

        UsageError where those rows are not the first of this run.
        """
        self._settings, found = settings(), self._found
        if found is None:
            with self._explained():
                os.ftruncate(self._file, 0)
                self._begun = True
                self.keep()  # nothing yet: what is in the file from here on has a state beside it
            self._rows.append(self._form.header)
            return samples
        place = self._target.path if self.is_whole else self._partial
        found.check_settings(self._settings, place)
        for item in islice(samples, found.rows):
            self._paths.update(_key(item.path))
        if self._paths.hexdigest() != found.paths:
            raise UsageError(
                f"{printable(str(place))}: its {found.rows} rows are not those of the first "
                f"{found.rows} images of these sources; give the sources that it was begun with, "
                "or start over with --overwrite in place of --resume"
            )
        self.done, self.failed = found.rows, found.failed
        if self.is_whole:
            if next(samples, None) is not None:
                raise UsageError(
                    f"{printable(str(place))} is whole, and these sources have more images than "
                    f"its {found.rows}; label all of them without --resume"
                )
            return iter(())
        self._rows_kept, self._bytes_kept = found.rows, found.size
        os.ftruncate(self._file, found.size)
        os.lseek(self._file, 0, os.SEEK_END)
        self._begun = True
        return samples

    def write(self, predictions: Iterable[Result]) -> None:
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
        with self._explained():
            rows = b"".join(self._rows)
            left = memoryview(rows)
            while left:
                left = left[os.write(self._file, left) :]
            os.fsync(self._file)
            size = self._bytes_kept + len(rows)
            paths = self._paths.hexdigest()
            ResumeState(self._settings, self.done, self.failed, size, paths).write(self._state_path)
            self._rows_kept, self._bytes_kept = self.done, size
            self._rows, self._kept_at = [], time.monotonic()

    def finish(self) -> str:
        """Give the file its name: all rows are there. Return why it has not got it, mostly ""."""
        if self.is_whole:
            return ""
        self.keep()
        if reason := self._target.reason_to_stay(labelled=self.done > self.failed):
            return reason + (f"; {self._name} has the rows of this run" if self.done else "")
        with self._explained():
            self._target.check()  # it may have come there since
            if self._form.convert is None:
                self._partial.replace(self._target.path)
                sync_folder(self._partial.parent)
            else:
                for suffix, write in (*self._form.beside.items(), ("", self._form.convert)):
                    with replacing(self._target.beside(suffix)) as whole:
                        write(self._partial, whole)
                self._partial.unlink()
            self._finished = True
            if not self._resume:
                self._state_path.unlink(missing_ok=True)
        return ""

    @property
    def resume_hint(self) -> str:
        """What to add to the message that a run was interrupted."""
        return "" if self._finished or self.is_whole else self._hint(self.done)

    def _hint(self, rows: int) -> str:
        return f"; {self._name} keeps the rows so far, continue with --resume" if rows else ""

    def _locked(self) -> int:
        """Open the partial file as the only process that does."""
        file = _open_own(self._partial, os.O_RDWR | os.O_CREAT, self._target.owner)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file), self._partial.lstat()):
                return file
        except (BlockingIOError, FileNotFoundError):
            pass
        except OSError:
            os.close(file)
            raise
        os.close(file)  # and where its run has just given the file its name
        raise UsageError(f"{self._name}: another vit-infer is writing to it")

    def _interrupted(self) -> ResumeState | None:
        """Return the state of the run to continue, None if there is none to continue.

        UsageError where rows are there that nobody has asked to continue or to replace. A state
        whose partial file has been deleted vouches for nothing but a file that is whole.
        """
        resume = self._resume
        state, size = self._state(), os.fstat(self._file).st_size
        if not size:
            self.is_whole = resume and self._target.exists and not self._target.overwrite
            return self._state_of_whole(state) if self.is_whole else None
        if state is None:
            raise UsageError(
                f"{self._name}: has {size} bytes, and no state beside it to tell which run's they "
                "are; move it away, or delete it to start over"
            )
        if not resume and state.failed < state.rows and not self._target.overwrite:
            raise UsageError(
                f"{self._name} has {state.rows} rows of a run that was interrupted; continue it "
                "with --resume, or start over with --overwrite"
            )
        if not resume or not state.rows:
            return None
        if size < state.size or os.pread(self._file, 1, state.size - 1) != b"\n":
            raise UsageError(
                f"{self._name}: is not what was written there, {state.size} bytes of whole rows; "
                "delete it to start over"
            )
        return state

    def _state_of_whole(self, state: ResumeState | None) -> ResumeState:
        has_lines = self._form.convert is None
        if state is None or (has_lines and self._target.path.stat().st_size != state.size):
            raise UsageError(
                f"{printable(str(self._target.path))} is whole, and nothing tells of which model "
                "and images: it was not written with --resume, or has been changed; label them "
                "again without --resume"
            )
        return state

    def _state(self) -> ResumeState | None:
        """Return the state beside the file, None where there is none; UsageError if it is none."""
        try:
            file = _open_own(self._state_path, os.O_RDONLY, self._target.owner)
            with os.fdopen(file, "rb") as state:
                return ResumeState.loads(state.read(_LARGEST_STATE))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as e:
            raise UsageError(
                f"{printable(str(self._state_path))}: is no state of an interrupted run, or was "
                f"damaged ({printable(one_line(e, 100))}); delete it and {self._name} to start over"
            ) from e

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn a failing disk into a WriteError, and have what fails say which rows are safe."""
        try:
            yield
        except (WriteError, UsageError) as e:
            raise type(e)(f"{e}{self._hint(self._rows_kept)}") from e
        except OSError as e:
            message = f"{printable(str(self._target.path))}: cannot be written ({e.strerror})"
            raise WriteError(f"{message}{self._hint(self._rows_kept)}") from e

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exception: type[BaseException] | None, *_: object) -> None:
        """Keep the rows so far; leave no partial file where there are none."""
        if self._begun and not self._finished:
            with contextlib.suppress(WriteError):
                if exception is None or not issubclass(exception, WriteError):
                    self.keep()
            with contextlib.suppress(OSError):
                # No torn line; and nothing where there is no row.
                os.ftruncate(self._file, self._bytes_kept if self._rows_kept else 0)
                if not self._rows_kept:
                    self._state_path.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            if not self._finished and not os.fstat(self._file).st_size:
                self._partial.unlink(missing_ok=True)
        os.close(self._file)


def _open_own(path: Path, flags: int, owner: int) -> int:
    """Open a file that goes with the output; UsageError for one that is not the user's alone."""
    refusal = UsageError(
        f"{printable(str(path))}: is a link, or not a regular file of this user only, and "
        "vit-infer needs the name; move it away"
    )
    try:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as e:
        if e.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):  # a link, a folder, a socket
            raise refusal from e
        raise
    found = os.fstat(file)
    if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1 and found.st_uid == owner:
        return file
    os.close(file)
    raise refusal


def _key(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape") + b"\0"
