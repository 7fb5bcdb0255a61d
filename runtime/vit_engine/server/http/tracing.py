"""Traces by OpenTelemetry's standard instrumentation, where OTEL_TRACES_EXPORTER asks for them."""

import os
from collections.abc import Callable

from starlette.types import ASGIApp

from vit_engine.errors import MachineError, UsageError
from vit_engine.machine.installation import pip_install

_VARIABLE = "OTEL_TRACES_EXPORTER"

Traced = tuple[ASGIApp, Callable[[], object]]
"""An application with a span for each request, and what sends the last spans."""


def tracing() -> Callable[[ASGIApp], Traced]:
    """Return what has an application traced; OpenTelemetry reads the other OTEL_* variables.

    UsageError for an exporter that is none, MachineError without the extra otel.
    """
    name = os.environ.get(_VARIABLE) or "none"
    if name == "none" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return lambda app: (app, lambda: None)
    if name not in ("otlp", "console"):
        raise UsageError(f"{_VARIABLE} is {name[:60]!r}, it must be otlp, console or none")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
        from opentelemetry.util.http import get_excluded_urls
    except ModuleNotFoundError as e:
        raise MachineError(
            f"{_VARIABLE}={name} needs {e.name}, which is not installed: {pip_install('otel')}"
        ) from e

    def traced(app: ASGIApp) -> Traced:
        provider = TracerProvider()
        exporter = OTLPSpanExporter() if name == "otlp" else ConsoleSpanExporter()
        provider.add_span_processor(BatchSpanProcessor(exporter))
        spans = OpenTelemetryMiddleware(
            app,
            excluded_urls=get_excluded_urls("ASGI"),
            tracer_provider=provider,
            exclude_spans=["receive", "send"],
        )
        return spans, provider.shutdown

    return traced
