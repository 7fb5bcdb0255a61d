"""Reading bodies: within a time, a size, and the memory for all of them together."""

import asyncio
import zlib
from collections.abc import Callable
from typing import Self, TypeVar

from starlette.requests import Request
from starlette.types import Message, Receive

from vit_engine.server.core.admission import MemoryLimit, MemoryReservation
from vit_engine.server.core.refusal import ClientLeftError, RefusalError, bad_request
from vit_engine.server.core.settings import Settings

T = TypeVar("T")

DISCARDED = 4
"""A body that is refused is read on for so many times the limit, so that its sender, who may not
read before he has sent, gets the answer."""

_ENCODINGS = {"gzip": 31, "deflate": 15}
"""What zlib calls the formats of whole bodies: wbits."""

_SMALL = 64 * 2**10  # bytes of a body that may be parsed on the event loop
_UNPACKED = 2**20  # bytes that are unpacked at once, after room was made for them

_STALLED = 1.0  # seconds after which an upload
_PROGRESS = 64 * 2**10  # that has brought less than so many bytes is stalled


async def parsed(parse: Callable[[], T], size: int) -> T:
    """Return what `parse` makes of a body of a size: of a large one in a thread."""
    return parse() if size <= _SMALL else await asyncio.to_thread(parse)


class Uploads:
    """The bodies of all requests, which share one memory."""

    def __init__(self, memory: MemoryLimit, settings: Settings) -> None:
        self.memory, self.settings = memory, settings
        self.all: set[Upload] = set()

    def make_room(self, wanting: "Upload", size: int) -> bool:
        """Give up a body that is still coming, stalled or of an address that holds more."""
        mine = self._held(wanting.address) + size
        victims = [
            upload
            for upload in self.all
            if upload.gives_way
            and upload is not wanting
            and (upload.is_stalled or self._held(upload.address) > mine)
        ]
        if not victims:
            return False
        max(victims, key=lambda upload: upload.size).give_way()
        return True

    def _held(self, address: str) -> int:
        return sum(upload.size for upload in self.all if upload.address == address)


class Upload:
    """The body of one request: a context manager, which holds its memory until it exits."""

    def __init__(self, request: Request, uploads: Uploads) -> None:
        self._request, self._uploads, self._settings = request, uploads, uploads.settings
        self._reservation = MemoryReservation(uploads.memory)
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []
        self._timeout: asyncio.Timeout | None = None  # while it comes
        self._progress = (self._loop.time(), 0)  # when it had brought how much
        self._gave_way = False
        self.address = request.client.host if request.client else ""
        self.size = 0

    def __enter__(self) -> Self:
        self._uploads.all.add(self)
        return self

    def __exit__(self, *exception: object) -> None:
        self._uploads.all.discard(self)
        self._reservation.__exit__(*exception)

    async def read(self, *, compressed: bool = False) -> bytes:
        """Return the body, unpacked where it may be `compressed`.

        RefusalError where it is too large, too late or in an encoding that is not read.
        """
        headers = self._request.headers
        encoding = headers.get("content-encoding", "identity").strip().lower()
        wbits = _ENCODINGS.get(encoding) if compressed else None
        if encoding not in ("", "identity") and wbits is None:
            known = ", ".join(_ENCODINGS) if compressed else "none"
            raise RefusalError(
                415,
                "encoding",
                f"Content-Encoding is {encoding[:40]!r}; of them {known} is read here",
            )
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._settings.max_body:
            raise _too_large(self._settings)
        try:
            async with asyncio.timeout(self._settings.body_time) as self._timeout:
                await self._receive()
        except TimeoutError:
            if self._gave_way:
                raise RefusalError(
                    429,
                    "busy",
                    "the memory for bodies is used up, and this one was slow or its client held "
                    "more than others; send it again later",
                    retry_after=1,
                ) from None
            raise RefusalError(
                408, "late", f"the body was not here within {self._settings.body_time:g} s"
            ) from None
        finally:
            self._timeout = None
        parts, self._parts = self._parts, []
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        del parts
        return body if wbits is None else await self._unpacked(body, wbits)

    @property
    def gives_way(self) -> bool:
        """Whether it is still coming and holds memory."""
        return self._timeout is not None and self.size > 0

    @property
    def is_stalled(self) -> bool:
        """Whether it has brought next to nothing for a while."""
        return self._loop.time() - self._progress[0] > _STALLED

    def give_way(self) -> None:
        """Give the memory back and end the request."""
        assert self._timeout is not None
        self._gave_way = True
        self._timeout.reschedule(self._loop.time())
        self._timeout = None
        self._parts.clear()
        self._reservation.__exit__()
        self.size = 0

    async def _receive(self) -> None:
        more, size = True, 0
        while more:
            message = await self._request.receive()
            if self._gave_way:
                raise TimeoutError
            if message["type"] == "http.disconnect":
                raise ClientLeftError
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > self._settings.max_body:
                raise _too_large(self._settings)
            self._grow(len(part))
            if part:
                self._parts.append(part)
            if size - self._progress[1] >= _PROGRESS:
                self._progress = (self._loop.time(), size)
            more = message.get("more_body", False)

    def _grow(self, size: int) -> None:
        while True:
            try:
                self._reservation.grow(size)
            except RefusalError:
                if not self._uploads.make_room(self, size):
                    raise
            else:
                self.size += size
                return

    async def _unpacked(self, packed: bytes, wbits: int) -> bytes:
        """Return what a body unpacks to; room for it is made before it is there."""
        stream = zlib.decompressobj(wbits)
        found: list[bytes] = []
        size = room = 0
        for start in range(0, len(packed), _SMALL):
            pending = packed[start : start + _SMALL]
            more = True
            while more:
                self._grow(_UNPACKED - room)
                try:
                    part = await asyncio.to_thread(stream.decompress, pending, _UNPACKED)
                except zlib.error as e:
                    raise bad_request(f"the body is not in its Content-Encoding ({e})") from None
                room = _UNPACKED - len(part)
                size += len(part)
                if size > self._settings.max_body:
                    raise _too_large(self._settings)
                found.append(part)
                pending, more = stream.unconsumed_tail, not room
        if not stream.eof:
            raise bad_request("the compressed body is cut short")
        if stream.unused_data:
            raise bad_request("bytes follow the compressed body")
        return b"".join(found)


def _too_large(settings: Settings) -> RefusalError:
    return RefusalError(
        413, "too_large", f"the body has more than {settings.max_body} bytes, the limit"
    )


class CountingReceive:
    """An ASGI `receive` that knows how much of the body has come, and whether that was all."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.size = 0
        self.ended = False

    async def __call__(self) -> Message:
        """Return the next event."""
        message = await self._receive()
        if message["type"] == "http.request":
            self.size += len(message.get("body", b""))
            self.ended = not message.get("more_body", False)
        else:
            self.ended = True
        return message

    async def discard(self, settings: Settings) -> None:
        """Read on, for a time and a size, what nobody wants."""
        maximum = self.size + DISCARDED * settings.max_body
        try:
            async with asyncio.timeout(settings.body_time):
                while not self.ended and self.size < maximum:
                    await self()
        except TimeoutError:
            return
