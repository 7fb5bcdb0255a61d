"""The NVIDIA driver and its GPUs, asked through the driver's own library."""

import contextlib
import ctypes
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver tells of it; memory in bytes."""

    name: str
    memory: int
    capability: tuple[int, int]


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver; `problem` says why it has no GPU to offer."""

    version: str | None  # "580.95.05"
    cuda: tuple[int, int]  # the newest CUDA that it supports
    gpus: tuple[Gpu, ...]
    problem: str | None = None


def driver() -> Driver | None:
    """Ask the NVIDIA driver's own library; None where there is none."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    supports = (version.value // 1000, version.value % 1000 // 10)
    status = cuda.cuInit(0)
    if status:
        return Driver(_driver_version(), supports, (), _cuda_error(cuda, status))
    count = ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    return Driver(_driver_version(), supports, tuple(_gpu(cuda, i) for i in range(count.value)))


def has_gpu() -> bool:
    """Return whether the driver offers a GPU, or the PCI bus shows one that lacks its driver."""
    found = driver()
    if found is not None and found.gpus:
        return True
    for device in Path("/sys/bus/pci/devices").glob("*"):
        with contextlib.suppress(OSError):
            vendor, kind = ((device / f).read_text().strip() for f in ("vendor", "class"))
            if vendor == "0x10de" and kind.startswith("0x03"):  # NVIDIA; display or 3D controller
                return True
    return False


def _gpu(cuda: ctypes.CDLL, index: int) -> Gpu:
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    value = ctypes.c_int()
    capability = []
    for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(value.value)
    return Gpu(name.value.decode(), memory.value, (capability[0], capability[1]))


def _cuda_error(cuda: ctypes.CDLL, status: int) -> str:
    text = ctypes.c_char_p()
    cuda.cuGetErrorString(status, ctypes.byref(text))
    return f"{(text.value or b'unknown error').decode()} (CUDA error {status})"


def _driver_version() -> str | None:
    # "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23 ..."
    with contextlib.suppress(OSError):
        words = Path("/proc/driver/nvidia/version").read_text().split()
        return next((w for w in words if w.replace(".", "").isdigit() and "." in w), None)
    return None
