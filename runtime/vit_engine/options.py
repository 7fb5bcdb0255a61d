"""How a model is opened: one object, from a command line or a caller down to the provider."""

import operator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from vit_engine.errors import UsageError
from vit_engine.machine.processor import usable_cores

ProviderName = Literal["tensorrt", "cuda", "openvino", "cpu"]

Choice = Literal["auto"] | ProviderName
"""What a user may ask for: "auto" is CUDA where a session on it opens, else the CPU."""

AUTO: Choice = "auto"
CHOICES: tuple[Choice, ...] = (AUTO, *get_args(ProviderName))
DEFAULT_PROVIDER: Choice = AUTO

GPU_PROVIDERS = ("tensorrt", "cuda")
"""Those that run on a GPU; the others run on the CPU."""

Compute = Literal["f32", "bf16"]
"""The arithmetic of what an artefact has in float, where a provider leaves a choice."""


@dataclass(frozen=True)
class EngineOptions:
    """Where a model runs, and how; TypeError and UsageError for numbers that make no sense.

    `provider` is one of CHOICES, `device` the GPU's number; `devices` names several instead, each
    of which gets batches of its own, and makes CUDA of "auto". `threads` are by default all that
    this process may use, `max_batch` the most images in a run (by default what keeps the provider
    busy). `compute` "bf16" has OpenVINO compute in bf16 what it else does in f32: faster on a CPU
    that has it, and a label in some hundred differs. Without `cuda_graphs` kernels are launched
    one by one.

    A CPU computes an FP16 artefact in FP32, and CUDA fuses operators; without `optimize_graph`
    the graph is run as it is written, and rounds to FP16 between operators. Without
    `cache_compiled` OpenVINO's compiled model is not stored for the next opening.
    """

    provider: str = DEFAULT_PROVIDER
    device: int = 0
    devices: tuple[int, ...] = ()
    threads: int | None = None
    max_batch: int | None = None
    compute: Compute | None = None
    cuda_graphs: bool = True
    optimize_graph: bool = True
    cache_compiled: bool = True

    def __post_init__(self) -> None:
        for name, minimum in (("device", 0), ("threads", 1), ("max_batch", 1)):
            value = getattr(self, name)
            if value is not None or name == "device":
                object.__setattr__(self, name, checked_int(name, value, minimum=minimum))
        if self.provider not in CHOICES:
            raise UsageError(f"provider {self.provider!r} is not one of {', '.join(CHOICES)}")
        devices = tuple(checked_int("a device", device, minimum=0) for device in self.devices)
        object.__setattr__(self, "devices", devices)
        named = ", ".join(map(str, devices or (self.device,)))
        if len(set(devices)) < len(devices):
            raise UsageError(f"devices {named}: each GPU can be named once")
        if (self.device or devices) and not self.may_use_gpu:
            raise UsageError(
                f"device {named}: GPUs count from 0, and the {self.provider} provider has none"
            )
        if devices and self.provider == AUTO:
            object.__setattr__(self, "provider", "cuda")

    @property
    def of_each_device(self) -> "list[EngineOptions]":
        """The options of an engine on each of `devices`, or these where none are named."""
        each = [replace(self, device=device, devices=()) for device in self.devices]
        return each or [self]

    @property
    def may_use_gpu(self) -> bool:
        """Whether this choice of provider can end on a GPU."""
        return self.provider in (AUTO, *GPU_PROVIDERS)

    @property
    def compute_threads(self) -> int:
        """Threads to compute with: what was asked for, or all that this process may use."""
        return self.threads or usable_cores()


def checked_int(name: str, value: Any, *, minimum: int = 1) -> int:
    """Return an argument as an int; TypeError if it is none, UsageError if it is too small."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name} is {value!r} ({type(value).__name__}), it must be a whole number"
        ) from None
    if number < minimum:
        raise UsageError(f"{name} is {number}, it must be at least {minimum}")
    return number


DEFAULTS = EngineOptions()
