"""The OpenVINO provider: x86 CPUs, in f32, bf16 or int8."""

import mmap
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from vit_engine.artefact.integrity import check_state, state_of
from vit_engine.artefact.rewrites.openvino_heads import fuse_qkv_transpose
from vit_engine.errors import (
    ArtefactError,
    MachineError,
    ProviderError,
    UsageError,
    format_limit,
    one_line,
)
from vit_engine.machine import processor
from vit_engine.machine.installation import pip_install
from vit_engine.options import EngineOptions
from vit_engine.providers.engine_cache import file_sha256, kept
from vit_engine.providers.openvino.blob import importer, write_blob
from vit_engine.providers.openvino.stream_session import StreamSession
from vit_engine.providers.provider import Provider, SessionSpec, Unavailable
from vit_engine.providers.tensors import Tensor, check_tensors

BATCH = 8
"""Images at once that keep a few cores busy."""

MOST_STREAMS = 32
"""More would start for long, and each needs room for its activations [est]."""

MODULE, TELEMETRY = "openvino", "openvino_telemetry"
CAPABILITIES = "OPTIMIZATION_CAPABILITIES"
BLOB = "model.blob"  # a compiled model, in its cache
FORMER_PRODUCT = b"MatMulIntegerToFloat"


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
        message = format_limit(e) or one_line(e)
        raise ProviderError(f"OpenVINO is installed, and cannot be loaded: {message}") from e
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


def properties(spec: SessionSpec, streams: int) -> dict[str, Any]:
    """Return what OpenVINO compiles the model with."""
    return {
        "INFERENCE_NUM_THREADS": spec.options.compute_threads,
        "NUM_STREAMS": streams,
        # Its own default is bf16 wherever the CPU has it.
        "INFERENCE_PRECISION_HINT": spec.options.compute or "f32",
    }


def cache_key(spec: SessionSpec, version: str) -> dict[str, str]:
    """Return all that a compiled model depends on: not its threads and streams."""
    cpu = processor.cpu()
    return {
        # The engine has held the file against the one in its contract.
        "artefact": spec.contract.content_sha256 or file_sha256(spec.path),
        "openvino": version,
        "cpu": f"{cpu.name}: {' '.join(cpu.features)}",
        "compute": spec.options.compute or "f32",
    }


def open_on_openvino(spec: SessionSpec, largest: int) -> StreamSession:
    """Compile the artefact for batches of up to `largest`, or load it as it was compiled before."""
    openvino = import_openvino()
    core = openvino.Core()
    before = state_of(spec.path)
    if spec.contract.identity.precision == "int8":
        _check_int8(spec.path)

    def compiled(settings: Mapping[str, Any]) -> Any:
        check_state(spec.path, before)
        try:
            model = core.read_model(_source(spec))
            check_tensors(_tensors(model), spec)
            fuse_qkv_transpose(model)
            return core.compile_model(model, "CPU", settings)
        except RuntimeError as e:
            if limit := format_limit(e):
                raise MachineError(f"{spec.path} cannot be opened: {limit}") from e
            message = one_line(e, 1000)
            raise ArtefactError(f"{spec.path}: OpenVINO cannot open it: {message}") from e

    def session(opened: Callable[[Mapping[str, Any]], Any]) -> StreamSession:
        streams = streams_for(spec.options.compute_threads, largest)
        return StreamSession(lambda n: opened(properties(spec, n)), spec.contract, largest, streams)

    def loaded(folder: Path) -> StreamSession:
        return session(importer(openvino, folder / BLOB))

    def built(folder: Path | None) -> StreamSession:
        if folder is None:
            return session(compiled)
        write_blob(compiled(properties(spec, 1)), folder / BLOB)
        return loaded(folder)  # and not what was compiled, whose weights are in memory twice

    if not spec.options.cache_compiled:
        return built(None)
    return kept(cache_key(spec, openvino.__version__), "OpenVINO", loaded=loaded, built=built)


def _check_int8(path: Path) -> None:
    """Raise UsageError for what OpenVINO opens, and then computes wrongly or not at all."""
    if not processor.cpu().int8:
        raise UsageError(
            f"{path} is int8, whose sums OpenVINO saturates on a CPU without VNNI, as this one is; "
            "use --provider cpu"
        )
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as model:
        if model.find(FORMER_PRODUCT) >= 0:
            raise UsageError(
                f"{path} has int8 products of an earlier vit-export, which only ONNX Runtime "
                "runs; export the model again, or use --provider cpu"
            )


def _source(spec: SessionSpec) -> str | bytes:
    """Return what OpenVINO reads."""
    try:
        str(spec.path).encode()
    except UnicodeEncodeError:  # OpenVINO takes names in UTF-8 alone
        return spec.path.read_bytes()
    return str(spec.path)


def _tensors(model: Any) -> list[Tensor]:
    """Return the inputs and outputs of a model."""
    return [
        (
            tensor.get_any_name(),
            tensor.element_type.to_dtype().name,
            [n.get_length() if n.is_static else None for n in list(tensor.partial_shape)[1:]],
        )
        for tensor in (*model.inputs, *model.outputs)
    ]


def _obstacle(options: EngineOptions) -> Unavailable | None:
    try:
        openvino = import_openvino()
    except ProviderError as e:
        reason, _, fix = str(e).partition("; ")
        return Unavailable(reason, fix or pip_install("openvino"))
    core = openvino.Core()
    if "CPU" not in core.available_devices:
        message = f"OpenVINO offers no CPU here, only {core.available_devices}"
        return Unavailable(message, "use --provider cpu")
    if options.compute == "bf16" and "BF16" not in core.get_property("CPU", CAPABILITIES):
        reason = "this CPU has no bf16 instructions (AVX-512 BF16 or AMX)"
        return Unavailable(reason, "use --compute f32")
    return None


OPENVINO = Provider(
    name="openvino",
    precisions=("fp16", "fp32", "int8"),
    computes=("f32", "bf16"),
    default_batch=lambda options: max(BATCH, options.compute_threads),
    in_flight=1,
    unavailable_reason=_obstacle,
    open=open_on_openvino,
)
