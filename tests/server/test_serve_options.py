"""vit-serve's keys, names and options: what is read, and what is refused at the start."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import slow_case, wait_until
from support.commands import RUNTIME, Forks
from support.running_server import STAR, Server, running
from vit_engine.commands.serve import command_line, parsed, settings_from
from vit_engine.errors import UsageError


def keys_of(tmp_path: Path, text: bytes) -> tuple[str, ...]:
    path = tmp_path / "keys"
    path.write_bytes(text)
    arguments = command_line().parse_args(["demo", "--api-key-file", str(path)])
    return settings_from(arguments).keys


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (b"one\ntwo\n", ("one", "two")),
        (b"\xef\xbb\xbfone\r\ntwo\r\n", ("one", "two")),
        (b"# who\none\n\n  # them\n  two \n", ("one", "two")),
        (b"a key of words\n#not one", ("a key of words",)),
    ],
)
def test_a_key_file_is_read_line_by_line(
    tmp_path: Path, text: bytes, keys: tuple[str, ...]
) -> None:
    assert keys_of(tmp_path, text) == keys


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"# none\n", "has no key in it"),
        ("one\nschlüssel\n".encode(), "line 2 has a key with characters beyond printable ASCII"),
        (b"a\tb\n", "line 1 has a key with characters beyond printable ASCII"),
        (b"\xff\n", "cannot be read"),
    ],
)
def test_a_key_file_that_would_not_work_is_refused(tmp_path: Path, text: bytes, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        keys_of(tmp_path, text)


def test_models_may_stand_on_both_sides_of_options_and_behind_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = ["vit-serve", "a.onnx", "--port", "1", "b.onnx", "-m", "c.onnx"]
    monkeypatch.setattr("sys.argv", line)
    arguments = parsed(command_line(), {"VIT_SERVE_DRAIN": "3", "VIT_SERVE_MODELS": "d.onnx"})
    assert (arguments.models, arguments.port) == (["a.onnx", "b.onnx", "c.onnx"], 1)
    assert arguments.drain == 3


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("API_KEY_FIEL", "a", "did you mean VIT_SERVE_API_KEY_FILE?"),
        ("XYZ", "a", "VIT_SERVE_XYZ: it stands for no option"),
        ("PORT", "tcp://10.0.0.1:80", "tcp://10.0.0.1:80"),
        ("ACCESS_LOG", "perhaps", "perhaps"),
    ],
)
def test_variables_that_make_no_sense_are_told(
    name: str, value: str, words: str, forks: Forks
) -> None:
    environment = os.environ | {f"VIT_SERVE_{name}": value}
    ended = forks.run("vit-serve", RUNTIME["vit-serve"], ["demo"], env=environment)
    assert ended.returncode == 2 and words in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


# Names


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("demo", "--allow-host", "labels.example.com") as started:
        yield started


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:1", 200),
        ("192.168.1.2", 200),
        ("host.docker.internal:8000", 200),
        ("Labels.Example.com", 200),
        ("evil.example", 403),
        ("localhost.evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403),
        ("[::1", 200),
        ("[a.b", 403),
    ],
)
def test_pages_of_others_reach_no_local_server(server: Server, host: str, status: int) -> None:
    """A browser sends the name that it was told, wherever that leads."""
    answer = server.ask("/", STAR, headers={"host": host})
    assert answer.status == status
    if status == 403:
        assert answer.code == "host" and "--allow-host" in answer.json["error"]


READ_ONLY = """
import sys, tempfile
tempfile.tempdir = "/dev/null/none"  # as where no folder can be written to
sys.argv = ["vit-serve", *sys.argv[1:]]
from vit_engine.commands import start_serve
sys.exit(start_serve())
"""


@pytest.mark.parametrize("workers", [1, slow_case(2)])
def test_a_disk_that_is_read_only(workers: int) -> None:
    line = [sys.executable, "-c", READ_ONLY, "demo", "--port=0", f"--workers={workers}"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            first = process.stderr.readline()
            if workers == 1:
                assert "listening at" in first
                server = Server(first.rpartition(" ")[2].strip(), process)
                wait_until(server.is_ready)
                assert server.ask("/", STAR).json[0]["label"] == "star"
            else:
                assert "set TMPDIR" in first
                assert process.wait(30) == 4
        finally:
            process.kill()
