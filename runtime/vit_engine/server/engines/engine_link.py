"""A front's connection to one engine's process: numbers of slots go out, and come back done."""

import asyncio
import contextlib
import pickle
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vit_engine.server.core.pending_request import PendingImage
from vit_engine.server.decoding.pixel_memory import Region
from vit_engine.server.engines.messages import DONE, HELLO, LENGTH, SLOT, EngineInfo

_RETRY = 0.1  # seconds between attempts to connect
_PATIENCE = 60.0  # seconds without an engine until a new server is asked for
_CHUNK = 2**18


@dataclass(frozen=True)
class Done:
    """What one batch had of this front: its `slots`, with their results unless there is a
    `failure`. `batch_images` are those of the whole batch, 0 where another front is told."""

    slots: list[int]
    batch_images: int
    seconds: float
    failure: str


class EngineLink:
    """A connection to the engine at an address; every method is for the event loop.

    The slots are in a region of the memory at `fd`. `running` are the images that the engine has,
    by their slots. `on_warm` is given what an engine says of itself, `on_done` images of a batch,
    `on_end` those that the engine had when it ended.
    """

    _info: EngineInfo | None = None

    def __init__(
        self,
        address: str,
        region: Region,
        fd: int,
        *,
        on_warm: Callable[[EngineInfo], None],
        on_done: Callable[[list[PendingImage], Done], None],
        on_end: Callable[[list[PendingImage]], None],
    ) -> None:
        self._address, self._fd = address, fd
        self._hello = HELLO.pack(region.offset, region.slots, region.slot_bytes)
        self._on_warm, self._on_done, self._on_end = on_warm, on_done, on_end
        self.running: dict[int, PendingImage] = {}
        self._unsent: list[int] = []
        self._socket: socket.socket | None = None
        self._received = bytearray()
        self._lost: float | None = None  # when the engine ended, until there is another

    def start(self) -> None:
        """Connect, and again whenever the connection has ended."""
        self._loop = asyncio.get_running_loop()
        self._connecting = asyncio.ensure_future(self._connect())

    def close(self) -> list[PendingImage]:
        """Leave the engine; returns the images that it had."""
        self._connecting.cancel()
        return self._leave()

    @property
    def warm(self) -> bool:
        """Whether there is an engine that has run every size of batch."""
        return self._socket is not None and self.fault is None

    @property
    def fault(self) -> str | None:
        """Why the engine cannot run."""
        return self._info.fault if self._info else None

    @property
    def unhealthy_reason(self) -> str | None:
        """Why no batch will end, None where one may."""
        if self.fault is None and self._lost and time.monotonic() - self._lost > _PATIENCE:
            return "its engine has ended, and does not start again"
        return self.fault

    def put(self, image: PendingImage) -> None:
        """Have an image in a slot run with the next batch, once `send` is called."""
        assert image.slot is not None
        self.running[image.slot] = image
        self._unsent.append(2 * image.slot + (image.tensor is not None))

    def send(self) -> None:
        """Tell the engine of what was put."""
        if self._unsent and self._socket is not None:
            message = np.array(self._unsent, SLOT).tobytes()
            self._unsent.clear()
            with contextlib.suppress(OSError):  # its end is read, and tells
                self._socket.send(message)

    def _read(self) -> None:
        assert self._socket is not None
        try:
            part = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        if not part:
            lost = self._leave()
            self._connecting = asyncio.ensure_future(self._connect())
            self._on_end(lost)
            return
        received = self._received
        received += part
        while len(received) >= DONE.size:
            count, batch_images, seconds, words = DONE.unpack_from(received)
            end = DONE.size + count * SLOT.itemsize + words
            if len(received) < end:
                return
            slots = np.frombuffer(bytes(received[DONE.size : end - words]), SLOT).tolist()
            failure = received[end - words : end].decode()
            del received[:end]
            images = [self.running.pop(slot) for slot in slots]
            self._on_done(images, Done(slots, batch_images, seconds, failure))

    def _leave(self) -> list[PendingImage]:
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket, self._lost = None, time.monotonic()
        self._received.clear()
        images = [*self.running.values()]
        self.running.clear()
        return images

    async def _connect(self) -> None:
        """Say where the slots are, and wait until the engine is warm."""
        while True:
            connection = socket.socket(socket.AF_UNIX)
            connection.setblocking(False)
            try:
                await self._loop.sock_connect(connection, self._address)
                socket.send_fds(connection, [self._hello], [self._fd])
                (size,) = LENGTH.unpack(await self._exactly(connection, LENGTH.size))
                info: EngineInfo = pickle.loads(await self._exactly(connection, size))
                break
            except OSError:
                connection.close()
                await asyncio.sleep(_RETRY)
            except BaseException:
                connection.close()
                raise
        self._socket, self._lost, self._info = connection, None, info
        self._loop.add_reader(connection, self._read)
        self._on_warm(info)

    async def _exactly(self, connection: socket.socket, size: int) -> bytes:
        found = b""
        while len(found) < size:
            part = await self._loop.sock_recv(connection, size - len(found))
            if not part:
                raise ConnectionResetError
            found += part
        return found
