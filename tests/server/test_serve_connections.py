"""vit-serve and connections that offer, hide, keep or hold what no plain request does."""

import contextlib
import json
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import ROOT
from support.raw_http import answered, connected, everything, head, refusal
from support.running_server import STAR, Server, running

GET = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n"
LAST = GET + b"Connection: close\r\n\r\n"
OFFERS = ("h2c", "anything")

JAVA = """
import java.net.URI;
import java.net.http.*;
import java.nio.file.*;
public class Ask {
    public static void main(String[] given) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int i = 0; i < 3; i++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(given[0]))
                .POST(HttpRequest.BodyPublishers.ofFile(Path.of(given[1]))).build();
            System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).body());
        }
    }
}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("demo", "--keep-alive", "1", "--header-timeout", "2") as started:
        yield started


def answers(server: Server, *parts: bytes) -> bytes:
    """What comes for parts that are sent one after the other, in segments of their own."""
    with connected(server) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(0.05)
        return everything(connection)


def reset(server: Server, request: bytes) -> None:
    """Ask, read the answer, and reset the connection."""
    with connected(server, request) as connection:
        connection.recv(2**16)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# Offers of other protocols


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
def test_an_offer_is_declined_and_its_body_is_a_body(
    server: Server, offer: str, late: bool, chunked: bool
) -> None:
    """However the body comes, it is never read as a request."""
    lines = [f"Connection: keep-alive, Upgrade\r\nUpgrade: {offer}", "HTTP2-Settings: AAMAAABk"]
    body = GET + b"\r\n"
    first, last = head(len(body), *lines), body
    if chunked:
        first = first.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")
        last = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    parts = [first, last, LAST] if late else [first + last + LAST]
    raw = answers(server, *parts)
    assert raw.count(b"HTTP/1.1 ") == 2
    assert raw.startswith(b"HTTP/1.1 422") and b'"error_code":"format"' in raw
    assert raw.endswith(b'{"status":"live"}')


@pytest.mark.slow
def test_javas_client_gets_labels(server: Server, tmp_path: Path) -> None:
    if shutil.which("java") is None:
        pytest.skip("no java to ask with (apt-get install default-jre-headless)")
    source = tmp_path / "Ask.java"
    source.write_text(JAVA)
    line = ["java", source, server.url, ROOT / "examples/star-01.png"]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    if "jdk.compiler" in ended.stderr:
        pytest.skip("java has no compiler here (apt-get install default-jdk-headless)")
    found = [json.loads(line)[0]["label"] for line in ended.stdout.splitlines()]
    assert found == ["star"] * 3, ended.stderr


def test_curl_that_offers_http_2_gets_labels(server: Server) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl to ask with (apt-get install curl)")
    path = ROOT / "examples/star-01.png"
    line = ["curl", "-sS", "--http2", "--data-binary", f"@{path}", server.url]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(ended.stdout)[0]["label"] == "star"


# Heads that no server should act on


@pytest.mark.parametrize(
    ("request_head", "expected"),
    [
        (b"GET /health HTTP/1.1\r\n\r\n", (400, "malformed")),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", (400, "malformed")),
        (b"GET /health HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", (400, "malformed")),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", (405, "method")),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            (501, "encoding"),
        ),
        (GET + b"a:\r\n" * 1000 + b"\r\n", (431, "head")),
        (GET + b"a: " + b"a" * 2**16 + b"\r\n\r\n", (431, "head")),
    ],
)
def test_heads_are_refused(server: Server, request_head: bytes, expected: tuple[int, str]) -> None:
    raw = answers(server, request_head)
    assert refusal(raw) == expected and raw.count(b"HTTP/1.1 ") == 1


def test_http_1_0_needs_no_host(server: Server) -> None:
    assert answers(server, b"GET /health HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_nonsense_behind_a_request_does_not_take_its_answer(server: Server) -> None:
    raw = answers(server, head(len(STAR)) + STAR + b"nonsense\r\n\r\n")
    assert raw.startswith(b"HTTP/1.1 200") and b"star" in raw


# What a connection may hold


@pytest.mark.parametrize("trailer", [b"a1: " + b"v" * 1000 + b"\r\n", b"v" * 1000])
@pytest.mark.parametrize("path", [b"/v2/health/live", b"/nix"])
def test_trailers_are_bounded(server: Server, trailer: bytes, path: bytes) -> None:
    """Many of them, and one without end."""
    before, sent = server.memory(), 0
    start = b"GET %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nb: " % path
    with connected(server, start) as connection:
        with contextlib.suppress(ConnectionError):
            for _ in range(20_000):
                connection.sendall(trailer)
                sent += len(trailer)
        raw = everything(connection)
    assert not raw or refusal(raw) == (431, "head")
    assert sent < 15 * 2**20 and server.memory() - before < 20 * 2**20


@pytest.mark.parametrize("noise", [b"\r\n", b"\n\r\n", b"G"])
def test_a_kept_connection_is_closed_whatever_it_sends(server: Server, noise: bytes) -> None:
    with connected(server, GET + b"\r\n") as connection:
        assert answered(connection).startswith(b"HTTP/1.1 200")
        start = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - start < 20:
                connection.sendall(noise[:1] if noise == b"G" else noise)
                time.sleep(0.5)
            pytest.fail("it went on for 20 s")


def test_a_connection_without_a_request_is_closed_whatever_it_sends(server: Server) -> None:
    with connected(server) as connection, contextlib.suppress(ConnectionError):
        for _ in range(40):
            connection.sendall(b"\r\n")
            time.sleep(0.5)
        pytest.fail("it went on for 20 s")


def test_connections_that_are_reset_leave_nothing() -> None:
    request = GET + b"A: " + b"a" * 40_000 + b"\r\n\r\n"
    with running("demo") as server:
        for _ in range(200):
            reset(server, request)
        before = server.memory()
        for _ in range(1000):
            reset(server, request)
        assert server.memory() - before < 20 * 2**20


def test_who_has_sent_all_may_say_so(server: Server) -> None:
    """shutdown(SHUT_WR) is not leaving; closing is, and is noticed while the request runs."""
    with connected(server, head(len(STAR)) + STAR) as connection:
        connection.shutdown(socket.SHUT_WR)
        raw = everything(connection)
    final = raw[raw.rindex(b"HTTP/1.1 ") :]
    assert final.startswith(b"HTTP/1.1 200") and b"star" in final


# The log


@pytest.mark.slow
def test_a_log_that_nobody_reads_holds_nobody_up() -> None:
    with running("demo", "--access-log", stdout=subprocess.PIPE) as server:
        with connected(server) as connection:
            for _ in range(12):  # more than a pipe and the queue before it hold
                connection.sendall((GET + b"\r\n") * 1000)
                found = 0
                while found < 1000:
                    found += connection.recv(2**16).count(b"}")
        assert server.ask("/", STAR).status == 200
        assert server.metric("vit_dropped_log_lines_total") > 500
        assert server.stop() == 0
