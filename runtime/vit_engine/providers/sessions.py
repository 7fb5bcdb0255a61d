"""Opens ONNX Runtime sessions that run where they were told to, or not at all."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact.contract import Contract
from vit_engine.artefact.cpu_graph import graph_for_cpu
from vit_engine.errors import ArtefactError, ProviderError
from vit_engine.images.preprocess import normalized
from vit_engine.machine import processor
from vit_engine.providers.obstacles import PROVIDERS, import_onnxruntime

if TYPE_CHECKING:
    import onnxruntime


@dataclass(frozen=True)
class Request:
    """What is to be opened, and how; the batch sizes are the engine's to choose."""

    path: Path
    contract: Contract
    device: int = 0
    threads: int | None = None
    cuda_graphs: bool = True
    adapt: bool = True  # change the graph to what an x86 CPU runs faster


class RetiredError(Exception):
    """The session was closed while this batch was on its way; its successor takes the batch."""


class PlainSession:
    """A session on the CPU: batches of up to `largest` images, each as it is. Thread-safe."""

    def __init__(
        self, session: "onnxruntime.InferenceSession", contract: Contract, largest: int
    ) -> None:
        self.largest = largest
        self._session: onnxruntime.InferenceSession | None = session
        self._contract = contract

    def run(self, feed: NDArray[Any]) -> NDArray[np.float32]:
        """Return new logits (N, labels) of a feed (N, ...) as the contract's input has it."""
        session = self._session
        if session is None:
            raise RetiredError
        names = self._contract.input.name, self._contract.output.name
        (logits,) = session.run([names[1]], {names[0]: feed})
        result: NDArray[np.float32] = logits
        return result

    def close(self) -> None:
        """Free the session."""
        self._session = None


def keep_int8_exact(settings: "onnxruntime.SessionOptions") -> None:
    """Have weights of int8 widened to uint8 where an x86 CPU has no VNNI, and only there.

    Its 16-bit sums of uint8 and int8 products saturate (microsoft/onnxruntime#6004). A CPU with
    VNNI would be a third slower by it, for the same sums [Zen 5].
    """
    if not processor.cpu().int8:
        settings.add_session_config_entry("session.x64quantprecision", "1")


def feed_from_pixels(pixels: NDArray[np.uint8], contract: Contract) -> NDArray[Any]:
    """Return RGB images (N, H, W, 3) as the contract's input wants them."""
    if contract.input.dtype == "uint8":
        return pixels
    return normalized(pixels, contract.preprocessing)


def open_on_cpu(request: Request, largest: int) -> PlainSession:
    """Open the artefact on the CPU provider for batches of up to `largest`."""
    is_float = request.contract.identity.precision != "int8"
    adapt = request.adapt and is_float and processor.is_x86()
    before = request.path.stat()
    model = graph_for_cpu(request.path) if adapt else None
    session = open_session(request, ["cpu"], model=model)
    after = request.path.stat()
    if (before.st_ino, before.st_mtime_ns) != (after.st_ino, after.st_mtime_ns):
        raise ArtefactError(f"{request.path} was written to while it was opened; open it again")
    return PlainSession(session, request.contract, largest)


def open_session(
    request: Request,
    chain: list[str],
    options: Mapping[str, Mapping[str, str]] | None = None,
    model: bytes | None = None,
) -> "onnxruntime.InferenceSession":
    """Open a session on the first provider of the chain; the next take what it leaves over.

    `options` are by provider; `model` stands in for the artefact's own bytes. Raises ArtefactError
    for what the CPU provider cannot open or what breaks its contract, and ProviderError, never a
    session on another provider, for the rest.
    """
    ort = import_onnxruntime()
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = request.threads or processor.usable_cores()
    settings.log_severity_level = 4  # errors are raised as well
    ort.set_default_logger_severity(3)
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    keep_int8_exact(settings)
    if model is not None:  # it may refer to weights in the artefact
        settings.add_session_config_entry(
            "session.model_external_initializers_file_folder_path",
            os.fsencode(request.path.resolve().parent),  # bytes: it may not be UTF-8
        )
    wanted = [(PROVIDERS[name], dict((options or {}).get(name, {}))) for name in chain]
    source = str(request.path) if model is None else model
    try:
        # Without fallback ONNX Runtime raises where it would print to stdout and take the CPU.
        session = ort.InferenceSession(source, settings, providers=wanted, enable_fallback=0)
    except Exception as e:
        if chain == ["cpu"]:
            raise ArtefactError(f"{request.path}: ONNX Runtime cannot open it: {e}") from e
        text = " ".join(str(e).split())
        raise ProviderError(f"provider {chain[0]} cannot open {request.path}: {text}") from e
    if session.get_providers()[0] != PROVIDERS[chain[0]]:  # it only warns where CUDA is missing
        raise ProviderError(
            f"provider {chain[0]} is not there: ONNX Runtime opened {request.path} on "
            f"{', '.join(session.get_providers())}; vit-doctor says what is missing"
        )
    session._model_bytes = None  # it would keep them for as long as it lives
    _check_tensors(session, request)
    return session


def placements(session: "onnxruntime.InferenceSession") -> dict[str, list[str]]:
    """Return by provider, in ONNX Runtime's words, the operators of the nodes placed on it."""
    found: dict[str, list[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        found.setdefault(part.ep_name, []).extend(node.op_type for node in part.get_nodes())
    return found


def _check_tensors(session: "onnxruntime.InferenceSession", request: Request) -> None:
    """Raise ArtefactError unless the graph's input and output are those of the contract."""
    given, output = request.contract.input, request.contract.output
    image = [given.height, given.width]
    shape = [*image, 3] if given.layout == "NHWC" else [3, *image]
    element = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}[given.dtype]
    expected = [(given.name, element, shape), (output.name, "tensor(float)", [len(output.labels)])]
    found = [
        (tensor.name, tensor.type, list(tensor.shape[1:]))
        for tensor in (*session.get_inputs(), *session.get_outputs())
    ]
    if found != expected:
        raise ArtefactError(
            f"{request.path}: its graph has {found}, its contract says {expected}; "
            "export the model again"
        )
