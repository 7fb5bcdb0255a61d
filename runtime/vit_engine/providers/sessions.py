"""Opens ONNX Runtime sessions that run where they were told to, or not at all."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vit_engine.artefact.integrity import check_state, state_of
from vit_engine.errors import ArtefactError, MachineError, ProviderError, format_limit, one_line
from vit_engine.machine import processor
from vit_engine.options import ProviderName
from vit_engine.providers.availability import distributions, import_onnxruntime, reinstall
from vit_engine.providers.provider import SessionSpec
from vit_engine.providers.tensors import Tensor, check_tensors

if TYPE_CHECKING:
    import onnxruntime

EXECUTION_PROVIDERS: dict[ProviderName, str] = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""ONNX Runtime's names."""

OUT_OF_MEMORY = (
    "failed to allocate memory for requested buffer",  # ONNX Runtime's arena
    "is smaller than requested bytes",  # the same at its limit
    "out of memory",  # CUDA, TensorRT
    "status_alloc_failed",  # cuBLAS, cuDNN
)
"""What an error says when device memory has run out, in lower case."""

_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


def keep_int8_exact(settings: "onnxruntime.SessionOptions") -> None:
    """Have weights of int8 widened to uint8 where an x86 CPU has no VNNI, and only there.

    Its 16-bit sums of uint8 and int8 products saturate (microsoft/onnxruntime#6004). A CPU with
    VNNI would be a third slower by it, for the same sums [Zen 5].
    """
    if not processor.cpu().int8:
        settings.add_session_config_entry("session.x64quantprecision", "1")


def open_session(
    spec: SessionSpec,
    chain: Mapping[ProviderName, Mapping[str, str]],
    model: bytes | None = None,
) -> "onnxruntime.InferenceSession":
    """Open a session on the first provider of the chain; the next take what it leaves over.

    The chain gives each provider's options; `model` stands in for the artefact's own bytes. Raises
    ArtefactError for what the CPU provider cannot open or what breaks its contract, and
    ProviderError, never a session on another provider, for the rest.
    """
    first, *_ = chain
    ort = import_onnxruntime()
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = spec.options.compute_threads
    settings.log_severity_level = 4  # errors are raised as well
    ort.set_default_logger_severity(3)
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    keep_int8_exact(settings)
    if model is not None:  # it may refer to weights in the artefact
        settings.add_session_config_entry(
            "session.model_external_initializers_file_folder_path",
            os.fsencode(spec.path.resolve().parent),  # bytes: it may not be UTF-8
        )
    wanted = [(EXECUTION_PROVIDERS[name], dict(options)) for name, options in chain.items()]
    source = str(spec.path) if model is None else model
    try:
        # Without fallback ONNX Runtime raises where it would print to stdout and take the CPU.
        session = ort.InferenceSession(source, settings, providers=wanted, enable_fallback=0)
    except Exception as e:
        if message := format_limit(e):
            raise MachineError(f"{spec.path} cannot be opened: {message}") from e
        if first == "cpu":
            raise ArtefactError(f"{spec.path}: ONNX Runtime cannot open it: {e}") from e
        raise ProviderError(f"provider {first} cannot open {spec.path}: {one_line(e, 1000)}") from e
    opened = session.get_providers()
    if opened[0] != EXECUTION_PROVIDERS[first]:  # it only warns where it cannot load its library
        extra = "tensorrt" if first == "tensorrt" else "gpu"
        raise ProviderError(
            f"provider {first} cannot run here: ONNX Runtime opened {spec.path} on "
            f"{', '.join(opened)}, since its library of this provider does not load; "
            f"{reinstall(distributions(), extra)}"
        )
    session._model_bytes = None  # it would keep them for as long as it lives
    check_tensors(_tensors(session), spec)
    return session


def open_rewritten(
    spec: SessionSpec,
    chain: Mapping[ProviderName, Mapping[str, str]],
    rewrite: Callable[[Path], bytes],
) -> "onnxruntime.InferenceSession":
    """Open what `rewrite` makes of the artefact, as open_session does; it may refer to its weights.

    ArtefactError as well where the file changes meanwhile.
    """
    before = state_of(spec.path)
    session = open_session(spec, chain, rewrite(spec.path))
    check_state(spec.path, before)
    return session


def placements(session: "onnxruntime.InferenceSession") -> dict[str, list[str]]:
    """Return by provider, in ONNX Runtime's words, the operators of the nodes placed on it."""
    found: dict[str, list[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        found.setdefault(part.ep_name, []).extend(node.op_type for node in part.get_nodes())
    return found


def _tensors(session: "onnxruntime.InferenceSession") -> list[Tensor]:
    """Return the inputs and outputs of a session."""
    return [
        (tensor.name, _DTYPES.get(tensor.type, tensor.type), list(tensor.shape[1:]))
        for tensor in (*session.get_inputs(), *session.get_outputs())
    ]


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error of ONNX Runtime says that memory has run out."""
    text = str(error).lower()
    return any(phrase in text for phrase in OUT_OF_MEMORY)
