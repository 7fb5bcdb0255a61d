"""vit-serve among slow, broken, leaving and too many clients, and under signals."""

import contextlib
import http.client
import io
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from support import ROOT, is_gone, wait_until
from support.raw_http import connected, everything, head, refusal
from support.running_server import CIRCLE, STAR, Answer, Server, running

SOAK = float(os.environ.get("VIT_TEST_SOAK", "120"))
"""Seconds of mixed load in the slow test."""


def poison() -> bytes:
    """A small file that takes a second or so to decode, within the limit of pixels."""
    file = io.BytesIO()
    Image.new("RGB", (7000, 7000), "olive").save(file, "PNG")
    return file.getvalue()


POISON = poison()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("demo", "--header-timeout", "1", "--body-timeout", "1") as started:
        yield started


# Connections


def test_heads_that_never_end_are_dropped(server: Server) -> None:
    starts = [b"", b"POST / HTTP/1.1\r\n", b"GET /health HTTP/1.1\r\nHost: x\r\nA: b"]
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connected(server, starts[i % len(starts)])) for i in range(150)]
        start = time.monotonic()
        assert server.ask("/", STAR).status == 200
        for connection in slow:
            assert everything(connection) == b""
        assert time.monotonic() - start < 15


def test_a_second_request_may_not_dawdle_either(server: Server) -> None:
    with connected(server, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /hea") as connection:
        assert everything(connection).count(b"HTTP/1.1 200") == 1


def test_a_dripping_head_is_dropped(server: Server) -> None:
    with connected(server) as connection, contextlib.suppress(OSError):
        for _ in range(100):
            connection.sendall(b"A")
            time.sleep(0.1)
        pytest.fail("it went on for 10 s")


@pytest.mark.parametrize("line", [b"GET /" + b"a" * 2**22, b"GET / HTTP/1.1\r\nA: " + b"a" * 2**22])
def test_an_endless_head_is_refused(server: Server, line: bytes) -> None:
    with connected(server) as connection:
        with contextlib.suppress(OSError):  # the server may be done before we are
            connection.sendall(line)
        raw = everything(connection)
        assert not raw or refusal(raw) == (431, "head")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nA\x00B: c\r\n\r\n",
    ],
)
def test_what_is_not_http_is_400(server: Server, garbage: bytes) -> None:
    with connected(server, garbage) as connection:
        raw = everything(connection)
    assert refusal(raw) == (400, "malformed")


def test_a_body_that_stops_is_408(server: Server) -> None:
    with connected(server, head(1000), b"x" * 10) as connection:
        assert refusal(everything(connection)) == (408, "late")
    assert server.metric("vit_held_bytes") == 0


def test_a_body_that_drips_is_408(server: Server) -> None:
    with connected(server, head(1000)) as connection:
        with contextlib.suppress(OSError):
            for _ in range(50):
                connection.sendall(b"x")
                time.sleep(0.1)
        raw = everything(connection)
        assert not raw or refusal(raw) == (408, "late")
    wait_until(lambda: server.metric("vit_requests_total", status="408") >= 1)


def test_an_upload_without_end_is_cut_off(server: Server) -> None:
    sent = 0
    with connected(
        server, head(0, "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    ) as c:
        chunk = b"100000\r\n" + bytes(2**20) + b"\r\n"
        with contextlib.suppress(OSError):
            for _ in range(2000):
                c.sendall(chunk)
                sent += 2**20
    assert sent < 2**30
    wait_until(lambda: server.metric("vit_requests_total", status="413") >= 1)


def test_who_asks_before_sending_is_told_without_sending(server: Server) -> None:
    with connected(server, head(2**30, "Expect: 100-continue")) as connection:
        raw = everything(connection)
    assert raw.startswith(b"HTTP/1.1 413") and b"100 Continue" not in raw
    with connected(server, head(len(STAR), "Expect: 100-continue", "Connection: close")) as c:
        assert c.recv(100).startswith(b"HTTP/1.1 100 Continue")
        c.sendall(STAR)
        assert b"star" in everything(c)


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    requests = [head(len(image)) + image for image in (STAR, CIRCLE, STAR)]
    requests.append(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    with connected(server, b"".join(requests)) as connection:
        raw = everything(connection)
    assert raw.count(b"HTTP/1.1 200") == 4
    places = [
        raw.index(b'[{"label":"star"'),
        raw.index(b'[{"label":"circle"'),
        raw.rindex(b"ready"),
    ]
    assert places == sorted(places)


# Clients that leave


@pytest.mark.usefixtures("all_cores")
def test_clients_that_leave_cost_nothing_and_are_counted() -> None:
    with running("demo", "--decode-timeout", "20") as server:
        # The decoders are at work on these.
        held = [connected(server, head(len(POISON)), POISON) for _ in range(8)]
        with contextlib.ExitStack() as stack:
            for client in held:
                stack.enter_context(client)
            wait_until(lambda: server.metric("vit_queue_images") >= 8)
            for _ in range(100):
                with connected(server, head(len(STAR)), STAR):
                    pass
        start = time.monotonic()
        assert server.ask("/", STAR).status == 200
        # Of the 8 two were being decoded; the other 6 would have taken several seconds.
        assert time.monotonic() - start < 15
        wait_until(lambda: server.metric("vit_requests_total", status="499") >= 108)
        assert server.metric("vit_requests_total", status="499") == 108
        assert server.metric("vit_images_total", outcome="dropped") == 108
        assert server.metric("vit_requests_total", route="root") == 109
        for stage in ("undecoded", "decoding", "ready", "engine"):
            wait_until(lambda stage=stage: server.metric("vit_queue_images", stage=stage) == 0)
        assert server.metric("vit_held_bytes") == 0


def test_a_client_that_leaves_within_its_body_is_counted(server: Server) -> None:
    before = server.metric("vit_requests_total", status="499")
    with connected(server, head(1000), b"x" * 10):
        pass
    wait_until(lambda: server.metric("vit_requests_total", status="499") == before + 1)
    assert server.metric("vit_held_bytes") == 0


# Too many


def ask_all(server: Server, count: int, bodies: list[bytes], threads: int) -> list[Answer]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda i: server.ask("/", bodies[i % len(bodies)]), range(count)))


def test_200_at_once(server: Server) -> None:
    before = server.metric("vit_images_total", outcome="ok")
    answers = ask_all(server, 200, [STAR, CIRCLE], 200)
    assert Counter(answer.status for answer in answers) == {200: 200}
    for number, answer in enumerate(answers):
        assert answer.json[0]["label"] == ("star", "circle")[number % 2]
    assert server.metric("vit_images_total", outcome="ok") == before + 200


def test_what_would_wait_too_long_is_refused_at_once() -> None:
    with running("demo", "--max-images", "10") as server:
        before = server.metric("vit_requests_total", route="root")
        answers = ask_all(server, 300, [STAR], 100)
        counts = Counter(answer.status for answer in answers)
        assert set(counts) == {200, 429}, counts
        for answer in answers:
            if answer.status == 429:
                assert answer.code == "busy" and 1 <= int(answer.headers["retry-after"]) <= 60
        assert server.metric("vit_requests_total", route="root") == before + 300
        assert server.metric("vit_requests_total", status="429") == counts[429]
        assert server.metric("vit_refusals_total", reason="busy") == counts[429]
        assert server.metric("vit_images_total", outcome="ok") == counts[200]
        assert server.ask("/", STAR).status == 200


def test_the_bytes_of_all_requests_are_bounded() -> None:
    body = STAR + bytes(15 * 2**20)  # sound, with much behind it
    with running("demo", "--max-held", "48") as server:
        server.ask("/", body)
        before = server.memory()
        counts = Counter(a.status for a in ask_all(server, 40, [body], 20))
        assert set(counts) <= {200, 429} and counts[200] and counts[429], counts
        assert server.memory() - before < 300 * 2**20
        assert server.metric("vit_held_bytes") == 0
        assert server.ask("/", STAR).status == 200


def test_no_answer_within_the_deadline_is_504() -> None:
    with running("demo", "--deadline", "0.2") as server:
        answer = server.ask("/", POISON)
        assert (answer.status, answer.code) == (504, "deadline")
        wait_until(lambda: server.metric("vit_queue_images") == 0)
        assert server.metric("vit_images_total", outcome="dropped") == 1
        assert server.ask("/", STAR).status == 200


def test_health_answers_under_load(server: Server) -> None:
    """A timing is not asserted; that none is lost is."""
    done = threading.Event()

    def load() -> None:
        while not done.is_set():
            server.ask("/", STAR)

    with ThreadPoolExecutor(16) as threads:
        for _ in range(16):
            threads.submit(load)
        try:
            assert all(server.is_ready() for _ in range(20))
        finally:
            done.set()


# Images and decoders


def test_a_poison_image_costs_itself() -> None:
    with running("demo", "--decode-timeout", "0.5") as server, ThreadPoolExecutor(1) as thread:
        late = thread.submit(server.ask, "/", POISON)
        wait_until(lambda: server.metric("vit_queue_images", stage="decoding") == 1)
        assert all(a.status == 200 for a in ask_all(server, 20, [STAR], 4))
        answer = late.result()
        assert (answer.status, answer.code) == (422, "timeout")
        wait_until(lambda: server.metric("vit_decoder_restarts_total") == 1)
        assert all(a.status == 200 for a in ask_all(server, 20, [STAR], 4))


@pytest.mark.usefixtures("all_cores")
def test_a_decoder_that_is_killed_costs_the_image_that_it_was_at() -> None:
    with running("demo", "--decode-timeout", "20") as server:
        ask_all(server, 20, [STAR], 4)
        killed_ones = server.children()
        for pid in killed_ones:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: all(map(is_gone, killed_ones)))
        # None of these is to blame for what happened before it came.
        assert Counter(a.status for a in ask_all(server, 40, [STAR], 8)) == {200: 40}
        assert server.metric("vit_decoder_restarts_total") == 2
        with ThreadPoolExecutor(1) as thread:
            killed = thread.submit(server.ask, "/", POISON)
            wait_until(lambda: server.metric("vit_queue_images", stage="decoding") == 1)
            time.sleep(0.2)
            for pid in server.children():
                os.kill(pid, signal.SIGKILL)
            answer = killed.result()
        assert (answer.status, answer.code) == (422, "crash")
        assert Counter(a.status for a in ask_all(server, 40, [STAR], 8)) == {200: 40}
        wait_until(lambda: server.metric("vit_decoders") == 2)
        assert server.is_ready()


# The end of the process


@pytest.mark.slow
def test_sigterm_under_load_answers_all_that_it_took() -> None:
    answers: list[Answer] = []
    lost: list[Exception] = []
    with running("demo", "--drain", "1") as server:
        ended = threading.Event()

        def load() -> None:
            while not ended.is_set():
                try:
                    answers.append(server.ask("/", STAR))
                except ConnectionRefusedError:  # after the drain: a proxy sends nothing any more
                    return
                except (OSError, http.client.HTTPException) as e:
                    lost.append(e)
                    return

        threads = [threading.Thread(target=load) for _ in range(16)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(answers) > 50)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not server.is_ready())
        accepted = len(answers)
        code = server.process.wait(60)
        ended.set()
        for thread in threads:
            thread.join()
        assert code == 0, server.told
        assert len(answers) > accepted  # it went on accepting
        assert {answer.status for answer in answers} == {200}
        # A connection may be made in the moment when the socket closes, before it is accepted.
        assert all(isinstance(e, ConnectionError) for e in lost) and len(lost) <= 16, lost


def test_requests_in_the_server_when_it_stops_are_finished() -> None:
    with running("demo", "--decode-timeout", "20") as server, ThreadPoolExecutor(4) as threads:
        slow = [threads.submit(server.ask, "/", POISON) for _ in range(2)]
        wait_until(lambda: server.metric("vit_queue_images") == 2)
        server.process.send_signal(signal.SIGTERM)
        assert [answer.result().status for answer in slow] == [200] * 2
        assert server.process.wait(60) == 0


CLOCK = """
import itertools, sys, time
real, count = time.time, itertools.count()
time.time = lambda: real() + (1e8 if next(count) % 2 else -1e8)
sys.argv = ["vit-serve", *sys.argv[1:]]
from vit_engine.commands import start_serve
sys.exit(start_serve())
"""


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing() -> None:
    """By three years, forth and back, at every look at it."""
    line = [sys.executable, "-c", CLOCK, "demo", "--port", "0", "--drain", "0.2", "--access-log"]
    with subprocess.Popen(
        line, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stderr
            server = Server(process.stderr.readline().rpartition(" ")[2].strip(), process)
            wait_until(server.is_ready)
            assert Counter(a.status for a in ask_all(server, 100, [STAR], 20)) == {200: 100}
            with connected(server, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
                time.sleep(0.5)  # the connection is kept
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert everything(connection).count(b"ready") == 2
            assert server.stop() == 0
        finally:
            process.kill()


# For minutes


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("workers", [1, 2])
def test_mixed_load_does_not_grow_memory(workers: int) -> None:
    """Good, bad, large and slow images, clients that leave and probes, for SOAK seconds."""
    photographs = [path.read_bytes() for path in sorted((ROOT / "examples").iterdir())]
    bodies = [*photographs * 3, b"no image", b"", STAR[: len(STAR) // 2], POISON, bytes(17 * 2**20)]
    statuses: Counter[int] = Counter()
    left = 0

    with running("demo", "--decode-timeout", "20", f"--workers={workers}") as server:
        wait_until(lambda: all(server.is_ready() for _ in range(8)))
        end = time.monotonic() + SOAK

        def load(seed: int) -> None:
            nonlocal left
            draw = random.Random(seed)
            while time.monotonic() < end:
                body = draw.choice(bodies)
                if draw.random() < 0.1:
                    with connected(server, head(len(body)), body[: draw.randrange(len(body) + 1)]):
                        left += 1
                else:
                    # Of a body that is too large the server reads for a time only.
                    large = len(body) > 16 * 2**20
                    with contextlib.suppress(*([ConnectionError] if large else [])):
                        statuses[server.ask("/", body).status] += 1

        memory = []
        threads = [threading.Thread(target=load, args=(seed,)) for seed in range(12)]
        for thread in threads:
            thread.start()
        while time.monotonic() < end:
            time.sleep(SOAK / 40)
            memory.append(server.memory())
        for thread in threads:
            thread.join()
        # On a starved machine some wait too long, or are refused for that.
        assert {200, 413, 422} <= set(statuses) <= {200, 413, 422, 429, 504}
        wait_until(lambda: server.metric("vit_queue_images") == 0)
        answered = sum(statuses.values())
        by_status = {
            s: server.metric("vit_requests_total", route="root", status=str(s)) for s in statuses
        }
        assert server.metric("vit_requests_total", route="root") >= answered
        assert all(by_status[status] >= count for status, count in statuses.items())
        assert server.metric("vit_held_bytes") == 0
        # The largest of the middle quarter beside the largest of the last: no trend.
        early, late = max(memory[10:20]), max(memory[30:])
        assert late < 1.1 * early + 20 * 2**20, [m >> 20 for m in memory]
        assert statistics.median(memory[30:]) < (400 + 300 * workers) * 2**20
        assert server.stop() == 0
