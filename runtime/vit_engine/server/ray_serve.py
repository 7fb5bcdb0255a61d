"""The application under Ray Serve, which places its replicas, adds more, and replaces dead ones.

It needs the extra ray-serve, and cpu or gpu, on every node.

    serve run vit_engine.server.ray_serve:build models='vit.onnx'

Each replica is one process with models of its own, and as many compute threads as it has CPUs; its
size, and how many there are, are the deployment's options, as in deploy/ray-serve.yaml.
"""

import shlex
from collections.abc import Mapping
from typing import Any

import ray
from ray import serve

from vit_engine.errors import MachineError
from vit_engine.options import DEFAULT_PROVIDER
from vit_engine.server.http.app import Application, application


@serve.deployment(name="vit", max_ongoing_requests=64, health_check_period_s=5)
@serve.ingress()
class Replica:
    """One process that serves the models. It takes requests once every batch size has run."""

    def __init__(self, models: list[str], provider: str) -> None:
        cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
        self._application = application(
            *models, provider=provider, threads=max(1, int(cpus)), wait=True
        )

    def __serve_build_asgi_app__(self) -> Application:
        return self._application

    def check_health(self) -> None:
        """Raise where a new process is needed, as Ray asks every few seconds."""
        if not self._application.service.alive:
            raise MachineError("an engine or its decoders are dead")


def build(arguments: Mapping[str, str]) -> serve.Application:
    """Return the application for `serve run`: `models` as vit-serve's, and a `provider`."""
    models = shlex.split(arguments["models"])
    deployment: Any = Replica  # what the decorator has made of it
    bound: serve.Application = deployment.bind(models, arguments.get("provider", DEFAULT_PROVIDER))
    return bound
