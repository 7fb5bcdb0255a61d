"""How much one comparison measures, of whom, and on what."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from comparison.contenders import Entry

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    name: str
    batches: tuple[int, ...]
    rounds: tuple[int, int]  # fewest and most turns of each contender at each batch size
    budget_s: float  # for one batch size, within those bounds
    latency_rounds: int  # at batch 1
    latency_runs: int  # at batch 1, in each turn
    turn_s: float  # a turn goes on for this long, or one run
    files_s: float  # a turn of the baseline from files to labels
    files_rounds: int
    ceiling_rounds: int  # of which the fastest product counts
    held_out: int  # drawn images for accuracy
    slow_starts: bool

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


FULL = Plan("full", (1, 2, 4, 8, 16, 32), (5, 12), 90, 20, 5, 0.3, 8, 3, 5, 320, True)
QUICK = Plan("quick", (1, 8), (3, 3), 0, 4, 3, 0.1, 1, 2, 2, 96, False)

MOST_RUNS = 50
"""Of a turn: the others wait."""


@dataclass(frozen=True)
class Setting:
    """What one run of the comparison is about."""

    entries: tuple[Entry, ...]
    device: str
    threads: int
    cache: Path
    scratch: Path
    plan: Plan
    say: Say  # what is going on now
    tell: Say  # what is to stay on the screen
