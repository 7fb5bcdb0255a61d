"""HTTP written by hand, for what no client's library would send."""

import contextlib
import json
import socket
from collections.abc import Iterator

from support.running_server import Server


def head(size: int, *lines: str) -> bytes:
    """The head of an image's request."""
    return "\r\n".join(
        ["POST / HTTP/1.1", "Host: x", f"Content-Length: {size}", *lines, "", ""]
    ).encode()


@contextlib.contextmanager
def connected(server: Server, *data: bytes, source: str = "127.0.0.1") -> Iterator[socket.socket]:
    with socket.create_connection(server.address, 30, (source, 0)) as connection:
        for part in data:
            connection.sendall(part)
        yield connection


def answered(connection: socket.socket) -> bytes:
    """One answer in JSON."""
    found = b""
    while not found.endswith(b"}"):
        part = connection.recv(2**16)
        assert part, found
        found += part
    return found


def everything(connection: socket.socket) -> bytes:
    """Read until the server closes."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(2**16):
            parts.append(part)
    return b"".join(parts)


def refusal(raw: bytes) -> tuple[int, str]:
    """The status and code of the last answer on a connection."""
    start = raw.rindex(b"HTTP/1.1 ")
    body = raw[start:].partition(b"\r\n\r\n")[2]
    return int(raw[start + 9 : start + 12]), json.loads(body)["error_code"]
