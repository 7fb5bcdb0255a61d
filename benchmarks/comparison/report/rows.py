"""A stored result read into rows: one for each contender, None where it has no number."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import median
from typing import Any

import numpy as np

from comparison.contenders.entries import BASELINE, CONTENDERS

Result = dict[str, Any]
Rounds = Sequence[Sequence[float]]
"""By round, the seconds of each run in one contender's turn."""

TITLES = {entry.name: entry.title for entry in CONTENDERS}

COSTS = ("load_s", "memory_bytes", "gpu_bytes", "file_bytes")
"""Of a row, in a stored result as in `Row`."""

FEWEST = {50: 1, 90: 10, 99: 100}
"""Samples for which a percentile is more than the maximum under another name."""

QUIET = 0.05
"""Of the cores' time, for others than the contenders."""
STEADY = 0.15
"""Of the median ratio, between quartiles: 0.02 to 0.14 on quiet machines, over 0.4 on busy ones."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of ratios; `doubtful` if the machine was not quiet."""

    median: float
    low: float
    high: float
    doubtful: bool = False


@dataclass(frozen=True)
class Disturbance:
    """What others did to the contenders at one batch size; None where it was not recorded."""

    others: float | None  # share of the cores' time that others took
    spread: float | None  # between quartiles, relative to the median; of the middle contender

    @property
    def trusted(self) -> bool:
        """Whether ratios of times mean something."""
        return (self.others or 0) <= QUIET and (self.spread or 0) <= STEADY


@dataclass(frozen=True)
class Row:
    """One contender's numbers, None where there are none; times in seconds, sizes in bytes."""

    name: str
    title: str
    family: str
    status: str  # "ok", "failed", "absent" or "skipped"
    reason: str | None
    about: dict[str, Any]
    samples: Sequence[float]  # of batch 1
    throughput: dict[int, float]  # images a second by batch size, from the median run
    speedup: dict[int, Spread]  # against the baseline, pair by pair
    share: float | None  # of its precision's ceiling, at its best batch size
    load_s: float | None
    memory_bytes: int | None
    gpu_bytes: int | None
    file_bytes: int | None

    @property
    def best(self) -> float:
        """Return the highest throughput of any batch size, 0 where there is none."""
        return max(self.throughput.values(), default=0.0)

    def latency(self, percent: int) -> float | None:
        """Return a percentile of the samples; None where they are too few to say."""
        enough = len(self.samples) >= FEWEST[percent]
        return float(np.quantile(self.samples, percent / 100)) if enough else None


def rows_from_result(result: Result) -> list[Row]:
    """Return the speed rows in the order of the report. A failed row has no numbers at all."""
    doubtful = {b for b, found in disturbances(result).items() if not found.trusted}

    def marked(speedup: dict[int, Spread]) -> dict[int, Spread]:
        return {b: replace(found, doubtful=b in doubtful) for b, found in speedup.items()}

    return [replace(row, speedup=marked(row.speedup)) for row in _rows(result)]


def ceilings(result: Result) -> dict[str, float]:
    """Return the fastest matrix product of each precision, in GFLOP (or integer GOP) a second."""
    rows = [row for row in result.get("ceilings", {}).values() if "gflops" in row]
    return {r["precision"]: r["gflops"] for r in sorted(rows, key=lambda row: row["gflops"])}


def disturbances(result: Result) -> dict[int, Disturbance]:
    """Return what others did to the contenders, by batch size."""
    rows = _rows(result)
    spreads: dict[int, list[float]] = {batch: [] for row in rows for batch in row.throughput}
    for row in rows:
        for batch, found in row.speedup.items() if row.name != BASELINE else ():
            spreads[batch].append((found.high - found.low) / found.median)

    def others(batch: int) -> float | None:
        raw = result["speed"]["rows"].values()
        turns = [turn for row in raw for turn in row.get("others", {}).get(str(batch), ()) if turn]
        taken, seconds = (sum(part) for part in zip(*turns, strict=True)) if turns else (0, 0)
        return max(0.0, taken) / seconds if seconds else None

    return {
        batch: Disturbance(others(batch), median(found) if found else None)
        for batch, found in sorted(spreads.items())
    }


def paired_speedup(baseline: Rounds, rounds: Rounds) -> Spread:
    """Return how many times faster than the baseline, round by round.

    A round's ratio is that of the medians of two turns taken within the same round, so that drift
    of the machine cancels.
    """
    ratios = [median(b) / median(r) for b, r in zip(baseline, rounds, strict=False)]
    low, middle, high = map(float, np.quantile(ratios, (0.25, 0.5, 0.75)))
    return Spread(middle, low, high)


def flat(rounds: Iterable[Sequence[float]]) -> list[float]:
    """Return every sample of every round."""
    return list(chain.from_iterable(rounds))


def _rows(result: Result) -> list[Row]:
    found, limits = result["speed"]["rows"], ceilings(result)
    baseline = found.get(BASELINE, {})
    rows = []
    names: list[str] = [n for n in TITLES if n in found] + [n for n in found if n not in TITLES]
    for name in names:
        stored = found[name]
        numbers = stored if stored["status"] == "ok" else {}
        rounds = dict(sorted((int(b), turns) for b, turns in numbers.get("rounds", {}).items()))
        # a row of a later sitting brings the turns that the baseline took in that one
        theirs = stored.get("against") or baseline.get("rounds", {})
        if baseline.get("status") != "ok":
            theirs = {}
        known = (b for b in rounds if str(b) in theirs)
        throughput = {b: b / median(flat(turns)) for b, turns in rounds.items()}
        about = stored.get("about", {})
        limit = limits.get(about.get("compute", ""))
        useful = max(throughput.values(), default=0.0) * result["speed"]["model"]["gflop"]
        row = Row(
            name=name,
            title=TITLES.get(name, name),
            family=name.partition("-")[0],
            status=stored["status"],
            reason=stored["reason"],
            about=about,
            samples=() if about.get("pipelined") else flat(rounds.get(1, ())),
            throughput=throughput,
            speedup={b: paired_speedup(theirs[str(b)], rounds[b]) for b in known},
            share=useful / limit if limit and useful else None,
            **{what: numbers.get(what) for what in COSTS},
        )
        rows.append(row)
    return rows
