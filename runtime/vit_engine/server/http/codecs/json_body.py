"""JSON bodies: msgspec's structs decode and check them; what is wrong with one, in its words."""

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from vit_engine.server.core.refusal import RefusalError, bad_request

T = TypeVar("T")

_LONGEST = 200  # characters of what is told, which may repeat the client's own


def decoded(
    body: bytes | memoryview, decoder: msgspec.json.Decoder[T], *, at: str = "", usage: str = ""
) -> T:
    """Return what a decoder reads, found `at` a place; RefusalError says what is wrong.

    It ends with `usage`, where that is given.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as e:
        raise _refusal(e, at, usage) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise bad_request(f"the body is not JSON ({e})") from None
    except RecursionError:
        raise bad_request("the body is not JSON that is read here (nested too deep)") from None


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
