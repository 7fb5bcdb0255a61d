"""vit-serve as clients meet it: images in, labels out, errors in words, probes, keys, metrics."""

import asyncio
import base64
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import ROOT, Run, wait_until
from support.raw_http import answered, connected, everything
from support.running_server import CIRCLE, STAR, Server, running
from vit_engine import Classifier

JSON = {"content-type": "application/json"}


def posted(server: Server, document: Any) -> Any:
    return server.ask("/", json.dumps(document).encode())


def multipart(*files: tuple[str, bytes]) -> tuple[bytes, dict[str, str]]:
    parts = [
        b'--XX\r\nContent-Disposition: form-data; name="f"; filename="%s"\r\n\r\n%s\r\n'
        % (name.encode(), data)
        for name, data in files
    ]
    body = b"".join(parts) + b"--XX--\r\n"
    return body, {"content-type": "multipart/form-data; boundary=XX"}


# Images in


@pytest.mark.parametrize("path", ["/", "/v1/classify", "/invocations"])
@pytest.mark.parametrize("kind", ["image/png", "application/json", "multipart/form-data", None])
def test_the_signature_of_an_image_decides(server: Server, path: str, kind: str | None) -> None:
    answer = server.ask(path, STAR, headers={"content-type": kind} if kind else {})
    assert answer.status == 200
    assert [set(score) for score in answer.json] == [{"label", "score", "index"}] * 5
    assert answer.json[0]["label"] == "star"


def test_answers_are_those_of_the_python_api(server: Server) -> None:
    with Classifier.load("demo", provider="cpu") as vit:
        (expected,) = vit.classify(STAR, top_k=16)
    found = server.ask("/?top_k=16", STAR).json
    assert [s["label"] for s in found] == [s.label for s in expected.topk]
    assert [s["score"] for s in found] == pytest.approx([s.score for s in expected.topk], abs=1e-5)


def test_json_as_hugging_face_has_it(server: Server) -> None:
    inputs = base64.b64encode(CIRCLE).decode()
    parameters = {"top_k": 2, "function_to_apply": "softmax", "threshold": None}
    answer = posted(server, {"inputs": inputs, "parameters": parameters})
    assert answer.json[0]["index"] == 0
    assert len(answer.json) == 2
    assert len(posted(server, {"inputs": inputs, "parameters": {"threshold": 0.5}}).json) == 1
    folded = base64.encodebytes(CIRCLE + bytes(11 * 2**20)).decode()  # with much behind it
    assert posted(server, {"inputs": folded}).json[0]["label"] == "circle"


@pytest.mark.parametrize("function", ["sigmoid", "none", "softmax", None])
def test_the_function_of_the_model_may_be_overruled(server: Server, function: str | None) -> None:
    with Classifier.load("demo", provider="cpu") as vit:
        logits = vit.engine.run(vit.pixels(STAR)[None])[0].astype(float)
    expected = {
        "sigmoid": 1 / (1 + np.exp(-logits)),
        "none": logits,
        "softmax": np.exp(logits) / np.exp(logits).sum(),
    }[function or "softmax"]
    query = "" if function is None else f"&function_to_apply={function}"
    found = server.ask(f"/?top_k=16{query}", STAR).json
    assert [s["score"] for s in found] == pytest.approx(sorted(expected, reverse=True), abs=1e-4)
    inputs = base64.b64encode(STAR).decode()
    document = {"inputs": inputs, "parameters": {"top_k": 16, "function_to_apply": function}}
    assert posted(server, document).json == found
    # Without top_k, as many as reach the threshold.
    some = server.ask(f"/?threshold=0.5{query}", STAR).json
    assert len(some) == (expected >= 0.5).sum()
    refused = server.ask(f"/?threshold=2{query}", STAR)
    assert refused.status == (200 if function == "none" else 400)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"inputs": None},
        {"inputs": "http://example.org/cat.jpg"},
        {"inputs": "no base64!"},
        {"inputs": ["a"]},
        {"inputs": "AAAA", "parameters": {"top_k": 0}},
        {"inputs": "AAAA", "parameters": {"top_k": True}},
        {"inputs": "AAAA", "parameters": {"top_k": 1.5}},
        {"inputs": "AAAA", "parameters": {"threshold": "high"}},
        {"inputs": "AAAA", "parameters": {"function_to_apply": "argmax"}},
        {"inputs": "AAAA", "parameters": {"topk": 1}},
        {"inputs": "AAAA", "parameters": []},
        {"inputs": "AAAA", "options": {}},
    ],
)
def test_malformed_json_is_400(server: Server, document: Any) -> None:
    answer = posted(server, document)
    assert (answer.status, answer.code) == (400, "malformed")


def test_json_that_is_none_is_400(server: Server) -> None:
    parameters = b'{"inputs":"aGk=","parameters":{%s}}'
    for body in (
        b"{",
        b'{"inputs": "\xff"}',
        b'{"inputs": NaN}',
        b'{"inputs":' + b"[" * 100_000,
        rb'{"\ud800":1}',
        parameters % rb'"\udfff":1',
        parameters % (b'"threshold":' + b"1" * 401),
        parameters % (b'"top_k":' + b"1" * 5000),
    ):
        answer = server.ask("/", body, headers=JSON)
        assert (answer.status, answer.code) == (400, "malformed"), body[:20]


def test_what_is_wrong_with_json_is_told(server: Server) -> None:
    document = {"inputs": "AAAA", "parameters": {"top_k": "3"}}
    words = "Expected `int | null`, got `str` - at `$.parameters.top_k`; "
    assert posted(server, document).json["error"].startswith(words)
    words = "query: Expected `int | null`, got `str` - at `$.top_k`; "
    assert server.ask("/?top_k=x", STAR).json["error"].startswith(words)


def test_several_files_give_rows_one_error_a_row(server: Server) -> None:
    body, headers = multipart(("a/star.png", STAR), ("bad.jpg", b"no image"), ("ö.jpg", CIRCLE))
    answer = server.ask("/?top_k=1", body, headers=headers)
    assert answer.status == 200
    assert [row["path"] for row in answer.json] == ["a/star.png", "bad.jpg", "ö.jpg"]
    assert [row["label"] for row in answer.json] == ["star", None, "circle"]
    assert [row["error_code"] for row in answer.json] == [None, "format", None]
    assert list(answer.json[0]) == [
        *("path", "label", "index", "score", "topk", "error", "error_code")
    ]
    body, headers = multipart(("star.png", STAR))
    assert server.ask("/?top_k=1", body, headers=headers).json[0]["label"] == "star"


def test_more_files_than_allowed_are_413_and_broken_ones_400(server: Server) -> None:
    body, headers = multipart(*[("x.png", STAR)] * 33)
    assert server.ask("/", body, headers=headers).code == "too_many"
    field = b'--XX\r\nContent-Disposition: form-data; name="f"\r\n\r\nx\r\n'
    answer = server.ask("/", field * 300_000 + body, headers=headers)
    assert (answer.status, answer.code) == (413, "too_many")
    body, headers = multipart(("x.png", STAR))
    for broken in (body[:-9], body.replace(b"--XX\r", b"--YY\r"), b"", b"--XX--\r\n"):
        answer = server.ask("/", broken, headers=headers)
        assert (answer.status, answer.code) == (400, "malformed")
    answer = server.ask("/", body, headers={"content-type": "multipart/form-data"})
    assert answer.status == 400


def test_parameters_of_the_query(server: Server) -> None:
    assert len(server.ask("/?top_k=3", STAR).json) == 3
    assert server.ask("/?threshold=0.9", STAR).json[0]["label"] == "star"
    for query in (
        "top_k=x",
        "top_k=0",
        "threshold=x",
        "threshold=nan",
        "k=3",
        "function_to_apply=x",
    ):
        answer = server.ask(f"/?{query}", STAR)
        assert (answer.status, answer.code) == (400, "malformed"), query
    assert server.ask("/?model=nobody", STAR).status == 404


def test_odd_images_have_the_labels_and_codes_of_vit_infer(server: Server, test_data: Path) -> None:
    folder = test_data / "odd-images"
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".md")[::6]
    with Classifier.load("demo", provider="cpu") as vit:
        images = [path.read_bytes() for path in paths]
        # Isolated: these tests make errors of Pillow's warnings.
        expected = list(vit.classify(images, top_k=1, isolated=True))
    assert len(paths) > 5
    for path, prediction in zip(paths, expected, strict=True):
        if path.stat().st_size > 16 * 2**20:
            continue
        answer = server.ask("/?top_k=1", path.read_bytes())
        if prediction.error is None:
            assert answer.status == 200, (path, answer.body)
            assert answer.json[0]["label"] == prediction.label, path
        elif answer.json["error_code"] != "too_large":  # 50 megapixels here
            # JSON and what starts like it is taken for a request, not for an image
            known = {prediction.error_code} | ({"malformed"} if path.suffix == ".json" else set())
            assert answer.status == 422 and answer.code in known, (path, answer.body)


# Limits


def test_a_large_body_is_413_and_its_sender_reads_that(server: Server) -> None:
    body = bytes(17 * 2**20)
    for chunked in (False, True):
        given: Any = iter([body]) if chunked else body
        answer = server.ask("/", given, headers={"expect": ""} if False else {})
        assert (answer.status, answer.code) == (413, "too_large")


def test_encodings_of_images_are_415(server: Server) -> None:
    answer = server.ask("/", STAR, headers={"content-encoding": "gzip"})
    assert (answer.status, answer.code) == (415, "encoding")


def test_what_is_not_there(server: Server) -> None:
    assert (server.ask("/nix").status, server.ask("/nix").code) == (404, "path")
    answer = server.ask("/v1/classify")
    assert (answer.status, answer.code, answer.headers["allow"]) == (405, "method", "POST")
    assert server.ask("/v2/models/demo/").status == 404


def test_empty_bodies_have_the_code_of_an_empty_file(server: Server) -> None:
    answer = server.ask("/", b"")
    assert (answer.status, answer.code) == (422, "empty")


# What it says of itself


def test_probes_and_what_there_is(server: Server) -> None:
    for path in ("/health", "/ping", "/v2/health/live", "/v2/health/ready"):
        assert server.ask(path).status == 200
        assert server.ask(path, method="HEAD").body == b""
    info = server.ask("/info").json
    contract = info["models"][0]["contract"]
    assert (info["models"][0]["name"], contract["identity"]["precision"]) == ("demo", "fp16")
    assert "/v1/classify" in server.ask("/").json["routes"]


def test_not_ready_before_every_batch_size_has_run(tmp_path: Path) -> None:
    with running("demo", "--batch", "3000", ready=False) as server:
        assert (server.ask("/health").status, server.ask("/health").code) == (503, "loading")
        assert server.ask("/v2/models/demo/ready").status == 503
        assert server.ask("/v2/health/live").status == 200
        answer = server.ask("/", STAR)
        assert (answer.status, answer.code) == (503, "loading")
        assert int(answer.headers["retry-after"]) >= 1


def test_every_request_is_in_the_metrics_once() -> None:
    with running("demo") as server:
        before = server.metric("vit_requests_total")
        asked = [("/", STAR), ("/", b"no"), ("/v1/classify", STAR), ("/nix", None), ("/info", None)]
        for path, body in asked:
            server.ask(path, body)
        # The asking for metrics before is one itself, and counted when it has ended.
        assert server.metric("vit_requests_total") == before + 1 + len(asked)
        assert server.metric("vit_requests_total", route="root", status="200") == 1
        assert server.metric("vit_requests_total", route="root", status="422") == 1
        assert server.metric("vit_requests_total", route="none", status="404") == 1
        assert server.metric("vit_refusals_total", reason="format") == 1
        assert server.metric("vit_images_total", model="demo", outcome="ok") == 2
        assert server.metric("vit_batch_images_sum", model="demo") == 2
        assert server.metric("vit_held_bytes") == 0
        wait_until(lambda: server.metric("vit_requests_in_flight") == 1)  # who asks
        assert 0 < server.metric("vit_model_load_seconds", model="demo") < 60
        assert server.metric("vit_body_bytes_total") == 2 * len(STAR) + 2
        text = server.ask("/metrics")
        assert text.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_metrics_are_what_prometheus_reads(server: Server) -> None:
    if importlib.util.find_spec("prometheus_client") is None:
        pytest.skip("prometheus_client is not installed")
    from prometheus_client.parser import text_string_to_metric_families

    server.ask("/", STAR)
    families = {
        f.name: f for f in text_string_to_metric_families(server.ask("/metrics").body.decode())
    }
    assert families["vit_requests"].type == "counter"
    assert families["vit_stage_seconds"].type == "histogram"
    buckets = [
        (float(s.labels["le"]), s.value)
        for s in families["vit_stage_seconds"].samples
        if s.name.endswith("_bucket") and s.labels["stage"] == "engine"
    ]
    assert buckets == sorted(buckets) and buckets[-1][0] == float("inf")
    assert all(family.documentation for family in families.values())


def test_the_description_is_valid_openapi(server: Server) -> None:
    if importlib.util.find_spec("openapi_spec_validator") is None:
        pytest.skip("openapi-spec-validator is not installed")
    from openapi_spec_validator import validate

    document = server.ask("/openapi.json").json
    validate(document)
    assert set(server.ask("/").json["routes"]) == set(document["paths"])


# Keys, other origins, the log


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "keys").write_text("first-key\nsecond-key\na key of words\n")
    out = folder / "log"
    with out.open("w") as log:
        options = ("--api-key-file", folder / "keys", "--access-log", "--cors", "https://a.example")
        with running("demo", *options, stdout=log) as server:
            yield server, out


def test_a_key_is_asked_for_but_not_by_probes(locked: tuple[Server, Path]) -> None:
    server, _ = locked
    for key in (None, "third-key", "", "first-key second-key", "é", "a"):
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        answer = server.ask("/", STAR, headers=headers)
        assert (answer.status, answer.code) == (401, "key")
    for path in ("/info", "/metrics", "/v2/models/demo", "/nix"):
        assert server.ask(path).status == 401
    for path in ("/", "/health", "/ping", "/v2/health/live", "/v2/health/ready", "/openapi.json"):
        assert server.ask(path).status == 200
    for key in ("first-key", "second-key", "a key of words"):
        for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}):
            assert server.ask("/", STAR, headers=headers).status == 200
    # A key keeps pages of others out as well as a name does.
    headers = {"x-api-key": "first-key", "host": "evil.example"}
    assert server.ask("/", STAR, headers=headers).status == 200


def test_one_other_origin_may_call(locked: tuple[Server, Path]) -> None:
    server, _ = locked
    for origin, allowed in (("https://a.example", True), ("https://b.example", False)):
        asked = {
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization",
        }
        answer = server.ask("/", method="OPTIONS", headers=asked)
        assert (answer.status == 200) == allowed
        refused = server.ask("/", STAR, headers={"origin": origin})
        assert refused.status == 401
        assert ("access-control-allow-origin" in refused.headers) == allowed
        answer = server.ask("/", STAR, headers={"origin": origin, "x-api-key": "first-key"})
        assert ("access-control-allow-origin" in answer.headers) == allowed


def test_without_cors_no_origin_is_allowed(server: Server) -> None:
    answer = server.ask("/", STAR, headers={"origin": "https://a.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_the_log_has_neither_bodies_nor_keys(locked: tuple[Server, Path]) -> None:
    server, out = locked
    server.ask("/v1/classify?top_k=1", STAR, headers={"x-api-key": "first-key"})
    server.ask("/a%7f%0a%22b", headers={"x-api-key": "first-key"})
    wait_until(lambda: "/a" in out.read_text())
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    (last,) = [line for line in lines if line["path"] == "/v1/classify"]
    assert list(last) == ["time", "client", "method", "path", "status", "ms", "bytes"]
    assert (last["method"], last["status"], last["bytes"]) == ("POST", 200, len(STAR))
    assert "-key" not in out.read_text() and "top_k" not in out.read_text()


# Several models, options


@pytest.mark.slow
def test_another_provider_and_its_arithmetic() -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    with running("demo", "--provider", "openvino", "--compute", "f32") as server:
        (model,) = server.ask("/info").json["models"]
        assert model["provider"] == "openvino"
        assert server.ask("/", STAR).json[0]["label"] == "star"


@pytest.mark.slow
def test_several_models_under_their_names(tiny_artefact: Path) -> None:
    with running("demo", f"tiny={tiny_artefact}") as server:
        assert [model["name"] for model in server.ask("/info").json["models"]] == ["demo", "tiny"]
        assert server.ask("/", STAR).json[0]["label"] == "star"
        answer = server.ask("/?model=tiny", STAR)
        assert len(answer.json) == 5 and answer.json[0]["label"].startswith("LABEL_")
        inputs = base64.b64encode(STAR).decode()
        answer = server.ask("/?model=tiny", json.dumps({"inputs": inputs}).encode())
        assert answer.json[0]["label"].startswith("LABEL_")
        assert server.ask("/v2/models/tiny/ready").status == 200
        assert server.metric("vit_images_total", model="tiny") == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["a=demo", "a=demo"], "two models would be served as 'a'"),
        (["a b=demo"], "cannot be served under the name 'a b'"),
        (["no-such.onnx"], "no such file"),
        (["demo", "--port", "70000"], "port 70000 is none: 65535 is the largest"),
        (["demo", "--deadline", "0"], "'0' is not a number of seconds"),
        (["demo", "--api-key-file", "/no/such/file"], "cannot be read"),
        (["demo", "--api-key-file", "/dev/null"], "has no key in it"),
    ],
)
def test_bad_usage_is_told_in_one_line(line: list[str], words: str, run_command: Run) -> None:
    ended = run_command("vit-serve", *line)
    assert ended.returncode in (2, 4), ended.stderr
    assert words in ended.stderr and len(ended.stderr.splitlines()) == 1


def test_an_address_that_is_taken_is_exit_4(server: Server, run_command: Run) -> None:
    ended = run_command("vit-serve", "demo", "--port", str(server.address[1]))
    assert ended.returncode == 4
    assert "Address already in use; choose another --host or --port" in ended.stderr


def test_every_option_may_come_from_the_environment(tmp_path: Path, tiny_artefact: Path) -> None:
    (tmp_path / "keys").write_text("k")
    environment = {
        "VIT_SERVE_MODELS": f"one=demo two={tiny_artefact}",
        "VIT_SERVE_API_KEY_FILE": str(tmp_path / "keys"),
        "VIT_SERVE_ACCESS_LOG": "1",
        "VIT_SERVE_NO_CUDA_GRAPHS": "false",
        "VIT_SERVE_MAX_BODY": "1",
        "VIT_SERVE_CORS": "https://a.example https://b.example",
        "VIT_SERVE_BATCH": "2",
    }
    options: dict[str, Any] = {"env": os.environ | environment, "stdout": subprocess.DEVNULL}
    with running("--max-pixels=100", **options) as server:
        key = {"x-api-key": "k"}
        info = server.ask("/info", headers=key).json
        assert [(m["name"], m["max_batch"]) for m in info["models"]] == [("one", 2), ("two", 2)]
        for body in (bytes(2 * 2**20), STAR):  # too many bytes, too many pixels
            answer = server.ask("/", body, headers=key)
            assert (answer.status, answer.code) == (413, "too_large")
        for origin in ("https://a.example", "https://b.example"):
            answer = server.ask("/health", headers={"origin": origin})
            assert answer.headers["access-control-allow-origin"] == origin


def test_what_is_missing_is_named() -> None:
    script = (
        "import sys; sys.modules['uvicorn'] = None; sys.argv = ['vit-serve', 'demo']\n"
        "from vit_engine.commands import start_serve\n"
        "sys.exit(start_serve())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 4
    assert "vit-serve needs uvicorn" in ended.stderr and "[serve]" in ended.stderr


# The end


def test_sigterm_drains_and_exits_0() -> None:
    live = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    with running("demo", "--drain", "2") as server, connected(server, live) as kept:
        assert b"connection: close" not in answered(kept)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.ask("/health").status == 503)
        assert server.ask("/health").code == "draining"
        assert server.ask("/v2/health/live").status == 200
        assert server.ask("/", STAR).json[0]["label"] == "star"  # it goes on accepting
        kept.sendall(live)
        raw = everything(kept)
        assert raw.startswith(b"HTTP/1.1 200") and b"connection: close" in raw
        assert server.process.wait(20) == 0


def test_a_second_signal_ends_at_once_and_sigint_does_not_drain() -> None:
    with running("demo", "--drain", "60") as server:
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.ask("/health").status == 503)
        assert server.stop(signal.SIGTERM) == 128 + signal.SIGTERM
    with running("demo", "--drain", "60") as server:
        assert server.stop(signal.SIGINT) == 128 + signal.SIGINT


# The application as an object


def test_the_application_is_plain_asgi() -> None:
    from vit_engine.server.http.app import application

    async def talk() -> tuple[int, Any]:
        app = application("demo", max_batch=2)
        inbox: asyncio.Queue[Any] = asyncio.Queue()
        outbox: asyncio.Queue[Any] = asyncio.Queue()
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        life = asyncio.create_task(app(scope, inbox.get, outbox.put))
        await inbox.put({"type": "lifespan.startup"})
        assert (await outbox.get())["type"] == "lifespan.startup.complete"
        while not app.service.ready:
            await asyncio.sleep(0.01)
        received: asyncio.Queue[Any] = asyncio.Queue()
        await received.put({"type": "http.request", "body": STAR})
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        http = {
            "type": "http", "method": "POST", "path": "/", "raw_path": b"/", "root_path": "",
            "query_string": b"", "headers": [], "scheme": "http", "http_version": "1.1",
        }  # fmt: skip
        await app(http, received.get, send)
        await inbox.put({"type": "lifespan.shutdown"})
        assert (await outbox.get())["type"] == "lifespan.shutdown.complete"
        await life
        return sent[0]["status"], json.loads(b"".join(m.get("body", b"") for m in sent[1:]))

    status, labels = asyncio.run(talk())
    assert (status, labels[0]["label"]) == (200, "star")


# Clients that others wrote


def test_hugging_faces_client(server: Server) -> None:
    hub = pytest.importorskip("huggingface_hub")
    client = hub.InferenceClient(model=server.url)
    path = ROOT / "examples/star-01.png"
    for image in (str(path), STAR, path):
        found = client.image_classification(image)
        assert (found[0].label, len(found)) == ("star", 5)
    found = client.image_classification(STAR, top_k=2, function_to_apply="softmax")
    assert found[0].label == "star" and len(found) == 2
    with pytest.raises(Exception, match="422"):
        client.image_classification(b"no image")


@pytest.mark.slow
def test_an_ipv6_address(tmp_path: Path) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    with running("demo", "--host", "::1") as server:
        assert "[::1]" in server.url and server.ask("/", STAR).status == 200
