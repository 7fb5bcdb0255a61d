"""How much one comparison measures, of whom, and on what."""

import math
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparison.contenders.entries import Entry
from vit_engine.errors import VitError

MOST_RUNS = 50
"""Of a turn: the others wait."""


@dataclass(frozen=True)
class Plan:
    """How much is measured; the defaults are a full run on a CPU."""

    name: str = "full"
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    few_batches: tuple[int, ...] | None = None  # of them, for what compiles; None: all
    rounds: tuple[int, int] = (5, 12)  # fewest and most turns of each contender at a batch size
    budget_s: float = 90  # for one batch size, within those bounds
    latency_rounds: int = 20  # at batch 1
    latency_runs: int = 5  # at batch 1, in each turn
    turn_s: float = 0.3  # a turn goes on for this long, or one run
    files_s: float = 8  # a turn of the baseline from files to labels
    files_rounds: int = 3
    files_batch: int = 8
    ceiling_rounds: int = 5  # of which the fastest product counts
    held_out: int = 320  # drawn images for accuracy
    slow_starts: bool = True  # also of who is not in `first`
    first: tuple[str, ...] = ()  # who is loaded before all others

    def rounds_of(self, batch: int, expected: dict[str, float]) -> int:
        """Return the turns at one batch size, from each contender's seconds for one run of it."""
        if batch == 1:
            return self.latency_rounds
        one = sum(max(seconds, self.turn_s) for seconds in expected.values())
        fewest, most = self.rounds
        return min(max(fewest, int(self.budget_s / max(one, 1e-9))), most)

    def runs_of(self, batch: int, seconds: float) -> int:
        """Return the runs of one turn, from the seconds that one takes."""
        fewest = self.latency_runs if batch == 1 else 1
        return min(max(math.ceil(self.turn_s / seconds), fewest), MOST_RUNS)

    def takes(self, entry: Entry, batch: int) -> bool:
        """Return whether an entry is timed at a batch size."""
        return not entry.compiles or self.few_batches is None or batch in self.few_batches


def _plan(name: str) -> Plan:
    table = tomllib.loads(Path(__file__).with_name("plans.toml").read_text())[name]
    differing: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in table.items()
    }
    return Plan(name, **differing)


FULL, QUICK, GPU = Plan(), _plan("quick"), _plan("gpu")


class OutOfTimeError(VitError):
    """What is left of the budget is not enough."""


@dataclass(frozen=True)
class Setting:
    """What one run of the comparison is about."""

    entries: tuple[Entry, ...]
    device: str
    threads: int
    cache: Path
    scratch: Path
    plan: Plan
    tell: Callable[[str], None]
    end: float = math.inf  # of the budget, on time.monotonic's clock

    def left(self) -> float:
        """Return the seconds until the budget ends."""
        return max(0.0, self.end - time.monotonic())

    def need(self, seconds: float) -> None:
        """Raise `OutOfTimeError` unless that is left of the budget."""
        if (left := self.left()) < seconds:
            raise OutOfTimeError(f"{seconds:.0f} s in the {left:.0f} s that are left")
