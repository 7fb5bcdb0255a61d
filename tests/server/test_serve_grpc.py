"""gRPC: Triton's own client, and what a server must refuse, over several workers."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import wait_until
from support.running_server import STAR, Server, running
from vit_engine.engine import Engine

grpc = pytest.importorskip("grpc")
triton = pytest.importorskip("tritonclient.grpc")
messages = triton.service_pb2

KEY = {"authorization": "Bearer secret"}
SIDE = 64
CALL = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("secret\n")
    with running(
        "demo", "--workers=2", "--grpc-port=0", "--api-key-file", keys, "--max-body=2"
    ) as started:
        started.headers = KEY
        wait_until(lambda: all(started.is_ready() for _ in range(8)))
        yield started


def address(server: Server) -> str:
    return server.told[0].partition("gRPC at ")[2].partition(",")[0]


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with triton.InferenceServerClient(address(server)) as found:
        yield found


@pytest.fixture(scope="module")
def pixels() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)


def tensor(pixels: np.ndarray[Any, Any]) -> Any:
    given = triton.InferInput("pixels", list(pixels.shape), "UINT8")
    given.set_data_from_numpy(pixels)
    return given


def test_tritons_client(server: Server, client: Any, pixels: np.ndarray[Any, Any]) -> None:
    with Engine.open("demo", provider="cpu") as engine:
        logits = engine.run(pixels)
    assert client.is_server_live() and client.is_server_ready()  # without a key
    assert client.is_model_ready("demo", "1", headers=KEY)
    assert client.get_server_metadata(headers=KEY).name == "vit-engine"
    metadata = client.get_model_metadata("demo", headers=KEY)
    assert [*metadata.inputs[0].shape] == [-1, SIDE, SIDE, 3]
    config = client.get_model_config("demo", headers=KEY, as_json=True)["config"]
    assert config["max_batch_size"] >= 1 and config["input"][0]["data_type"] == "TYPE_UINT8"
    before = server.metric("vit_requests_total", route="ModelInfer", status="200")
    with ThreadPoolExecutor(4) as pool:
        clients = [triton.InferenceServerClient(address(server)) for _ in range(4)]
        answers = [
            pool.submit(one.infer, "demo", [tensor(pixels)], request_id="7", headers=KEY)
            for one in clients * 5
        ]
        for answer in answers:
            np.testing.assert_allclose(answer.result().as_numpy("logits"), logits, atol=1e-3)
            assert answer.result().get_response().id == "7"
        for one in clients:
            one.close()
    asked = server.metric("vit_requests_total", route="ModelInfer", status="200") - before
    assert asked == 20
    stats = client.get_inference_statistics("demo", headers=KEY).model_stats[0]
    assert stats.inference_count >= 20 * len(pixels)
    client.load_model("demo", headers=KEY)
    assert server.ask("/", STAR).json[0]["label"] == "star"


def infer(**changes: Any) -> Any:
    """A ModelInferRequest of a black image."""
    given = {"name": "pixels", "datatype": "UINT8", "shape": [1, SIDE, SIDE, 3]}
    document = {
        "model_name": "demo",
        "inputs": [given | changes.pop("tensor", {})],
        "raw_input_contents": [bytes(SIDE * SIDE * 3)],
    }
    return messages.ModelInferRequest(**document | changes)


def ask(server: Server, message: bytes, headers: dict[str, str] = KEY, **options: Any) -> bytes:
    with grpc.insecure_channel(address(server)) as channel:
        call = channel.unary_unary(CALL)
        found: bytes = call(message, metadata=[*headers.items()], timeout=60, **options)
        return found


def test_contents_instead_of_raw_bytes(server: Server) -> None:
    numbers = {"contents": {"uint_contents": [0] * SIDE * SIDE * 3}}
    found = [
        messages.ModelInferResponse.FromString(ask(server, message.SerializeToString()))
        for message in (infer(), infer(tensor=numbers, raw_input_contents=[]))
    ]
    assert found[0] == found[1] and found[0].outputs[0].shape[0] == 1


REFUSED = {
    "no key": ("UNAUTHENTICATED", "a key is needed", infer(), {}),
    "no message": ("INVALID_ARGUMENT", "no protobuf", b"\xff\xff", KEY),
    "many fields": ("INVALID_ARGUMENT", "more than 64 fields", b"\x2a\x00" * 2**18, KEY),
    "many numbers": (
        "INVALID_ARGUMENT",
        "send the tensor there",
        infer(tensor={"contents": {"uint_contents": [1] * (2**20 + 1)}}, raw_input_contents=[]),
        KEY,
    ),
    "another model": ("NOT_FOUND", "no model 'x'", infer(model_name="x"), KEY),
    "another version": ("NOT_FOUND", "no version '2'", infer(model_version="2"), KEY),
    "no image": (
        "INVALID_ARGUMENT",
        "Expected `int` >= 1",
        infer(tensor={"shape": [0, SIDE, SIDE, 3]}, raw_input_contents=[b""]),
        KEY,
    ),
    "no input": ("INVALID_ARGUMENT", "exactly one input", infer(inputs=[]), KEY),
    "less data": ("INVALID_ARGUMENT", "needs 12288 bytes", infer(raw_input_contents=[b"1"]), KEY),
    "no data": ("INVALID_ARGUMENT", "needs 12288 bytes", infer(raw_input_contents=[]), KEY),
    "numbers that are no uint8": (
        "INVALID_ARGUMENT",
        "no uint8",
        infer(tensor={"contents": {"uint_contents": [256]}}, raw_input_contents=[]),
        KEY,
    ),
    "labels": (
        "INVALID_ARGUMENT",
        "classification",
        infer(
            outputs=[{"name": "logits", "parameters": {"classification": {"int64_param": 5}}}],
        ),
        KEY,
    ),
    "another output": ("INVALID_ARGUMENT", "one output", infer(outputs=[{"name": "x"}]), KEY),
    "too large": ("RESOURCE_EXHAUSTED", "larger than max", bytes(3 * 2**20), KEY),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(server: Server, name: str) -> None:
    code, words, message, headers = REFUSED[name]
    body = message if isinstance(message, bytes) else message.SerializeToString()
    with pytest.raises(grpc.RpcError) as refused:
        ask(server, body, headers)
    assert refused.value.code().name == code, refused.value
    assert words in refused.value.details()


def test_what_grows_when_unpacked_is_refused(server: Server) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        ask(server, bytes(64 * 2**20), compression=grpc.Compression.Gzip)
    assert refused.value.code().name == "RESOURCE_EXHAUSTED"


def test_whoever_does_not_wait_is_dropped(server: Server) -> None:
    def left() -> float:
        return server.metric("vit_requests_total", route="ModelInfer", status="499")

    before, never = left(), threading.Event()

    def messages_that_never_come() -> Iterator[bytes]:
        never.wait()
        yield from ()

    with grpc.insecure_channel(address(server)) as channel:
        call = channel.stream_unary(CALL)
        with pytest.raises(grpc.RpcError) as refused:
            call(messages_that_never_come(), metadata=[*KEY.items()], timeout=0.5)
        never.set()
        assert refused.value.code().name == "DEADLINE_EXCEEDED"
    wait_until(lambda: left() == before + 1)
    wait_until(lambda: server.metric("vit_requests_in_flight") == 1)  # who asks


def test_a_port_that_is_taken(server: Server, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "vit_engine.commands.serve", "demo", "--port=0"]
    line += [f"--grpc-port={address(server).rpartition(':')[2]}"]
    run = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stderr.count("\n")) == (4, 1)
    assert "cannot listen on 127.0.0.1" in run.stderr
