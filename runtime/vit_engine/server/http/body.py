"""Reading bodies: within a time, a size, and the memory for all of them together."""

import asyncio

from starlette.requests import Request
from starlette.types import Message, Receive

from vit_engine.server.core.admission import MemoryReservation
from vit_engine.server.core.refusal import ClientLeftError, RefusalError
from vit_engine.server.core.settings import Settings

DISCARDED = 4
"""A body that is refused is read on for so many times the limit, so that its sender, who may not
read before he has sent, gets the answer."""


async def read_body(request: Request, reservation: MemoryReservation, settings: Settings) -> bytes:
    """Return the body of a request; RefusalError where it is too large, too late or compressed."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise RefusalError(
            415, "encoding", f"Content-Encoding is {encoding[:40]!r}; send the body as it is"
        )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > settings.max_body:
        raise _too_large(settings)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.body_time):
            more = True
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeftError
                part: bytes = message.get("body", b"")
                size += len(part)
                if size > settings.max_body:
                    raise _too_large(settings)
                reservation.grow(len(part))
                if part:
                    parts.append(part)
                more = message.get("more_body", False)
    except TimeoutError:
        raise RefusalError(
            408, "late", f"the body was not here within {settings.body_time:g} s"
        ) from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


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
