"""Opens an artefact on an execution provider and runs batches through it."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact import metadata
from vit_engine.artefact.contract import Contract
from vit_engine.artefact.integrity import check_once
from vit_engine.errors import ProviderError, UsageError, one_line
from vit_engine.images.preprocess import feed_from_pixels
from vit_engine.providers.provider import Provider, Request, RetiredError, Runner
from vit_engine.providers.table import DEFAULT_PROVIDER, candidates, tell_passed_over

log = logging.getLogger(__name__)

OUT_OF_MEMORY = (
    "failed to allocate memory for requested buffer",  # ONNX Runtime's arena
    "is smaller than requested bytes",  # the same at its limit
    "out of memory",  # CUDA, TensorRT
    "status_alloc_failed",  # cuBLAS, cuDNN
)
"""What an error says when device memory has run out, in lower case."""


class Engine:
    """An open artefact: uint8 images in, logits out. A context manager; `run` is thread-safe.

    `provider` names what really runs, `contract` what the artefact says of itself. `max_batch` is
    the batch that keeps the provider busy, `in_flight` how many batches it can have at once;
    larger batches are run in parts. `open_runner` opens a session for batches of up to its
    argument, and again for smaller ones when memory runs out.
    """

    def __init__(
        self,
        contract: Contract,
        provider: str,
        open_runner: Callable[[int], Runner],
        *,
        max_batch: int,
        in_flight: int,
    ) -> None:
        self.contract, self.provider = contract, provider
        self.max_batch, self.in_flight = max_batch, in_flight
        self._open_runner = open_runner
        self._runner: Runner | None = open_runner(max_batch)
        self._exhausted = ""  # why there is no session any more
        self._lock = threading.Lock()
        self._callers = ThreadPoolExecutor(in_flight, thread_name_prefix="engine")

    @classmethod
    def open(
        cls,
        model: str | Path,
        *,
        provider: str = DEFAULT_PROVIDER,
        device: int = 0,
        threads: int | None = None,
        max_batch: int | None = None,
        cuda_graphs: bool = True,
        adapt: bool = True,
    ) -> "Engine":
        """Open the artefact at a path, or "demo"; `threads` is by default all this process may use.

        An x86 CPU computes an FP16 artefact in FP32; without `adapt` the graph is run as it is
        written, and rounds to FP16 between operators, as on a GPU.
        "auto" takes CUDA where a session on it opens, else the CPU. Raises ArtefactError for a file
        that is not an artefact of ours, ProviderError where the provider, or ONNX Runtime itself,
        is not there.
        """
        path = metadata.path_from_name(model)
        contract = metadata.read_contract(path)
        if max_batch is not None and max_batch < 1:
            raise UsageError(f"max_batch is {max_batch}, it must be at least 1")
        request = Request(path, contract, device, threads, cuda_graphs, adapt)
        first, *rest = candidates(provider, request)
        check_once(path, contract)
        try:
            return cls._on(first, request, max_batch)
        except ProviderError as e:
            if not rest:
                raise
            tell_passed_over(first, e)
        return cls._on(rest[0], request, max_batch)

    @classmethod
    def _on(cls, provider: Provider, request: Request, max_batch: int | None) -> "Engine":
        return cls(
            request.contract,
            provider.name,
            lambda largest: provider.open(request, largest),
            max_batch=max_batch or provider.default_batch(request.threads),
            in_flight=provider.in_flight,
        )

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits (N, labels) of RGB images (N, H, W, 3) as the contract sizes them."""
        given = self.contract.input
        if batch.dtype != np.uint8 or batch.shape[1:] != (given.height, given.width, 3):
            raise UsageError(
                f"the batch is {batch.dtype} {batch.shape}, the model takes "
                f"uint8 (N, {given.height}, {given.width}, 3)"
            )
        parts: list[NDArray[np.float32]] = []
        done = 0
        while done < len(batch):
            runner = self._open()
            part = batch[done : done + runner.largest]
            try:
                parts.append(runner.run(feed_from_pixels(part, self.contract)))
            except RetiredError:
                continue
            except Exception as e:
                if not is_out_of_memory(e):
                    raise
                words = str(e)
            else:
                done += len(part)
                continue
            # Not within the handler: the traceback of its exception keeps the session alive.
            self._shrink(runner, words)
        if len(parts) == 1:
            return parts[0]
        empty = np.empty((0, len(self.contract.output.labels)), np.float32)
        return np.concatenate([empty, *parts])

    def submit(self, batch: NDArray[np.uint8]) -> "Future[NDArray[np.float32]]":
        """Start `run` on another thread; up to `in_flight` of them overlap copies and compute."""
        self._open()  # a closed engine refuses here
        return self._callers.submit(self.run, batch)

    def close(self) -> None:
        """Free the session; a closed engine runs nothing."""
        self._callers.shutdown()
        with self._lock:
            runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open(self) -> Runner:
        with self._lock:  # held while a session is opened anew
            if self._runner is not None:
                return self._runner
            if self._exhausted:
                raise ProviderError(self._exhausted)
            raise UsageError("the engine is closed")

    def _shrink(self, failed: Runner, words: str) -> None:
        """Open the model anew for batches of half the size, unless another thread has.

        A session that has run out of device memory often stays broken, so it is dropped.
        """
        with self._lock:
            if self._runner is not failed:
                return
            failed.close()
            self._runner = None
            while self.max_batch > 1:
                self.max_batch //= 2
                log.warning(
                    "%s is out of memory: on with batches of %d", self.provider, self.max_batch
                )
                try:
                    self._runner = self._open_runner(self.max_batch)
                except Exception as e:
                    if not is_out_of_memory(e):
                        raise
                else:
                    return
            self._exhausted = (
                f"{self.provider} is out of memory even for one image; free it, "
                f"or choose another --device or --provider ({one_line(words, 1000)})"
            )


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error of ONNX Runtime says that memory has run out."""
    text = str(error).lower()
    return any(phrase in text for phrase in OUT_OF_MEMORY)
