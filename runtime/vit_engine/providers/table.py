"""The table of providers, and which of them a request may be opened on."""

import logging

from vit_engine.errors import ProviderError, UsageError
from vit_engine.machine import nvidia
from vit_engine.options import ProviderName
from vit_engine.providers.availability import import_onnxruntime
from vit_engine.providers.cpu import CPU
from vit_engine.providers.cuda import CUDA
from vit_engine.providers.openvino.openvino import OPENVINO
from vit_engine.providers.provider import Provider, SessionSpec
from vit_engine.providers.sessions import EXECUTION_PROVIDERS
from vit_engine.providers.tensorrt import TENSORRT

log = logging.getLogger(__name__)

PROVIDERS: dict[ProviderName, Provider] = {p.name: p for p in (TENSORRT, CUDA, OPENVINO, CPU)}


def candidates(spec: SessionSpec) -> tuple[Provider, ...]:
    """Return the providers to open a request on, the next where the one before cannot.

    A provider that was chosen by name is the only one. Raises UsageError for a choice that makes no
    sense, ProviderError for one that is not there.
    """
    options = spec.options
    choice = options.provider
    chosen = next((p for p in PROVIDERS.values() if p.name == choice), None)
    if options.compute and (chosen is None or options.compute not in chosen.computes):
        able = [p.name for p in PROVIDERS.values() if options.compute in p.computes]
        message = " or ".join(f"--provider {name}" for name in able) or "no provider"
        raise UsageError(
            f"{choice} does not take --compute {options.compute}: that is for {message}"
        )
    if chosen is not None:
        if lacking := _lacks_operators(chosen, spec):
            raise UsageError(f"{lacking}; use --provider cpu, or export with --fp16")
        for each in options.of_each_device:
            if unavailable := chosen.unavailable_reason(each):
                raise ProviderError(f"provider {chosen.name} cannot run here: {unavailable}")
        return (chosen,)
    if not _may_have_gpu():
        return (CPU,)
    if reason := CUDA.unavailable_reason(options) or _lacks_operators(CUDA, spec):
        log_fallback(CUDA, reason)
        return (CPU,)
    return CUDA, CPU


def log_fallback(provider: Provider, reason: object) -> None:
    """Warn that "auto" does not take a provider that someone may count on."""
    log.warning("running on the CPU, since %s cannot be used: %s", provider.name, reason)


def _lacks_operators(provider: Provider, spec: SessionSpec) -> str | None:
    precision = spec.contract.identity.precision
    if precision in provider.precisions:
        return None
    return f"{spec.path} is {precision}, which {provider.name} has no operators for"


def _may_have_gpu() -> bool:
    """Return whether a GPU is there, or ONNX Runtime's GPU build: someone may count on it."""
    available = import_onnxruntime().get_available_providers()
    return EXECUTION_PROVIDERS["cuda"] in available or nvidia.has_gpu()
