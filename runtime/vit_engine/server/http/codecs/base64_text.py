"""Files in base64, as clients write them: folded, without padding, as data URIs."""

import msgspec

_SLICE = 2**18
"""Characters that are decoded at once, while no other thread runs."""

_UNFOLDED = str.maketrans("", "", "\r\n\t ")


def decode_base64(text: str) -> bytes:
    """Return the bytes of base64; ValueError where it is none."""
    found: list[bytes] = []
    rest, padded = "", False
    for start in range(0, len(text), _SLICE):
        piece = rest + text[start : start + _SLICE].translate(_UNFOLDED)
        if padded and piece:
            raise ValueError("data follows the padding")
        whole = len(piece) - len(piece) % 4
        found.append(_decoded(piece[:whole]))
        rest, padded = piece[whole:], padded or piece[:whole].endswith("=")
    found.append(_decoded(rest + "=" * (-len(rest) % 4)))
    return b"".join(found)


def decode_data_uri(text: str) -> bytes | None:
    """Return the bytes of a data URI, None for other texts; ValueError for a wrong one."""
    if text[:5].lower() != "data:":
        return None
    head, comma, _ = text[:_SLICE].partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise ValueError("it must be in base64: data:image/jpeg;base64,...")
    return decode_base64(text[len(head) + 1 :])


def _decoded(text: str) -> bytes:
    try:
        return msgspec.convert(text, bytes)
    except msgspec.ValidationError:
        raise ValueError("it is not whole base64") from None
