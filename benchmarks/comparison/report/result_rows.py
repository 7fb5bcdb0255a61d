"""A stored result read into rows: one for each contender, None where it has no number."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from comparison.contenders.entries import BASELINE, CONTENDERS
from comparison.report.paired_medians import Latency, flat, latency, paired_speedup
from comparison.report.quiet import Disturbance, Spread, disturbance

Result = dict[str, Any]
TITLES = {entry.name: entry.title for entry in CONTENDERS}
FAMILIES = {entry.name: entry.family for entry in CONTENDERS}


@dataclass(frozen=True)
class Row:
    """One contender's numbers, None where there are none; times in seconds, sizes in bytes."""

    name: str
    title: str
    family: str
    status: str  # "ok", "failed", "absent" or "skipped"
    reason: str | None
    about: dict[str, Any]
    latency: Latency | None  # at batch 1
    samples: tuple[float, ...]  # of batch 1
    throughput: dict[int, float]  # images a second by batch size, from the median run
    speedup: dict[int, Spread]  # against the baseline, pair by pair
    share: float | None  # of its precision's ceiling, at its best batch size
    load_s: float | None
    memory_bytes: int | None
    gpu_bytes: int | None
    file_bytes: int | None

    @property
    def best(self) -> float | None:
        """Return the highest throughput of any batch size."""
        return max(self.throughput.values(), default=None)


def rows_from_result(result: Result) -> list[Row]:
    """Return the speed rows in the order of the report. A failed row has no numbers at all."""
    rows = _rows(result)
    doubtful = {b for b, found in _disturbances(result, rows).items() if not found.trusted}
    return [
        replace(
            row, speedup={b: replace(s, doubtful=b in doubtful) for b, s in row.speedup.items()}
        )
        for row in rows
    ]


def _rows(result: Result) -> list[Row]:
    found = result["speed"]["rows"]
    limits = ceilings(result)
    gflop = result["speed"]["model"]["gflop"]
    names = [n for n in TITLES if n in found] + [n for n in found if n not in TITLES]
    return [_row(name, found[name], found.get(BASELINE, {}), limits, gflop) for name in names]


def ceilings(result: Result) -> dict[str, float]:
    """Return the fastest matrix product of each precision, in GFLOP (or integer GOP) a second."""
    best: dict[str, float] = {}
    for row in result.get("ceilings", {}).values():
        if "gflops" in row:
            best[row["precision"]] = max(best.get(row["precision"], 0.0), row["gflops"])
    return best


def disturbances(result: Result) -> dict[int, Disturbance]:
    """Return what others did to the contenders, by batch size."""
    return _disturbances(result, _rows(result))


def _disturbances(result: Result, rows: Sequence[Row]) -> dict[int, Disturbance]:
    def recorded(what: str, batch: int) -> list[tuple[float, float]]:
        raw = result["speed"]["rows"].values()
        return [turn for row in raw for turn in row.get(what, {}).get(str(batch), ()) if turn]

    return {
        batch: disturbance(
            recorded("others", batch),
            recorded("switches", batch),
            [r.speedup[batch] for r in rows if r.name != BASELINE and batch in r.speedup],
        )
        for batch in sorted({batch for row in rows for batch in row.throughput})
    }


def _row(
    name: str, row: dict[str, Any], baseline: dict[str, Any], limits: dict[str, float], gflop: float
) -> Row:
    ok = row["status"] == "ok"
    rounds = {int(b): turns for b, turns in row.get("rounds", {}).items()} if ok else {}
    # a row of a later sitting brings the turns that the baseline took in that one
    theirs = row.get("against") or baseline.get("rounds", {})
    if baseline.get("status") != "ok":
        theirs = {}
    throughput = {b: b / median(flat(turns)) for b, turns in rounds.items()}
    about = row.get("about", {})
    limit = limits.get(about.get("compute", ""))
    samples = [] if about.get("pipelined") else flat(rounds.get(1, []))
    return Row(
        name=name,
        title=TITLES.get(name, name),
        family=FAMILIES.get(name, "other"),
        status=row["status"],
        reason=row["reason"],
        about=about,
        latency=latency(samples) if samples else None,
        samples=tuple(samples),
        throughput=dict(sorted(throughput.items())),
        speedup={
            b: paired_speedup(theirs[str(b)], turns)
            for b, turns in sorted(rounds.items())
            if str(b) in theirs
        },
        share=max(throughput.values()) * gflop / limit if limit and throughput else None,
        load_s=row.get("load_s") if ok else None,
        memory_bytes=row.get("memory_bytes") if ok else None,
        gpu_bytes=row.get("gpu_bytes") if ok else None,
        file_bytes=row.get("file_bytes") if ok else None,
    )
