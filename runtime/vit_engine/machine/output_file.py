"""A file that an option asks for: what it may replace, and what is never written over."""

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vit_engine.errors import UsageError, WriteError, printable

PARTIAL, STATE = ".partial", ".partial.state"
"""What is appended to the name of a file of rows while it is being written."""

_MISTAKES = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP}


@dataclass(frozen=True)
class OutputFile:
    """The file that `option` names, links followed.

    What is there is replaced with `overwrite`; without it only an empty file, or one that `is_ours`
    recognises as written by an earlier run. `owner` is the user whom new files there belong to.
    """

    option: str
    path: Path
    is_ours: Callable[[Path], bool]
    overwrite: bool
    owner: int

    def beside(self, suffix: str) -> Path:
        """Return the path with something appended to its name."""
        return self.path.with_name(self.path.name + suffix)

    @property
    def exists(self) -> bool:
        """Whether something other than an empty file is there."""
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return False
        return not stat.S_ISREG(found.st_mode) or found.st_size > 0

    def check(self) -> None:
        """Raise UsageError if what is there must stay."""
        if self.overwrite or not self.exists:
            return
        if not (self.path.is_file() and self.is_ours(self.path)):
            raise UsageError(
                f"{printable(str(self.path))}: exists, and is not recognised as written by an "
                f"earlier run; name another file with {self.option}, or add --overwrite"
            )

    def reason_to_stay(self, *, labelled: bool) -> str:
        """Say why a run does not replace what is there: it `labelled` no image. "" if it does."""
        if labelled or self.overwrite or not self.exists:
            return ""
        return f"no image has a label, so {printable(str(self.path))} stays as it was"


def output_file(
    path: Path, option: str, is_ours: Callable[[Path], bool], *, overwrite: bool
) -> OutputFile:
    """Return the file that an option names.

    UsageError for a folder, a device, a name that no file can have and what must not be replaced;
    WriteError where no file can be made.
    """
    name = printable(str(path))
    try:
        mode = _mode(path)
        if mode is not None and stat.S_ISDIR(mode):
            raise UsageError(f"{option} {name}: is a folder; name a file in it")
        if is_stream(path):
            raise UsageError(f"{option} {name}: is no regular file; name another")
        found = Path(os.path.realpath(path)) if path.is_symlink() else path
        _mode(found.with_name(found.name + STATE))  # an error if the name is too long
        folder = next(parent for parent in found.absolute().parents if parent.is_dir())
        with tempfile.TemporaryFile(dir=folder) as trial:  # rights alone do not tell
            owner = os.fstat(trial.fileno()).st_uid
    except OSError as e:
        if e.errno in _MISTAKES:
            raise UsageError(f"{option} {name}: {e.strerror}") from e
        raise WriteError(f"{name}: cannot be written ({e.strerror})") from e
    output = OutputFile(option, found, is_ours, overwrite, owner)
    output.check()
    return output


def is_stream(path: Path) -> bool:
    """Tell whether a path is a device, a pipe or, as /dev/stdout, a file that is already open."""
    try:
        mode = _mode(path)
    except OSError:
        return False
    if mode is None or not stat.S_ISREG(mode):
        return mode is not None and not stat.S_ISDIR(mode)
    leads_to = path.parent / path.readlink() if path.is_symlink() else path
    return any(os.path.realpath(p.parent).startswith("/proc/") for p in (path, leads_to))


def check_apart(outputs: Sequence[OutputFile], inputs: Iterable[tuple[str | Path, str]]) -> None:
    """Raise UsageError if an output is another one, or an input: a path, and "the model"."""
    written: dict[tuple[int, int] | str, OutputFile] = {}
    for output in outputs:
        for suffix in ("", PARTIAL, STATE):
            other = written.setdefault(_identity(output.beside(suffix)), output)
            if other is not output:
                names = [f"{o.option} {printable(str(o.path))}" for o in (other, output)]
                raise UsageError(f"{' and '.join(names)} would be one file; name two")
    if all(isinstance(identity, str) for identity in written):
        return  # none is there yet
    for path, what in inputs:
        if found := written.get(_identity(path)):
            raise UsageError(
                f"{found.option} {printable(str(found.path))} would write over {what}, "
                f"{printable(str(path))}; name another file"
            )


def _mode(path: Path) -> int | None:
    """Return what kind of file a path leads to, None if to nothing."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def _identity(path: str | Path) -> tuple[int, int] | str:
    """Return what two names of one file have in common: device and inode once it is there."""
    try:
        found = os.stat(path)  # noqa: PTH116  a Path would tidy the user's spelling
    except (OSError, ValueError):
        return os.path.realpath(path)
    return found.st_dev, found.st_ino
