"""Statistics of times in seconds; standard library only."""

from collections.abc import Sequence
from dataclasses import dataclass

P90_SAMPLES, P99_SAMPLES = 10, 100
"""Fewest samples for which a percentile is more than the maximum under another name."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of `n` samples."""

    median: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Latency:
    """Percentiles in seconds; None where the samples are too few to say."""

    p50: float
    p90: float | None
    p99: float | None
    n: int


def quantile(samples: Sequence[float], q: float) -> float:
    """Return the q-quantile by linear interpolation, as numpy.quantile does by default."""
    if not samples:
        raise ValueError("a quantile needs at least one sample")
    ordered = sorted(samples)
    position = q * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def spread(samples: Sequence[float]) -> Spread:
    """Return the median and the quartiles."""
    low, median, high = (quantile(samples, q) for q in (0.25, 0.5, 0.75))
    return Spread(median, low, high, len(samples))


def latency(samples: Sequence[float]) -> Latency:
    """Return p50, p90 and p99; the last two only of enough samples."""
    n = len(samples)
    return Latency(
        quantile(samples, 0.5),
        quantile(samples, 0.9) if n >= P90_SAMPLES else None,
        quantile(samples, 0.99) if n >= P99_SAMPLES else None,
        n,
    )


def paired_speedup(
    baseline: Sequence[Sequence[float]], rounds: Sequence[Sequence[float]]
) -> Spread:
    """Return how many times faster than the baseline, round by round.

    Each round holds the times that one contender took in its turn; a round's ratio is that of the
    medians of two turns taken within the same round, so that drift of the machine cancels.
    """
    pairs = zip(baseline, rounds, strict=False)
    return spread([quantile(b, 0.5) / quantile(r, 0.5) for b, r in pairs])


def flat(rounds: Sequence[Sequence[float]]) -> list[float]:
    """Return every sample of every round."""
    return [seconds for turn in rounds for seconds in turn]
