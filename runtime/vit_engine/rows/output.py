"""Where a run's rows go: which output a path names."""

import sys
from pathlib import Path

from vit_engine.errors import UsageError, WriteError, printable
from vit_engine.machine.output_file import OutputFile
from vit_engine.rows.formats import Format
from vit_engine.rows.resumable_output import ResumableOutput
from vit_engine.rows.stream_output import StreamOutput

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
