"""What each method of inference.GRPCInferenceService answers.

Its messages are Triton's own, of tritonclient.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

import vit_engine
from vit_engine.server.core.admission import MemoryReservation
from vit_engine.server.core.refusal import RefusalError, bad_request
from vit_engine.server.core.scheduler import Scheduler
from vit_engine.server.core.service import Service
from vit_engine.server.http.access_log import AccessLog
from vit_engine.server.http.body import parsed
from vit_engine.server.http.codecs.open_inference_models import (
    EXTENSIONS,
    config_of,
    metadata_of,
    stats_of,
)
from vit_engine.server.http.middleware import NO_KEY, ApiKeys, RequestRecord
from vit_engine.server.http.responses import CLIENT_LEFT
from vit_engine.server.rpc.infer_message import check_fields, message_of, parse_message

log = logging.getLogger(__name__)

_PREFIX = "/inference.GRPCInferenceService/"
_OPEN = ("ServerLive", "ServerReady")  # ask for no key

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    CLIENT_LEFT: grpc.StatusCode.CANCELLED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""By the status that HTTP would have."""


class InferenceCalls(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The methods of a service; others are UNIMPLEMENTED."""

    def __init__(self, service: Service, access_log: AccessLog) -> None:
        self._service, self._log = service, access_log
        self._keys = ApiKeys(service.settings.keys)
        self._methods: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "ModelInfer": self._model_infer,
            "RepositoryModelLoad": self._load,
        }

    def service(self, details: Any) -> Any:
        """Return what answers a call, before any of its message is read."""
        name = details.method.removeprefix(_PREFIX)
        if name not in self._methods:
            return None
        headers = dict(details.invocation_metadata)
        # As a stream of one message, which then need not be read.
        return grpc.stream_unary_rpc_method_handler(partial(self._answer, name, headers))

    async def _answer(
        self, name: str, headers: Mapping[str, str], messages: AsyncIterator[bytes], context: Any
    ) -> bytes:
        client = context.peer().partition(":")[2].rpartition(":")[0]
        scope = {"client": (client,), "method": "POST", "path": _PREFIX + name}
        service = self._service
        with RequestRecord(service, self._log, scope) as record:
            record.route = name
            try:
                if name not in _OPEN and not self._keys.accept(headers):
                    raise RefusalError(401, "key", NO_KEY)
                with MemoryReservation(service.memory) as reservation:
                    body = await self._read(messages)
                    record.size = len(body)
                    reservation.grow(len(body))
                    message = await self._parsed(name, body)
                    answer = await self._methods[name](message)
                record.status = 200
                return bytes(answer.SerializeToString())
            except RefusalError as e:
                error = e
                service.metrics.refusals.labels(e.code).inc()
            except Exception:
                log.exception("%s failed", name)
                words = "an error that was not foreseen; the server's log has it"
                error = RefusalError(500, "internal", words)
            record.status = error.status
            told = [("error-code", error.code)]
            if error.retry_after is not None:
                told.append(("retry-after", str(error.retry_after)))
            await context.abort(_CODES[error.status], str(error), tuple(told))
            raise AssertionError("abort raises")

    async def _read(self, messages: AsyncIterator[bytes]) -> bytes:
        seconds = self._service.settings.body_time
        try:
            async with asyncio.timeout(seconds):
                return await anext(messages)
        except TimeoutError:
            words = f"the message did not arrive within {seconds:g} s"
            raise RefusalError(408, "slow", words) from None
        except StopAsyncIteration:  # cancelled, or ended without one
            raise RefusalError(CLIENT_LEFT, "left", "the call has no message") from None

    async def _parsed(self, name: str, body: bytes) -> Any:
        check_fields(body)
        kind = getattr(service_pb2, f"{name}Request")
        try:
            return await parsed(partial(kind.FromString, body), len(body))
        except DecodeError:
            raise bad_request(f"the message is no {name}Request") from None

    async def _server_live(self, _: Any) -> Any:
        return service_pb2.ServerLiveResponse(live=self._service.alive)

    async def _server_ready(self, _: Any) -> Any:
        return service_pb2.ServerReadyResponse(ready=self._service.ready)

    async def _server_metadata(self, _: Any) -> Any:
        return service_pb2.ServerMetadataResponse(
            name="vit-engine", version=vit_engine.__version__, extensions=EXTENSIONS
        )

    async def _model_ready(self, asked: Any) -> Any:
        scheduler, draining = self._find(asked), self._service.draining
        return service_pb2.ModelReadyResponse(ready=scheduler.ready and not draining)

    async def _model_metadata(self, asked: Any) -> Any:
        return service_pb2.ModelMetadataResponse(**metadata_of(self._find(asked)))

    async def _model_config(self, asked: Any) -> Any:
        return service_pb2.ModelConfigResponse(config=config_of(self._find(asked)))

    async def _model_statistics(self, asked: Any) -> Any:
        service = self._service
        found = [self._find(asked)] if asked.name else service.schedulers.values()
        stats = [stats_of(scheduler, service.metrics) for scheduler in found]
        return service_pb2.ModelStatisticsResponse(model_stats=stats)

    async def _model_infer(self, asked: Any) -> Any:
        service = self._service
        scheduler = service.find(asked.model_name, asked.model_version or None)
        parse = partial(parse_message, asked, scheduler.engine.contract, service.settings)
        request = await parsed(parse, asked.ByteSize())
        # A client that leaves, or whose own deadline is over, cancels this.
        done = await service.infer(scheduler, request.images, asyncio.Event().wait)
        return message_of(request, done, scheduler)

    async def _load(self, asked: Any) -> Any:
        await self._service.load(asked.model_name)
        return service_pb2.RepositoryModelLoadResponse()

    def _find(self, asked: Any) -> Scheduler:
        return self._service.find(asked.name, asked.version or None)
