"""The machine's card: what a number was measured on."""

import contextlib
import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit_engine.machine import processor

HERE = Path(__file__).parent


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
        "commit": commit(),
    }


def cpu_family() -> str:
    """Return "family 25 model 1", which tell processors of one name apart; "" where unknown."""
    with contextlib.suppress(OSError):
        pairs = re.findall(r"(?:cpu )?(family|model)\s*: (\d+)", Path("/proc/cpuinfo").read_text())
        return " ".join(f"{name} {number}" for name, number in pairs[:2])
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


@dataclass(frozen=True)
class CoreSeconds:
    """Seconds up to a moment, of the cores that this process may use together."""

    all: float
    busy: float  # with anything, a hypervisor's other guests included
    own: float  # with this process and its children


def core_seconds() -> CoreSeconds | None:
    """Return the time that the cores have spent, None where the system does not tell."""
    tick = os.sysconf("SC_CLK_TCK")
    cores = {f"cpu{n}" for n in os.sched_getaffinity(0)}
    total = idle = 0
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/stat").read_text().splitlines():
            name, *fields = line.split()
            if name in cores:
                counts = [int(field) for field in fields[:8]]  # user to steal
                total += sum(counts)
                idle += counts[3] + counts[4]  # idle, waiting for a disk
    if not total:
        return None
    times = os.times()
    own = times.user + times.system + times.children_user + times.children_system
    return CoreSeconds(total / tick, (total - idle) / tick, own)


def seconds_of_others(before: CoreSeconds | None) -> tuple[float, float] | None:
    """Return what others took of the cores' time since `before`, and that time; None if unknown.

    The system counts hundredths of a second: add several of these up before a share is told.
    """
    now = core_seconds()
    if before is None or now is None:
        return None
    others = (now.busy - before.busy) - (now.own - before.own)
    return round(others, 3), round(now.all - before.all, 3)


def commit() -> str | None:
    """Return the checkout's commit, with a plus where files differ from it."""
    found = _said(["git", "-C", str(HERE), "rev-parse", "--short=12", "HEAD"])
    changed = _said(["git", "-C", str(HERE), "status", "--porcelain", "--untracked-files=no"])
    return found + ("+" if changed else "") if found else None


def _said(command: list[str]) -> str | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip()
    return None
