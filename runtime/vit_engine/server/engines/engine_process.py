"""One model's engine in a process, for every front; where it ends, another takes its place."""

import logging
import os
import pickle
import secrets
import socket
import sys
import tempfile
import threading
from pathlib import Path

from vit_engine.errors import MachineError, VitError, one_line
from vit_engine.machine.worker import EndedError, Worker
from vit_engine.options import GPU_PROVIDERS, EngineOptions
from vit_engine.server.engines.engine_server import Opening, serve
from vit_engine.server.engines.messages import EngineInfo

log = logging.getLogger(__name__)

_OPENING = 3600.0  # seconds: a provider may build engines for a long time, and says so
_RETRY = 1.0  # seconds between attempts to start an engine that does not start


class EngineProcess:
    """An open engine at a Unix socket's `address`, started again whenever its process ends.

    The constructor takes seconds and raises what Engine.open raises. `info` is what was opened.
    """

    def __init__(
        self, name: str, model: str | Path, options: EngineOptions, *, hang_timeout: float
    ) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if sys.platform == "linux":  # in no folder, since every disk may be read-only
            self.address = f"\0vit-serve-{secrets.token_hex(16)}"
        else:
            self._folder = tempfile.TemporaryDirectory(prefix="vit-serve-")
            self.address = os.fspath(Path(self._folder.name, "engine"))
        # It stays open here: who connects while a process is replaced waits for the next.
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.address)
        self._listening.listen(128)
        self._opening = Opening(name, model, options, hang_timeout, self._listening.fileno())
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self.restarts = 0
        try:
            self.info = self._start()
        except BaseException:
            self._free()
            raise
        self._thread = threading.Thread(target=self._watch, daemon=True, name=f"{name}-engine")
        self._thread.start()

    @property
    def device(self) -> str:
        """Where it runs: "cpu", or a GPU by its number, as in "cuda:0"."""
        provider = self.info.provider
        is_gpu = provider in GPU_PROVIDERS
        return f"{provider}:{self._opening.options.device}" if is_gpu else provider

    def wait_until_warm(self) -> None:
        """Wait until every size of batch has run; MachineError where one cannot."""
        try:
            fault = pickle.loads(self._worker.answer(_OPENING))
        except (EndedError, TimeoutError, OSError) as e:
            fault = one_line(e)
        if fault:
            raise MachineError(f"{self._opening.name} cannot run: {fault}")

    def retire(self) -> None:
        """Let the process end once no front is connected to it, and start no other."""
        self._closing.set()
        self._worker.ask(b"retire")

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._closing.set()
            self._worker.kill()
        self._thread.join()

    def _start(self) -> EngineInfo:
        with self._lock:
            if self._closing.is_set():
                raise MachineError("closed")
            self._worker = Worker(
                serve,
                purpose=f"run {self._opening.name} in",
                pass_fds=(self._listening.fileno(),),
                stderr=None,
            )
        try:
            self._worker.wait_until_ready()
            self._worker.ask(pickle.dumps(self._opening))
            found = pickle.loads(self._worker.answer(_OPENING))
        except (EndedError, TimeoutError) as e:
            self._worker.close()
            raise MachineError(
                f"the process of {self._opening.name} ended while it opened the model ({e})"
            ) from e
        if isinstance(found, BaseException):
            self._worker.close()
            raise found
        assert isinstance(found, EngineInfo)
        return found

    def _watch(self) -> None:
        """On a thread: start a process in the place of one that has ended."""
        while True:
            ended = self._worker.wait()
            self._worker.close()
            while not self._closing.is_set():
                log.error("the engine of %s has ended (%s)", self._opening.name, ended)
                try:
                    self.info = self._start()
                except VitError as e:
                    ended = str(e)
                    self._closing.wait(_RETRY)
                else:
                    self.restarts += 1
                    break
            else:
                self._free()
                return

    def _free(self) -> None:
        self._listening.close()
        if self._folder is not None:
            self._folder.cleanup()
