"""What keeps a GPU provider from running here, in words: the build, the driver, the libraries."""

import contextlib
import os
import re
from importlib import metadata
from types import ModuleType

from vit_engine.errors import ProviderError, format_limit, one_line
from vit_engine.machine import libraries, nvidia
from vit_engine.machine.installation import pip, pip_install
from vit_engine.providers.provider import Unavailable

DRIVERS = {12: "r525", 13: "r580"}
"""By CUDA major version, the oldest driver branch that runs it."""

CUDNN = "libcudnn.so.9"
"""What the CUDA provider opens by name once it needs it: ONNX Runtime's own attention does. With it
goes NVRTC, which cuDNN compiles kernels with."""

_TESTED = re.compile(
    r"([\w-]+)(?:\[.*\])?<([\d.]+),>=([\d.]+)(?:; extra == .(?:cpu|gpu|openvino|tensorrt).)?$"
)
"""A requirement of this package, or of an extra that brings what models run on: name and range."""

NO_GPU = "use --provider cpu; on a machine with a GPU, "
"""How the cure begins where there is no GPU; the line that brings an extra follows."""


def import_onnxruntime() -> ModuleType:
    """Return the onnxruntime module, or raise ProviderError with the extra to install.

    Its telemetry is off unless the user has set the variable to something else. It keeps a database
    and a device number in the user's cache folder, to send usage to its maker, and starts a thread
    at import, without which a forked child hangs as it ends.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read as the module is loaded
    try:
        import onnxruntime
    except ModuleNotFoundError as e:
        raise ProviderError(
            f"ONNX Runtime is not installed; {pip_install('cpu')}, "
            "or the extra 'gpu' on a machine with an NVIDIA GPU"
        ) from e
    except ImportError as e:
        message = format_limit(e) or one_line(e)
        raise ProviderError(f"ONNX Runtime is installed, and cannot be loaded: {message}") from e
    module: ModuleType = onnxruntime
    return module


def distributions() -> list[str]:
    """Return the installed packages that own the onnxruntime module: "onnxruntime-gpu 1.31.1".

    More than one is a mistake: they overwrite each other's files.
    """
    owners = set(metadata.packages_distributions().get("onnxruntime", ()))
    return sorted(f"{name} {metadata.version(name)}" for name in owners)


def tested_versions() -> list[str]:
    """Return the installed packages that models run with, each with the versions that were tested.

    "onnxruntime 1.32.0 (tested: 1.31 or newer, below 1.33)": the range of an extra of vit-engine.
    """
    found = set()
    for requirement in metadata.requires("vit-engine") or ():
        if parts := _TESTED.match(requirement):
            name, below, least = parts.groups()
            with contextlib.suppress(metadata.PackageNotFoundError):
                version = metadata.version(name)
                within = _numbers(least) <= _numbers(version) < _numbers(below)
                tested = f"{'tested' if within else 'NOT tested'}: {least} or newer, below {below}"
                found.add(f"{name} {version} ({tested})")
    return sorted(found)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def cuda_version() -> int:
    """Return the major version of CUDA that ONNX Runtime is built for, 0 for none."""
    return int(import_onnxruntime().cuda_version.partition(".")[0] or 0)


def nvidia_obstacle(
    execution_provider: str, *, extra: str, linked: tuple[str, ...], device: int
) -> Unavailable | None:
    """Return what keeps one of ONNX Runtime's NVIDIA providers from running here, if anything does.

    `extra` is the extra that brings it, `linked` which of ONNX Runtime's provider libraries it
    uses: what those are linked to is loaded, so that ONNX Runtime finds it.
    """
    ort = import_onnxruntime()
    if execution_provider not in ort.get_available_providers():
        owners = distributions()
        if len(owners) > 1:
            return Unavailable(overwritten(owners), reinstall(owners, extra))
        build = ", ".join(owners) or f"ONNX Runtime {ort.__version__}"
        reason = f"{build} is built without this provider"
        if not nvidia.has_gpu():
            return Unavailable(f"{reason}, and there is no NVIDIA GPU", NO_GPU + pip_install(extra))
        return Unavailable(reason, reinstall(owners, extra))
    cuda = cuda_version()
    wanted = [name for provider in linked for name in libraries.linked(provider, cuda)]
    found = _driver_obstacle(cuda, device, extra) or _library_obstacle(wanted)
    if found is None:
        for name in (CUDNN, f"libnvrtc.so.{cuda}"):
            libraries.load(name)
    return found


def overwritten(owners: list[str]) -> str:
    """Say that several installed packages own the onnxruntime module."""
    return f"{' and '.join(owners)} overwrite each other's files"


def reinstall(owners: list[str], extra: str) -> str:
    """Return the line that puts the ONNX Runtime of an extra in the place of the installed one."""
    packages = " ".join(owner.partition(" ")[0] for owner in owners) or "onnxruntime"
    return f"{pip()} uninstall -y {packages} && {pip_install(extra)}"


def _driver_obstacle(cuda: int, device: int, extra: str) -> Unavailable | None:
    driver = nvidia.driver()
    branch = DRIVERS.get(cuda, "of a newer branch")
    if driver is None:
        if not nvidia.has_gpu():
            return Unavailable(
                "there is no NVIDIA GPU and no driver (libcuda.so.1)", NO_GPU + pip_install(extra)
            )
        return Unavailable(
            "there is an NVIDIA GPU, but no driver (libcuda.so.1)",
            f"install NVIDIA's driver {branch} or newer; in a container: docker run --gpus all",
        )
    version = f"NVIDIA driver {driver.version}" if driver.version else "the NVIDIA driver"
    if driver.cuda < (cuda, 0):
        supports = ".".join(map(str, driver.cuda))
        return Unavailable(
            f"{version} supports CUDA up to {supports}, ONNX Runtime is built for CUDA {cuda}",
            f"update NVIDIA's driver to {branch} or newer",
        )
    if driver.problem or not driver.gpus:
        return Unavailable(
            f"{version} offers no GPU: {driver.problem or 'none found'}",
            "run nvidia-smi to see why",
        )
    if device >= len(driver.gpus):
        return Unavailable(
            f"there is no GPU {device}", f"choose --device from 0 to {len(driver.gpus) - 1}"
        )
    return None


def _library_obstacle(wanted: list[str]) -> Unavailable | None:
    problems = {name: problem for name in wanted if (problem := libraries.load(name))}
    if not problems:
        return None
    is_tensorrt = any(name.startswith(("libnvinfer", "libnvonnxparser")) for name in problems)
    extra = "tensorrt" if is_tensorrt else "gpu"
    absent = [n for n, p in problems.items() if f"{n}: cannot open shared object file" in p]
    if not absent:
        name, problem = next(iter(problems.items()))
        fix = pip_install(extra, "--force-reinstall")
        return Unavailable(f"{name} does not load: {problem}", fix)
    return Unavailable(f"{', '.join(absent)} not found", pip_install(extra))
