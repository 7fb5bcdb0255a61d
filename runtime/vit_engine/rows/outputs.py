"""Where rows go: a stream, or a file that appears whole and that a broken-off run resumes."""

import contextlib
import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Self

from vit_engine.errors import ProviderError, UsageError
from vit_engine.prediction import Prediction
from vit_engine.rows.formats import Format
from vit_engine.sources.item import Item

CHUNK_ROWS, CHUNK_SECONDS = 1000, 0.5
"""A chunk of rows is synced to disk when it has this many, or is this old."""


class StreamOutput:
    """Rows to a pipe, a terminal or a device, as they come."""

    def __init__(self, stream: BinaryIO, name: str, form: Format) -> None:
        self._stream, self._name, self._form = stream, name, form
        self.done = self.failed = 0
        self._put(form.header)

    def write(self, predictions: Iterable[Prediction]) -> None:
        """Add rows and flush them."""
        lines = []
        for prediction in predictions:
            lines.append(self._form.line(prediction))
            self.done += 1
            self.failed += prediction.error is not None
        self._put(b"".join(lines))

    def remaining(self, items: Iterator[Item]) -> Iterator[Item]:
        """Return the items: a stream has no rows of them yet."""
        return items

    def finish(self) -> None:
        """Nothing is left to do."""

    @property
    def how_to_go_on(self) -> str:
        """A stream cannot be resumed: nothing to add to a message."""
        return ""

    def _put(self, rows: bytes) -> None:
        try:
            self._stream.write(rows)
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as e:
            raise ProviderError(
                f"{self._name}: cannot be written ({e.strerror}) after {self.done} rows"
            ) from e

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


@dataclass(frozen=True)
class _State:
    """What of a partial output is safely on disk, and what it is a part of."""

    run: dict[str, Any]
    rows: int
    failed: int
    bytes: int
    paths: str  # sha256 of the rows' paths, each ended by a NUL


class FileOutput:
    """Rows to `path` by way of `path`.partial, which is renamed when it is whole.

    `path`.partial.state says how much of it is synced, which is what `resume` goes on from. `run`
    is all that two runs must share to give the same rows; a resumed one is held to it.
    """

    def __init__(
        self, path: Path, form: Format, *, run: dict[str, Any], resume: bool = False
    ) -> None:
        self.path, self.partial = path, path.with_name(path.name + ".partial")
        self._state_path = path.with_name(path.name + ".partial.state")
        self._form, self._run = form, json.loads(json.dumps(run))
        self.done = self.failed = 0
        self._paths = hashlib.sha256()
        self._bytes, self._kept_at = 0, time.monotonic()
        self._rows: list[bytes] = []
        self.finished = False
        self._expected = self._paths.hexdigest()
        state = self._old_state() if resume else None
        if state is not None and not self.partial.exists() and _size(path) == state.bytes:
            # It was broken off after the last rename: nothing is left to do.
            self.done, self.failed, self.finished = state.rows, state.failed, True
            self._expected = state.paths
            return
        self._file = self._opened()
        try:
            self._begin(state, resume=resume)
        except BaseException:
            os.close(self._file)
            raise

    def remaining(self, items: Iterator[Item]) -> Iterator[Item]:
        """Return the items after those whose rows are there; UsageError if those are not the same.

        Runs through the first ones at once.
        """
        for item in islice(items, self.done):
            self._paths.update(_key(item.path))
        if self._paths.hexdigest() != self._expected:
            raise UsageError(
                f"{self.partial}: its {self.done} rows are not the first of these sources; "
                "give the sources that it was begun with, or delete it to start anew"
            )
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
            _write(self._file, b"".join(self._rows))
            os.fsync(self._file)
            size = os.lseek(self._file, 0, os.SEEK_CUR)
            state = _State(self._run, self.done, self.failed, size, self._paths.hexdigest())
            _replace(self._state_path, json.dumps(asdict(state)).encode())
            self._bytes, self._rows, self._kept_at = size, [], time.monotonic()

    def finish(self) -> None:
        """All rows are there: give the output its name."""
        if self.finished:
            self._state_path.unlink(missing_ok=True)
            return
        self.keep()
        with self._telling():
            if self._form.convert is None:
                self.partial.replace(self.path)
                self._state_path.unlink()
            else:
                whole = self.path.with_name(self.path.name + ".partial.whole")
                self._form.convert(self.partial, whole)
                with whole.open("rb") as file:
                    os.fsync(file.fileno())
                whole.replace(self.path)
                self._state_path.unlink()
                self.partial.unlink()
            _sync_folder(self.path.parent)
        self.finished = True

    @property
    def how_to_go_on(self) -> str:
        """What to add to the message that tells of a broken-off run."""
        if self.finished or not self.done:
            return ""
        return f"; {self.partial} keeps their rows, go on with --resume"

    def _opened(self) -> int:
        """Open the partial file as the only process that does."""
        with self._telling():
            file = os.open(self.partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(file), self.partial.stat()):
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError) as e:
            os.close(file)
            raise UsageError(f"{self.partial}: another vit-infer is writing to it") from e
        return file

    def _begin(self, state: _State | None, *, resume: bool) -> None:
        if not resume and (state := self._old_state()) and state.rows:
            raise UsageError(
                f"{self.partial} has {state.rows} rows of a run that was broken off; "
                "go on with --resume, or delete it to start anew"
            )
        if not resume or state is None:
            with self._telling():
                os.ftruncate(self._file, 0)
                self._rows.append(self._form.header)
                self.keep()
            return
        for name in sorted(self._run.keys() | state.run.keys()):
            was, now = state.run.get(name), self._run.get(name)
            if was != now:
                raise UsageError(
                    f"{self.partial} was begun with {name} {_short(was)}, not {_short(now)}; "
                    "resume with what it was begun with, or delete it to start anew"
                )
        if os.fstat(self._file).st_size < state.bytes:
            raise UsageError(f"{self.partial} is shorter than it was; delete it to start anew")
        os.ftruncate(self._file, state.bytes)
        os.lseek(self._file, 0, os.SEEK_END)
        self.done, self.failed, self._bytes = state.rows, state.failed, state.bytes
        self._expected = state.paths

    def _old_state(self) -> _State | None:
        try:
            return _State(**json.loads(self._state_path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as e:
            raise UsageError(
                f"{self._state_path} cannot be read ({e}); "
                f"delete it and {self.partial} to start anew"
            ) from e

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn a failing disk into a ProviderError that says what is safe."""
        try:
            yield
        except OSError as e:
            kept = f"; {self.partial} keeps what was written, go on with --resume"
            raise ProviderError(
                f"{self.path}: cannot be written ({e.strerror}){kept if self._bytes else ''}"
            ) from e

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exception: type[BaseException] | None, *_: object) -> None:
        """Keep the rows so far; leave no partial file where there are none."""
        if self.finished:
            return
        with contextlib.suppress(ProviderError, OSError):
            if exception is None or not issubclass(exception, ProviderError):
                self.keep()
            else:
                os.ftruncate(self._file, self._bytes)  # no torn line
        if not self.done:
            with contextlib.suppress(OSError):
                self._state_path.unlink(missing_ok=True)
                self.partial.unlink(missing_ok=True)
        os.close(self._file)


def output_to(
    path: Path | None, form: Format, *, run: dict[str, Any], resume: bool
) -> StreamOutput | FileOutput:
    """Return the output to a file, or to stdout (None) or a device, which cannot be resumed."""
    device = path is not None and path.exists() and not path.is_file()
    if path is not None and not device:
        return FileOutput(path, form, run=run, resume=resume)
    if resume:
        raise UsageError("--resume needs the rows in a file; name it with -o")
    if form.convert is not None:
        raise UsageError("Parquet needs a file; name it with -o")
    if path is None:
        return StreamOutput(sys.stdout.buffer, "stdout", form)
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file in it with -o")
    try:
        return StreamOutput(path.open("wb", buffering=0), str(path), form)
    except OSError as e:
        raise ProviderError(f"{path}: cannot be opened ({e.strerror})") from e


def _key(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape") + b"\0"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else f"{text[:60]}..."


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _write(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def _replace(path: Path, data: bytes) -> None:
    new = path.with_name(path.name + ".new")
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        _write(file, data)
        os.fsync(file)
    finally:
        os.close(file)
    new.replace(path)


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
