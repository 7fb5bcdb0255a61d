"""Libraries that not every user has: what goes wrong as one is imported, told in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from vit_engine.errors import CheckpointError, format_limit, one_line
from vit_engine.machine.installation import pip


@contextmanager
def importing(*, needed: str, install: str) -> Iterator[None]:
    """Import libraries that are `needed` for something; CheckpointError where it goes wrong.

    One that is broken raises anything, such as torchvision's CUDA build beside a CPU build of
    torch.
    """
    try:
        yield
    except Exception as e:
        if format_limit(e):
            raise
        cure = import_cure(e) or install
        raise CheckpointError(
            f"{needed}, and that cannot be imported ({one_line(e)}): {cure}"
        ) from e


def import_cure(error: BaseException) -> str | None:
    """Return what mends an environment whose libraries do not go together, where that is known."""
    if not any("torchvision" in str(cause) for cause in causes(error)):
        return None
    return (
        f"torchvision is of another build than torch {version('torch')}; {pip()} uninstall "
        "torchvision, or install both from one index of https://download.pytorch.org/whl"
    )


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those behind it."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
