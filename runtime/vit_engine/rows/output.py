"""Where a run's rows go: to a file, or as they come to a pipe, a terminal or a device."""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Self

from vit_engine.errors import UsageError, WriteError, printable
from vit_engine.machine.output_file import OutputFile
from vit_engine.outputs.kinds import Result
from vit_engine.rows.formats import Format
from vit_engine.rows.resumable_output import ResumableOutput
from vit_engine.rows.resume_state import Settings
from vit_engine.sources.sample import Sample


class StreamOutput:
    """An `Output` that cannot be resumed; `name` is what its errors call the stream."""

    def __init__(self, stream: BinaryIO, name: str, format_name: Format) -> None:
        self._stream, self._name, self._form = stream, name, format_name
        self.done = self.failed = 0

    def begin(self, samples: Iterator[Sample], _: Callable[[], Settings], /) -> Iterator[Sample]:
        """Write the header and return the items: a stream has no rows of them yet."""
        self._put(self._form.header)
        return samples

    def write(self, predictions: Iterable[Result]) -> None:
        """Add rows and flush them."""
        lines = []
        for prediction in predictions:
            lines.append(self._form.line(prediction))
            self.done += 1
            self.failed += prediction.error is not None
        self._put(b"".join(lines))

    def finish(self) -> str:
        """Return "": nothing is left to do, or to tell."""
        return ""

    @property
    def resume_hint(self) -> str:
        """Nothing to add: what a stream was given stays with its reader."""
        return ""

    def _put(self, rows: bytes) -> None:
        try:
            self._stream.write(rows)
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as e:
            raise WriteError(
                f"{self._name}: cannot be written ({e.strerror}) after {self.done} rows"
            ) from e

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


Output = ResumableOutput | StreamOutput
"""Takes a run's rows; a context manager. `done` counts them, `failed` those with an error.

Both include the rows of an interrupted run that is resumed.
"""


def output_to(place: OutputFile | Path | None, format_name: Format, *, resume: bool) -> Output:
    """Open the output to a file, or to a device or stdout (None), never resumed.

    UsageError or WriteError where nothing can be written there.
    """
    if isinstance(place, OutputFile):
        return ResumableOutput(place, format_name, resume=resume)
    if resume:
        raise UsageError("--resume needs the rows in a file; name it with -o")
    if format_name.convert is not None:
        raise UsageError("Parquet and .npy need a file; name it with -o")
    if place is None:
        return StreamOutput(sys.stdout.buffer, "stdout", format_name)
    name = printable(str(place))
    try:
        # Appended: behind a descriptor may be a file that others write to as well.
        return StreamOutput(place.open("ab", buffering=0), name, format_name)
    except OSError as e:
        raise WriteError(f"{name}: cannot be opened ({e.strerror})") from e
