"""Several processes on one port, and the parent that starts, replaces, drains and answers for them.

Each has a socket of its own (SO_REUSEPORT), which the parent keeps: who connects while a front is
replaced waits for the next. Engines are the parent's children, one for each model.
"""

import asyncio
import contextlib
import logging
import math
import os
import pickle
import signal
import socket
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from prometheus_client.multiprocess import mark_process_dead

from vit_engine.errors import MachineError
from vit_engine.machine.processor import usable_cores
from vit_engine.machine.worker import CHILD, Worker
from vit_engine.options import GPU_PROVIDERS
from vit_engine.server.core.metrics import FOLDER
from vit_engine.server.core.service import Service, reload_each
from vit_engine.server.decoding.loop_worker import LoopWorker
from vit_engine.server.engines.engine_processes import EngineProcesses
from vit_engine.server.engines.messages import OpenEngine
from vit_engine.server.fronts.front import FrontOptions, Served, serve_front
from vit_engine.server.http.listener import bound, url_of
from vit_engine.server.http.tracing import tracing

log = logging.getLogger(__name__)

_RETRY = 1.0  # seconds before a front that has ended is replaced again
_CORES_OF_A_FRONT = 8  # beside a GPU: what decodes as much as one interpreter can take [predicted]
_CORES_OF_A_CPU_FRONT = 64  # the engine takes most of them


def serve_with_fronts(
    served: Served, host: str, port: int, workers: int | None, told: Callable[[str], object]
) -> int:
    """Serve until a signal says otherwise; returns an exit code: 0 after SIGTERM.

    `workers` None takes as many as the cores and the provider make use of. Raises what Engine.open
    raises, and MachineError where the address is taken.
    """
    tracing()  # what it raises is raised once
    with contextlib.ExitStack() as stack:
        taken = stack.enter_context(bound(host, port))  # alone, so nobody else has it
        port = taken.getsockname()[1]
        engines = EngineProcesses(
            served.models, served.options, hang_timeout=served.settings.hang_timeout
        )
        stack.callback(engines.close)
        opened = engines.open()
        service = Service(
            served.models, served.settings, served.options, served.text, engines=opened
        )
        service.open()  # raises here, once, what is wrong with the texts
        number = workers or _workers_for({e.info.provider for e in opened.values()})
        folder = stack.enter_context(_folder())
        taken.close()
        sockets = [stack.enter_context(bound(host, port, shared=True)) for _ in range(number)]
        return asyncio.run(_Parent(served, engines, opened, sockets, folder).run(told))


def _folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder in which the fronts count together; MachineError where there can be none."""
    try:
        return tempfile.TemporaryDirectory(prefix="vit-serve-")
    except OSError as e:
        raise MachineError(
            f"several workers count in files, and no folder for them can be made ({e}); set TMPDIR "
            "to one that can be written to"
        ) from e


def _workers_for(providers: set[str]) -> int:
    is_gpu = not providers.isdisjoint(GPU_PROVIDERS)
    return max(1, usable_cores() // (_CORES_OF_A_FRONT if is_gpu else _CORES_OF_A_CPU_FRONT))


class _Parent:
    """The event loop of the parent."""

    def __init__(
        self,
        served: Served,
        engines: EngineProcesses,
        opened: dict[str, OpenEngine],
        sockets: Sequence[socket.socket],
        folder: str,
    ) -> None:
        self._engines, self._opened, self._folder = engines, opened, folder
        settings = served.settings
        self._front = FrontOptions(
            replace(
                served,
                settings=replace(
                    settings,
                    max_held=max(settings.max_body, settings.max_held // len(sockets)),
                    max_images=math.ceil(settings.max_images / len(sockets)),
                ),
            ),
            opened,
            max(1, usable_cores() // len(sockets)),
            -1,
        )
        self._sockets = sockets
        self._fronts: dict[int, LoopWorker] = {}  # by the place of their sockets
        self._listening: set[int] = set()
        self._engines_of: dict[int, dict[str, OpenEngine]] = {}  # what each front was told of
        self._replacing: dict[str, set[int]] = {}  # by model the fronts that have not changed yet
        self._tasks: set[asyncio.Future[None]] = set()
        self._reload_lock = asyncio.Lock()
        self._changed = asyncio.Condition()
        self._signal = 0

    async def run(self, told: Callable[[str], object]) -> int:
        """Run the fronts until a signal comes and they have ended."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload_all)
        places = range(len(self._sockets))
        for front in [self._begin(self._start(place)) for place in places]:
            await front
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._signal or len(self._listening) == len(places)
            )
        if not self._signal:
            models = ", ".join(f"{n} on {e.info.provider}" for n, e in self._opened.items())
            told(f"{models}, {len(places)} workers, listening at {url_of(self._sockets[0])}")
        async with self._changed:
            await self._changed.wait_for(lambda: self._signal and not self._fronts)
        return 0 if self._signal == signal.SIGTERM else 128 + self._signal

    def _begin(self, work: Any) -> "asyncio.Future[None]":
        task: asyncio.Future[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _start(self, place: int) -> None:
        """Start a front; MachineError where that cannot be."""
        worker = await asyncio.to_thread(self._started, place)
        self._fronts[place] = LoopWorker(
            worker,
            on_answer=partial(self._answered, place),
            on_end=lambda: self._begin(self._ended(place)),
        )
        if self._signal:
            worker.signal(self._signal)

    def _started(self, place: int) -> Worker:
        descriptor = self._sockets[place].fileno()
        worker = Worker(
            serve_front,
            purpose="serve requests in",
            pass_fds=(descriptor,),
            stdout=None,
            stderr=None,
            environment={FOLDER: self._folder, CHILD: ""},
        )
        worker.wait_until_ready()
        self._engines_of[place] = dict(self._opened)
        front = replace(self._front, engines=self._engines_of[place], listening=descriptor)
        worker.ask(pickle.dumps(front))
        return worker

    async def _ended(self, place: int) -> None:
        """Start a front in the place of one that has ended, unless all are to."""
        worker = self._fronts.pop(place).worker
        if place not in self._listening:  # it may never do so
            await asyncio.sleep(_RETRY)
        self._listening.discard(place)
        ended = await asyncio.to_thread(worker.wait, 1)
        await asyncio.to_thread(worker.close)
        mark_process_dead(worker.pid, self._folder)  # type: ignore[no-untyped-call]
        for waiting in self._replacing.values():
            waiting.discard(place)
        await self._notify()
        while not self._signal:
            log.error("a worker has ended (%s): starting another", ended)
            try:
                await self._start(place)
            except MachineError as e:
                ended = str(e)
            else:
                return
            await asyncio.sleep(_RETRY)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _answered(self, place: int, message: bytes) -> None:
        match pickle.loads(message):
            case "listening":
                self._listening.add(place)
                for name, engine in self._opened.items():
                    if engine != self._engines_of[place][name]:  # opened while it started
                        self._replace_in(place, name)
            case "replaced", name:
                self._replacing[name].discard(place)
            case "load", number, name:
                self._begin(self._load(place, number, name))
        self._begin(self._notify())

    async def _load(self, place: int, number: int, name: str) -> None:
        error = None
        try:
            await self._reload(name)
        except Exception as e:  # noqa: BLE001  raised again in the front
            error = e
        if front := self._fronts.get(place):
            front.ask([pickle.dumps(("loaded", number, error))])

    async def _reload(self, name: str) -> None:
        """Open a model's file anew, have every front change over, and end the old engine."""
        async with self._reload_lock:
            new = await asyncio.to_thread(self._engines.open_anew, name)
            self._opened[name] = new
            self._replacing[name] = set(self._fronts) & self._listening
            for place in self._replacing[name]:
                self._replace_in(place, name)
            async with self._changed:
                await self._changed.wait_for(lambda: not self._replacing[name])
            self._engines.retire_old(name)

    def _replace_in(self, place: int, name: str) -> None:
        engine = self._opened[name]
        self._engines_of[place][name] = engine
        self._fronts[place].ask([pickle.dumps(("replace", name, engine))])

    def _reload_all(self) -> None:
        self._begin(reload_each(self._opened, self._reload))

    def _end(self, number: int) -> None:
        if self._signal:
            for front in self._fronts.values():
                front.worker.kill()
            self._engines.close()
            os._exit(128 + number)
        self._signal = number
        for front in self._fronts.values():
            front.worker.signal(number)
        self._begin(self._notify())
