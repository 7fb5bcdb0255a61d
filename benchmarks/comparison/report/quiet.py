"""Whether a machine was quiet enough, at one batch size, for ratios of times to be trusted."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

QUIET = 0.05
"""Of the cores' time, for others than the contenders."""

STEADY = 0.15
"""Of the median ratio, between quartiles: 0.02 to 0.14 on quiet machines, over 0.4 on busy ones."""

MARK, MARK_WORDS = "†", "taken on a machine too busy for it to be trusted"
"""What stands behind a ratio that is doubtful, and what it says."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of ratios; `doubtful` if the machine was not quiet."""

    median: float
    low: float
    high: float
    doubtful: bool = False

    @property
    def relative(self) -> float:
        """Return what lies between the quartiles, as a share of the median."""
        return (self.high - self.low) / self.median


@dataclass(frozen=True)
class Disturbance:
    """What others did to the contenders at one batch size; None where it was not recorded.

    Of the switches none is too many: a contender's own threads bring them about as well.
    """

    others: float | None
    """Share of the cores' time that others took."""
    switches: float | None
    """How often a second the kernel took a core from a contender that had more to do."""
    spread: float | None
    """Of each contender's ratios to the baseline, relative; that of the middle contender."""

    @property
    def trusted(self) -> bool:
        """Whether ratios of times mean something."""
        return (self.others or 0) <= QUIET and (self.spread or 0) <= STEADY


def disturbance(
    others: Iterable[tuple[float, float]],
    switches: Iterable[tuple[float, float]],
    spreads: Iterable[Spread],
) -> Disturbance:
    """Return it of what was recorded in each turn, and of the contenders' spreads.

    Others as seconds and the cores' seconds; switches as their number and the turn's seconds.
    """
    relative = [spread.relative for spread in spreads]
    return Disturbance(_rate(others), _rate(switches), median(relative) if relative else None)


def _rate(turns: Iterable[tuple[float, float]]) -> float | None:
    counts, wholes = zip(*turns, strict=True) if (turns := list(turns)) else ((), ())
    return max(0.0, sum(counts)) / sum(wholes) if sum(wholes) else None
