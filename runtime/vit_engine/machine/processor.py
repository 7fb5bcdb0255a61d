"""The processor: its features, and the cores and memory that this process may use."""

import contextlib
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


def is_x86() -> bool:
    """Return whether this is an x86 processor."""
    return platform.machine() in {"x86_64", "AMD64"}


def usable_cores() -> int:
    """Return how many cores this process may keep busy: affinity, less under a CPU quota."""
    affinity = len(os.sched_getaffinity(0))
    quota = _cpu_quota()
    return affinity if quota is None else max(1, min(affinity, math.ceil(quota)))


def usable_memory() -> int:
    """Return the bytes of memory that this process and its children may use: all, or a limit."""
    limits = [v for f in ("memory.max", "memory.limit_in_bytes") if (v := _number(f)) is not None]
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits])


def cpu() -> Cpu:
    """Return the processor and the limits of this process."""
    info = _first_cpu()
    flags = set(info.get("flags", info.get("Features", "")).split())
    memory, usable = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), usable_memory()
    return Cpu(
        name=info.get("model name") or platform.processor() or platform.machine(),
        features=tuple(f for f in CPU_FEATURES if f in flags),
        cores=os.cpu_count() or 1,
        affinity=len(os.sched_getaffinity(0)),
        quota=_cpu_quota(),
        memory=memory,
        memory_limit=usable if usable < memory else None,
    )


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
