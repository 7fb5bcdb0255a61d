"""The errors of libraries, which are long, nested or in Chinese, as one line that a user reads."""

from collections.abc import Iterator


def first_line(error: BaseException) -> str:
    """Return the first line of a library's message, or the name of the error if it has none."""
    return next((s.strip() for s in str(error).splitlines() if s.strip()), type(error).__name__)


def download_reason(error: BaseException) -> str:
    """Return why a hub's client failed and what to do about it."""
    failed = getattr(error, "failed_files", None)  # modelscope's error for some of many files
    if failed:
        name, why = next(iter(failed.items()))
        return f"{name} did not arrive whole ({first_line(_root(why)):.160}); try again"
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if 404 in (getattr(cause, "status_code", None), getattr(response, "status_code", None)):
            return "the hub has no such model or revision (404)"
    return (
        f"cannot be downloaded ({type(error).__name__}: {first_line(_root(error)):.160}); "
        "check the network and the hub's address"
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _root(error: BaseException) -> BaseException:
    *_, root = _causes(error)
    return root
