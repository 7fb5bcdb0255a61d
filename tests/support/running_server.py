"""A real vit-serve in a process of its own, and what tests ask it."""

import contextlib
import http.client
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from support import ROOT, wait_until

STAR = (ROOT / "examples/star-01.png").read_bytes()
CIRCLE = (ROOT / "examples/circle-01.jpg").read_bytes()


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of a refusal, which has words too."""
        assert isinstance(self.json["error"], str) and self.json["error"]
        return str(self.json["error_code"])


@dataclass
class Server:
    """A server that listens at `url`."""

    url: str
    process: subprocess.Popen[str]
    told: list[str] = field(default_factory=list)  # lines of stderr
    headers: dict[str, str] = field(default_factory=dict)  # of requests that have none

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname and parts.port
        return parts.hostname, parts.port

    def ask(
        self,
        path: str = "/",
        body: bytes | None = None,
        *,
        method: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send one request on a connection of its own."""
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        with contextlib.closing(connection):
            connection.request(
                method or ("GET" if body is None else "POST"), path, body, headers or self.headers
            )
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())

    def metric(self, name: str, **labels: str) -> float:
        """Return a metric, summed over the labels that are not given."""
        found = 0.0
        for line in self.ask("/metrics").body.decode().splitlines():
            start, _, value = line.rpartition(" ")
            if start.partition("{")[0] == name and all(
                f'{key}="{wanted}"' in start for key, wanted in labels.items()
            ):
                found += float(value)
        return found

    def is_ready(self) -> bool:
        return self.ask("/health").status == 200

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)

    def memory(self) -> int:
        """Bytes that the server holds in all its processes but the decoders."""
        pids = {self.process.pid, *below(self.process.pid, "engine_server import")}
        pids |= {*below(self.process.pid, "front import")}
        lines = [
            line.split()
            for pid in pids
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        ]
        return sum(int(words[1]) * 1024 for words in lines if words[0] == "VmRSS:")

    def children(self) -> list[int]:
        """The decoder processes."""
        return below(self.process.pid, "decoder_process")


def below(pid: int, part: str = "") -> list[int]:
    """The children of a process, those whose command line has a part; none of one that ended."""
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                with contextlib.suppress(OSError):
                    if part.encode() in Path(f"/proc/{child}/cmdline").read_bytes():
                        found.append(int(child))
    return sorted(found)


@contextlib.contextmanager
def running(*arguments: str | Path, ready: bool = True, **options: Any) -> Iterator[Server]:
    """Run vit-serve on a free port; by default it is ready, and drains for no time."""
    line = [sys.executable, "-m", "vit_engine.commands.serve", *map(str, arguments or ["demo"])]
    line += ["--port=0"] + ([] if "--drain" in line else ["--drain=0.01"])
    reader: threading.Thread | None = None
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, **options) as process:
        try:
            assert process.stderr
            first = process.stderr.readline()
            assert "listening at " in first, first + process.stderr.read()
            server = Server(first.rpartition(" ")[2].strip(), process, [first])
            reader = threading.Thread(target=server.told.extend, args=(process.stderr,))
            reader.start()
            if ready:
                wait_until(server.is_ready)
            yield server
        finally:
            process.kill()
            if reader is not None:
                reader.join(20)  # its children, which write there as well, end with it
