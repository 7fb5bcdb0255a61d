"""The machine's card: what a number was measured on."""

import contextlib
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from comparison.round_robin import HERE

FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_int8")


def card(threads: int) -> dict[str, Any]:
    """Return processor, memory, GPU, system and commit, JSON-able."""
    info, features = _cpuinfo(), cpu_features()
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "cpu_family": " ".join(
            f"{name} {info[key]}"
            for name, key in (("family", "cpu family"), ("model", "model"))
            if key in info
        ),
        "cpu_features": [f for f in FEATURES if f in features],
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load": round(os.getloadavg()[0], 2),
        "gpu": gpu(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "commit": commit(),
    }


def cpu_features() -> set[str]:
    """Return the processor's features, by the kernel's names."""
    info = _cpuinfo()
    return set(info.get("flags", info.get("Features", "")).split())


def name(card: dict[str, Any]) -> str:
    """Return what files of results of such a machine are called after: "amd-epyc-25-1-2-cores"."""
    if card["gpu"]:
        told = card["gpu"].split(",")[0]
    else:
        family = re.sub(r"family|model", "", card["cpu_family"])
        told = f"{card['cpu']} {family} {card['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", told.lower()).strip("-")


def gpu() -> str | None:
    """Return the first GPU's name, memory and driver as nvidia-smi tells them."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    return (_said(query) or "").split("\n")[0] or None


def gpu_bytes(pid: int) -> int | None:
    """Return the GPU memory that a process holds, None where nvidia-smi does not say."""
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    for line in (_said(query) or "").splitlines():
        found, _, mib = line.partition(", ")
        if found == str(pid) and mib.isdecimal():
            return int(mib) * 2**20
    return None


def commit() -> str | None:
    """Return the checkout's commit, with a plus where files differ from it."""
    found = _said(["git", "-C", str(HERE), "rev-parse", "--short=12", "HEAD"])
    changed = _said(["git", "-C", str(HERE), "status", "--porcelain", "--untracked-files=no"])
    return found + ("+" if changed else "") if found else None


def _cpuinfo() -> dict[str, str]:
    with contextlib.suppress(OSError):
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
        pairs = (line.partition(":") for line in first.splitlines())
        return {key.strip(): value.strip() for key, _, value in pairs}
    return {}


def _said(command: list[str]) -> str | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()
    return None
