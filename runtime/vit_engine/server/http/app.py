"""The ASGI application: its life, its routes and what stands before them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from vit_engine.options import DEFAULTS, EngineOptions
from vit_engine.server.core.refusal import ClientLeftError, RefusalError
from vit_engine.server.core.service import Service, models_from_arguments
from vit_engine.server.core.settings import SETTINGS, Settings
from vit_engine.server.http.access_log import AccessLog
from vit_engine.server.http.middleware import (
    AccessMiddleware,
    ApiKeyMiddleware,
    HostMiddleware,
)
from vit_engine.server.http.routes import Routes
from vit_engine.server.http.tracing import tracing

Beside = Callable[[Service, AccessLog], contextlib.AbstractAsyncContextManager[object]]
"""What serves by another protocol within its context."""


class Application:
    """Labels over HTTP, as an ASGI application whose life span opens and closes the models.

    `service.open()` opens them before that, for whoever wants to meet its errors. `beside` serves
    them by another protocol within that life span.
    """

    def __init__(
        self, service: Service, *, wait: bool = False, beside: Beside | None = None
    ) -> None:
        self.service = service
        self._app = _with_routes(service, wait, beside)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of ASGI."""
        await self._app(scope, receive, send)


def application(
    *models: str | Path,
    settings: Settings = SETTINGS,
    options: EngineOptions = DEFAULTS,
    text: str | Path | None = None,
    wait: bool = False,
    beside: Beside | None = None,
    **changes: Any,
) -> Application:
    """Return an application that serves artefacts, `FILE` or `NAME=FILE`, the first by default.

    `text` is a file of `vit-export --text`, for texts beside the images of one of them.

    The other options are those of Engine.open; nothing is opened before the application's life span
    begins, which with `wait` has begun when everything is ready. UsageError for names that clash.
    """
    options = replace(options, **changes)
    service = Service(models_from_arguments(models), settings, options, text)
    return Application(service, wait=wait, beside=beside)


def _with_routes(service: Service, wait: bool, beside: Beside | None) -> ASGIApp:
    routes, settings = Routes(service), service.settings
    log = AccessLog(service.metrics.dropped_log_lines)

    @contextlib.asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        await service.start(wait=wait)
        try:
            async with beside(service, log) if beside else contextlib.nullcontext():
                yield
        finally:
            await service.close()
            await asyncio.to_thread(log.close)
            await asyncio.to_thread(send_spans)

    starlette = Starlette(
        routes=routes.routes,
        lifespan=life,
        exception_handlers={
            RefusalError: routes.refuse,
            ClientLeftError: routes.leave,
            HTTPException: routes.refuse_http,
            Exception: routes.fail,
        },
    )
    starlette.router.redirect_slashes = False
    app: ASGIApp = ApiKeyMiddleware(starlette, settings.keys, service.metrics)
    if settings.origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=("server-timing", "retry-after"),
        )
    if settings.hosts is not None:
        app = HostMiddleware(app, settings.hosts, service.metrics)
    app, send_spans = tracing()(AccessMiddleware(app, service, log))
    return app
