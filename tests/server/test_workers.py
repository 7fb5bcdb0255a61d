"""vit-serve --workers: one port, several processes, one engine; who dies is replaced."""

import http.client
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support import is_gone, wait_until
from support.running_server import CIRCLE, STAR, Server, below, running

KEY = {"authorization": "Bearer secret"}


def fronts(server: Server) -> list[int]:
    return below(server.process.pid, "serve_front")


def engine(server: Server) -> int:
    (pid,) = below(server.process.pid, "engine_server")
    return pid


def label(server: Server, image: bytes = STAR, path: str = "/") -> str:
    answer = server.ask(path, image)
    assert answer.status == 200, answer.body
    return str(answer.json[0]["label"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the demo's artefact, which tests may replace."""
    from vit_engine.artefact.metadata import path_from_name

    return Path(shutil.copy(path_from_name("demo"), tmp_path_factory.mktemp("model") / "m.onnx"))


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("secret\n")
    with running(model, "--workers=2", "--api-key-file", keys, ready=False) as started:
        started.headers = KEY
        wait_until(lambda: is_well(started))
        yield started


def is_well(server: Server) -> bool:
    """Whether every front answers: eight connections find each of two."""
    return len(fronts(server)) == 2 and all(server.is_ready() for _ in range(8))


def test_metrics_are_those_of_all(server: Server) -> None:
    before = server.metric("vit_images_total", outcome="ok")
    with ThreadPoolExecutor(8) as pool:
        labels = [*pool.map(lambda n: label(server, (STAR, CIRCLE)[n % 2]), range(40))]
    assert Counter(labels) == {"star": 20, "circle": 20}
    for _ in range(4):  # whichever is asked
        assert server.metric("vit_images_total", outcome="ok") - before == 40
    assert server.metric("vit_ready") == 1
    assert 0 < server.metric("vit_model_load_seconds", model="m") < 60
    wait_until(lambda: server.metric("vit_requests_in_flight") == 1)  # who asks


def test_a_front_that_is_killed_loses_its_own_connections_alone(server: Server) -> None:
    before = server.metric("vit_images_total", outcome="ok")
    connections = []
    for _ in range(16):
        connection = http.client.HTTPConnection(*server.address, timeout=60)
        connection.request("POST", "/", STAR, KEY)
        assert connection.getresponse().read()
        connections.append(connection)
    killed = fronts(server)[0]
    os.kill(killed, signal.SIGKILL)
    answered = 0
    for connection in connections:
        try:
            connection.request("POST", "/", STAR, KEY)
            answered += connection.getresponse().status == 200
        except (http.client.HTTPException, OSError):
            pass
        connection.close()
    assert 0 < answered < 16  # those of the other front
    wait_until(lambda: is_well(server))
    assert killed not in fronts(server)
    # What it had counted is not lost, and each image is counted once.
    assert server.metric("vit_images_total", outcome="ok") - before == 16 + answered


def test_an_engine_that_is_killed_is_replaced(server: Server) -> None:
    before = engine(server)
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: server.ask("/", STAR).status == 503 or before != engine(server))
    wait_until(lambda: is_well(server))
    assert engine(server) != before
    assert label(server) == "star"


def test_a_model_is_opened_anew_under_load(server: Server, model: Path) -> None:
    ended, labels = threading.Event(), Counter[str]()

    def load() -> None:
        while not ended.is_set():
            labels[label(server)] += 1

    before = engine(server)
    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(load) for _ in range(4)]
        try:
            answer = server.ask("/v2/repository/models/m/load", b"")
            assert answer.status == 200, answer.body
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: any("m was opened anew" in line for line in server.told))
        finally:
            ended.set()
        for client in clients:
            client.result()
    assert set(labels) == {"star"}  # and no request was lost
    wait_until(lambda: below(server.process.pid, "engine_server") != [before])
    wait_until(lambda: len(below(server.process.pid, "engine_server")) == 1)


def test_a_file_that_is_refused_leaves_the_old_one(server: Server, model: Path) -> None:
    kept = model.read_bytes()
    model.write_bytes(b"no model")
    try:
        answer = server.ask("/v2/repository/models/m/load", b"")
        assert (answer.status, answer.code) == (400, "model")
        assert "m stays as it was" in answer.json["error"]
    finally:
        model.write_bytes(kept)
    assert label(server) == "star"
    assert server.ask("/v2/repository/models/m/load", b"", headers={"x": "y"}).status == 401
    assert server.ask("/v2/repository/models/x/load", b"").status == 404


@pytest.mark.slow
def test_who_is_in_is_answered_at_the_end(model: Path) -> None:
    with running(model, "--workers=2", "--drain", "1") as server:
        wait_until(lambda: is_well(server))
        answers = Counter[int]()

        def ask() -> None:
            connection = http.client.HTTPConnection(*server.address, timeout=60)
            for _ in range(1000):
                try:
                    connection.request("POST", "/", STAR)
                    response = connection.getresponse()
                except (http.client.HTTPException, OSError):
                    answers[0] += bool(connection.sock)  # sent, and never answered
                    return
                response.read()
                answers[response.status] += 1
                if response.getheader("connection") == "close":
                    return

        with ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(ask) for _ in range(8)]
            time.sleep(0.5)
            assert server.stop() == 0
            for client in clients:
                client.result()
        assert set(answers) == {200}
        assert not below_all(server.process.pid)


def test_nobody_outlives_the_parent(model: Path) -> None:
    with running(model, "--workers=2") as server:
        children = below_all(server.process.pid)
        assert len(children) >= 5  # two fronts, an engine, two decoders or more
        server.process.kill()
        wait_until(lambda: all(map(is_gone, children)))


def below_all(pid: int) -> list[int]:
    return [found for child in below(pid) for found in (child, *below_all(child))]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [(["--port={port}"], 4, "cannot listen on 127.0.0.1"), (["--text=no.onnx"], 2, "no.onnx")],
)
def test_what_no_worker_could_serve_is_told_once(
    server: Server, options: list[str], code: int, words: str
) -> None:
    line = [sys.executable, "-m", "vit_engine.commands.serve", "demo", "--workers=2", "--port=0"]
    line += [option.format(port=server.address[1]) for option in options]
    run = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == code
    assert words in run.stderr and len(run.stderr.splitlines()) == 1
