"""What a run reads is none of what it writes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from vit_engine.artefact.metadata import path_from_name
from vit_engine.errors import UsageError, printable
from vit_engine.machine.output_file import OutputFile, check_apart
from vit_engine.sources import folders, signatures
from vit_engine.sources.find import is_local


def check_inputs(
    outputs: Sequence[OutputFile], read: Mapping[str, str], sources: Sequence[str]
) -> None:
    """Raise UsageError if an output is an input, an image, or another output.

    `read` are the files that are read besides the sources, and what each is: "the model".
    """
    check_apart(outputs, _inputs(read, sources))
    for output in outputs:
        head = b""
        with suppress(OSError), output.path.open("rb") as file:
            head = file.read(signatures.HEAD)
        if signatures.is_image(head) or signatures.unread_format(head):
            raise UsageError(
                f"{output.option} {printable(str(output.path))} would write over an image; name "
                "another file"
            )


def _inputs(read: Mapping[str, str], sources: Sequence[str]) -> Iterator[tuple[str | Path, str]]:
    for file, what in read.items():
        yield path_from_name(file), what
    for source in sources:
        if source == "-":
            yield "/dev/stdin", "the list on stdin"
        elif is_local(source) and folders.is_pattern(source):
            yield from ((path, "a source") for path, _ in folders.globbed(source))
        elif is_local(source):
            yield source, "a source"
