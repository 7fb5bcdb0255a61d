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
    "asimdhp": "FP16",
    "asimddp": "dot product",
    "i8mm": "I8MM",
    "bf16": "BF16",
    "sve": "SVE",
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


def usable_cores() -> int:
    """Return how many cores this process may keep busy: affinity, less under a CPU quota."""
    affinity, quota = _affinity(), _cpu_quota()
    return affinity if quota is None else max(1, min(affinity, math.ceil(quota)))


def usable_memory() -> int:
    """Return the bytes of memory that this process and its children may use: all, or a limit."""
    names = ("memory.max", "memory.limit_in_bytes")
    texts = [_text(folder / name) for folder in _control_groups() for name in names]
    limits = [int(text) for text in texts if text.isdigit()]
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
        affinity=_affinity(),
        quota=_cpu_quota(),
        memory=memory,
        memory_limit=usable if usable < memory else None,
    )


def _first_cpu() -> dict[str, str]:
    lines = _text(Path("/proc/cpuinfo")).split("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_quota() -> float | None:
    """Return the cores' worth of time that the control groups grant, None for all."""
    quotas = []
    for folder in _control_groups():
        words = _text(folder / "cpu.max").split()  # "150000 100000" or "max 100000"
        words = words or [_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        if len(words) == 2 and all(word.isdigit() for word in words):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def _control_groups() -> set[Path]:
    """Return the folders of this process's control groups, in either version, and those above."""
    root = Path("/sys/fs/cgroup")
    folders = {root, root / "cpu", root / "memory"}
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        for kind in controllers.split(","):
            own = root / kind / path.lstrip("/")
            folders |= {f for f in (own, *own.parents) if f.is_relative_to(root / kind)}
    return folders


def _text(path: Path) -> str:
    """Return what a file holds; "" where there is none."""
    with contextlib.suppress(OSError):
        return path.read_text().strip()
    return ""
