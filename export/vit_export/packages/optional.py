"""Libraries that not every user has: what goes wrong as one is imported, told in one line."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from vit_engine.errors import MachineError, format_limit, one_line
from vit_engine.machine.installation import pip


@contextmanager
def importing(*, needed: str, install: str) -> Iterator[None]:
    """Import libraries that are `needed` for something; MachineError where it goes wrong.

    One that is broken raises anything, such as torchvision's CUDA build beside a CPU build of
    torch.
    """
    try:
        yield
    except Exception as e:
        if format_limit(e):
            raise
        cure = import_cure(e) or install
        raise MachineError(f"{needed}, and that cannot be imported ({one_line(e)}): {cure}") from e


def import_cure(error: BaseException) -> str | None:
    """Return what mends an environment whose libraries do not go together, where that is known."""
    if not any("torchvision" in str(cause) for cause in causes(error)):
        return None
    return (
        f"torchvision is of another build than torch {version('torch')}: {pip()} uninstall -y "
        f"torchvision && {pip()} install {shlex.join(beside_torch())}"
    )


def beside_torch() -> tuple[str, ...]:
    """Return what pip is told so that a torchvision comes which fits torch, which stays as it is.

    Else pip may put CUDA's build, of gigabytes, in the place of a CPU's.
    """
    installed = version("torch")
    build = installed.partition("+")[2]
    index = ("--extra-index-url", f"https://download.pytorch.org/whl/{build}") if build else ()
    return (*index, f"torch=={installed}", "torchvision")


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those behind it."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
