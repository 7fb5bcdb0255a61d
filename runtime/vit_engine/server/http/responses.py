"""Errors as every route words them."""

from collections.abc import Mapping

from starlette.responses import JSONResponse

from vit_engine.server.core.refusal import RefusalError

CLIENT_LEFT = 499
"""The status, by nginx' convention, of a request whose client has not waited for the answer."""


def error_response(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return an error: words for people, a code for programs."""
    return JSONResponse({"error": message, "error_code": code}, status, headers)


def refusal_response(error: RefusalError) -> JSONResponse:
    """Return the answer that tells a refusal."""
    retry = None if error.retry_after is None else {"retry-after": str(error.retry_after)}
    return error_response(error.status, error.code, str(error), retry)
