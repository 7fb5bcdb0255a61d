"""The port of gRPC, served by the event loop that serves HTTP."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc

from vit_engine.server.core.service import Service
from vit_engine.server.http.access_log import AccessLog
from vit_engine.server.rpc.inference_calls import InferenceCalls

_STREAMS = 128  # calls at once of one connection


@dataclass(frozen=True)
class RpcServer:
    """An address, which several processes may serve; called, it serves within its context."""

    host: str
    port: int

    @contextlib.asynccontextmanager
    async def __call__(self, service: Service, log: AccessLog) -> AsyncIterator[None]:
        """Serve a service; at the end, what is in is answered."""
        settings = service.settings
        options = {
            "grpc.so_reuseport": 1,
            "grpc.max_receive_message_length": settings.max_body,
            "grpc.max_send_message_length": -1,
            "grpc.max_concurrent_streams": _STREAMS,
            "grpc.max_connection_idle_ms": round(settings.keep_alive * 1e3),
        }
        server = grpc.aio.server(
            options=[*options.items()], maximum_concurrent_rpcs=settings.max_images
        )
        server.add_generic_rpc_handlers((InferenceCalls(service, log),))
        server.add_insecure_port(str(self))
        await server.start()
        try:
            yield
        finally:
            await server.stop(settings.deadline + settings.body_time)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
