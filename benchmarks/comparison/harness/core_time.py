"""How much of the cores' time others took while something was measured.

Workers read it, also in the peers' environment, which has no vit_engine.
"""

import contextlib
import os
from pathlib import Path
from typing import NamedTuple


class CoreSeconds(NamedTuple):
    """Seconds up to a moment, of the cores that this process may use together."""

    all: float
    busy: float  # with anything, a hypervisor's other guests included
    own: float  # with this process and its children


def core_seconds() -> CoreSeconds | None:
    """Return the time that the cores have spent, None where the system does not tell."""
    with contextlib.suppress(OSError, ValueError):
        lines = (line.split() for line in Path("/proc/stat").read_text().splitlines())
        cores = {f"cpu{n}" for n in os.sched_getaffinity(0)}
        counts = [
            [int(f) for f in line[1:9]] for line in lines if line[0] in cores
        ]  # user to steal
        total = sum(map(sum, counts))
        idle = sum(core[3] + core[4] for core in counts)  # idle, waiting for a disk
        tick = os.sysconf("SC_CLK_TCK")
        return CoreSeconds(total / tick, (total - idle) / tick, sum(os.times()[:4]))
    return None


def seconds_of_others(before: CoreSeconds | None) -> tuple[float, float] | None:
    """Return what others took of the cores' time since `before`, and that time; None if unknown.

    The system counts hundredths of a second: add several of these up before a share is told.
    """
    now = core_seconds()
    if before is None or now is None:
        return None
    total, busy, own = (after - earlier for after, earlier in zip(now, before, strict=True))
    return round(busy - own, 3), round(total, 3)
