"""Where a run's rows go: what every output can do, and which output a path names."""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol, Self

from vit_engine.errors import UsageError, WriteError, printable
from vit_engine.machine.output_file import OutputFile
from vit_engine.outputs.prediction import Prediction
from vit_engine.rows.formats import Format
from vit_engine.rows.resumable_output import ResumableOutput
from vit_engine.rows.resume_state import Settings
from vit_engine.rows.stream_output import StreamOutput
from vit_engine.sources.sample import Sample


class Output(Protocol):
    """Takes a run's rows; a context manager. `done` counts them, `failed` those with an error.

    Both include the rows of an interrupted run that is resumed.
    """

    done: int
    failed: int

    def begin(
        self, samples: Iterator[Sample], settings: Callable[[], Settings], /
    ) -> Iterator[Sample]:
        """Start; return the items whose rows are still to come. `settings` is called if needed."""

    def write(self, predictions: Iterable[Prediction]) -> None:
        """Add the rows of a batch."""

    def finish(self) -> str:
        """All rows have been written; return why they are not where they should be, mostly ""."""

    @property
    def resume_hint(self) -> str:
        """What to add to the message that a run was interrupted; "" where it cannot be resumed."""

    def __enter__(self) -> Self: ...

    def __exit__(self, exception: type[BaseException] | None, *_: object) -> None: ...


def output_to(place: OutputFile | Path | None, format_name: Format, *, resume: bool) -> Output:
    """Open the output to a file, or to a device or stdout (None), never resumed.

    UsageError or WriteError where nothing can be written there.
    """
    if isinstance(place, OutputFile):
        return ResumableOutput(place, format_name, resume=resume)
    if resume:
        raise UsageError("--resume needs the rows in a file; name it with -o")
    if format_name.convert is not None:
        raise UsageError("Parquet needs a file; name it with -o")
    if place is None:
        return StreamOutput(sys.stdout.buffer, "stdout", format_name)
    name = printable(str(place))
    try:
        # Appended: behind a descriptor may be a file that others write to as well.
        return StreamOutput(place.open("ab", buffering=0), name, format_name)
    except OSError as e:
        raise WriteError(f"{name}: cannot be opened ({e.strerror})") from e
