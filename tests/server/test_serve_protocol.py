"""The Open Inference Protocol: Triton's own client, and the requests that Triton's tests send."""

import gzip
import importlib.util
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import wait_until
from support.running_server import STAR, Server, running
from vit_engine.engine import Engine

INFER = "/v2/models/demo/infer"
LENGTH = "Inference-Header-Content-Length"
SIDE = 64


@pytest.fixture(scope="module")
def pixels() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)


@pytest.fixture(scope="module")
def logits(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with Engine.open("demo", provider="cpu") as engine:
        return engine.run(pixels)


# Triton's client, in a process of its own: gevent patches the one that it is in

CLIENT = """
import json, sys
import numpy as np
import tritonclient.http as triton

url, path = sys.argv[1:]
saved = np.load(path)
pixels, expected = saved["pixels"], saved["logits"]
client = triton.InferenceServerClient(url)
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("demo")
assert client.is_model_ready("demo", "1") and not client.is_model_ready("nobody")
assert client.get_server_metadata()["name"] == "vit-engine"
metadata = client.get_model_metadata("demo")
assert metadata["inputs"] == [
    {"name": "pixels", "datatype": "UINT8", "shape": [-1, *pixels.shape[1:]]}
]
config = client.get_model_config("demo", "1")
assert config["max_batch_size"] >= 1 and config["input"][0]["data_type"] == "TYPE_UINT8"

def infer(binary_in, binary_out, **options):
    given = triton.InferInput("pixels", list(pixels.shape), "UINT8")
    given.set_data_from_numpy(pixels, binary_data=binary_in)
    wanted = triton.InferRequestedOutput("logits", binary_data=binary_out)
    return client.infer("demo", [given], outputs=[wanted], **options)

for binary_in in (True, False):
    for binary_out in (True, False):
        for compression in (None, "gzip", "deflate"):
            answer = infer(
                binary_in, binary_out, request_id="7", request_compression_algorithm=compression
            )
            np.testing.assert_allclose(answer.as_numpy("logits"), expected, atol=1e-3)
            assert answer.get_response()["id"] == "7"
answer = infer(True, True, response_compression_algorithm="gzip")
np.testing.assert_allclose(answer.as_numpy("logits"), expected, atol=1e-3)
given = triton.InferInput("pixels", list(pixels.shape), "UINT8")
given.set_data_from_numpy(pixels)
assert client.infer("demo", [given]).as_numpy("logits").shape == expected.shape
many = [client.async_infer("demo", [given]) for _ in range(20)]
for one in many:
    np.testing.assert_allclose(one.get_result().as_numpy("logits"), expected, atol=1e-3)
stats = client.get_inference_statistics("demo")["model_stats"][0]
assert stats["inference_count"] >= len(pixels) and stats["execution_count"] >= 1
assert len(client.get_inference_statistics()["model_stats"]) == 1
wrong = triton.InferInput("pixels", [1, 8, 8, 3], "UINT8")
wrong.set_data_from_numpy(np.zeros((1, 8, 8, 3), np.uint8))
for model, inputs, words in (("demo", [wrong], "shape of pixels"), ("nobody", [given], "no model")):
    try:
        client.infer(model, inputs)
    except triton.InferenceServerException as e:
        assert words in str(e), e
    else:
        raise AssertionError(model)
client.close()
"""


def test_tritons_client(
    server: Server, pixels: np.ndarray[Any, Any], logits: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    if any(importlib.util.find_spec(m) is None for m in ("tritonclient", "geventhttpclient")):
        pytest.skip("tritonclient[http] is not installed")
    np.savez(tmp_path / "saved.npz", pixels=pixels, logits=logits)
    ended = subprocess.run(
        [sys.executable, "-c", CLIENT, server.url.removeprefix("http://"), tmp_path / "saved.npz"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


# By hand


def request(pixels: np.ndarray[Any, Any], **changes: Any) -> dict[str, Any]:
    tensor = {"name": "pixels", "shape": list(pixels.shape), "datatype": "UINT8"}
    return {"inputs": [tensor | {"data": pixels.ravel().tolist()} | changes]}


def ask(server: Server, document: Any, rest: bytes | None = None, **headers: str) -> Any:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    length = {} if rest is None else {LENGTH: str(len(text))}
    return server.ask(INFER, text + (rest or b""), headers=length | headers)


def test_json_both_ways(
    server: Server, pixels: np.ndarray[Any, Any], logits: np.ndarray[Any, Any]
) -> None:
    for data in (pixels.ravel().tolist(), pixels.tolist()):
        answer = ask(server, request(pixels, data=data))
        assert answer.status == 200
        (output,) = answer.json["outputs"]
        assert (answer.json["model_name"], output["datatype"]) == ("demo", "FP32")
        found = np.reshape(output["data"], output["shape"])
        np.testing.assert_allclose(found, logits, atol=1e-3)


def test_large_json_is_refused_and_larger_tensors_go_in_binary(server: Server) -> None:
    many = np.zeros((100, SIDE, SIDE, 3), np.uint8)
    answer = ask(server, request(many))
    assert (answer.status, answer.code) == (413, "too_large")
    assert "send the tensor in binary" in answer.json["error"]
    tensor = request(many, parameters={"binary_data_size": many.nbytes})
    del tensor["inputs"][0]["data"]
    assert ask(server, tensor, many.tobytes()).status == 200


def test_tensors_and_images_share_batches_and_keep_their_own(
    server: Server, pixels: np.ndarray[Any, Any], logits: np.ndarray[Any, Any]
) -> None:
    """What is asked for at the same time is answered to whoever asked for it."""
    from concurrent.futures import ThreadPoolExecutor

    body = pixels.tobytes()
    tensor = {
        "name": "pixels", "shape": list(pixels.shape), "datatype": "UINT8",
        "parameters": {"binary_data_size": len(body)},
    }  # fmt: skip
    expected = server.ask("/", STAR).json
    with ThreadPoolExecutor(16) as threads:
        tensors = [threads.submit(ask, server, {"inputs": [tensor]}, body) for _ in range(30)]
        images = [threads.submit(server.ask, "/", STAR) for _ in range(30)]
    for tensor_answer in tensors:
        data = tensor_answer.result().json["outputs"][0]["data"]
        np.testing.assert_allclose(np.reshape(data, logits.shape), logits, atol=1e-3)
    for image_answer in images:
        found = image_answer.result().json
        assert [s["label"] for s in found] == [s["label"] for s in expected]
    assert server.metric("vit_batch_images_sum") > server.metric("vit_batch_images_count")


@pytest.mark.slow
def test_an_artefact_of_normalised_floats(
    tmp_path_factory: pytest.TempPathFactory, logits: np.ndarray[Any, Any], pixels: Any
) -> None:
    """--io hf: the tensor is float32, and images are normalised here."""
    from vit_engine.providers.tensors import normalized
    from vit_export.artefact import export
    from vit_export.checkpoints.checkpoint import load

    path = tmp_path_factory.mktemp("hf") / "hf.onnx"
    export(load("demo"), path, precision="fp32", io="hf", images=None)
    with running(path) as server, Engine.open(path, provider="cpu") as engine:
        (given,) = server.ask("/v2/models/hf").json["inputs"]
        assert (given["name"], given["datatype"]) == ("pixel_values", "FP32")
        feed = normalized(pixels, engine.contract.preprocessing)
        tensor = {
            "name": "pixel_values", "shape": list(feed.shape), "datatype": "FP32",
            "parameters": {"binary_data_size": feed.nbytes},
        }  # fmt: skip
        text = json.dumps({"inputs": [tensor]}).encode()
        answer = server.ask(
            "/v2/models/hf/infer", text + feed.tobytes(), headers={LENGTH: str(len(text))}
        )
        found = np.reshape(answer.json["outputs"][0]["data"], logits.shape)
        np.testing.assert_allclose(found, engine.run(feed), atol=1e-3)
        np.testing.assert_allclose(found, logits, atol=0.05)
        assert server.ask("/", STAR).json[0]["label"] == "star"


def hostile(pixels: np.ndarray[Any, Any]) -> dict[str, Any]:
    """JSON requests that a server must refuse, by what is wrong with them."""
    one = pixels[:1]
    deep: list[Any] = []
    for _ in range(60):
        deep = [deep]
    return {
        "no inputs": {},
        "inputs null": {"inputs": None},
        "inputs of numbers": {"inputs": [1]},
        "two inputs": {"inputs": request(one)["inputs"] * 2},
        "another name": request(one, name="image"),
        "another type": request(one, datatype="FP32"),
        "no type": request(one, datatype=None),
        "negative dim": request(one, shape=[-1, SIDE, SIDE, 3]),
        "two negative dims": request(one, shape=[-1, -SIDE, SIDE, 3]),
        "zero images": request(one, shape=[0, SIDE, SIDE, 3], data=[]),
        "another size": request(one, shape=[1, 8, 8, 3]),
        "too few dims": request(one, shape=[SIDE, SIDE, 3]),
        "dims of floats": request(one, shape=[1.0, SIDE, SIDE, 3]),
        "dims of bools": request(one, shape=[True, SIDE, SIDE, 3]),
        "dims of strings": request(one, shape=["1", SIDE, SIDE, 3]),
        "shape null": request(one, shape=None),
        "too little data": request(one, data=[0] * 5),
        "too much data": request(one, data=[0] * (one.size + 1)),
        "ragged data": request(one, data=[[1, 2], [3]]),
        "deep data": request(one, data=deep),
        "data of strings": request(one, data=["0"] * one.size),
        "data of bools": request(one, data=[True] * one.size),
        "data of floats": request(one, data=[0.5] * one.size),
        "data of null": request(one, data=[None] * one.size),
        "data of objects": request(one, data=[{}] * one.size),
        "data too large": request(one, data=[256] * one.size),
        "data negative": request(one, data=[-1] * one.size),
        "data beyond 64 bits": request(one, data=[2**70] * one.size),
        "no data": {
            "inputs": [{k: v for k, v in request(one)["inputs"][0].items() if k != "data"}]
        },
        "binary without bytes": request(one, data=None, parameters={"binary_data_size": one.size}),
        "parameters of a list": request(one, parameters=[]),
        "another output": request(one) | {"outputs": [{"name": "scores"}]},
        "no output": request(one) | {"outputs": []},
        "output twice": request(one) | {"outputs": [{"name": "logits"}] * 2},
        "labels, which are not given": request(one)
        | {"outputs": [{"name": "logits", "parameters": {"classification": 2}}]},
        "binary of strings": request(one)
        | {"outputs": [{"name": "logits", "parameters": {"binary_data": "yes"}}]},
        "id of a number": request(one) | {"id": 7},
        "id of half a character": request(one) | {"id": "\ud800"},
    }


def test_hostile_json_is_400(server: Server, pixels: np.ndarray[Any, Any]) -> None:
    for what, document in hostile(pixels).items():
        answer = ask(server, document)
        assert (answer.status, answer.code) == (400, "malformed"), (what, answer.body)
    assert server.ask("/v2/health/live").status == 200
    assert server.metric("vit_held_bytes") == 0


@pytest.mark.parametrize("first", [10**5, 2**31, 2**63 - 1, 2**64, 10**4298], ids=[*"abcde"])
def test_sizes_that_overflow_are_refused(server: Server, first: int) -> None:
    tensor = {"name": "pixels", "shape": [first, SIDE, SIDE, 3], "datatype": "UINT8"}
    for more in ({"data": [0]}, {"parameters": {"binary_data_size": 2**62}}):
        answer = ask(server, {"inputs": [tensor | more]}, b"")
        assert answer.code == ("too_large" if first < 2**63 else "malformed")


def test_binary_sizes_must_fit(server: Server, pixels: np.ndarray[Any, Any]) -> None:
    body = pixels.tobytes()
    for size in (0, -1, 1, len(body) - 1, len(body) + 1, 2**63, "10", True, 1.5):
        tensor = {
            "name": "pixels", "shape": list(pixels.shape), "datatype": "UINT8",
            "parameters": {"binary_data_size": size},
        }  # fmt: skip
        answer = ask(server, {"inputs": [tensor]}, body)
        assert (answer.status, answer.code) == (400, "malformed"), size
    tensor["parameters"] = {"binary_data_size": len(body)}
    for rest in (b"", body[:-1], body + b"x"):
        assert ask(server, {"inputs": [tensor]}, rest).status == 400
    assert ask(server, {"inputs": [tensor | {"data": [1]}]}, body).status == 400
    assert ask(server, {"inputs": [tensor]}, body).status == 200


@pytest.mark.parametrize(
    "length", ["-1", "0", "99999999999999999999", "1e3", "x", "", "3", "\u0661"]
)
def test_a_header_length_out_of_range_is_400(server: Server, length: str) -> None:
    answer = server.ask(
        INFER, b'{"inputs": []}', headers={LENGTH: length.encode("utf-8").decode("latin-1")}
    )
    assert (answer.status, answer.code) == (400, "malformed")


@pytest.mark.parametrize("depth", [100, 5_000, 300_000])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_json_of_any_depth_is_answered(server: Server, depth: int, opening: str) -> None:
    closing = "]" if opening == "[" else "0}"
    closing = "]" * depth if opening == "[" else "0" + "}" * depth
    text = '{"inputs": ' + opening * depth + closing + "}"
    assert ask(server, text.encode()).status == 400
    assert ask(server, text.encode()[: len(text) // 2]).status == 400


def test_many_chunks(server: Server, pixels: np.ndarray[Any, Any]) -> None:
    text = json.dumps(request(pixels[:1])).encode()
    chunks: Any = (text[i : i + 3] for i in range(0, len(text), 3))
    assert server.ask(INFER, chunks).status == 200


def test_compressed_bodies(server: Server, pixels: np.ndarray[Any, Any]) -> None:
    text = json.dumps(request(pixels)).encode()
    for encoding, packed in (("gzip", gzip.compress(text)), ("deflate", zlib.compress(text))):
        assert server.ask(INFER, packed, headers={"content-encoding": encoding}).status == 200
        for broken in (packed[:-20], text, b""):
            answer = server.ask(INFER, broken, headers={"content-encoding": encoding})
            assert (answer.status, answer.code) == (400, "malformed")
    bomb = gzip.compress(bytes(200 * 2**20))
    answer = server.ask(INFER, bomb, headers={"content-encoding": "gzip"})
    assert (answer.status, answer.code) == (413, "too_large")
    assert server.ask(INFER, text, headers={"content-encoding": "br"}).code == "encoding"


def test_names_and_versions(server: Server) -> None:
    for path in ("/v2/models/demo", "/v2/models/demo/versions/1"):
        for end in ("", "/ready", "/config", "/stats"):
            assert server.ask(path + end).status == 200
    for path in ("/v2/models/nobody", "/v2/models/demo/versions/2", "/v2/models/demo/versions/x"):
        for end in ("", "/ready", "/config", "/stats"):
            answer = server.ask(path + end)
            assert (answer.status, answer.code) == (404, "model")
        assert server.ask(path + "/infer", b"{}").status == 404


@pytest.mark.slow
def test_schemathesis_finds_nothing(server: Server, tmp_path: Path) -> None:
    """What is drawn from the description, and what contradicts it, is answered as described."""
    if importlib.util.find_spec("schemathesis") is None:
        pytest.skip("schemathesis is not installed")
    line = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
    line += [
        "--max-examples=15",
        "--seed=1",
        "--request-timeout=20",
        "--no-color",
        "--phases=examples,coverage,fuzzing",
    ]
    line += ["--generation-database=none"]
    # No schema can say which bytes are an image, or a tensor of this model.
    line += ["--exclude-checks=positive_data_acceptance"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    ended = subprocess.run(
        line,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-2000:]
    wait_until(server.is_ready)
