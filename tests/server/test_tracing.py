"""Traces: a span for each request, at whatever collector OpenTelemetry's variables name."""

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from support import slow_case, wait_until
from support.running_server import STAR, running

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """An address that takes OTLP over HTTP, and what it was sent."""
    sent: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", sent
        server.shutdown()


@pytest.mark.parametrize("workers", [1, slow_case(2)])
def test_every_worker_sends_its_spans(collector: tuple[str, list[bytes]], workers: int) -> None:
    trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    pytest.importorskip("opentelemetry.instrumentation.asgi")
    url, sent = collector
    environment = os.environ | {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_SERVICE_NAME": "labels",
        "OTEL_BSP_SCHEDULE_DELAY": "60000",  # what is sent is sent at the end
        "OTEL_PYTHON_ASGI_EXCLUDED_URLS": "health",
    }
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    with running("demo", f"--workers={workers}", env=environment) as server:
        wait_until(lambda: all(server.is_ready() for _ in range(8)))
        for _ in range(12):
            assert server.ask("/", STAR, headers=headers).status == 200
        assert server.stop() == 0
    spans, names = [], set()
    for body in sent:
        for resource in trace_service.ExportTraceServiceRequest.FromString(body).resource_spans:
            names |= {a.value.string_value for a in resource.resource.attributes}
            spans += [span for scope in resource.scope_spans for span in scope.spans]
    assert "labels" in names
    assert [span.name for span in spans] == ["POST /"] * 12
    assert {(s.trace_id.hex(), s.parent_span_id.hex()) for s in spans} == {(TRACE, PARENT)}


@pytest.mark.parametrize("workers", [2, slow_case(1)])
def test_an_exporter_that_is_none(workers: int) -> None:
    line = [sys.executable, "-m", "vit_engine.commands.serve", "demo", f"--workers={workers}"]
    ended = subprocess.run(
        [*line, "--port=0"],
        env=os.environ | {"OTEL_TRACES_EXPORTER": "jaeger"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "it must be otlp, console or none" in ended.stderr
