"""A connection: uvicorn's protocol, with bounds on time and bytes, and refusals in JSON."""

import asyncio
import json
import socket
from http import HTTPStatus
from typing import NoReturn

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from vit_engine.server.http.app import Application

MAX_HEAD = 64 * 2**10
"""Bytes of a request's line and headers, and of trailers or anything else between its data."""

MAX_HEADERS = 128
"""Headers of a request, and parameters of its query."""

_LOOK = 0.1  # seconds between looks at whether a client that sends no more is there
_CLOSED = 7  # TCP_CLOSE, in the first byte of Linux' struct tcp_info


class Connection(HttpToolsProtocol):
    """A connection whose heads are bounded, and whose idle time nothing prolongs but a request.

    uvicorn bounds neither, and its class has no other way in. Used of it are the callbacks of
    asyncio and httptools, its timer of idle connections, `cycle`, `headers`, `url`, `transport`,
    `loop` and `config`.
    """

    _late: asyncio.TimerHandle | None = None  # runs while a head is awaited
    _looks: asyncio.TimerHandle | None = None  # runs while a client that sends no more waits
    _in_head = True
    _unused = 0  # bytes since something has come of them

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timers()
        if self._looks is not None:
            self._looks.cancel()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer who has sent all of a request and says so, as long as he is there."""
        if not (self._answering and hasattr(socket, "TCP_INFO")):
            return False
        self.cycle.keep_alive = False
        # Who has closed looks the same, until something is sent to him, which he resets.
        if self.cycle.scope["http_version"] != "1.0" and not self.cycle.response_started:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._look_for_client()
        return True

    def data_received(self, data: bytes) -> None:
        if self._unused > MAX_HEAD:
            self._refuse(431, "head", f"the head has more than {MAX_HEAD} bytes, the limit")
            return
        self._unused += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as e:
            self._decline(data[e.args[0] :])
        except httptools.HttpParserError:
            self._refuse(400, "malformed", "Invalid HTTP request received.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unused, self._in_head = 0, True
        self._cancel_timers()
        self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # trailers are passed over
            super().on_header(name, value)
            if len(self.headers) > MAX_HEADERS:
                self._stop(431, "head", f"there are more than {MAX_HEADERS} headers, the limit")

    def on_headers_complete(self) -> None:
        self._unused, self._in_head = 0, False
        self._cancel_timers()
        self._check()
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unused = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unused = 0
        if not self.parser.should_upgrade():
            super().on_message_complete()

    @property
    def _answering(self) -> bool:
        """Whether a request is here as a whole, and its answer is not."""
        cycle = self.cycle
        return cycle is not None and not cycle.more_body and not cycle.response_complete

    def _check(self) -> None:
        """Refuse what no server should act on."""
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (not hosts and self.parser.get_http_version() != "1.0"):
            self._stop(400, "malformed", f"there are {hosts} headers Host, there must be one")
        if self.parser.get_method() == b"CONNECT":
            self._stop(405, "method", "CONNECT asks for a proxy, which this is not")
        for name, value in self.headers:
            if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
                found = value[:40].decode("latin-1")
                self._stop(
                    501, "encoding", f"Transfer-Encoding is {found!r}; only chunked is read here"
                )
        if self.url.count(b"&") > MAX_HEADERS:
            self._stop(431, "head", f"the query has more than {MAX_HEADERS} parameters, the limit")
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD:
            self._stop(431, "head", f"the head has more than {MAX_HEAD} bytes, the limit")

    def _decline(self, rest: bytes) -> None:
        """Read a request that offers another protocol as if it did not, and what follows."""
        # httptools takes the body for the other protocol's, whatever the server says.
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([*lines, b"", rest]))

    def _await_head(self) -> None:
        application = self.config.app
        assert isinstance(application, Application)
        settings = application.service.settings
        self._late = self.loop.call_later(settings.header_time, self.timeout_keep_alive_handler)

    def _cancel_timers(self) -> None:
        self._unset_keepalive_if_required()
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _look_for_client(self) -> None:
        connection = self.transport.get_extra_info("socket")
        if connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _CLOSED:
            self.transport.abort()
        else:
            self._looks = self.loop.call_later(_LOOK, self._look_for_client)

    def _stop(self, status: int, code: str, message: str) -> NoReturn:
        """Refuse, from within a callback of the parser, which is to read no further."""
        self._refuse(status, code, message)
        raise ConnectionAbortedError(message)

    def _refuse(self, status: int, code: str, message: str) -> None:
        if self.transport.is_closing():
            return
        if self._answering:  # an earlier request, whose answer must come first
            self.cycle.keep_alive = False
            return
        body = json.dumps({"error": message, "error_code": code})
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write((head + body).encode())
        self.transport.close()
