"""The models that are served, each with its scheduler, and what they share."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vit_engine.errors import MachineError, UsageError, VitError, one_line
from vit_engine.options import EngineOptions
from vit_engine.outputs.embeddings import Embeddings
from vit_engine.outputs.kinds import OutputKind, output_from_contract
from vit_engine.server.core.admission import MemoryLimit
from vit_engine.server.core.metrics import Metrics
from vit_engine.server.core.pending_request import PendingRequest
from vit_engine.server.core.refusal import ClientLeftError, RefusalError
from vit_engine.server.core.scheduler import Scheduler
from vit_engine.server.core.settings import Settings
from vit_engine.server.decoding.decoders import Decoders
from vit_engine.server.engines.engine_processes import EngineProcesses
from vit_engine.server.engines.messages import OpenEngine
from vit_engine.text_embedder import TextEmbedder

log = logging.getLogger(__name__)

_LOOK = 0.05  # seconds between looks at whether all is ready
_SHOW = 1.0  # seconds

VERSION = "1"
"""The one version of each model, as the inference protocol counts them."""


def models_from_arguments(arguments: Sequence[str | Path]) -> dict[str, str | Path]:
    """Return models by the names they are served under: `NAME=FILE`, or a file's stem."""
    found: dict[str, str | Path] = {}
    for argument in arguments:
        name, sign, path = os.fspath(argument).partition("=")
        if not sign:
            name, path = Path(name).stem, name
        if name in ("", ".", "..") or not set(name) <= _NAME:
            raise UsageError(
                f"a model cannot be served under the name {name!r}: letters, digits, '.', '_' and "
                "'-' are allowed; name it as in NAME=FILE"
            )
        if name in found:
            raise UsageError(
                f"two models would be served as {name!r}; name one of them as in NAME={path}"
            )
        found[name] = path
    if not found:
        raise UsageError("no model to serve")
    return found


_NAME = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


async def reload_each(names: Iterable[str], reload: Callable[[str], Awaitable[None]]) -> None:
    """Open models anew, one after another, and log what comes of it."""
    for name in names:
        try:
            await reload(name)
        except VitError as e:
            log.error("%s stays as it was: %s", name, one_line(e))
        else:
            log.warning("%s was opened anew", name)


class Service:
    """Open models at work. `open` takes seconds and raises what Engine.open raises; `start` is for
    the event loop that requests come from, and so is `close`, which waits for the engines' end.

    Where `engines` are given, they are those of a parent that serves the same models through
    several such services, and `reload` asks it for others; `decoders` is how many processes this
    one may have.
    """

    def __init__(
        self,
        models: Mapping[str, str | Path],
        settings: Settings,
        options: EngineOptions,
        text: str | Path | None = None,
        *,
        engines: Mapping[str, OpenEngine] | None = None,
        reload: Callable[[str], Awaitable[None]] | None = None,
        decoders: int | None = None,
    ) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.memory = MemoryLimit(settings.max_held)
        self.schedulers: dict[str, Scheduler] = {}
        self.draining = self._started = self._closed = False
        self._models, self._options, self._decoder_count = models, options, decoders
        self._processes = EngineProcesses(models, options, hang_timeout=settings.hang_timeout)
        self._engines, self._reload = engines, reload
        self._text = text
        self._texts: TextEmbedder | None = None
        self._replaced: set[asyncio.Future[None]] = set()
        self._reloading = asyncio.Lock()

    @property
    def names(self) -> list[str]:
        """The names of the models, the default first."""
        return list(self._models)

    def open(self) -> None:
        """Open every model, unless that has been done."""
        if self._engines is None:
            self._engines = self._processes.open()
        if self._text and not self._texts:
            self._texts = TextEmbedder.load(self._text)
        outputs = (output_from_contract(e.info.contract.output) for e in self._engines.values())
        if self._texts and not any(map(self.texts_for, outputs)):
            raise UsageError(
                f"{self._text} has texts of the space {self._texts.space:.12}, and no model that "
                "is served gives vectors of it; export both from one checkpoint"
            )

    @property
    def providers(self) -> dict[str, str]:
        """Where each model runs, once it is open: "cpu", or each device as in "cuda:0"."""
        return {name: ", ".join(engine.addresses) for name, engine in (self._engines or {}).items()}

    def texts_for(self, output: OutputKind) -> TextEmbedder | None:
        """Return the model of the texts that may be compared with an output, None without one."""
        texts = self._texts
        same = texts and isinstance(output, Embeddings) and output.space == texts.space
        return texts if same else None

    async def start(self, *, wait: bool = False) -> None:
        """Open what is not open yet, and go to work; `wait` until it is ready.

        MachineError where it will never be.
        """
        await asyncio.to_thread(self.open)
        assert self._engines is not None
        if not self._started:
            self._decoders = Decoders(
                self.settings,
                workers=self._decoder_count,
                on_restart=self.metrics.decoder_restarts.inc,
            )
            for name, engine in self._engines.items():
                self.schedulers[name] = self._scheduler(name, engine)
            self._started = True
            self._decoders.start()
            for scheduler in self.schedulers.values():
                scheduler.start()
            self._showing = asyncio.ensure_future(self._show_regularly())
        while wait and not self.ready:
            for scheduler in self.schedulers.values():
                if reason := scheduler.engine.unhealthy_reason:
                    raise MachineError(f"{scheduler.name} cannot run: {reason}")
            await asyncio.sleep(_LOOK)

    def _scheduler(self, name: str, engine: OpenEngine) -> Scheduler:
        return Scheduler(
            name,
            engine,
            decoders=self._decoders,
            settings=self.settings,
            metrics=self.metrics,
        )

    async def close(self) -> None:
        """Free everything."""
        if self._started and not self._closed:
            self._closed = True
            self._showing.cancel()
            for scheduler in self.schedulers.values():
                scheduler.close()
            self._decoders.close()
        await asyncio.to_thread(self._processes.close)

    async def reload(self, name: str) -> None:
        """Open a model's file anew and swap it in; what was taken before is answered by the old.

        Raises what `open` raises, and MachineError where it cannot run: the old one then stays.
        """
        if self._reload is not None:
            await self._reload(name)
            return
        async with self._reloading:
            new = await asyncio.to_thread(self._processes.open_anew, name)
            await self.replace(name, new)
            self._processes.retire_old(name)

    async def load(self, name: str) -> None:
        """Open a model's file anew for a client; RefusalError where no key protects that, or it is
        refused."""
        if not self.settings.keys:
            raise RefusalError(403, "key", "a model is loaded anew where keys are: --api-key-file")
        self.find(name)
        try:
            await self.reload(name)
        except VitError as e:
            raise RefusalError(400, "model", f"{name} stays as it was: {one_line(e)}") from e

    async def reload_all(self) -> None:
        """Open every model's file anew, and log what came of it."""
        await reload_each(self._models, self.reload)

    async def replace(self, name: str, engine: OpenEngine) -> None:
        """Send requests to another engine from now on."""
        scheduler, old = self._scheduler(name, engine), self.schedulers[name]
        scheduler.start()
        while not scheduler.engine.warm:  # one that ends is started again
            await asyncio.sleep(_LOOK)
        self.schedulers[name] = scheduler
        task = asyncio.ensure_future(old.retire(self.settings.deadline))
        self._replaced.add(task)
        task.add_done_callback(self._replaced.discard)

    def find(self, name: str | None, version: str | None = None) -> Scheduler:
        """Return a model by name, the first for None; RefusalError for one that is not there."""
        if name is None:
            return next(iter(self.schedulers.values()))
        scheduler = self.schedulers.get(name)
        if scheduler is None:
            known = ", ".join(self.schedulers)
            raise RefusalError(404, "model", f"no model {name[:100]!r} is served here ({known})")
        if version not in (None, VERSION):
            raise RefusalError(
                404, "model", f"{name} has no version {version[:100]!r}, only {VERSION}"
            )
        return scheduler

    @property
    def alive(self) -> bool:
        """Whether every engine and its decoders can still answer."""
        return all(scheduler.alive for scheduler in self.schedulers.values())

    @property
    def ready(self) -> bool:
        """Whether requests are wanted: everything is loaded, nothing dead, no end in sight."""
        return (
            self._started
            and not self.draining
            and all(scheduler.ready for scheduler in self.schedulers.values())
        )

    @property
    def state(self) -> str:
        """Return "ready", or why it is not."""
        if self.ready:
            return "ready"
        return "draining" if self.draining else "loading" if self.alive else "dead"

    async def infer(
        self,
        scheduler: Scheduler,
        images: Sequence[Any],
        disconnected: Callable[[], Awaitable[object]],
        *,
        client: str = "",
    ) -> PendingRequest:
        """Run a request until it is done or nobody waits any more, as `disconnected` tells.

        Clients take turns in the decoders.

        RefusalError at the deadline, ClientLeftError when the client has gone.
        """
        request = scheduler.submit(images, client=client)
        leaving: asyncio.Future[Any] = asyncio.ensure_future(disconnected())
        try:
            async with asyncio.timeout(self.settings.deadline):
                await asyncio.wait({request.done, leaving}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise RefusalError(
                504, "deadline", f"no answer within {self.settings.deadline:g} s"
            ) from None
        finally:
            leaving.cancel()
            if not request.done.done():
                scheduler.drop(request)
        if request.dropped:
            raise ClientLeftError
        return request

    def show(self) -> None:
        """Write into the metrics what they do not count."""
        metrics = self.metrics
        for name, scheduler in self.schedulers.items():
            for stage, images in scheduler.depths().items():
                metrics.queue_images.labels(name, stage).set(images)
            for device, warm in scheduler.engine.warm_devices.items():
                metrics.engine_ready.labels(name, device).set(warm)
        metrics.held_bytes.set(self.memory.held)
        metrics.ready.set(self.ready)
        metrics.alive.set(self.alive)
        metrics.decoders.set(self._decoders.alive if self._started else 0)

    async def _show_regularly(self) -> None:
        """For those who ask another front."""
        while True:
            self.show()
            await asyncio.sleep(_SHOW)
