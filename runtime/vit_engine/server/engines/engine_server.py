"""The process of a model's engine: it serves every front, until its parent is gone."""

import asyncio
import contextlib
import logging
import mmap
import os
import pickle
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vit_engine.engine import Engine
from vit_engine.errors import one_line
from vit_engine.machine.worker import Channel
from vit_engine.options import EngineOptions
from vit_engine.server.engines.batcher import Batcher
from vit_engine.server.engines.messages import DONE, HELLO, LENGTH, SLOT, EngineInfo, SlotViews

log = logging.getLogger(__name__)

_CHUNK = 2**16
_CREDENTIALS = struct.Struct("3i")  # process, user, group
_EXIT_FAULT = 70  # what sysexits.h calls an internal software error


@dataclass(frozen=True)
class Opening:
    """What the process opens, and the descriptor of the socket that fronts connect to."""

    name: str
    model: Any
    options: EngineOptions
    hang_timeout: float
    listening: int


def serve(channel: Channel) -> None:
    """Open a model and run what fronts ask for; the life of the child."""
    opening: Opening = pickle.loads(next(channel.requests()))
    logging.basicConfig(format=f"vit-serve: {opening.name}: %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    start = time.monotonic()
    try:
        engine = Engine.open(opening.model, opening.options)
    except Exception as e:  # noqa: BLE001  raised again in the parent
        channel.answer(pickle.dumps(e))
        return
    info = EngineInfo(engine.contract, engine.provider, engine.max_batch, engine.in_flight)
    info = replace(info, load_seconds=time.monotonic() - start)
    channel.answer(pickle.dumps(info))
    asyncio.run(_Server(engine, info, channel, opening).run())


class _Server:
    """The event loop of an engine's process."""

    def __init__(
        self, engine: Engine, info: EngineInfo, channel: Channel, opening: Opening
    ) -> None:
        self._engine, self._info, self._channel, self._opening = engine, info, channel, opening
        self.fronts: set[_Front] = set()
        self._retired = False

    async def run(self) -> None:
        """Serve until the parent is gone or, retired, until the last front is."""
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self.batcher = Batcher(
            self._engine, hang_timeout=self._opening.hang_timeout, on_fault=self._give_up
        )
        requests, _ = self._channel.descriptors
        self._loop.add_reader(requests, self._command, requests)
        self._info = await asyncio.to_thread(self._warm_up)
        self._channel.answer(pickle.dumps(self._info.fault))
        self._listening = socket.socket(fileno=self._opening.listening)
        self._listening.setblocking(False)
        self._loop.add_reader(self._listening, self._accept)
        await self._ended.wait()

    def _warm_up(self) -> EngineInfo:
        """Run each size of batch: what a provider builds or chooses then, nobody waits for.

        One image twice: a provider may open something for them at the second.
        """
        input_spec, info = self._info.contract.input, self._info
        began = time.monotonic()
        try:
            for size in (1, *range(1, self._engine.max_batch + 1)):
                start = time.monotonic()
                self._engine.run(np.zeros((size, input_spec.height, input_spec.width, 3), np.uint8))
                info = replace(info, seconds=time.monotonic() - start)
        except Exception as e:
            log.exception("cannot run")
            return replace(info, fault=one_line(e))
        load_seconds = info.load_seconds + time.monotonic() - began
        return replace(info, max_batch=self._engine.max_batch, load_seconds=load_seconds)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listening.accept()
            if _is_ours(connection):
                self.fronts.add(_Front(self, connection, self._info))
            else:
                connection.close()

    def _command(self, requests: int) -> None:
        if not os.read(requests, _CHUNK):
            os._exit(0)  # the parent is gone: what still runs is nobody's
        self._retired = True  # the one thing that is ever said
        self.left(None)

    def left(self, front: "_Front | None") -> None:
        """Forget a front whose connection has ended."""
        if front is not None:
            self.fronts.discard(front)
            self.batcher.forget(front)
        if self._retired and not self.fronts:
            self._ended.set()

    def _give_up(self, reason: str) -> None:
        log.critical("%s: starting again", reason)
        os._exit(_EXIT_FAULT)


def _is_ours(connection: socket.socket) -> bool:
    """Whether this user is at the other end: anybody may connect to a name that no folder has."""
    if sys.platform != "linux":
        return True  # the folder is its owner's alone
    size = _CREDENTIALS.size
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, user, _ = _CREDENTIALS.unpack(credentials)
    return bool(user == os.geteuid())


class _Front:
    """A connection of a front."""

    def __init__(self, server: _Server, connection: socket.socket, info: EngineInfo) -> None:
        self._server, self._connection, self._info = server, connection, info
        self.views: SlotViews
        self._slots = 0
        connection.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(connection, self._meet)

    def _meet(self) -> None:
        """Read where the slots are, and answer."""
        try:
            said, descriptors, _, _ = socket.recv_fds(self._connection, HELLO.size, 1)
            offset, self._slots, size = HELLO.unpack(said)
            (descriptor,) = descriptors
            memory = mmap.mmap(descriptor, self._slots * size, offset=offset)
            os.close(descriptor)
            self.views = SlotViews(memory, self._slots, size, self._info.contract)
            answer = pickle.dumps(self._info)
            self._connection.sendall(LENGTH.pack(len(answer)) + answer)
        except (OSError, ValueError) as e:  # whoever it is, he is no front of ours
            log.error("a connection that is no front's was closed (%s)", one_line(e))
            self._leave()
            return
        except Exception:
            self._leave()
            raise
        self._loop.remove_reader(self._connection)
        self._loop.add_reader(self._connection, self._read)

    def _read(self) -> None:
        try:
            said = self._connection.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        slots = np.frombuffer(said[: len(said) // SLOT.itemsize * SLOT.itemsize], SLOT)
        if not said or len(said) % SLOT.itemsize or (slots >> 1 >= self._slots).any():
            self._leave()
            return
        self._server.batcher.add(self, slots.tolist())

    def done(self, slots: Sequence[int], images: int, seconds: float, failure: str) -> None:
        """Tell the front; one that does not read is left to itself."""
        if self not in self._server.fronts:
            return
        reason = failure.encode()
        message = DONE.pack(len(slots), images, seconds, len(reason))
        message += np.array(slots, SLOT).tobytes() + reason
        try:
            sent = self._connection.send(message)
        except OSError:
            sent = 0
        if sent < len(message):
            self._leave()

    def _leave(self) -> None:
        self._loop.remove_reader(self._connection)
        self._connection.close()
        self._server.left(self)
