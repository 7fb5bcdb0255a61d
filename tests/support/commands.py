"""Runs commands as processes forked from one that has imported what they need: that is fast."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from vit_engine.cli import exit_codes

RUNTIME = {f"vit-{name}": f"vit_engine.commands.{name}" for name in ("infer", "eval", "serve")}
"""Commands, and the modules that have their `main`."""


class Forks:
    """A process that has imported some modules, and forks for each command that it is to run."""

    def __init__(self, *imported: str) -> None:
        self._requests, requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        code = (
            f"import sys; sys.path.append({str(Path(__file__).parents[1])!r}); "
            f"from support.commands import serve; serve({requests.fileno()}, {imported})"
        )
        with requests:
            line = [sys.executable, "-P", "-c", code]
            self._process = subprocess.Popen(line, pass_fds=[requests.fileno()])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._requests.close()
        self._process.wait(60)

    def run(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        *,
        cwd: str | Path = ".",
        input: str = "",  # noqa: A002 - as of subprocess.run
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run the `main` of a module as a command; 120 s at most."""
        request = {
            "line": [name, *arguments],
            "module": module,
            "folder": str(Path(cwd).resolve()),
            "environment": dict(os.environ if env is None else env),
        }
        pairs = [socket.socketpair() for _ in ("stdout", "stderr", "exit code")]
        with tempfile.TemporaryFile() as given:
            given.write(os.fsencode(input))
            given.seek(0)
            files = [given.fileno(), *(theirs.fileno() for _, theirs in pairs)]
            socket.send_fds(self._requests, [json.dumps(request).encode()], files)
        for _, theirs in pairs:
            theirs.close()
        with ThreadPoolExecutor(len(pairs)) as threads:
            out, err, code = threads.map(_read, (ours for ours, _ in pairs))
        return subprocess.CompletedProcess(request["line"], int(code or "-1"), out, err)


def _read(end: socket.socket) -> str:
    """Return what is written at the other end until all who have it are gone."""
    end.settimeout(120)
    with end, end.makefile("rb") as file:
        return file.read().decode(errors="surrogateescape")


def serve(descriptor: int, imported: Sequence[str]) -> None:
    """Fork for each request until there can be none; the life of the process."""
    for module in imported:
        import_module(module)
    requests = socket.socket(fileno=descriptor)
    while True:
        message, files, _, _ = socket.recv_fds(requests, 2**20, 4)
        if not message:
            return
        if not os.fork():
            requests.close()
            sys.exit(_run(json.loads(message), files))
        for file in files:
            os.close(file)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _run(request: dict[str, Any], files: list[int]) -> int:
    """Run the command as a process of its own would; the last file takes its exit code."""
    for target, file in enumerate(files[:3]):
        os.dup2(file, target)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    name, *_ = sys.argv = request["line"]
    code = 1
    try:
        code = exit_codes.start(name, request["module"])
    except SystemExit as e:
        code = int(e.code or 0)
    except Exception:  # noqa: BLE001 - as Python itself tells it
        traceback.print_exc()
    os.write(files[3], str(code).encode())
    return code
