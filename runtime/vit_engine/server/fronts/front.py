"""A front: one of the processes that serve a port, for a parent that has the engines."""

import asyncio
import logging
import os
import pickle
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from vit_engine.machine.worker import Channel, Frames
from vit_engine.options import EngineOptions
from vit_engine.server.core.service import Service
from vit_engine.server.core.settings import Settings
from vit_engine.server.engines.messages import OpenEngine
from vit_engine.server.http.app import Application, Beside
from vit_engine.server.http.listener import serve

_CHUNK = 2**16


@dataclass(frozen=True)
class Served:
    """What is served, as the command line says it."""

    models: Mapping[str, str | Path]
    settings: Settings
    options: EngineOptions
    text: str | Path | None
    beside: Beside | None = None


@dataclass(frozen=True)
class FrontOptions:
    """What a front needs to begin."""

    served: Served
    engines: Mapping[str, OpenEngine]
    decoders: int
    listening: int  # a descriptor


def log_to_stderr() -> None:
    """Have what is logged go to stderr, but for what libraries tell of every malformed request."""
    logging.basicConfig(format="vit-serve: %(message)s", stream=sys.stderr)
    for name in ("uvicorn", "python_multipart"):
        logging.getLogger(name).setLevel(logging.ERROR)


def serve_front(channel: Channel) -> None:
    """Serve one of several sockets; the life of a front."""
    front: FrontOptions = pickle.loads(next(channel.requests()))
    log_to_stderr()
    served, parent = front.served, _ParentLink(channel)
    service = Service(
        served.models,
        served.settings,
        served.options,
        served.text,
        engines=front.engines,
        reload=parent.load,
        decoders=front.decoders,
    )
    parent.service = service
    listening = socket.socket(fileno=front.listening)
    code = serve(Application(service, beside=served.beside), listening, lambda _: parent.listen())
    os._exit(code)


class _ParentLink:
    """A front's end of the pipes to its parent."""

    service: Service

    def __init__(self, channel: Channel) -> None:
        self._channel, self._frames = channel, Frames()
        self._loads: dict[int, asyncio.Future[None]] = {}
        self._numbers = count()
        self._tasks: set[asyncio.Future[None]] = set()

    def listen(self) -> None:
        """Tell that requests are taken, and read what the parent says from now on."""
        self._requests, _ = self._channel.descriptors
        asyncio.get_running_loop().add_reader(self._requests, self._read)
        self._channel.answer(pickle.dumps("listening"))

    async def load(self, name: str) -> None:
        """Have the parent open a model anew; raises what comes of it."""
        number = next(self._numbers)
        future = self._loads[number] = asyncio.get_running_loop().create_future()
        self._channel.answer(pickle.dumps(("load", number, name)))
        await future

    def _read(self) -> None:
        part = os.read(self._requests, _CHUNK)
        if not part:  # the parent is gone, and with it the engines
            asyncio.get_running_loop().remove_reader(self._requests)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        for message in self._frames.feed(part):
            match pickle.loads(message):
                case "loaded", number, error:
                    future = self._loads.pop(number)
                    future.set_exception(error) if error else future.set_result(None)
                case "replace", name, engine:
                    task = asyncio.ensure_future(self._replace(name, engine))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)

    async def _replace(self, name: str, engine: OpenEngine) -> None:
        await self.service.replace(name, engine)
        self._channel.answer(pickle.dumps(("replaced", name)))
