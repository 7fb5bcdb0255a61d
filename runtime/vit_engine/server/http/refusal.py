"""Why a request gets no labels: a status, a code for programs, words for people."""

from collections.abc import Mapping

from starlette.responses import JSONResponse

from vit_engine.errors import ImageError


class RefusalError(Exception):
    """A request that is not answered as it wished; `retry_after` in seconds."""

    def __init__(
        self, status: int, code: str, message: str, *, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after

    def response(self) -> JSONResponse:
        """Return the answer that tells it."""
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        return refused(self.status, self.code, str(self), headers)


CLIENT_LEFT = 499
"""The status, by nginx' convention, of a request whose client has not waited for the answer."""


class ClientLeftError(Exception):
    """Nobody waits for the answer any more."""


def refused(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return an error as every route words it."""
    return JSONResponse({"error": message, "error_code": code}, status, headers)


def malformed(message: str) -> RefusalError:
    """Return the refusal of a request that cannot be understood."""
    return RefusalError(400, "malformed", message)


def refusal_of_image(error: ImageError) -> RefusalError:
    """Return the refusal of a request whose one image cannot be labelled."""
    return RefusalError(413 if error.code == "too_large" else 422, error.code, f"the image {error}")
