"""What stands before every route: keys, one count a request, the access log, plain ASGI."""

import hashlib
import hmac
import json
import logging
import sys
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vit_engine.server.core.metrics import Metrics
from vit_engine.server.core.settings import Settings
from vit_engine.server.http.body import Watched
from vit_engine.server.http.refusal import CLIENT_LEFT, RefusalError

log = logging.getLogger(__name__)

_LATE = 408

OPEN = frozenset(("/", "/health", "/ping", "/v2/health/live", "/v2/health/ready", "/openapi.json"))
"""Paths that ask for no key: probes, the page without its answers, and what can be asked."""


class Door:
    """Lets requests in, and counts each of them once when it has ended, however it ends."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the life span of the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()
        headers = Headers(scope=scope)
        watched = Watched(receive)
        has_body = "content-length" in headers or "transfer-encoding" in headers
        status = str(CLIENT_LEFT)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                if has_body and not watched.ended:
                    # Whoever sends all before he reads is to get the answer; whoever waits to be
                    # asked for the body is not asked, and whoever was late is not waited for.
                    if "expect" not in headers and message["status"] != _LATE:
                        await watched.discard(self._settings)
                    if not watched.ended:
                        message["headers"] = [*message["headers"], (b"connection", b"close")]
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, watched, answer)
        finally:
            route = getattr(scope.get("endpoint"), "__name__", "none")
            seconds = time.monotonic() - start
            self._metrics.requests.add(route, status)
            self._metrics.request_seconds.observe(seconds, route)
            self._metrics.body_bytes.add(by=watched.size)
            if self._settings.log_requests:
                _log(scope, status, seconds, watched.size)


class Keys:
    """Refuses requests without one of the keys, where there are any."""

    def __init__(self, app: ASGIApp, keys: tuple[str, ...], metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        self._keys = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may pass."""
        if scope["type"] != "http" or self._passes(scope):
            await self._app(scope, receive, send)
            return
        self._metrics.refusals.add("key")
        refusal = RefusalError(401, "key", "a key is needed: Authorization: Bearer KEY")
        await refusal.response()(scope, receive, send)

    def _passes(self, scope: Scope) -> bool:
        if not self._keys or (scope["path"] in OPEN and scope["method"] in ("GET", "HEAD")):
            return True
        headers = Headers(scope=scope)
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = _digest(given.encode())
        # Every key is looked at, so that the time tells nothing.
        return bool(sum(hmac.compare_digest(digest, known) for known in self._keys))


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _log(scope: Scope, status: str, seconds: float, size: int) -> None:
    """Write one line of JSON to stdout: no body, no query, no key."""
    client = scope.get("client")
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "client": client[0] if client else None,
        "method": scope["method"],
        "path": scope["path"][:200],
        "status": int(status),
        "ms": round(seconds * 1e3, 2),
        "bytes": size,
    }
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
