"""Errors as every route words them."""

from collections.abc import Mapping

from starlette.responses import JSONResponse

CLIENT_LEFT = 499
"""The status, by nginx' convention, of a request whose client has not waited for the answer."""


def error_response(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return an error: words for people, a code for programs."""
    return JSONResponse({"error": message, "error_code": code}, status, headers)
