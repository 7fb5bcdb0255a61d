"""The machine's card: what a number was measured on."""

import contextlib
import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from vit_engine.machine import processor

DESCRIBE = ("describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+")
"""The checkout's commit, with a plus where files differ from it."""


def card(threads: int) -> dict[str, Any]:
    """Return processor, memory, GPU, system and commit, JSON-able."""
    cpu = processor.cpu()
    return {
        "cpu": cpu.name,
        "cpu_family": cpu_family(),
        "cpu_features": list(cpu.features),
        "cores": cpu.affinity,
        "threads": threads,
        "memory_gib": round(cpu.memory / 2**30, 1),
        "load": round(os.getloadavg()[0], 2),
        "gpu": gpu(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "commit": next(iter(_said("git", "-C", str(Path(__file__).parent), *DESCRIBE)), None),
    }


def start_of_process() -> float:
    """Return when this process began, imports and all, on time.monotonic's clock."""
    ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(ticks) / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - age


def cpu_family() -> str:
    """Return "family 25 model 1", which tell processors of one name apart; "" where unknown."""
    with contextlib.suppress(OSError):
        found = re.findall(
            r"(?:cpu )?((?:family|model)\s*: \d+)", Path("/proc/cpuinfo").read_text()
        )
        return " ".join(re.sub(r"\s*: ", " ", pair) for pair in found[:2])
    return ""


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
    query = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    return next(iter(_said("nvidia-smi", *query)), None)


def gpu_bytes(pid: int) -> int | None:
    """Return the GPU memory that a process holds, None where nvidia-smi does not say."""
    query = ("--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")
    mib = dict(line.split(", ") for line in _said("nvidia-smi", *query)).get(str(pid), "")
    return int(mib) * 2**20 if mib.isdecimal() else None


def _said(*command: str) -> list[str]:
    """Return a command's lines, none where it fails or is not there."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.check_output(
            command, stderr=subprocess.DEVNULL, text=True, timeout=20
        ).splitlines()
    return []
