"""An application on a socket: uvicorn, with connections of our own, and an end that drains."""

import asyncio
import math
import os
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from vit_engine.errors import MachineError, UsageError, format_limit
from vit_engine.server.core.service import Service
from vit_engine.server.http.app import Application
from vit_engine.server.http.http_connection import Connection

_BACKLOG = 2048
_LAST_PORT = 65535


def bound(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Return a socket of an address that nobody listens on yet; MachineError where that fails.

    A `shared` one is for an address that other such sockets have as well.
    """
    if port > _LAST_PORT:
        raise UsageError(f"port {port} is none: {_LAST_PORT} is the largest")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found.bind(address)
    except OSError as e:
        words = format_limit(e) or e.strerror
        raise MachineError(
            f"cannot listen on {host} port {port}: {words}; choose another --host or --port"
        ) from e
    return found


def claimed(host: str, port: int) -> socket.socket:
    """Return a socket that keeps an address from others, and is not for requests itself."""
    with bound(host, port) as taken:  # alone, so nobody else has it
        port = taken.getsockname()[1]
    return bound(host, port, shared=True)


def url_of(listening: socket.socket) -> str:
    """Return the address that a client on this machine would use."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(application: Application, listening: socket.socket, told: Callable[[str], object]) -> int:
    """Serve until a signal says otherwise; returns an exit code: 0 after SIGTERM.

    `told` is given a line when requests are accepted. A second signal ends the process at once.
    """
    settings = application.service.settings
    config = uvicorn.Config(
        application,
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=math.ceil(settings.keep_alive),
        timeout_graceful_shutdown=math.ceil(settings.deadline + settings.body_time),
    )
    server = _Server(config, application.service, lambda: told(f"listening at {url_of(listening)}"))
    try:
        server.run([listening])
    except SystemExit as e:
        raise MachineError("the server did not start, for the reason above") from e
    return server.exit_code


class _Server(uvicorn.Server):
    """uvicorn, which on SIGTERM goes on for the drain, so that proxies see it coming."""

    exit_code = 0

    def __init__(
        self, config: uvicorn.Config, service: Service, accepting: Callable[[], object]
    ) -> None:
        super().__init__(config)
        self._service, self._accepting = service, accepting
        self._end: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._accepting()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)

    def _reload(self) -> None:
        self._reloading = asyncio.ensure_future(self._service.reload_all())

    def handle_exit(self, sig: int, _: FrameType | None) -> None:
        if self._end is not None:
            os._exit(128 + sig)
        self._service.draining = True
        drain = self._service.settings.drain
        if sig == signal.SIGINT:
            self.exit_code, drain = 128 + sig, 0.0
        self._end = time.monotonic() + drain

    async def on_tick(self, counter: int) -> bool:
        ending = await super().on_tick(counter)
        return ending or (self._end is not None and time.monotonic() >= self._end)
