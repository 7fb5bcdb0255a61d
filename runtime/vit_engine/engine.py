"""Opens an artefact on an execution provider and runs batches through it."""

import ctypes
import logging
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact import metadata
from vit_engine.artefact.contract import Contract
from vit_engine.artefact.integrity import check_integrity, check_state, state_of
from vit_engine.errors import MachineError, ProviderError, UsageError, format_limit, one_line
from vit_engine.options import DEFAULTS, EngineOptions
from vit_engine.outputs.kinds import output_from_contract
from vit_engine.providers.provider import Provider, Session, SessionClosedError, SessionSpec
from vit_engine.providers.sessions import is_out_of_memory
from vit_engine.providers.table import candidates, log_fallback
from vit_engine.providers.tensors import feed_from_pixels

log = logging.getLogger(__name__)


class Engine:
    """An open artefact: uint8 images in, logits out. A context manager; `run` is thread-safe.

    `provider` names what really runs, `contract` what the artefact says of itself, `output` its
    kind of output. `max_batch` is the batch that keeps the provider busy, `in_flight` how many
    batches it can have at once; larger batches are run in parts. `open_session` opens a session for
    batches of up to its argument: at once, again for smaller ones when memory runs out, and again
    at the first use in a forked child, where `survives_fork` says that it can.
    """

    def __init__(
        self,
        contract: Contract,
        provider: str,
        open_session: Callable[[int], Session],
        *,
        max_batch: int,
        in_flight: int,
        survives_fork: bool = True,
    ) -> None:
        self.contract, self.provider = contract, provider
        self.output = output_from_contract(contract.output)
        self.max_batch, self.in_flight = max_batch, in_flight
        self._survives_fork = survives_fork
        self._open_session = open_session
        self._session: Session | None = open_session(max_batch)
        self._exhausted = ""  # why there is no session any more
        self._closed = self._forked = False
        self._start()
        _ENGINES.add(self)

    def _start(self) -> None:
        """Make what belongs to one process: a lock, and threads that start when they are needed."""
        self._lock = threading.Lock()
        self._callers = ThreadPoolExecutor(self.in_flight, thread_name_prefix="engine")

    @classmethod
    def open(cls, model: str | Path, options: EngineOptions = DEFAULTS, **changes: Any) -> "Engine":
        """Open the artefact at a path, or "demo", by options of EngineOptions: `provider="cpu"`.

        "auto" takes CUDA where a session on it opens, else the CPU. Raises ArtefactError for a file
        that is not an artefact of ours, ProviderError where the provider, or ONNX Runtime itself,
        is not there, UsageError for options that make no sense, TypeError for other types and for
        options that are none.
        """
        if not isinstance(model, str | os.PathLike):
            raise TypeError(f"model is of type {type(model).__name__}, it must be a path or 'demo'")
        options = replace(options, **changes)
        path = metadata.path_from_name(model)
        before = state_of(path)
        contract = metadata.read_contract(path)
        # Absolute: a forked child may open it again after a change of folder.
        spec = SessionSpec(path.absolute(), contract, options)

        def on(chosen: Provider) -> Engine:
            def open_session(largest: int) -> Session:
                check_state(spec.path, before)
                return chosen.open_on_devices(spec, largest)

            return cls(
                contract,
                chosen.name,
                open_session,
                max_batch=options.max_batch or chosen.default_batch(options),
                in_flight=chosen.in_flight * len(options.of_each_device),
                survives_fork=not chosen.is_gpu,
            )

        first, *rest = candidates(spec)
        check_integrity(path, contract)
        try:
            return on(first)
        except ProviderError as e:
            if not rest:
                raise
            log_fallback(first, e)
        return on(rest[0])

    def run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Return the logits (N, labels), float32, of RGB images uint8 (N, H, W, 3).

        H and W are the contract's. Where its input is float32 (N, 3, H, W), that is taken too, and
        run as it is. Raises UsageError for another shape and once the engine is closed,
        ProviderError where memory does not suffice for one image, or in a forked child where the
        provider does not survive that.
        """
        input_spec = self.contract.input
        is_feed = batch.dtype == input_spec.dtype and batch.shape[1:] == input_spec.image_shape
        height, width = input_spec.height, input_spec.width
        if not is_feed and (batch.dtype != np.uint8 or batch.shape[1:] != (height, width, 3)):
            raise UsageError(
                f"the batch is {batch.dtype} {batch.shape}, the model takes "
                f"uint8 (N, {height}, {width}, 3)"
            )
        parts: list[NDArray[np.float32]] = []
        done = 0
        while done < len(batch):
            session = self._open()
            part = batch[done : done + session.largest]
            try:
                inputs = part if is_feed else feed_from_pixels(part, self.contract)
                parts.append(session.run(inputs))
            except SessionClosedError:
                continue
            except Exception as e:
                if not is_out_of_memory(e):
                    raise
                message = str(e)
            else:
                done += len(part)
                continue
            # Not within the handler: the traceback of its exception keeps the session alive.
            self._shrink(session, message)
        if len(parts) == 1:
            return parts[0]
        empty = np.empty((0, *self.output.shape), np.float32)
        return np.concatenate([empty, *parts])

    def submit(self, batch: NDArray[Any]) -> "Future[NDArray[np.float32]]":
        """Start `run` on another thread; up to `in_flight` of them overlap copies and compute."""
        self._open()  # a closed engine refuses here
        try:
            return self._callers.submit(self.run, batch)
        except RuntimeError as e:
            self.check_open()  # it may have been closed since
            raise MachineError(
                f"cannot start a thread to run a batch: {format_limit(e) or e}"
            ) from e

    def close(self) -> None:
        """Free the session, after what it runs; batches that wait, and later ones, are refused."""
        with self._lock:
            self._closed = True
            session, self._session = self._session, None
        self._callers.shutdown()
        if session is not None:
            session.close()

    def check_open(self) -> None:
        """Raise what `run` would: UsageError once closed, ProviderError where a fork is in the way.

        At once, where `run` may have to open a session first.
        """
        if self._closed:
            raise UsageError("the engine is closed: open the model again")
        if self._forked and not self._survives_fork:
            raise ProviderError(
                f"this process was forked from the one that opened the model on {self.provider}, "
                "and CUDA does not survive a fork: open the model in the child (no preloading), or "
                "start processes with multiprocessing's 'spawn'"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an open model belongs to its process and cannot be pickled: open it where it is used, "
            "with Classifier.load or Engine.open"
        )

    def _open(self) -> Session:
        with self._lock:  # held while a session is opened anew
            if self._session is not None:
                return self._session
            self.check_open()
            if self._exhausted:
                raise ProviderError(self._exhausted)
            self._session = self._open_session(self.max_batch)
            return self._session

    def _leave_to_parent(self) -> None:
        """In a forked child: forget the session, whose threads are in the parent alone.

        It must never be destroyed here, not even at the end: that would wait for those threads, or
        abort. So it is given a reference that nobody takes back.
        """
        if self._session is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))
            self._session, self._forked = None, True
        self._start()

    def _shrink(self, failed: Session, message: str) -> None:
        """Open the model anew for batches of half the size, unless another thread has.

        A session that has run out of device memory often stays broken, so it is dropped.
        """
        with self._lock:
            if self._session is not failed:
                return
            failed.close()
            self._session = None
            while self.max_batch > 1:
                self.max_batch //= 2
                log.warning(
                    "%s ran out of memory; continuing with batches of %d",
                    self.provider,
                    self.max_batch,
                )
                try:
                    self._session = self._open_session(self.max_batch)
                except Exception as e:
                    if not is_out_of_memory(e):
                        raise
                else:
                    return
            self._exhausted = (
                f"{self.provider} has too little memory for even one image; free some, "
                f"or choose another --device or --provider ({one_line(message, 1000)})"
            )


_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()


def _leave_sessions_to_parent() -> None:
    for engine in _ENGINES:
        engine._leave_to_parent()


os.register_at_fork(after_in_child=_leave_sessions_to_parent)
