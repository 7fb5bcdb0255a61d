"""vit-serve's keys, names and options: what is read, and what is refused at the start."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import Run, wait_until
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


def test_a_key_may_have_spaces(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a key of words\n")
    with running("demo", "--api-key-file", tmp_path / "keys") as server:
        for headers in (
            {"authorization": "Bearer a key of words"},
            {"x-api-key": "a key of words"},
        ):
            assert server.ask("/", STAR, headers=headers).status == 200
        assert server.ask("/", STAR, headers={"authorization": "Bearer a"}).status == 401
        # A key keeps pages of others out as well as a name does.
        headers = {"authorization": "Bearer a key of words", "host": "evil.example"}
        assert server.ask("/", STAR, headers=headers).status == 200


def test_models_may_stand_on_both_sides_of_options_and_behind_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = ["vit-serve", "a.onnx", "--port", "1", "b.onnx", "-m", "c.onnx"]
    monkeypatch.setattr("sys.argv", line)
    arguments = parsed(command_line(), {"VIT_SERVE_DRAIN": "3", "VIT_SERVE_MODELS": "d.onnx"})
    assert (arguments.models, arguments.port) == (["a.onnx", "b.onnx", "c.onnx"], 1)
    assert arguments.drain == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("VIT_SERVE_API_KEY_FIEL", "did you mean VIT_SERVE_API_KEY_FILE?"),
        ("VIT_SERVE_XYZ", "VIT_SERVE_XYZ: it stands for no option"),
    ],
)
def test_variables_that_stand_for_nothing_are_told(name: str, words: str, run_command: Run) -> None:
    ended = run_command("vit-serve", "demo", env=os.environ | {name: "a"})
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


@pytest.mark.parametrize("workers", [1, 2])
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
