"""What each path answers."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

import vit_engine
from vit_engine.artefact.description import parity_in_words
from vit_engine.errors import UsageError
from vit_engine.outputs.embeddings import Vectors
from vit_engine.server.core.refusal import ClientLeftError, RefusalError, bad_request
from vit_engine.server.core.scheduler import Scheduler
from vit_engine.server.core.service import Service
from vit_engine.server.http.body import Upload, Uploads, parsed
from vit_engine.server.http.codecs import classification, open_inference, openai_embeddings
from vit_engine.server.http.codecs.open_inference_models import (
    EXTENSIONS,
    config_of,
    metadata_of,
    stats_of,
)
from vit_engine.server.http.codecs.openapi import document
from vit_engine.server.http.page import page_responses
from vit_engine.server.http.responses import CLIENT_LEFT, error_response
from vit_engine.sources.signatures import HEAD, is_image

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class Routes:
    """The endpoints of a service, which are described by their docstrings."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._uploads = Uploads(service.memory, service.settings)
        self._page, self._docs = page_responses("page.html"), page_responses("docs.html")
        self.routes = list(self._routes())
        self._openapi = document(self.routes, service.settings, service.names)

    def _routes(self) -> Iterator[Route]:
        yield Route("/", self.root, methods=["GET", "POST"])
        yield Route("/v1/classify", self.classify, methods=["POST"])
        yield Route("/invocations", self.classify, methods=["POST"])
        yield Route("/v1/embeddings", self.embeddings, methods=["POST"])
        yield Route("/health", self.health)
        yield Route("/ping", self.health)
        yield Route("/info", self.info)
        yield Route("/metrics", self.metrics)
        yield Route("/openapi.json", self.openapi)
        yield Route("/docs", self.docs)
        yield Route("/v2", self.server)
        yield Route("/v2/health/live", self.live)
        yield Route("/v2/health/ready", self.health)
        yield Route("/v2/models/stats", self.all_stats)
        yield Route("/v2/repository/models/{name}/load", self.load, methods=["POST"])
        for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            yield Route(path, self.metadata)
            yield Route(f"{path}/config", self.config)
            yield Route(f"{path}/stats", self.stats)
            yield Route(f"{path}/ready", self.model_ready)
            yield Route(f"{path}/infer", self.infer, methods=["POST"])

    # Errors

    async def refuse(self, _: Request, error: Exception) -> Response:
        """Answer what was refused."""
        assert isinstance(error, RefusalError)
        self._service.metrics.refusals.labels(error.code).inc()
        retry = None if error.retry_after is None else {"retry-after": str(error.retry_after)}
        return error_response(error.status, error.code, str(error), retry)

    async def leave(self, _: Request, error: Exception) -> Response:
        """Count a client that has left; the answer goes nowhere."""
        assert isinstance(error, ClientLeftError)
        self._service.metrics.refusals.labels("left").inc()
        return Response(status_code=CLIENT_LEFT)

    async def refuse_http(self, _: Request, error: Exception) -> Response:
        """Answer what no route takes."""
        assert isinstance(error, HTTPException)
        status, message = error.status_code, error.detail
        if status == 404:
            message = "there is nothing at this path; /openapi.json lists what there is"
        code = {404: "path", 405: "method"}.get(status, "http")
        return error_response(status, code, message, error.headers)

    async def fail(self, _: Request, __: Exception) -> Response:
        """Answer what was not foreseen."""
        message = "an error that was not foreseen; the server's log has it"
        return error_response(500, "internal", message)

    # Labels

    async def root(self, request: Request) -> Response:
        """Labels of images; the page for browsers; what there is, for others."""
        if request.method == "POST":
            return await self.classify(request)
        if "text/html" in request.headers.get("accept", ""):
            return self._page()
        return JSONResponse(
            {
                "name": "vit-engine",
                "version": vit_engine.__version__,
                "models": self._service.names,
                "routes": sorted(self._openapi["paths"]),
            }
        )

    async def classify(self, request: Request) -> Response:
        """Labels of an image, or rows of several."""
        service = self._service
        query = request.query_params
        service.find(query.get("model"))  # refused before there is a body to read
        with Upload(request, self._uploads) as upload:
            body = await upload.read()
            kind = request.headers.get("content-type", "")
            parse = partial(classification.parse_request, body, kind, query, service.settings)
            # An image is handed on as it is: there is nothing to parse.
            asked = await parsed(parse, 0 if is_image(body[:HEAD]) else len(body))
            del body, parse
            scheduler = service.find(asked.model)
            engine = scheduler.engine
            asked.check(engine.contract)  # refused before there is work to do
            asked.selection(engine.output)
            done = await service.infer(
                scheduler, asked.images, request.receive, client=client_of(request)
            )
        answer = partial(classification.answer, asked, done, engine.output)
        return await asyncio.to_thread(answer) if len(asked.images) > 1 else answer()

    async def embeddings(self, request: Request) -> Response:
        """Vectors of images, and of texts where their model is served."""
        service = self._service
        with Upload(request, self._uploads) as upload:
            body = await upload.read()
            parse = partial(openai_embeddings.parse_request, body, service.settings)
            asked = await parsed(parse, len(body))
            del body, parse
            scheduler = service.find(asked.model)
            output, name = scheduler.engine.output, scheduler.name
            texts = service.texts_for(output)
            space = openai_embeddings.space_for(asked, name, output, with_texts=texts is not None)
            headers: dict[str, str] = {}
            images: list[Vectors] = []
            if asked.images:
                done = await service.infer(
                    scheduler, asked.images, request.receive, client=client_of(request)
                )
                headers["server-timing"] = classification.timing(done)
                images = openai_embeddings.vectors_of(done)
            words = np.empty((0, *output.shape), np.float32)
            if asked.texts and texts:
                try:
                    words = await asyncio.to_thread(texts.embed, asked.texts)
                except UsageError as e:
                    raise bad_request(str(e)) from None
        return openai_embeddings.answer(
            asked, images, words, name=name, space=space, headers=headers
        )

    # What there is

    async def health(self, _: Request) -> Response:
        """Whether requests are wanted."""
        state = self._service.state
        if state == "ready":
            return JSONResponse({"status": state})
        return error_response(503, state, f"this server is {state}")

    async def live(self, _: Request) -> Response:
        """Whether a new process is needed."""
        if self._service.alive:
            return JSONResponse({"status": "live"})
        return error_response(503, "dead", "this server cannot answer any more: start a new one")

    async def info(self, _: Request) -> Response:
        """The contract of each model."""
        models = [
            {
                "name": name,
                "provider": scheduler.engine.provider,
                "max_batch": scheduler.engine.max_batch,
                "contract": asdict(scheduler.engine.contract),
                "parity": parity_in_words(scheduler.engine.contract.parity),
            }
            for name, scheduler in self._service.schedulers.items()
        ]
        return JSONResponse({"version": vit_engine.__version__, "models": models})

    async def metrics(self, _: Request) -> Response:
        """What is counted, in Prometheus' text format."""
        self._service.show()
        return PlainTextResponse(self._service.metrics.text(), headers={"content-type": PROMETHEUS})

    async def openapi(self, _: Request) -> Response:
        """This document."""
        return JSONResponse(self._openapi)

    async def docs(self, _: Request) -> Response:
        """This document as a page."""
        return self._docs()

    # The inference protocol

    async def server(self, _: Request) -> Response:
        """The server, and which extensions of the protocol it has."""
        version = vit_engine.__version__
        return JSONResponse({"name": "vit-engine", "version": version, "extensions": EXTENSIONS})

    async def metadata(self, request: Request) -> Response:
        """Inputs and outputs."""
        return JSONResponse(metadata_of(self._find(request)))

    async def model_ready(self, request: Request) -> Response:
        """Whether requests to this model are wanted."""
        scheduler, state = self._find(request), self._service.state
        if scheduler.ready and not self._service.draining:
            return JSONResponse({"name": scheduler.name, "ready": True})
        return error_response(503, state, f"{scheduler.name} is {state}")

    async def config(self, request: Request) -> Response:
        """The configuration."""
        return JSONResponse(config_of(self._find(request)))

    async def stats(self, request: Request) -> Response:
        """What has gone through."""
        return self._stats([self._find(request)])

    async def all_stats(self, _: Request) -> Response:
        """What has gone through every model."""
        return self._stats(self._service.schedulers.values())

    def _stats(self, schedulers: Iterable[Scheduler]) -> Response:
        metrics = self._service.metrics
        stats = [stats_of(scheduler, metrics) for scheduler in schedulers]
        return JSONResponse({"model_stats": stats})

    async def infer(self, request: Request) -> Response:
        """Logits of tensors."""
        service, scheduler = self._service, self._find(request)
        with Upload(request, self._uploads) as upload:
            body = await upload.read(compressed=True)
            contract = scheduler.engine.contract
            parse = partial(
                open_inference.parse_request, body, request.headers, contract, service.settings
            )
            asked = await parsed(parse, len(body))
            del body, parse
            done = await service.infer(
                scheduler, asked.images, request.receive, client=client_of(request)
            )
        headers = {"server-timing": classification.timing(done)}
        answer = partial(open_inference.answer, asked, done, scheduler, headers)
        return await asyncio.to_thread(answer) if len(asked.images) > 1 else answer()

    async def load(self, request: Request) -> Response:
        """Open a model's file anew, in place of the one that is served; a key is needed."""
        await self._service.load(request.path_params["name"])
        return Response()

    def _find(self, request: Request) -> Scheduler:
        return self._service.find(**request.path_params)


def client_of(request: Request) -> str:
    """Return the address that a request comes from."""
    return request.client.host if request.client else ""
