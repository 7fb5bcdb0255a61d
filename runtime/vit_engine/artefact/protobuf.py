"""Reads and writes protobuf messages by their wire format: rows of (tag, value) fields.

As much of it as an ONNX file needs, so that the runtime does without the onnx package.
"""

import mmap
import struct
from collections.abc import Iterator

Buffer = mmap.mmap | bytes


class MalformedError(Exception):
    """The bytes are no message; the text says what they look like."""


def fields(data: Buffer, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (field number, start, end of the value) of the protobuf message in data[position:end].

    A message that runs past its end is cut off.
    """
    while position < end:
        tag, position = _varint(data, position, end)
        start = position
        match tag & 7:
            case 0:
                _, position = _varint(data, position, end)
            case 1:
                position += 8
            case 2:
                length, start = _varint(data, position, end)
                position = start + length
            case 5:
                position += 4
            case _:
                raise MalformedError("not an ONNX file")
        if position > end:
            raise MalformedError("the file is cut off, or not an ONNX file")
        yield tag >> 3, start, position


def _varint(data: Buffer, position: int, end: int) -> tuple[int, int]:
    """Return the base-128 number at `position`, and the position after it."""
    value = 0
    for shift in range(0, 64, 7):
        if position >= end:
            raise MalformedError("the file is cut off, or not an ONNX file")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise MalformedError("not an ONNX file")


def number(data: Buffer, start: int, end: int) -> int:
    """Return the value of a numeric field, negative ones included."""
    value, _ = _varint(data, start, end)
    return value - 2**64 if value >= 2**63 else value


def real(data: Buffer, start: int) -> float:
    """Return the value of a field that is a float of 32 bits."""
    (value,) = struct.unpack_from("<f", data, start)
    return float(value)


def numbers(data: Buffer, start: int, end: int) -> list[int]:
    """Return the values of a numeric field that is repeated, packed or one by one."""
    values = []
    while start < end:
        value, start = _varint(data, start, end)
        values.append(value)
    return values


def varint(value: int) -> bytes:
    """Return a number (negative ones as 64 bits) in base 128."""
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, value: bytes | str | int | float) -> bytes:
    """Return one field: a number, a float of 32 bits, or a length and its bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else value
    return prefix(number, len(data)) + data


def prefix(number: int, length: int) -> bytes:
    """Return what stands before the bytes of a field of that length."""
    return varint(number << 3 | 2) + varint(length)
