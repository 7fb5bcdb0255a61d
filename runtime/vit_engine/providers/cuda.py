"""The CUDA provider: its options, and a session behind CUDA graphs."""

import logging
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from vit_engine.artefact.contract import Precision
from vit_engine.artefact.rewrites.cuda_graph import graph_for_cuda
from vit_engine.errors import ProviderError
from vit_engine.machine import libraries
from vit_engine.machine.installation import pip_install
from vit_engine.options import EngineOptions, ProviderName
from vit_engine.providers.availability import CUDNN, nvidia_obstacle
from vit_engine.providers.buckets import IN_FLIGHT, BucketSession
from vit_engine.providers.provider import Provider, SessionSpec, Unavailable
from vit_engine.providers.sessions import (
    EXECUTION_PROVIDERS,
    open_rewritten,
    open_session,
    placements,
)

if TYPE_CHECKING:
    import onnxruntime

log = logging.getLogger(__name__)

GPU_BATCH = 128
"""Images at once that keep a GPU busy."""

GPU_PRECISIONS: tuple[Precision, ...] = ("fp16", "fp32")
"""What the GPU providers have kernels for; products of an int8 file would run in float."""

OPTIONS = {
    # Grow by what is asked for: doubling would run out of memory at half of it.
    "arena_extend_strategy": "kSameAsRequested",
    # TF32 would round the products of an fp32 artefact to 10 bits.
    "use_tf32": "0",
    # Flash attention (1), or the memory-efficient one (2) in fp32 and before sm_80. Left alone it
    # takes cuDNN's on sm_90, which is 2 % slower at batch 64 and fails where there is no cuDNN.
    "sdpa_kernel": "3",
}


def options(spec: SessionSpec, *, graphs: bool) -> dict[str, str]:
    """Return the provider options for one device."""
    return OPTIONS | {
        "device_id": str(spec.options.device),
        "enable_cuda_graph": str(int(graphs)),
    }


def open_on_cuda(spec: SessionSpec, largest: int) -> BucketSession:
    """Open the artefact on CUDA for batches of up to `largest`."""
    graphs = spec.options.cuda_graphs
    try:
        session = _opened(spec, graphs=graphs)
    except ProviderError as e:
        if not graphs or "cannot use the graph capture feature" not in str(e):
            raise
        # A node outside CUDA cannot be captured; what it is, is told below.
        log.warning("cuda runs without CUDA graphs: not all of the model is on the GPU")
        graphs = False
        session = _opened(spec, graphs=graphs)
    warn_cpu_fallback_nodes(placements(session), "cuda")
    device = ("cuda", spec.options.device)
    return BucketSession(session, spec.contract, largest, device=device, graphs=graphs)


def _opened(spec: SessionSpec, *, graphs: bool) -> "onnxruntime.InferenceSession":
    chain: dict[ProviderName, dict[str, str]] = {"cuda": options(spec, graphs=graphs)}
    if not spec.options.optimize_graph:
        return open_session(spec, chain)
    has_cudnn = libraries.load(CUDNN) is None
    if not has_cudnn:
        log.warning("cuda runs 5 to 15 %% slower without cuDNN; %s", pip_install("gpu"))
    return open_rewritten(spec, chain, partial(graph_for_cuda, attention=has_cudnn))


def warn_cpu_fallback_nodes(found: dict[str, list[str]], provider: ProviderName) -> None:
    """Warn of nodes that were placed elsewhere than on `provider`: they cost copies each run."""
    for name, operators in found.items():
        if name != EXECUTION_PROVIDERS[provider]:
            kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(operators).most_common())
            total = sum(map(len, found.values()))
            log.warning("%d of %d nodes run on %s: %s", len(operators), total, name, kinds)


def _obstacle(options: EngineOptions) -> Unavailable | None:
    return nvidia_obstacle(
        EXECUTION_PROVIDERS["cuda"], extra="gpu", linked=("cuda",), device=options.device
    )


CUDA = Provider(
    name="cuda",
    precisions=GPU_PRECISIONS,
    computes=(),
    default_batch=lambda _options: GPU_BATCH,
    in_flight=IN_FLIGHT,
    unavailable_reason=_obstacle,
    open=open_on_cuda,
)
