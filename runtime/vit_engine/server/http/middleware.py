"""What stands before every route: keys, one count a request, the access log, plain ASGI."""

import hashlib
import hmac
import ipaddress
import time
from collections.abc import Mapping
from typing import Self
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vit_engine.server.core.metrics import Metrics
from vit_engine.server.core.service import Service
from vit_engine.server.http.access_log import AccessLog
from vit_engine.server.http.body import CountingReceive
from vit_engine.server.http.responses import CLIENT_LEFT, error_response

_LATE = 408

NO_KEY = "a key is needed: Authorization: Bearer KEY"

_OPEN = frozenset(
    ("/", "/health", "/ping", "/v2/health/live", "/v2/health/ready", "/openapi.json", "/docs")
)
"""Paths that ask for no key: probes, the page without its answers, and what can be asked."""


class RequestRecord:
    """What is counted and logged of a request once it has ended: a context manager."""

    def __init__(self, service: Service, log: AccessLog, scope: Scope) -> None:
        self._service, self._log, self._scope = service, log, scope
        self.route, self.status, self.size = "none", CLIENT_LEFT, 0

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        self._service.metrics.requests_in_flight.inc()
        return self

    def __exit__(self, *exception: object) -> None:
        seconds, metrics = time.monotonic() - self._start, self._service.metrics
        metrics.requests_in_flight.dec()
        metrics.requests.labels(self.route, self.status).inc()
        metrics.request_seconds.labels(self.route).observe(seconds)
        metrics.body_bytes.inc(self.size)
        if self._service.settings.log_requests:
            self._log.write(self._scope, self.status, seconds, self.size)


class AccessMiddleware:
    """Lets requests in, and counts each of them once when it has ended, however it ends."""

    def __init__(self, app: ASGIApp, service: Service, log: AccessLog) -> None:
        self._app, self._service, self._log = app, service, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the life span of the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        body = CountingReceive(receive)
        has_body = "content-length" in headers or "transfer-encoding" in headers

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                status = record.status = message["status"]
                closes = self._service.draining
                if has_body and not body.ended:
                    # Whoever sends all before he reads is to get the answer; whoever waits to be
                    # asked for the body is not asked, and whoever was late is not waited for.
                    if "expect" not in headers and status != _LATE:
                        await body.discard(self._service.settings)
                    closes = closes or not body.ended
                if closes:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        with RequestRecord(self._service, self._log, scope) as record:
            try:
                await self._app(scope, body, answer)
            finally:
                record.route = getattr(scope.get("endpoint"), "__name__", "none")
                record.size = body.size


class HostMiddleware:
    """Refuses requests by names that only a page of somebody else would use: DNS rebinding.

    A page at evil.example may have its name lead to 127.0.0.1, and a browser then lets it read what
    is answered there. Names without a public owner cannot be used so.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...], metrics: Metrics) -> None:
        self._app, self._hosts, self._metrics = app, {host.lower() for host in hosts}, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may pass."""
        if scope["type"] == "http":
            host = _host_of(Headers(scope=scope).get("host", ""))
            if not (host in self._hosts or _is_local(host)):
                self._metrics.refusals.labels("host").inc()
                message = (
                    f"this server answers to local names, not to {host[:100]!r}; where a proxy "
                    f"passes that name on, start it with --allow-host {host[:100]}"
                )
                await error_response(403, "host", message)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class ApiKeys:
    """The keys of a server; without any, everybody is let in."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = [_digest(key.encode()) for key in keys]

    def accept(self, headers: Mapping[str, str]) -> bool:
        """Whether a request has one of them."""
        if not self._keys:
            return True
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = _digest(given.encode())
        # Every key is looked at, so that the time tells nothing.
        return bool(sum(hmac.compare_digest(digest, known) for known in self._keys))


class ApiKeyMiddleware:
    """Refuses requests without one of the keys, where there are any."""

    def __init__(self, app: ASGIApp, keys: tuple[str, ...], metrics: Metrics) -> None:
        self._app, self._keys, self._metrics = app, ApiKeys(keys), metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may pass."""
        if scope["type"] != "http" or self._passes(scope):
            await self._app(scope, receive, send)
            return
        self._metrics.refusals.labels("key").inc()
        response = error_response(401, "key", NO_KEY)
        await response(scope, receive, send)

    def _passes(self, scope: Scope) -> bool:
        is_open = scope["path"] in _OPEN and scope["method"] in ("GET", "HEAD")
        return is_open or self._keys.accept(Headers(scope=scope))


def _host_of(header: str) -> str:
    """Return the name or address of a header Host, without its port."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return header


def _is_local(host: str) -> bool:
    """Whether nobody can own a name in the DNS of the world: an address counts as such."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".local", ".internal"))
    return True


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
