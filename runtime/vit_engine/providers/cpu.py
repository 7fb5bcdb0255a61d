"""The CPU provider: plain sessions, on a graph that suits the processor."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact.contract import Contract
from vit_engine.artefact.rewrites.cpu_graph import graph_for_cpu
from vit_engine.providers.provider import Provider, SessionClosedError, SessionSpec
from vit_engine.providers.sessions import open_rewritten, open_session

if TYPE_CHECKING:
    import onnxruntime

BATCH = 4
"""Images at once that keep a CPU of few cores busy: the activations of more leave its caches
(2 cores of Zen 3, ViT-B/16: 5 % slower at 8). From there on one a core [est]."""


class PlainSession:
    """A session on the CPU: batches of up to `largest` images, each as it is. Thread-safe."""

    def __init__(
        self, session: "onnxruntime.InferenceSession", contract: Contract, largest: int
    ) -> None:
        self.largest = largest
        self._session: onnxruntime.InferenceSession | None = session
        self._contract = contract

    def run(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return new logits (N, labels) of a feed (N, ...) as the contract's input has it."""
        session = self._session
        if session is None:
            raise SessionClosedError
        names = self._contract.input.name, self._contract.output.name
        (logits,) = session.run([names[1]], {names[0]: inputs})
        result: NDArray[np.float32] = logits
        return result

    def close(self) -> None:
        """Free the session."""
        self._session = None


def open_on_cpu(spec: SessionSpec, largest: int) -> PlainSession:
    """Open the artefact on the CPU provider for batches of up to `largest`."""
    is_float = spec.contract.identity.precision != "int8"
    if spec.options.optimize_graph and is_float:
        session = open_rewritten(spec, {"cpu": {}}, graph_for_cpu)
    else:
        session = open_session(spec, {"cpu": {}})
    return PlainSession(session, spec.contract, largest)


CPU = Provider(
    name="cpu",
    precisions=("fp16", "fp32", "int8"),
    computes=("f32",),
    default_batch=lambda options: max(BATCH, options.compute_threads),
    in_flight=1,
    unavailable_reason=lambda _options: None,
    open=open_on_cpu,
)
