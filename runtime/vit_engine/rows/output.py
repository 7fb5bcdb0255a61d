"""Where a run's rows go: what every output can do, and which output a path names."""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol, Self

from vit_engine.errors import UsageError, WriteError, printable
from vit_engine.outputs.prediction import Prediction
from vit_engine.rows.file_output import FileOutput
from vit_engine.rows.formats import Format
from vit_engine.rows.partial_state import Run
from vit_engine.rows.stream_output import StreamOutput
from vit_engine.rows.target import Target
from vit_engine.sources.item import Item


class Output(Protocol):
    """Takes a run's rows; a context manager. `done` counts them, `failed` those with an error.

    Both include the rows of an interrupted run that is resumed.
    """

    done: int
    failed: int

    def begin(self, items: Iterator[Item], run: Callable[[], Run], /) -> Iterator[Item]:
        """Start; return the items whose rows are still to come. `run` is called if it matters."""

    def write(self, predictions: Iterable[Prediction]) -> None:
        """Add the rows of a batch."""

    def finish(self) -> str:
        """All rows have been written; return what is to be told of where they are, mostly ""."""

    @property
    def how_to_resume(self) -> str:
        """What to add to the message that a run was interrupted; "" where it cannot be resumed."""

    def __enter__(self) -> Self: ...

    def __exit__(self, exception: type[BaseException] | None, *_: object) -> None: ...


def output_to(place: Target | Path | None, form: Format, *, resume: bool) -> Output:
    """Open the output to a file (a target), or to a device or stdout (None), never resumed.

    UsageError or WriteError where nothing can be written there.
    """
    if isinstance(place, Target):
        return FileOutput(place, form, resume=resume)
    if resume:
        raise UsageError("--resume needs the rows in a file; name it with -o")
    if form.convert is not None:
        raise UsageError("Parquet needs a file; name it with -o")
    if place is None:
        return StreamOutput(sys.stdout.buffer, "stdout", form)
    name = printable(str(place))
    try:
        # Appended: behind a descriptor may be a file that others write to as well.
        return StreamOutput(place.open("ab", buffering=0), name, form)
    except OSError as e:
        raise WriteError(f"{name}: cannot be opened ({e.strerror})") from e
