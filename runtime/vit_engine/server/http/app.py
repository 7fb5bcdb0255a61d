"""The ASGI application: every route, and what it answers."""

import base64
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

import vit_engine
from vit_engine.options import DEFAULTS, EngineOptions
from vit_engine.server.core.service import Service, models_from_arguments
from vit_engine.server.core.settings import SETTINGS, Settings
from vit_engine.server.http.body import Hold, body_of
from vit_engine.server.http.codecs import classification, open_inference
from vit_engine.server.http.codecs.json_reader import JsonReader
from vit_engine.server.http.codecs.openapi import document as openapi_document
from vit_engine.server.http.door import Door, Keys
from vit_engine.server.http.refusal import CLIENT_LEFT, ClientLeftError, RefusalError, refused

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class Application:
    """Labels over HTTP, as an ASGI application whose life span opens and closes the models.

    `service.open()` opens them before that, for whoever wants to meet its errors.
    """

    def __init__(self, service: Service, *, wait: bool = False) -> None:
        self.service = service
        self._app = _with_routes(service, wait)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of ASGI."""
        await self._app(scope, receive, send)


def application(
    *models: str | Path,
    settings: Settings = SETTINGS,
    options: EngineOptions = DEFAULTS,
    wait: bool = False,
    **changes: Any,
) -> Application:
    """Return an application that serves artefacts, `FILE` or `NAME=FILE`, the first by default.

    The other options are those of Engine.open; nothing is opened before the application's life span
    begins, which with `wait` has begun when everything is ready. UsageError for names that clash.
    """
    options = replace(options, **changes)
    return Application(Service(models_from_arguments(models), settings, options), wait=wait)


def _with_routes(service: Service, wait: bool) -> ASGIApp:
    routes = _Routes(service)

    @contextlib.asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        await service.start(wait=wait)
        try:
            yield
        finally:
            routes.json_reader.close()
            service.close()

    def get(path: str, endpoint: Any) -> Route:
        return Route(path, endpoint, methods=["GET"])

    def post(path: str, endpoint: Any) -> Route:
        return Route(path, endpoint, methods=["POST"])

    model = "/v2/models/{name}"
    versioned = model + "/versions/{version}"
    v2 = [
        route
        for base in (model, versioned)
        for route in (
            get(base, routes.metadata),
            get(base + "/ready", routes.model_ready),
            get(base + "/config", routes.config),
            get(base + "/stats", routes.stats),
            post(base + "/infer", routes.infer),
        )
    ]
    starlette = Starlette(
        routes=[
            Route("/", routes.root, methods=["GET", "POST"]),
            post("/v1/classify", routes.classify),
            post("/invocations", routes.classify),
            get("/ping", routes.health),
            get("/health", routes.health),
            get("/info", routes.info),
            get("/metrics", routes.metrics),
            get("/openapi.json", routes.openapi),
            get("/v2", routes.server),
            get("/v2/health/live", routes.live),
            get("/v2/health/ready", routes.health),
            get("/v2/models/stats", routes.all_stats),
            *v2,
        ],
        lifespan=life,
        exception_handlers={
            RefusalError: routes.refuse,
            ClientLeftError: routes.leave,
            HTTPException: _refuse_http,
            Exception: _fail,
        },
    )
    starlette.router.redirect_slashes = False
    settings = service.settings
    app: ASGIApp = Keys(starlette, settings.keys, service.metrics)
    if settings.origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=("server-timing", "retry-after"),
        )
    return Door(app, settings, service.metrics)


async def _refuse_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: "path", 405: "method"}
    words = {404: "there is nothing at this path; /openapi.json lists what there is"}
    return refused(
        error.status_code,
        codes.get(error.status_code, "http"),
        words.get(error.status_code, error.detail),
        error.headers,
    )


async def _fail(_: Request, __: Exception) -> Response:
    return refused(500, "internal", "an error that was not foreseen; the server's log has it")


class _Routes:
    """What each path answers."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._page, self._policy = _page()
        self._openapi = openapi_document(service.settings, service.names)
        self.json_reader = JsonReader(service.settings.deadline)

    async def refuse(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, RefusalError)
        self._service.metrics.refusals.add(error.code)
        return error.response()

    async def leave(self, _: Request, __: Exception) -> Response:
        self._service.metrics.refusals.add("left")
        return Response(status_code=CLIENT_LEFT)  # which goes nowhere, and is counted

    # Labels

    async def root(self, request: Request) -> Response:
        """Answer with labels to images, with the page to browsers, with a few words to others."""
        if request.method == "POST":
            return await self.classify(request)
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(self._page, headers={"content-security-policy": self._policy})
        return JSONResponse(
            {
                "name": "vit-engine",
                "version": vit_engine.__version__,
                "models": self._service.names,
                "routes": sorted(self._openapi["paths"]),
            }
        )

    async def classify(self, request: Request) -> Response:
        service = self._service
        scheduler = service.find(request.query_params.get("model"))
        with Hold(service.budget) as hold:
            body = await body_of(request, hold, service.settings)
            question = await classification.question_of(
                body,
                request.headers.get("content-type", ""),
                request.query_params,
                service.settings,
                self.json_reader,
            )
            del body
            output = scheduler.engine.output
            question.selection(output)  # refused before there is work to do
            ticket = await service.outcomes(request, scheduler, question.images)
        return classification.answer(question, ticket, output)

    # What there is

    async def health(self, _: Request) -> Response:
        state = self._service.state
        if state == "ready":
            return JSONResponse({"status": state})
        return refused(503, state, f"this server is {state}")

    async def live(self, _: Request) -> Response:
        if self._service.alive:
            return JSONResponse({"status": "live"})
        return refused(503, "dead", "this server cannot answer any more: start a new one")

    async def info(self, _: Request) -> Response:
        models = [
            {
                "name": name,
                "provider": scheduler.engine.provider,
                "max_batch": scheduler.engine.max_batch,
                "contract": asdict(scheduler.engine.contract),
            }
            for name, scheduler in self._service.schedulers.items()
        ]
        return JSONResponse({"version": vit_engine.__version__, "models": models})

    async def metrics(self, _: Request) -> Response:
        return PlainTextResponse(self._service.metrics.text(), headers={"content-type": PROMETHEUS})

    async def openapi(self, _: Request) -> Response:
        return JSONResponse(self._openapi)

    # The inference protocol

    async def server(self, _: Request) -> Response:
        extensions = list(open_inference.EXTENSIONS)
        version = vit_engine.__version__
        return JSONResponse({"name": "vit-engine", "version": version, "extensions": extensions})

    async def metadata(self, request: Request) -> Response:
        return JSONResponse(open_inference.metadata_of(self._find(request)))

    async def model_ready(self, request: Request) -> Response:
        scheduler = self._find(request)
        if scheduler.ready and not self._service.draining:
            return JSONResponse({"name": scheduler.name, "ready": True})
        return refused(503, self._service.state, f"{scheduler.name} is {self._service.state}")

    async def config(self, request: Request) -> Response:
        return JSONResponse(open_inference.config_of(self._find(request)))

    async def stats(self, request: Request) -> Response:
        return self._stats([self._find(request)])

    async def all_stats(self, _: Request) -> Response:
        return self._stats(self._service.schedulers.values())

    def _stats(self, schedulers: Any) -> Response:
        metrics = self._service.metrics
        stats = [open_inference.stats_of(scheduler, metrics) for scheduler in schedulers]
        return JSONResponse({"model_stats": stats})

    async def infer(self, request: Request) -> Response:
        service, scheduler = self._service, self._find(request)
        with Hold(service.budget) as hold:
            body = await body_of(request, hold, service.settings, compressed=True)
            size = open_inference.json_size(body, request.headers)
            parse = partial(
                open_inference.tensors_of, body, size, scheduler.engine.contract, service.settings
            )
            large = size > open_inference.LARGE
            given = await self.json_reader.read(parse) if large else parse()
            del body, parse
            ticket = await service.outcomes(request, scheduler, given.images)
        headers = {"server-timing": classification.timing(ticket)}
        return open_inference.response_of(given, ticket, scheduler, headers)

    def _find(self, request: Request) -> Any:
        return self._service.find(**request.path_params)


def _page() -> tuple[str, str]:
    """Return the page, and the policy that lets its own script and style run and nothing else."""
    page = resources.files("vit_engine.server").joinpath("page.html").read_text("utf-8")

    def hashes(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = (hashlib.sha256(text.encode()).digest() for text in found)
        return " ".join(f"'sha256-{base64.b64encode(d).decode()}'" for d in digests)

    policy = (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; "
        "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return page, policy
