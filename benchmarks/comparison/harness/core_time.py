"""How much of the cores' time others took while something was measured.

Workers read it, also in the peers' environment, which has no vit_engine.
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CoreSeconds:
    """Seconds up to a moment, of the cores that this process may use together."""

    all: float
    busy: float  # with anything, a hypervisor's other guests included
    own: float  # with this process and its children


def core_seconds() -> CoreSeconds | None:
    """Return the time that the cores have spent, None where the system does not tell."""
    cores = {f"cpu{n}" for n in os.sched_getaffinity(0)}
    total = idle = 0
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/stat").read_text().splitlines():
            name, *fields = line.split()
            if name in cores:
                counts = [int(field) for field in fields[:8]]  # user to steal
                total += sum(counts)
                idle += counts[3] + counts[4]  # idle, waiting for a disk
    tick, own = os.sysconf("SC_CLK_TCK"), sum(os.times()[:4])
    return CoreSeconds(total / tick, (total - idle) / tick, own) if total else None


def seconds_of_others(before: CoreSeconds | None) -> tuple[float, float] | None:
    """Return what others took of the cores' time since `before`, and that time; None if unknown.

    The system counts hundredths of a second: add several of these up before a share is told.
    """
    now = core_seconds()
    if before is None or now is None:
        return None
    others = (now.busy - before.busy) - (now.own - before.own)
    return round(others, 3), round(now.all - before.all, 3)
