"""A file that a run is to write: where it lies, and what may stand there already."""

import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vit_engine.errors import UsageError, VitError, WriteError, printable
from vit_engine.machine.atomic import make_folders, remove_empty

PARTIAL, STATE, ASIDE = ".partial", ".partial.state", ".failed"
"""What the names of the files that go with a target end in."""

_MOST_LINKS = 40  # in a row, as Linux follows
_DESCRIPTOR = re.compile(r"/(proc/[^/]+|dev)/fd/[0-9]+")
_MARK = 12  # hexadecimal digits that tell names from others that are cut alike


@dataclass(frozen=True)
class Target:
    """The regular file that `option` names: `path` is it, or what links there lead to.

    What it holds already is replaced with `overwrite`. Else it must be empty, or what an earlier
    run wrote, as `is_ours` can tell; and a run that labelled nothing leaves that alone. `owner` is
    the user whom new files in that folder belong to. `made` are the folders that were made for it,
    innermost first.
    """

    option: str
    path: Path
    is_ours: Callable[[Path], bool]
    overwrite: bool
    owner: int
    made: tuple[Path, ...] = ()

    def beside(self, suffix: str) -> Path:
        """Return the path of a file that goes with this one; a name too long for that is cut."""
        name = self.path.name
        most = os.pathconf(self.path.parent, "PC_NAME_MAX")
        if 0 < most < len(os.fsencode(name)) + len(STATE):
            mark = f"~{hashlib.sha256(os.fsencode(name)).hexdigest()[:_MARK]}"
            while name and len(os.fsencode(name)) + len(mark) + len(STATE) > most:
                name = name[:-1]
            name += mark
        return self.path.with_name(name + suffix)

    @property
    def aside(self) -> Path:
        """Where the file goes if it may not replace what is there."""
        return self.beside(ASIDE)

    @property
    def names(self) -> tuple[Path, ...]:
        """All the files that may be written on its account."""
        return self.path, *(self.beside(suffix) for suffix in (PARTIAL, STATE, ASIDE))

    @property
    def replaces(self) -> bool:
        """Whether something is there that no earlier run wrote."""
        return _has_content(self.path) and not self.is_ours(self.path)

    def check(self) -> None:
        """Raise UsageError if what is there, or where it would be put aside, must stay."""
        if self.overwrite or not _has_content(self.path):
            return
        for path in (self.path, self.aside):
            if _has_content(path) and not (_is_regular(path) and self.is_ours(path)):
                name = printable(str(path))
                raise UsageError(
                    f"{name}: is there already, and is not recognised as something that vit-infer "
                    f"wrote; name another file with {self.option}, or add --overwrite to replace it"
                )

    @property
    def is_finished(self) -> bool:
        """Whether an earlier run has written the file whole, and none has begun since."""
        begun = any(os.path.lexists(self.beside(suffix)) for suffix in (PARTIAL, STATE))
        return _has_content(self.path) and self.is_ours(self.path) and not begun

    def place(self, *, labelled: bool) -> Path:
        """Return where the file goes now that it is known whether the run labelled any image."""
        if labelled or self.overwrite or not _has_content(self.path):
            return self.path
        return self.aside

    def told(self, place: Path) -> str:
        """Return what to say of where the file went: "" if to its own name."""
        if place == self.path:
            return ""
        path, aside = printable(str(self.path)), printable(str(place))
        return f"no image has a label, so {path} stays as it was; this run's is {aside}"

    def open_own(self, path: Path, flags: int) -> int:
        """Open a file that goes with this one: regular, no link, made by this user.

        UsageError for any other, which is left alone.
        """
        self._check_own(path, path.lstat())
        try:
            descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as e:
            if e.errno == errno.ELOOP:  # it has become one
                raise UsageError(_not_own(path, "is a link")) from e
            raise
        try:
            self._check_own(path, os.fstat(descriptor))
        except UsageError:
            os.close(descriptor)
            raise
        return descriptor

    def _check_own(self, path: Path, found: os.stat_result) -> None:
        problems = {
            "is a link": stat.S_ISLNK(found.st_mode),
            "is no regular file": not stat.S_ISREG(found.st_mode),
            "belongs to another user": found.st_uid != self.owner,
            "has a second name (a hard link)": found.st_nlink > 1,
        }
        for problem, is_there in problems.items():
            if is_there:
                raise UsageError(_not_own(path, problem))


def target_from_path(
    path: Path, option: str, is_ours: Callable[[Path], bool], *, overwrite: bool
) -> Target | None:
    """Return the file that an option names, None if that is a device, a pipe or a descriptor.

    Links are followed, as a shell's `>` does, and folders that are missing are made. UsageError for
    a folder, for a name that is too long, and for what must not be replaced; WriteError where no
    file can be made.
    """
    name = printable(str(path))
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:  # or a link to nothing yet
        pass
    except OSError as e:
        raise _unfit(path, option, e) from e
    else:
        if stat.S_ISDIR(mode):
            raise UsageError(f"{name} is a folder; name a file in it with {option}")
        if not stat.S_ISREG(mode):
            return None
    followed = _followed(path)
    if followed is None:
        return None
    path = followed
    try:
        made = tuple(make_folders(path.parent))
    except OSError as e:
        raise _unfit(path, option, e) from e
    try:
        target = Target(option, path, is_ours, overwrite, owner=_owner(path), made=made)
        target.check()
    except VitError:
        remove_empty(made)
        raise
    return target


def _not_own(path: Path, problem: str) -> str:
    return f"{printable(str(path))}: {problem}, and vit-infer needs the name; move it away"


def _followed(path: Path) -> Path | None:
    """Return what a link leads to, which need not be there; None for an open file's descriptor.

    That a link may be followed at all the kernel has said before, which knows of links that others
    plant in folders open to all.
    """
    for _ in range(_MOST_LINKS):
        if _DESCRIPTOR.fullmatch(str(path)):  # /dev/stdout leads there
            return None
        try:
            path = path.parent / path.readlink()
        except OSError:
            break
    return path


def _owner(path: Path) -> int:
    """Make a file in the folder and remove it: rights alone do not tell whether that works.

    Whom it belongs to is the file system's to say: on a share that may be nobody.
    """
    trial = path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}")
    try:
        descriptor = os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            return os.fstat(descriptor).st_uid
        finally:
            os.close(descriptor)
            trial.unlink()
    except OSError as e:
        raise WriteError(f"{printable(str(path))}: cannot be written ({e.strerror})") from e


def _unfit(path: Path, option: str, e: OSError) -> UsageError | WriteError:
    name = printable(str(path))
    if e.errno == errno.ENAMETOOLONG:
        size = len(os.fsencode(path.name))
        with_folders = len(os.fsencode(path))
        return UsageError(
            f"{option} {name[:40]}...: the name is too long: it has {size} bytes, {with_folders} "
            "with its folders; most file systems take 255, and 4,095 with the folders"
        )
    if e.errno == errno.ENOTDIR:
        return UsageError(f"{option} {name}: {printable(str(path.parent))} is no folder")
    if e.errno == errno.ELOOP:
        return UsageError(f"{option} {name}: is a link that leads in a circle")
    return WriteError(f"{name}: cannot be written ({e.strerror})")


def _has_content(path: Path) -> bool:
    """Tell whether something other than an empty file has this name."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(found.st_mode) or found.st_size > 0


def _is_regular(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)
