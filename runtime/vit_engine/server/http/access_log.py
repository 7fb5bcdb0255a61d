"""The access log: lines of JSON on stdout, by a thread, so that no reader of it holds us up."""

import json
import os
import queue
import threading
import time

from prometheus_client import Counter
from starlette.types import Scope

_STDOUT = 1  # not sys.stdout, whose lock Python waits for at its end
_LINES = 10_000  # that may wait; about 2 MB
_FLUSH_TIME = 1.0  # seconds that the end waits for lines to be written


class AccessLog:
    """Writes without being waited for; a line that finds no room is dropped and counted."""

    def __init__(self, dropped: Counter) -> None:
        self._dropped = dropped
        self._lines: queue.Queue[bytes | None] = queue.Queue(_LINES)
        self._thread: threading.Thread | None = None

    def write(self, scope: Scope, status: int, seconds: float, size: int) -> None:
        """Write one line: no body, no query, no key."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="access log", daemon=True)
            self._thread.start()
        client = scope.get("client")
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "client": client[0] if client else None,
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": status,
            "ms": round(seconds * 1e3, 2),
            "bytes": size,
        }
        try:
            self._lines.put_nowait(json.dumps(line).encode() + b"\n")
        except queue.Full:
            self._dropped.inc()

    def close(self) -> None:
        """Wait for what is not written yet, but not for long."""
        if self._thread is not None and not self._lines.full():
            self._lines.put_nowait(None)
            self._thread.join(_FLUSH_TIME)

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                while line:
                    line = line[os.write(_STDOUT, line) :]
            except OSError:  # nobody will read it
                self._dropped.inc()
