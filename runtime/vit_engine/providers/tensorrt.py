"""The TensorRT provider: its options, and engines that are built once and kept."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vit_engine.artefact.contract import Input
from vit_engine.artefact.rewrites.attention import decompose_attention
from vit_engine.errors import ParityError
from vit_engine.machine import libraries, nvidia
from vit_engine.options import EngineOptions, ProviderName
from vit_engine.outputs.kinds import output_from_contract
from vit_engine.outputs.parity import BOUNDS, check_parity, sample_pixels
from vit_engine.providers import cuda
from vit_engine.providers.availability import import_onnxruntime, nvidia_obstacle
from vit_engine.providers.buckets import IN_FLIGHT, BucketSession
from vit_engine.providers.cpu import open_on_cpu
from vit_engine.providers.engine_cache import file_sha256, kept
from vit_engine.providers.provider import Provider, Session, SessionSpec, Unavailable
from vit_engine.providers.sessions import EXECUTION_PROVIDERS, open_session, placements
from vit_engine.providers.tensors import feed_from_pixels

if TYPE_CHECKING:
    import onnxruntime

log = logging.getLogger(__name__)


def profile(input_spec: Input, largest: int) -> dict[str, str]:
    """Return the shapes that an engine is built for: 1 to `largest` images, best at `largest`."""
    image = "x".join(map(str, input_spec.image_shape))
    return {
        f"trt_profile_{name}_shapes": f"{input_spec.name}:{batch}x{image}"
        for name, batch in (("min", 1), ("opt", largest), ("max", largest))
    }


def options(spec: SessionSpec, largest: int, folder: Path | None) -> dict[str, str]:
    """Return the provider options for one device, engines kept in `folder` if there is one.

    No CUDA graphs: the provider keeps one for all shapes, and would answer a batch with another's.
    """
    return {
        "device_id": str(spec.options.device),
        # It builds weakly typed networks: without this an fp16 file runs in fp32.
        "trt_fp16_enable": str(int(spec.contract.identity.precision == "fp16")),
        "trt_engine_cache_enable": str(int(folder is not None)),
        "trt_engine_cache_path": str(folder or ""),
        "trt_timing_cache_enable": str(int(folder is not None)),
        "trt_timing_cache_path": str(folder or ""),
        **profile(spec.contract.input, largest),
    }


def cache_key(
    spec: SessionSpec, largest: int, gpu: nvidia.Gpu, driver: str, version: str
) -> dict[str, str]:
    """Return all that a built engine depends on; ONNX Runtime's own key leaves out the weights."""
    return {
        "artefact": file_sha256(spec.path),
        "onnxruntime": import_onnxruntime().__version__,
        "tensorrt": version,
        "driver": driver,
        "gpu": f"{gpu.name}, {gpu.memory} bytes, sm_{gpu.capability[0]}{gpu.capability[1]}",
        **options(spec, largest, None),
    }


def open_on_tensorrt(spec: SessionSpec, largest: int) -> BucketSession:
    """Open the artefact on TensorRT for batches of up to `largest`, building its engine if need be.

    Raises ProviderError where it cannot be built, ParityError where the built engine strays.
    """
    driver = nvidia.driver()
    assert driver is not None  # the provider's obstacles have been looked for
    gpu = driver.gpus[spec.options.device]
    name = driver.version or ".".join(map(str, driver.cuda))
    key = cache_key(spec, largest, gpu, name, libraries.tensorrt_version())
    model = decompose_attention(spec.path.read_bytes())

    def opened(folder: Path | None) -> "onnxruntime.InferenceSession":
        chain: dict[ProviderName, dict[str, str]] = {
            "tensorrt": options(spec, largest, folder),
            "cuda": cuda.options(spec, graphs=False),
        }
        return open_session(spec, chain, model)

    def built(folder: Path | None) -> BucketSession:
        log.warning(
            "building a TensorRT engine for batches of 1 to %d on %s; this takes minutes%s",
            largest,
            gpu.name,
            " and is done once" if folder else "",
        )
        session = opened(folder)
        cuda.warn_cpu_fallback_nodes(placements(session), "tensorrt")
        bucket_session = _bucket_session(session, spec, largest)
        try:
            check_engine(bucket_session, spec, largest)
        except ParityError:
            bucket_session.close()
            raise
        return bucket_session

    return kept(
        key,
        "TensorRT",
        loaded=lambda folder: _bucket_session(opened(folder), spec, largest),
        built=built,
    )


def check_engine(bucket_session: Session, spec: SessionSpec, largest: int) -> None:
    """Raise ParityError unless the engine gives the CPU's logits, at both ends of its profile."""
    contract = spec.contract
    inputs = feed_from_pixels(sample_pixels(contract.input), contract)
    reference = open_on_cpu(spec, len(inputs))
    expected = reference.run(inputs)
    reference.close()
    for size in sorted({1, min(largest, len(inputs))}):
        found = np.concatenate(
            [bucket_session.run(inputs[i : i + size]) for i in range(0, len(inputs), size)]
        )
        check_parity(
            found,
            expected,
            BOUNDS["fp16"],
            output=output_from_contract(contract.output),
            name=f"the TensorRT engine at batch {size}",
            reference="the CPU",
            fix="use --provider cuda, or export with --fp32",
            known=contract.parity,
        )


def _bucket_session(
    session: "onnxruntime.InferenceSession", spec: SessionSpec, largest: int
) -> BucketSession:
    return BucketSession(
        session, spec.contract, largest, device=("cuda", spec.options.device), graphs=False
    )


def _obstacle(options: EngineOptions) -> Unavailable | None:
    # CUDA's library too: CUDA takes the nodes that TensorRT leaves over.
    return nvidia_obstacle(
        EXECUTION_PROVIDERS["tensorrt"],
        extra="tensorrt",
        linked=("cuda", "tensorrt"),
        device=options.device,
    )


TENSORRT = Provider(
    name="tensorrt",
    precisions=cuda.GPU_PRECISIONS,
    computes=(),
    default_batch=lambda _options: cuda.GPU_BATCH,
    in_flight=IN_FLIGHT,
    unavailable_reason=_obstacle,
    open=open_on_tensorrt,
)
