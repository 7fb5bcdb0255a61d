"""The engine processes of a server: one for each model, and another while a file is opened anew."""

from collections.abc import Mapping
from pathlib import Path

from vit_engine.options import EngineOptions
from vit_engine.server.engines.engine_process import EngineProcess
from vit_engine.server.engines.messages import OpenEngine


class EngineProcesses:
    """All methods take seconds, and are for one thread at a time."""

    def __init__(
        self, models: Mapping[str, str | Path], options: EngineOptions, *, hang_timeout: float
    ) -> None:
        self._models, self._options, self._hang_timeout = models, options, hang_timeout
        self._processes: dict[str, EngineProcess] = {}
        self._old: dict[str, EngineProcess] = {}

    def open(self) -> dict[str, OpenEngine]:
        """Open every model; raises what Engine.open raises."""
        for name in self._models:
            if name not in self._processes:
                self._processes[name] = self._opened(name)
        return {name: OpenEngine(p.address, p.info) for name, p in self._processes.items()}

    def open_anew(self, name: str) -> OpenEngine:
        """Open a model's file beside the engine that runs; raises where it cannot take its place.

        `retire_old` follows once every front has changed over.
        """
        new = self._opened(name)
        try:
            new.wait_until_warm()
        except BaseException:
            new.close()
            raise
        self._old[name], self._processes[name] = self._processes[name], new
        return OpenEngine(new.address, new.info)

    def retire_old(self, name: str) -> None:
        """Let the engine that was replaced end once no front is connected to it any more."""
        self._old.pop(name).retire()

    def close(self) -> None:
        """End every process."""
        for process in [*self._processes.values(), *self._old.values()]:
            process.close()
        self._processes.clear()
        self._old.clear()

    def _opened(self, name: str) -> EngineProcess:
        return EngineProcess(
            name, self._models[name], self._options, hang_timeout=self._hang_timeout
        )
