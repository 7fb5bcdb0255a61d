"""Rows to a pipe, a terminal or a device, as they come."""

from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, Self

from vit_engine.errors import WriteError
from vit_engine.outputs.kinds import Result
from vit_engine.rows.formats import Format
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
