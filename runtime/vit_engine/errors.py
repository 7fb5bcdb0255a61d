"""The errors that a user can meet, with the exit codes of the commands, and how they are worded."""

import difflib
import errno
import os
import sys
import unicodedata
from itertools import islice

_LIMITS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would be larger than allowed; raise the limit with ulimit -f",
    errno.EMFILE: "too many open files; raise the limit with ulimit -n",
    errno.ENFILE: "too many open files on this machine",
    errno.ENOMEM: "not enough memory",
    errno.EAGAIN: "no more processes or threads are allowed; raise the limit with ulimit -u",
}
"""What an error of the operating system says of the machine's or the user's limits."""

_MAX_NAMES = 10_000  # of a folder, among which one that was meant is looked for


class VitError(Exception):
    """Any failure that the project foresees; its text is the one line that a user is shown."""

    exit_code = 1


class UsageError(VitError):
    """Arguments, sources or options that make no sense together."""

    exit_code = 2


class CheckpointError(VitError):
    """A checkpoint that cannot be found, read or exported."""

    exit_code = 2


class ArtefactError(VitError):
    """An artefact that cannot be opened, or that is not what its contract says."""

    exit_code = 2


class MachineError(VitError):
    """A part of the machine that was asked for is not there: memory, a process, a cluster."""

    exit_code = 4


class ProviderError(MachineError):
    """An execution provider that was asked for cannot run here."""


class WriteError(MachineError):
    """A file that cannot be written: the disk is full, or the folder is not ours to write to."""


class ParityError(VitError):
    """An artefact differs from its reference by more than its precision allows."""

    exit_code = 5


class ImageError(VitError):
    """One image that cannot be labelled. `code` is the row's `error_code`; the run goes on."""

    exit_code = 3

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return ImageError, (self.code, str(self))


class FailedImagesError(VitError):
    """More images have failed than the run may have."""

    exit_code = 3


def check_system() -> None:
    """Raise MachineError on Windows, which lacks what processes, locks and pipes are made of."""
    if sys.platform == "win32":
        raise MachineError(
            "vit-engine does not run on Windows itself; run it in WSL: wsl --install"
        )


def printable(path: str) -> str:
    """Return a path fit for a terminal line: undecodable bytes and control characters escaped."""
    text = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def one_line(error: BaseException | str, limit: int = 200) -> str:
    """Return an error's message, or its type's name, on one line of at most `limit` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit]}..."


def did_you_mean(path: str, *, ending: str = "") -> str:
    """Return "; did you mean NAME?" for a path that is not there, or "" where none is like it.

    A name without an `ending` that others in its folder have may mean one with it.
    """
    folder, name = os.path.split(path.rstrip("/"))
    while folder and not os.path.isdir(folder):  # noqa: PTH112  a Path would tidy the spelling
        (folder, name), ending = os.path.split(folder), ""  # it is the folder that is not there
    try:
        with os.scandir(folder or ".") as entries:
            names = [entry.name for entry in islice(entries, _MAX_NAMES)]
    except OSError:
        return ""
    # By what comes before the ending: of two short names it would be most of what is alike.
    stems = {found.removesuffix(ending): found for found in names if found.endswith(ending)}
    wanted = os.path.splitext(name)[0] if ending else name  # noqa: PTH122
    for near in difflib.get_close_matches(wanted, stems, n=1):
        return f"; did you mean {printable(os.path.join(folder, stems[near]))}?"  # noqa: PTH118
    return ""


def other_name(path: str) -> str:
    """Say under which name what a path means is there, or that it is a broken link; or ""."""
    if os.path.islink(path):  # noqa: PTH114  a Path would tidy the user's spelling
        return f"is a link to {printable(os.readlink(path))}, which is not there"  # noqa: PTH115
    for form in ("NFC", "NFD"):
        other = unicodedata.normalize(form, path)
        if other != path and os.path.lexists(other):
            return f"no such file; there is one whose accents are encoded otherwise ({form})"
    other = path.replace("\\", "/")
    if other != path and os.path.lexists(other):
        return f"no such file; write {printable(other)}, with slashes"
    return ""


def format_limit(error: BaseException) -> str | None:
    """Say which limit of the machine or the user an error comes from, None if from none."""
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, OSError):
        if error.errno == errno.EBADF and error.filename is None:
            return "stdout is closed"
        words = _LIMITS.get(error.errno or 0)
        return f"{words} ({one_line(error)})" if words else None
    text = str(error)
    if "can't start new thread" in text or "pthread_create failed, error code: 11" in text:
        return f"{_LIMITS[errno.EAGAIN]} ({one_line(text)})"
    # The loader's words for a library that does not fit are of the last kind.
    told = ("bad_alloc", "cannot allocate memory", "failed to map segment")
    return "not enough memory" if any(words in text.lower() for words in told) else None
