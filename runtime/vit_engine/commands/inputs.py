"""What a run reads is none of what it writes."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from vit_engine.artefact.metadata import path_from_name
from vit_engine.errors import UsageError, printable
from vit_engine.rows.target import Target
from vit_engine.sources import folders
from vit_engine.sources.find import is_local
from vit_engine.sources.item import Item

_Identity = tuple[int, int] | str
"""A file that is there by device and inode, else its name without links."""


def check_apart(
    targets: Sequence[Target],
    read: Mapping[str, str],
    sources: Sequence[str],
    find: Callable[[Sequence[str]], Iterable[Item]],
) -> None:
    """Raise UsageError if what is to be written is an input, or each other.

    `read` are the files that are read besides the sources, and what each is: "the model".
    """
    written: dict[_Identity, str] = {}
    for target in targets:
        for name in target.names:
            words = f"{target.option} {printable(str(target.path))}"
            if name != target.path:
                words += f" needs {printable(str(name))}, which"
            if _identity(name) in written:
                raise UsageError(f"{written[_identity(name)]} and {words} are one file; name two")
            written[_identity(name)] = words

    def check(path: str | Path, what: str) -> None:
        if words := written.get(_identity(path)):
            raise UsageError(f"{words} is {what} of this run; name another file")

    for file, what in read.items():
        check(path_from_name(file), what)
    for source in sources:
        if source == "-":
            check("/dev/stdin", "the list on stdin")
        elif not is_local(source):
            continue
        elif not folders.is_pattern(source):
            check(source, "a source")
        elif not all(isinstance(identity, str) for identity in written):  # something is there
            for path, _ in folders.globbed(source):
                check(path, "a source")
    local = [source for source in sources if is_local(source)]
    if local and any(target.replaces for target in targets):
        for _ in apart(find(local), targets):  # all of them now, rather than one in an hour
            pass


def apart(items: Iterable[Item], targets: Iterable[Target]) -> Iterator[Item]:
    """Return the items; UsageError at one that a target would replace.

    What an earlier run wrote is no image, and is not looked for.
    """
    replaced = {_identity(target.path): target for target in targets if target.replaces}
    return _checked(items, replaced) if replaced else iter(items)


def _checked(items: Iterable[Item], replaced: dict[_Identity, Target]) -> Iterator[Item]:
    for item in items:
        path = item.span.file if item.span else item.path
        if is_local(path) and (target := replaced.get(_identity(path))):
            raise UsageError(
                f"{target.option} {printable(str(target.path))} is an image of this run; name "
                "another file"
            )
        yield item


def _identity(path: str | Path) -> _Identity:
    try:
        found = os.stat(path)  # noqa: PTH116  a Path would tidy the user's spelling
    except (OSError, ValueError):
        return os.path.realpath(path)
    return found.st_dev, found.st_ino
