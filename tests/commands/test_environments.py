"""Commands under unusual limits, users, streams and locales: they work, or say why not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT, Run, slow_case

BIN = Path(sys.executable).parent
IMAGES = f"{ROOT}/examples/star-01.png {ROOT}/examples/circle-01.jpg"
INFER = f"{BIN}/vit-infer {IMAGES} -m demo -q"
DOCTOR = f"{BIN}/vit-doctor -m demo"
EXPORT = f"{BIN}/vit-export demo --no-verify -o vit.onnx"


def shell(line: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        timeout=100,
        check=False,
    )


def works(done: subprocess.CompletedProcess[bytes], *, rows: int = 2) -> None:
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stdout.count(b'"label": "') >= rows


@pytest.mark.parametrize(
    "limit",
    [
        f"ulimit -v {2**20}; ulimit -n 32; ulimit -c 0; ulimit -s 1024; ulimit -t 60",
        slow_case("taskset -pc 0 $$ >/dev/null"),
    ],
)
def test_limits_that_leave_enough(limit: str, tmp_path: Path) -> None:
    works(shell(f"{limit}; {INFER}", tmp_path))


@pytest.mark.usefixtures("all_cores")  # each of which takes memory
@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("ulimit -v 150000", "not enough memory"),  # for Pillow
        slow_case("ulimit -v 195000", "not enough memory"),  # for ONNX Runtime
        slow_case("ulimit -n 11", "ulimit -n"),
        ("ulimit -n 6", "ulimit -n"),
        ("ulimit -f 1", "ulimit -f"),
    ],
)
def test_limits_that_leave_too_little_are_told(limit: str, words: str, tmp_path: Path) -> None:
    done = shell(f"{limit}; {INFER}", tmp_path)
    assert done.returncode == 4, done.stderr
    assert done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    assert words in line


PREFIXES = [
    "env -i LC_ALL=C LANG=C",
    "env -u HOME PYTHONWARNINGS=error PYTHONOPTIMIZE=2",
    "env HOME=/proc XDG_CACHE_HOME=/proc TMPDIR=/nowhere PYTHONUTF8=0 LC_ALL=POSIX",
    "env HOME=/nowhere XDG_CACHE_HOME= PYTHONIOENCODING=ascii PYTHONDONTWRITEBYTECODE=1",
]


@pytest.mark.parametrize(
    ("command", "prefix"),
    [(INFER, PREFIXES[0]), (DOCTOR, PREFIXES[1]), (INFER, PREFIXES[2])]
    + [
        slow_case(*line)
        for line in [(DOCTOR, PREFIXES[0]), (INFER, PREFIXES[1]), (INFER, PREFIXES[3])]
    ],
)
def test_homes_locales_and_interpreters(command: str, prefix: str, tmp_path: Path) -> None:
    done = shell(f"{prefix} {command}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    assert b"star" in done.stdout or b"works" in done.stdout


@pytest.mark.slow
def test_the_exporter_under_the_same(tmp_path: Path) -> None:
    done = shell(f"env -u HOME PYTHONWARNINGS=error LC_ALL=C {EXPORT}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert (tmp_path / "vit.onnx").is_file()


STREAMS = {
    "<&-": 0,
    "2>&-": 0,
    "2>/dev/full": 0,
    ">&-": 4,
    ">/dev/full": 4,
    "<&- >&- 2>&-": 4,
    ">/dev/full 2>/dev/full": 4,
}


DESCRIBE = f"{BIN}/vit-infer --describe -m demo"


@pytest.mark.parametrize(
    ("command", "streams"),
    [
        pytest.param(INFER.removesuffix(" -q"), streams, marks=[pytest.mark.slow] * (code == 0))
        for streams, code in STREAMS.items()
    ]
    + [(DESCRIBE, "2>/dev/full"), (DESCRIBE, ">&-")]
    + [slow_case(DOCTOR, ">/dev/full")],
)
def test_standard_streams_closed_or_full(command: str, streams: str, tmp_path: Path) -> None:
    code = STREAMS[streams]
    done = shell(f"{command} {streams}", tmp_path)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    if code and "2>" not in streams:
        assert len(done.stderr.splitlines()) == 1
    if not code:
        assert any(word in done.stdout for word in (b"star", b"works", b"precision"))


@pytest.mark.parametrize("streams", ["<&- >&- 2>&-", slow_case("2>/dev/full")])
def test_rows_go_to_a_file_whatever_the_streams(streams: str, tmp_path: Path) -> None:
    done = shell(f"{INFER} -o rows.jsonl {streams}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "rows.jsonl").read_bytes().count(b"\n") == 2


def test_a_signal_while_a_command_starts_is_no_traceback(tmp_path: Path) -> None:
    """While a command is imported, which takes a third of a second, there is nothing to lose."""
    (tmp_path / "slow.py").write_text(
        "import time\nprint('importing', flush=True)\ntime.sleep(60)\n"
    )
    line = [
        sys.executable,
        "-c",
        "from vit_engine.cli.exit_codes import start; start('slow', 'slow')",
    ]
    for number in (signal.SIGINT, signal.SIGTERM):
        with subprocess.Popen(
            line,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}/runtime"},
        ) as process:
            assert process.stdout and process.stdout.readline() == b"importing\n"
            process.send_signal(number)
            _, told = process.communicate(timeout=60)
        assert told == b""
        assert process.returncode == -number


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    done = shell(f"trap '' INT; {INFER} & sleep 0.1; kill -INT $!; wait $!", tmp_path)
    works(done)


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "socket"])
def test_a_model_that_is_no_file_is_refused_at_once(
    run_command: Run, kind: str, tmp_path: Path
) -> None:
    import socket

    path = tmp_path / "model"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
    for line in (IMAGES.split(), ["--describe"]):
        done = run_command("vit-infer", *line, "-m", "model", cwd=tmp_path)
        assert done.returncode == 2
        (told,) = done.stderr.splitlines()
        assert ("is a folder" if kind == "folder" else "regular file") in told
