"""vit-serve and bodies: fields beside files, base64 as people write it, what holds others up."""

import base64
import gzip
import json
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from support import wait_until
from support.raw_http import connected, head
from support.running_server import CIRCLE, STAR, Answer, Server, running

MIB = 2**20
INFER = "/v2/models/demo/infer"
LENGTH = "inference-header-content-length"
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
LATEST = 0.25
"""Seconds: a bound on hangs, for machines that do much else."""


# Fields beside files


def form(*fields: tuple[str, str]) -> tuple[bytes, dict[str, str]]:
    """A multipart body of a star and fields, and its headers."""
    part = b'--x\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
    parts = [part % (name.encode(), b"", value.encode()) for name, value in fields]
    parts.append(part % (b"file", b'; filename="star.png"', STAR))
    return b"".join([*parts, b"--x--\r\n"]), {"content-type": "multipart/form-data; boundary=x"}


def send_form(server: Server, *fields: tuple[str, str], query: str = "") -> Answer:
    body, headers = form(*fields)
    return server.ask(f"/{query}", body, headers=headers)


def test_fields_beside_a_file_are_used(server: Server) -> None:
    assert len(send_form(server, ("top_k", "2")).json) == 2
    fields = ("threshold", "0.0"), ("function_to_apply", "sigmoid"), ("model", "demo")
    found = send_form(server, *fields, query="?top_k=16").json
    assert len(found) == 16 and sum(score["score"] for score in found) != pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("fields", "query", "expected"),
    [
        ([("topk", "2")], "", (400, "malformed")),
        ([("top_k", "many")], "", (400, "malformed")),
        ([("top_k", "2"), ("top_k", "3")], "", (400, "malformed")),
        ([("top_k", "2")], "?top_k=3", (400, "malformed")),
        ([("model", "nobody")], "", (404, "model")),
    ],
)
def test_fields_that_make_no_sense_are_refused(
    server: Server, fields: list[tuple[str, str]], query: str, expected: tuple[int, str]
) -> None:
    answer = send_form(server, *fields, query=query)
    assert (answer.status, answer.code) == expected


# Base64 and JSON as people write them


def folded(data: bytes, end: str) -> str:
    return end.join(base64.encodebytes(data).decode().split())


@pytest.mark.parametrize(
    "inputs",
    [
        folded(CIRCLE, "\r\n"),
        folded(CIRCLE, "\n ") + "\n",
        base64.b64encode(CIRCLE + b"a").decode().rstrip("="),
        base64.b64encode(CIRCLE + b"ab").decode().rstrip("="),
        "data:image/jpeg;base64," + base64.b64encode(CIRCLE).decode(),
        "DATA:;Base64," + folded(CIRCLE + bytes(MIB), "\r\n").rstrip("="),
    ],
    ids=["crlf", "space", "unpadded 1", "unpadded 2", "data", "large"],
)
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf \r\n"])
def test_base64_of_every_kind(server: Server, inputs: str, start: bytes) -> None:
    body = start + json.dumps({"inputs": inputs}).encode()
    assert server.ask("/", body).json[0]["label"] == "circle"


@pytest.mark.parametrize(
    "inputs",
    [
        "AAAAA",
        "AA==AAAA",
        "data:image/png,abc",
        "data:",
        "AAAA-AAA",
        "A" * 2**18 + "AA==" + "A" * 2**18,
        "A" * (2**18 - 4) + "AA==" + "A" * 2**18,
    ],
)
def test_what_is_no_base64_is_refused(server: Server, inputs: str) -> None:
    answer = server.ask("/", json.dumps({"inputs": inputs}).encode())
    assert (answer.status, answer.code) == (400, "malformed")


def test_bytes_behind_a_compressed_body_are_refused(server: Server) -> None:
    packed = gzip.compress(b"{}")
    for more in (packed, b"\0", b"x" * 200_000):
        answer = server.ask(INFER, packed + more, headers={"content-encoding": "gzip"})
        assert "bytes follow the compressed body" in answer.json["error"]


# What holds others up


PACKED = {"content-encoding": "gzip"}
FORM = {"content-type": "multipart/form-data; boundary=x"}
FILE = b"--x\r\nContent-Disposition: form-data; name=a; filename=b\r\n\r\n"

HEAVY: dict[str, tuple[str, Callable[[], bytes], dict[str, str]]] = {
    "base64": ("/", lambda: b'{"inputs":"%b"}' % (b"A" * (15 * MIB)), {}),
    "lists": ("/", lambda: b'{"inputs":[%b[]]}' % (b"[]," * (5 * MIB)), {}),
    "spaces": ("/", lambda: b'{"inputs":%b"A"}' % (b" " * (15 * MIB)), {}),
    "escapes": ("/", lambda: b'{"inputs":"%b"}' % (b"\\/" * (7 * MIB)), {}),
    "unknown": ("/v1/embeddings", lambda: b'{%b"input":"A"}' % (b'"a":0,' * (2 * MIB)), {}),
    "items": ("/v1/embeddings", lambda: b'{"input":[%b""]}' % (b'"",' * 900_000), {}),
    "rows": (INFER, lambda: tensor(b"[]," * 500_000 + b"[]"), {}),
    "numbers": (INFER, lambda: tensor(b"0," * 1_000_000 + b"0"), {}),
    "pixels": (INFER, lambda: tensor(pixels(60)[1:-1], 60), {}),
    "id": (INFER, lambda: b'{"id":"%b","inputs":[]}' % (b"a" * 2_000_000), {}),
    "inputs": (INFER, lambda: b'{"inputs":[%b0]}' % (b"{}," * 600_000), {}),
    "bomb": (INFER, lambda: gzip.compress(bytes(15 * MIB)), PACKED),
    "file": ("/", lambda: FILE + b"\r\n-" * (5 * MIB) + b"\r\n--x--\r\n", FORM),
    "query": ("/?" + "a&" * 20_000, lambda: b"", {}),
    "images": (INFER, lambda: tensor(None, 1000) + bytes(1000 * 64 * 64 * 3), {LENGTH: "115"}),
}
"""Requests that cost the most of their kind: path, body, headers."""


def pixels(images: int) -> bytes:
    return json.dumps([[[[0] * 3] * 64] * 64] * images, separators=(",", ":")).encode()


def tensor(data: bytes | None, images: int = 1) -> bytes:
    """A request with a tensor in JSON, or one that says that it follows in binary."""
    more = b'"data":[%b]' % data if data else b'"parameters":{"binary_data_size":12288000}'
    start = b'{"inputs":[{"name":"pixels","datatype":"UINT8","shape":[%d,64,64,3],' % images
    return start + more + b"}]}"


@pytest.mark.alone
@pytest.mark.parametrize("kind", HEAVY)
def test_no_body_holds_others_up(server: Server, kind: str) -> None:
    """Others are answered at once all the while, in the best of three tries."""
    path, made, headers = HEAVY[kind]
    body = made()
    longest = []
    with connected(server) as probe, ThreadPoolExecutor(1) as thread:
        for _ in range(3):
            heavy = thread.submit(server.ask, path, body, headers=headers)
            late = [0.0]
            while not heavy.done():
                start = time.monotonic()
                probe.sendall(LIVE)
                while not probe.recv(2**16).endswith(b"}"):
                    pass
                late.append(time.monotonic() - start)
            assert heavy.result().status < 500
            longest.append(max(late))
    assert min(longest) < LATEST, longest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "pause"), [("127.0.0.1", 1.5), ("127.0.0.2", 0.0)], ids=["stalled", "greedy"]
)
def test_slow_uploads_do_not_hold_others_up(source: str, pause: float) -> None:
    """All but a byte of 16 bodies fills the memory; it is theirs until someone else needs it."""
    size = 16 * MIB
    with running("demo", "--body-timeout", "30") as server, ExitStack() as stack:
        uploads = [
            stack.enter_context(connected(server, head(size), source=source)) for _ in range(16)
        ]
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(lambda upload: upload.sendall(bytes(size - 1)), uploads))
        wait_until(lambda: server.metric("vit_held_bytes") > 255 * MIB)
        time.sleep(pause)
        for _ in range(20):
            assert server.ask("/", STAR + bytes(MIB)).status == 200
        assert server.metric("vit_held_bytes") > 200 * MIB  # the others may end well
        for upload in uploads:
            upload.sendall(b"x")
        found = Counter(upload.recv(2**16)[9:12] for upload in uploads)
        assert set(found) == {b"422", b"429"} and found[b"422"] > 12
