"""Which execution provider runs a model, and the refusal in words when it is not there."""

import logging
from importlib import metadata
from pathlib import Path
from types import ModuleType

from vit_runtime import libraries, machine
from vit_runtime.errors import ProviderError, UsageError

PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
AUTO = "auto"
CHOICES = (AUTO, *PROVIDERS)
DEFAULT_PROVIDER = AUTO

DRIVERS = {12: "r525", 13: "r580"}
"""By CUDA major version, the oldest driver branch that runs it."""

log = logging.getLogger("vit_runtime")


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


def distributions() -> list[str]:
    """Return the installed packages that own the onnxruntime module: "onnxruntime-gpu 1.31.1".

    More than one is a mistake: they overwrite each other's files.
    """
    owners = set(metadata.packages_distributions().get("onnxruntime", ()))
    return sorted(f"{name} {metadata.version(name)}" for name in owners)


def provider_library(provider: str) -> Path:
    """Return ONNX Runtime's own shared library of a GPU provider; it may not exist."""
    folder = Path(str(import_onnxruntime().__file__)).parent / "capi"
    return folder / f"libonnxruntime_providers_{provider}.so"


def obstacle(provider: str, device: int = 0) -> str | None:
    """Return why a GPU provider cannot run here and what mends it, in a line; None if it may.

    Loads the libraries that the provider is linked to, so that ONNX Runtime finds them.
    """
    ort = import_onnxruntime()
    if PROVIDERS[provider] not in ort.get_available_providers():
        owners = distributions()
        extra = "gpu" if provider == "cuda" else provider
        packages = " ".join(owner.partition(" ")[0] for owner in owners) or "onnxruntime"
        return (
            f"the installed ONNX Runtime ({', '.join(owners) or ort.__version__}) is built without "
            f"it; pip uninstall -y {packages} && pip install 'vit-engine[{extra}]'"
        )
    wanted = libraries.wanted(provider_library(provider))
    cuda = max((int(n.rpartition(".")[2]) for n in wanted if n.startswith("libcudart")), default=0)
    return _driver_obstacle(cuda, device) or _library_obstacle(wanted)


def expects_gpu() -> bool:
    """Return whether a GPU is there, or ONNX Runtime's GPU build: someone may count on it."""
    if PROVIDERS["cuda"] in import_onnxruntime().get_available_providers():
        return True
    driver = machine.driver()
    return driver is not None and bool(driver.gpus)


def check_choice(provider: str, device: int) -> None:
    """Raise UsageError for an unknown provider, or a device that it cannot have."""
    if provider not in CHOICES:
        raise UsageError(f"provider {provider!r} is not one of {', '.join(CHOICES)}")
    if device < 0 or (device and provider == "cpu"):
        raise UsageError(f"device {device}: GPUs count from 0, and the cpu provider has none")


def _driver_obstacle(cuda: int, device: int) -> str | None:
    driver = machine.driver()
    branch = DRIVERS.get(cuda)
    needs = f"CUDA {cuda} needs driver {branch} or newer" if branch else "CUDA needs its driver"
    if driver is None:
        return f"no NVIDIA driver on this machine (libcuda.so.1); {needs}, and an NVIDIA GPU"
    version = f"NVIDIA driver {driver.version}" if driver.version else "the NVIDIA driver"
    if driver.cuda < (cuda, 0):
        supports = ".".join(map(str, driver.cuda))
        return f"{version} supports CUDA up to {supports}; {needs}: update the driver"
    if driver.problem or not driver.gpus:
        return f"{version} offers no GPU: {driver.problem or 'none found'}; see nvidia-smi"
    if device >= len(driver.gpus):
        return f"there is no GPU {device}; the driver counts {len(driver.gpus)}, from 0"
    return None


def _library_obstacle(wanted: list[str]) -> str | None:
    missing = [found for name in wanted if (found := libraries.load(name)).problem]
    if not missing:
        return None
    extra = next((e for m in missing if (e := libraries.EXTRAS.get(m.stem))), "gpu")
    absent = [m.name for m in missing if m.absent]
    if not absent:
        return f"{missing[0].problem}; pip install --force-reinstall 'vit-engine[{extra}]'"
    other = libraries.other_tensorrt() if extra == "tensorrt" else None
    hint = f" ({other} is there, but ONNX Runtime is linked to TensorRT 10)" if other else ""
    return f"{', '.join(absent)} not found{hint}; pip install 'vit-engine[{extra}]'"
