"""What this machine offers: cores, memory, CPU features, the NVIDIA driver and its GPUs."""

import contextlib
import ctypes
import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path

CPU_FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "amx_int8": "AMX INT8",
    "amx_bf16": "AMX BF16",
    "asimddp": "dot product",
    "i8mm": "I8MM",
    "bf16": "BF16",
}
"""Features that decide which precision is fast, by the kernel's names (x86, then arm64)."""

INT8_FEATURES = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}
"""With any of these an int8 product takes a fraction of a float one."""


@dataclass(frozen=True)
class Cpu:
    """The processor and what of it this process may use; memory in bytes, None for no limit."""

    name: str
    features: tuple[str, ...]  # keys of CPU_FEATURES
    cores: int  # of the machine
    affinity: int  # cores this process may be scheduled on
    quota: float | None  # cores' worth of time its control group may use
    memory: int
    memory_limit: int | None  # of its control group

    @property
    def int8(self) -> bool:
        """Whether int8 products are much faster than float ones."""
        return not INT8_FEATURES.isdisjoint(self.features)


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


def is_x86() -> bool:
    """Return whether this is an x86 processor."""
    return platform.machine() in {"x86_64", "AMD64"}


def usable_cores() -> int:
    """Return how many cores this process may keep busy: affinity, less under a CPU quota."""
    affinity = len(os.sched_getaffinity(0))
    quota = _cpu_quota()
    return affinity if quota is None else max(1, min(affinity, math.ceil(quota)))


def cpu() -> Cpu:
    """Return the processor and the limits of this process."""
    info = _first_cpu()
    flags = set(info.get("flags", info.get("Features", "")).split())
    limits = [v for f in ("memory.max", "memory.limit_in_bytes") if (v := _number(f)) is not None]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Cpu(
        name=info.get("model name") or platform.processor() or platform.machine(),
        features=tuple(f for f in CPU_FEATURES if f in flags),
        cores=os.cpu_count() or 1,
        affinity=len(os.sched_getaffinity(0)),
        quota=_cpu_quota(),
        memory=memory,
        memory_limit=min((v for v in limits if v < memory), default=None),
    )


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


def has_nvidia_gpu() -> bool:
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


def _first_cpu() -> dict[str, str]:
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        pairs = (line.partition(":") for line in lines)
        return {key.strip(): value.strip() for key, _, value in pairs}
    return {}


def _cpu_quota() -> float | None:
    """Return the cores' worth of time that the control group grants, None for all."""
    words = _group_file("cpu.max").split()  # "150000 100000" or "max 100000"
    if not words:
        words = [_group_file("cpu.cfs_quota_us"), _group_file("cpu.cfs_period_us")]
    if len(words) == 2 and all(w.isdigit() for w in words):
        return int(words[0]) / int(words[1])
    return None


def _number(name: str) -> int | None:
    text = _group_file(name)
    return int(text) if text.isdigit() else None


def _group_file(name: str) -> str:
    """Return a file of this process's control group, in either version; "" where there is none."""
    root = Path("/sys/fs/cgroup")
    folders = [root, root / "cpu", root / "memory"]
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for kind in controllers.split(",") if controllers else [""]:
                folders.insert(0, root / kind / path.lstrip("/"))
    for folder in folders:
        with contextlib.suppress(OSError):
            return (folder / name).read_text().strip()
    return ""
