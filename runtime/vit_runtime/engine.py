"""Opens an artefact on an execution provider and runs batches through it."""

import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from vit_runtime import artefact
from vit_runtime.contract import Contract
from vit_runtime.errors import ArtefactError, ProviderError, UsageError
from vit_runtime.preprocess import normalized

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS = {"cpu": "CPUExecutionProvider"}
DEFAULT_MAX_BATCH = 8


class Engine:
    """An open artefact: uint8 images in, logits out. A context manager; `run` is thread-safe.

    `provider` names what really runs, `contract` what the artefact says of itself.
    """

    def __init__(
        self, session: "onnxruntime.InferenceSession", contract: Contract, provider: str
    ) -> None:
        self._session: onnxruntime.InferenceSession | None = session
        self.contract, self.provider = contract, provider

    @classmethod
    def open(
        cls, model: str | Path, *, provider: str = "cpu", threads: int | None = None
    ) -> "Engine":
        """Open the artefact at a path, or "demo"; `threads` is by default all this process may use.

        Raises ArtefactError for a file that is not an artefact of ours, ProviderError where the
        provider, or ONNX Runtime itself, is not there.
        """
        path = artefact.path_from_name(model)
        contract = artefact.read_contract(path)
        ort = import_onnxruntime()
        if provider not in PROVIDERS:
            raise UsageError(f"provider {provider!r} is not one of {', '.join(PROVIDERS)}")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.log_severity_level = 3  # errors; they are raised as well
        try:
            session = ort.InferenceSession(path, options, providers=[PROVIDERS[provider]])
        except Exception as e:
            raise ArtefactError(f"{path}: ONNX Runtime cannot open it: {e}") from e
        check_session(session, contract, path)
        return cls(session, contract, provider)

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits (N, labels) of RGB images (N, H, W, 3) as the contract sizes them."""
        if self._session is None:
            raise UsageError("the engine is closed")
        given = self.contract.input
        if batch.dtype != np.uint8 or batch.shape[1:] != (given.height, given.width, 3):
            raise UsageError(
                f"the batch is {batch.dtype} {batch.shape}, the model takes "
                f"uint8 (N, {given.height}, {given.width}, 3)"
            )
        feed = batch if given.dtype == "uint8" else normalized(batch, self.contract.preprocessing)
        (logits,) = self._session.run([self.contract.output.name], {given.name: feed})
        result: NDArray[np.float32] = logits
        return result

    def close(self) -> None:
        """Free the session; a closed engine runs nothing."""
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def import_onnxruntime() -> ModuleType:
    """Return the onnxruntime module, or raise ProviderError with the extra to install."""
    try:
        import onnxruntime
    except ImportError as e:
        raise ProviderError(
            "ONNX Runtime is not installed; pip install 'vit-engine[cpu]', "
            "or 'vit-engine[gpu]' on a machine with an NVIDIA GPU"
        ) from e
    module: ModuleType = onnxruntime
    return module


def usable_cores() -> int:
    """Return how many cores this process may run on; less than the machine's in a cpuset."""
    return len(os.sched_getaffinity(0))


def check_session(session: "onnxruntime.InferenceSession", contract: Contract, path: Path) -> None:
    """Raise ArtefactError unless the graph's input and output are those of the contract."""
    given, output = contract.input, contract.output
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
            f"{path}: its graph has {found}, its contract says {expected}; export the model again"
        )
