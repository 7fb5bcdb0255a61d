"""The OpenVINO provider: x86 CPUs, in f32, bf16, or with 8-bit weights.

Several streams share one set of weights: each has some of the threads and takes a part of a batch,
which scales where one product on all cores would wait at its barriers. A batch of few images has a
model of one stream, on all threads.
"""

import hashlib
import logging
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact.contract import Contract
from vit_engine.artefact.integrity import check_state, state_of
from vit_engine.artefact.rewrites.dynamic_int8 import dynamic_int8, narrowest_input
from vit_engine.artefact.rewrites.openvino_heads import bring_heads_forward
from vit_engine.errors import (
    ArtefactError,
    MachineError,
    ProviderError,
    UsageError,
    VitError,
    WriteError,
    limit_in_words,
    one_line,
)
from vit_engine.machine import processor
from vit_engine.machine.atomic import write_whole
from vit_engine.machine.installation import pip_install
from vit_engine.options import EngineOptions
from vit_engine.outputs.kinds import output_from_contract
from vit_engine.providers.engine_cache import EngineCache, NoCacheError
from vit_engine.providers.provider import Obstacle, Provider, Request, RetiredError

log = logging.getLogger(__name__)

BATCH = 8
"""Images at once that keep a few cores busy."""

MOST_STREAMS = 32
"""More would start for long, and each needs room for its activations [est]."""

MODULE, TELEMETRY = "openvino", "openvino_telemetry"
CAPABILITIES = "OPTIMIZATION_CAPABILITIES"
BLOB = "model.blob"


class _Streams:
    """A compiled model, and a request for each of its streams."""

    def __init__(self, compiled: Any, count: int) -> None:
        self.count = count
        self.free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(count):
            self.free.put(compiled.create_infer_request())


class StreamSession:
    """Batches of up to `largest` images, shared out among the streams of a compiled model.

    Where the images are so few that half of the streams would be idle, the second such batch and
    those after it have a model of one stream, which is `compiled` then and holds weights of its
    own: the first may be the rest of a folder, for which that would not pay. Thread-safe. OpenVINO
    compiles for a batch size when it first meets it, and keeps that.
    """

    def __init__(
        self, compiled: Callable[[int], Any], contract: Contract, largest: int, streams: int
    ) -> None:
        self.largest = largest
        self._compiled = compiled
        self._shape = output_from_contract(contract.output).shape
        self._shared = _Streams(compiled(streams), streams)
        self._single = self._shared if streams == 1 else None
        self._few = 0  # batches of few images so far
        self._turn = threading.Lock()
        self._closed = False

    def run(self, feed: NDArray[Any]) -> NDArray[np.float32]:
        """Return new logits (N, labels) of a feed (N, ...) as the contract's input has it."""
        feed = np.ascontiguousarray(feed)
        with self._turn:  # or two callers could wait for each other's requests
            if self._closed:
                raise RetiredError
            model = self._model_for(len(feed))
            size = max(1, -(-len(feed) // model.count))
            starts = range(0, len(feed), size)
            requests = [model.free.get() for _ in starts]
        try:
            for start, request in zip(starts, requests, strict=True):
                request.start_async([feed[start : start + size]], share_inputs=True)
            logits = np.empty((len(feed), *self._shape), np.float32)
            for start, request in zip(starts, requests, strict=True):
                request.wait()
                logits[start : start + size] = request.get_output_tensor(0).data
            return logits
        finally:
            for request in requests:
                request.wait()  # where one has failed, others may still be at work
                model.free.put(request)

    def _model_for(self, images: int) -> _Streams:
        if 2 * images > self._shared.count:
            return self._shared
        self._few += 1
        if self._single is None and self._few > 1:
            try:
                self._single = _Streams(self._compiled(1), 1)
            except VitError as e:
                log.warning("%s; batches of few images stay on a part of the threads", e)
                self._single = self._shared
        return self._single or self._shared

    def close(self) -> None:
        """Free the models, after the batches on their way; later ones are refused."""
        with self._turn:
            if not self._closed:
                self._closed = True
                for model in {self._shared, self._single or self._shared}:
                    for _ in range(model.count):
                        model.free.get()


def import_openvino() -> ModuleType:
    """Return the openvino module, or raise ProviderError with the extra to install.

    Without its telemetry, which tells its maker of the import and leaves an id in the user's home:
    an empty module in its place makes OpenVINO do as where that is not installed. One that was
    imported before, by others, stays as it is.
    """
    silence = MODULE not in sys.modules and TELEMETRY not in sys.modules
    if silence:
        sys.modules[TELEMETRY] = ModuleType(TELEMETRY)
    try:
        import openvino
    except ModuleNotFoundError as e:
        raise ProviderError(f"OpenVINO is not installed; {pip_install('openvino')}") from e
    except ImportError as e:
        words = limit_in_words(e) or one_line(e)
        raise ProviderError(f"OpenVINO is installed, and cannot be loaded: {words}") from e
    finally:
        if silence:
            del sys.modules[TELEMETRY]
    module: ModuleType = openvino
    return module


def streams_for(threads: int, largest: int) -> int:
    """Return how many streams to make of the threads, for batches of up to `largest` images.

    A thread is busiest alone: two of one stream wait for each other at each product. An image for
    each stream is the least.
    """
    return max(1, min(threads, largest, MOST_STREAMS))


def properties(request: Request, streams: int) -> dict[str, Any]:
    """Return what OpenVINO compiles the model with."""
    return {
        "INFERENCE_NUM_THREADS": request.options.threads or processor.usable_cores(),
        "NUM_STREAMS": streams,
        # Its own default is bf16 wherever the CPU has it.
        "INFERENCE_PRECISION_HINT": request.options.compute or "f32",
    }


def open_on_openvino(request: Request, largest: int) -> StreamSession:
    """Compile the artefact for batches of up to `largest`, or load it as it was compiled before."""
    openvino = import_openvino()
    core = openvino.Core()
    before = state_of(request.path)
    channels = None
    if request.contract.identity.precision == "int8":
        if not processor.cpu().int8:
            raise UsageError(
                f"{request.path} is int8, which OpenVINO computes in float on a CPU without VNNI, "
                "as this one is; use --provider cpu"
            )
        channels = narrowest_input(request.path)

    def compiled(settings: Mapping[str, Any]) -> Any:
        try:
            model = core.read_model(_source(request))
            _check_tensors(model, request)
            bring_heads_forward(model)
            return core.compile_model(model, "CPU", settings)
        except RuntimeError as e:
            if limit := limit_in_words(e):
                raise MachineError(f"{request.path} cannot be opened: {limit}") from e
            words = one_line(e, 1000)
            raise ArtefactError(f"{request.path}: OpenVINO cannot open it: {words}") from e

    def loaded(settings: Mapping[str, Any], blob: Path) -> Any:
        return core.import_model(openvino.tensor_from_file(str(blob)), "CPU", settings)

    def opened(streams: int) -> Any:
        check_state(request.path, before)
        settings = properties(request, streams)
        if channels:
            # A step for each token, as in the file; in a wider product, for each so many channels
            # of it. OpenVINO's own default, a step for every 32 channels, takes a third longer.
            settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = channels
        if not request.options.keep:
            return compiled(settings)
        key = cache_key(request, settings, openvino.__version__)
        return _kept(lambda: compiled(settings), lambda blob: loaded(settings, blob), key)

    threads = request.options.threads or processor.usable_cores()
    return StreamSession(opened, request.contract, largest, streams_for(threads, largest))


def _source(request: Request) -> str | bytes:
    """Return what OpenVINO reads."""
    if request.contract.identity.precision == "int8":
        return dynamic_int8(request.path.read_bytes())
    if _is_utf8(request.path):
        return str(request.path)
    return request.path.read_bytes()  # OpenVINO takes names in UTF-8 alone


def cache_key(request: Request, settings: Mapping[str, Any], version: str) -> dict[str, str]:
    """Return all that a compiled model depends on."""
    digest = request.contract.content_sha256  # the engine has held the file against it
    if digest is None:
        with request.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    cpu = processor.cpu()
    return {
        "artefact": digest,
        "openvino": version,
        "cpu": f"{cpu.name}: {' '.join(cpu.features)}",
        **{name: str(value) for name, value in settings.items()},
    }


def _kept(
    compiled: Callable[[], Any], loaded: Callable[[Path], Any], key: Mapping[str, str]
) -> Any:
    """Return the compiled model, from where it is kept or else kept from now on."""
    try:
        cache = EngineCache.of(key, "OpenVINO")
    except NoCacheError as e:
        log.warning("%s; until then each start compiles the model anew", e)
        return compiled()
    with cache.locked():
        if not cache.sound():
            cache.clear()
            model = compiled()
            try:
                write_whole(cache.folder / BLOB, model.export_model().getvalue())
                cache.seal()
            except WriteError as e:
                log.warning("the compiled model is not kept: %s", e)
            return model
    try:
        return loaded(cache.folder / BLOB)
    except RuntimeError as e:
        log.warning("the stored OpenVINO model does not load (%s); compiling it", one_line(e))
        return compiled()


def _check_tensors(model: Any, request: Request) -> None:
    """Raise ArtefactError unless the graph's input and output are those of the contract."""
    given, output = request.contract.input, request.contract.output
    expected = [
        (given.name, given.dtype, list(given.image_shape)),
        (output.name, "float32", list(output_from_contract(output).shape)),
    ]
    found = [
        (
            tensor.get_any_name(),
            tensor.element_type.to_dtype().name,
            [n.get_length() if n.is_static else None for n in list(tensor.partial_shape)[1:]],
        )
        for tensor in (*model.inputs, *model.outputs)
    ]
    if found != expected:
        raise ArtefactError(
            f"{request.path}: its graph has inputs and outputs {found}, "
            f"its contract says {expected}; export the model again"
        )


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _obstacle(options: EngineOptions) -> Obstacle | None:
    try:
        openvino = import_openvino()
    except ProviderError as e:
        reason, _, cure = str(e).partition("; ")
        return Obstacle(reason, cure or pip_install("openvino"))
    core = openvino.Core()
    if "CPU" not in core.available_devices:
        words = f"OpenVINO offers no CPU here, only {core.available_devices}"
        return Obstacle(words, "use --provider cpu")
    if options.compute == "bf16" and "BF16" not in core.get_property("CPU", CAPABILITIES):
        reason = "this CPU has no bf16 instructions (AVX-512 BF16 or AMX)"
        return Obstacle(reason, "use --compute f32")
    return None


def _batch(options: EngineOptions) -> int:
    return max(BATCH, options.threads or processor.usable_cores())


OPENVINO = Provider(
    name="openvino",
    kind="cpu",
    precisions=("fp16", "fp32", "int8"),
    computes=("f32", "bf16"),
    default_batch=_batch,
    in_flight=1,
    obstacle=_obstacle,
    open=open_on_openvino,
)
