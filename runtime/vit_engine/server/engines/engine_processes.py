"""The engine processes of a server: one for each device of each model, and others while a file is
opened anew."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from vit_engine.machine.threads import open_together
from vit_engine.options import EngineOptions
from vit_engine.server.engines.engine_process import EngineProcess
from vit_engine.server.engines.messages import OpenEngine


class EngineProcesses:
    """All methods take seconds, and are for one thread at a time."""

    def __init__(
        self, models: Mapping[str, str | Path], options: EngineOptions, *, hang_timeout: float
    ) -> None:
        self._models, self._options, self._hang_timeout = models, options, hang_timeout
        self._processes: dict[str, list[EngineProcess]] = {}
        self._old: dict[str, list[EngineProcess]] = {}

    def open(self) -> dict[str, OpenEngine]:
        """Open every model; raises what Engine.open raises."""
        for name in self._models:
            if name not in self._processes:
                self._processes[name] = self._opened(name)
        return {name: _engine_of(processes) for name, processes in self._processes.items()}

    def open_anew(self, name: str) -> OpenEngine:
        """Open a model's file beside the engines that run; raises where one cannot be replaced.

        `retire_old` follows once every front has changed over.
        """
        new = self._opened(name)
        try:
            for process in new:
                process.wait_until_warm()
        except BaseException:
            for process in new:
                process.close()
            raise
        self._old[name], self._processes[name] = self._processes[name], new
        return _engine_of(new)

    def retire_old(self, name: str) -> None:
        """Let engines that were replaced end once no front is connected to them any more."""
        for process in self._old.pop(name):
            process.retire()

    def close(self) -> None:
        """End every process."""
        for processes in (*self._processes.values(), *self._old.values()):
            for process in processes:
                process.close()
        self._processes.clear()
        self._old.clear()

    def _opened(self, name: str) -> list[EngineProcess]:
        def opening(options: EngineOptions) -> EngineProcess:
            shown = f"{name} on GPU {options.device}" if self._options.devices else name
            path, limit = self._models[name], self._hang_timeout
            return EngineProcess(shown, path, options, hang_timeout=limit)

        each = self._options.of_each_device
        return open_together([partial(opening, options) for options in each])


def _engine_of(processes: list[EngineProcess]) -> OpenEngine:
    return OpenEngine({p.device: p.address for p in processes}, processes[0].info)
