"""The one statistic of speed: the median of ratios of turns in the same round."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median

import numpy as np

from comparison.report.quiet import Spread

P90_SAMPLES, P99_SAMPLES = 10, 100
"""Fewest samples for which a percentile is more than the maximum under another name."""

Rounds = Sequence[Sequence[float]]
"""By round, the seconds of each run in one contender's turn."""


@dataclass(frozen=True)
class Latency:
    """Percentiles in seconds; None where the samples are too few to say."""

    p50: float
    p90: float | None
    p99: float | None


def latency(samples: Sequence[float]) -> Latency:
    """Return p50, p90 and p99; the last two only of enough samples."""
    p50, p90, p99 = map(float, np.quantile(samples, (0.5, 0.9, 0.99)))
    n = len(samples)
    return Latency(p50, p90 if n >= P90_SAMPLES else None, p99 if n >= P99_SAMPLES else None)


def paired_speedup(baseline: Rounds, rounds: Rounds) -> Spread:
    """Return how many times faster than the baseline, round by round.

    A round's ratio is that of the medians of two turns taken within the same round, so that drift
    of the machine cancels.
    """
    ratios = [median(b) / median(r) for b, r in zip(baseline, rounds, strict=False)]
    low, middle, high = map(float, np.quantile(ratios, (0.25, 0.5, 0.75)))
    return Spread(middle, low, high)


def flat(rounds: Rounds) -> list[float]:
    """Return every sample of every round."""
    return list(chain.from_iterable(rounds))
