"""Which execution provider runs a model, and the refusal in words when it is not there."""

import logging
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType

from vit_engine.errors import ProviderError, UsageError
from vit_engine.machine import libraries, nvidia

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

OPTIONAL_LIBRARIES = ("libcudnn.so.9",)
"""What the CUDA provider opens by name once it needs it, for faster attention on some GPUs; with
NVRTC, which cuDNN compiles kernels with."""

NO_GPU_CURE = "use --provider cpu; on a machine with a GPU, pip install 'vit-engine[gpu]'"

log = logging.getLogger("vit_engine")


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


@dataclass(frozen=True)
class Obstacle:
    """Why a provider cannot run here, and the line to paste, or the step, that mends it."""

    reason: str
    cure: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.cure}"


def obstacle(provider: str, device: int = 0) -> Obstacle | None:
    """Return what keeps a GPU provider from running here, None if nothing does.

    Loads the libraries that the provider is linked to, so that ONNX Runtime finds them.
    """
    ort = import_onnxruntime()
    extra = "tensorrt" if provider == "tensorrt" else "gpu"
    if PROVIDERS[provider] not in ort.get_available_providers():
        owners = distributions()
        if len(owners) > 1:
            return Obstacle(overwritten(owners), reinstall(owners, extra))
        reason = f"{', '.join(owners) or f'ONNX Runtime {ort.__version__}'} is built without it"
        if not nvidia.has_gpu():
            return Obstacle(f"{reason}, and there is no NVIDIA GPU", NO_GPU_CURE)
        return Obstacle(reason, reinstall(owners, extra))
    wanted = libraries_of(provider)
    cuda = max((int(n.rpartition(".")[2]) for n in wanted if n.startswith("libcudart")), default=0)
    found = _driver_obstacle(cuda, device) or _library_obstacle(wanted)
    if found is None:
        for name in (*OPTIONAL_LIBRARIES, f"libnvrtc.so.{cuda}"):
            libraries.load(name)
    return found


def libraries_of(provider: str) -> list[str]:
    """Return what a GPU provider is linked to, in an order to load it in.

    TensorRT's includes CUDA's, which takes the nodes that TensorRT leaves over.
    """
    chain = ("cuda", provider) if provider == "tensorrt" else (provider,)
    return list(dict.fromkeys(n for p in chain for n in libraries.wanted(provider_library(p))))


def overwritten(owners: list[str]) -> str:
    """Say that several installed packages own the onnxruntime module."""
    return f"{' and '.join(owners)} overwrite each other's files"


def reinstall(owners: list[str], extra: str) -> str:
    """Return the line that puts the ONNX Runtime of an extra in the place of the installed one."""
    packages = " ".join(owner.partition(" ")[0] for owner in owners) or "onnxruntime"
    return f"pip uninstall -y {packages} && pip install 'vit-engine[{extra}]'"


def expects_gpu() -> bool:
    """Return whether a GPU is there, or ONNX Runtime's GPU build: someone may count on it."""
    if PROVIDERS["cuda"] in import_onnxruntime().get_available_providers():
        return True
    return nvidia.has_gpu()


def check_choice(provider: str, device: int) -> None:
    """Raise UsageError for an unknown provider, or a device that it cannot have."""
    if provider not in CHOICES:
        raise UsageError(f"provider {provider!r} is not one of {', '.join(CHOICES)}")
    if device < 0 or (device and provider == "cpu"):
        raise UsageError(f"device {device}: GPUs count from 0, and the cpu provider has none")


def _driver_obstacle(cuda: int, device: int) -> Obstacle | None:
    driver = nvidia.driver()
    branch = DRIVERS.get(cuda, "of a newer branch")
    if driver is None:
        if not nvidia.has_gpu():
            return Obstacle("there is no NVIDIA GPU and no driver (libcuda.so.1)", NO_GPU_CURE)
        return Obstacle(
            "there is an NVIDIA GPU, but no driver (libcuda.so.1)",
            f"install NVIDIA's driver {branch} or newer; in a container: docker run --gpus all",
        )
    version = f"NVIDIA driver {driver.version}" if driver.version else "the NVIDIA driver"
    if driver.cuda < (cuda, 0):
        supports = ".".join(map(str, driver.cuda))
        return Obstacle(
            f"{version} supports CUDA up to {supports}, ONNX Runtime is built for CUDA {cuda}",
            f"update NVIDIA's driver to {branch} or newer",
        )
    if driver.problem or not driver.gpus:
        return Obstacle(f"{version} offers no GPU: {driver.problem or 'none found'}", "nvidia-smi")
    if device >= len(driver.gpus):
        return Obstacle(f"there is no GPU {device}", f"--device 0 to {len(driver.gpus) - 1}")
    return None


def _library_obstacle(wanted: list[str]) -> Obstacle | None:
    missing = [found for name in wanted if (found := libraries.load(name)).problem]
    if not missing:
        return None
    extra = next((e for m in missing if (e := libraries.EXTRAS.get(m.stem))), "gpu")
    absent = [m.name for m in missing if m.absent]
    if not absent:
        broken = f"{missing[0].name} does not load: {missing[0].problem}"
        return Obstacle(broken, f"pip install --force-reinstall 'vit-engine[{extra}]'")
    reason = f"{', '.join(absent)} not found"
    if extra == "tensorrt" and (other := libraries.other_tensorrt()):
        reason += f" ({other} is there, but this ONNX Runtime is linked to TensorRT 10)"
    return Obstacle(reason, f"pip install 'vit-engine[{extra}]'")
