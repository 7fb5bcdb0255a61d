"""JSON bodies: msgspec's structs decode and check them; what is wrong with one, in its words."""

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from vit_engine.server.core.refusal import RefusalError, bad_request

T = TypeVar("T")

BOM = b"\xef\xbb\xbf"
"""What some editors put before UTF-8."""

MAX_MARKS = 2**20
"""What a document may have of _MARKS: reading them is what takes time, and no other thread runs."""

_MARKS = b"[{:,\\ \t\r\n"
_SLICE = 2**18  # bytes
_LONGEST = 200  # characters of what is told, which may repeat the client's own


def decoded(
    body: bytes | memoryview, decoder: msgspec.json.Decoder[T], *, at: str = "", usage: str = ""
) -> T:
    """Return what a decoder reads, found `at` a place; RefusalError says what is wrong.

    It ends with `usage`, where that is given.
    """
    if body[: len(BOM)] == BOM:
        body = memoryview(body)[len(BOM) :]
    _check_marks(body)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as e:
        raise _refusal(e, at, usage) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise bad_request(f"the body is not JSON ({e})") from None
    except RecursionError:
        raise bad_request("the body is not JSON that is read here (nested too deep)") from None


def _check_marks(body: bytes | memoryview) -> None:
    found = 0
    for start in range(0, len(body), _SLICE):
        part = bytes(body[start : start + _SLICE])
        found += len(part) - len(part.translate(None, _MARKS))
        if found > MAX_MARKS:
            raise RefusalError(
                413, "too_large", f"the JSON has more than {MAX_MARKS} values, spaces and escapes"
            )


def from_query(query: Mapping[str, str], kind: type[T], *, usage: str) -> T:
    """Return a struct from the parameters of a query, whose numbers are text."""
    try:
        return msgspec.convert(query, kind, strict=False)
    except msgspec.ValidationError as e:
        raise _refusal(e, "query", usage) from None


def _refusal(error: msgspec.ValidationError, at: str, usage: str) -> RefusalError:
    """Say it as in "query: Expected `int | null`, got `str` - at `$.top_k`; ..."."""
    message = ": ".join(filter(None, (at, str(error))))[:_LONGEST]
    return bad_request("; ".join(filter(None, (message, usage))))
