"""The tables of a report, for terminals, Markdown and HTML alike."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from comparison.contenders.entries import BASELINE
from comparison.report.paired_medians import flat, paired_speedup
from comparison.report.quiet import MARK, Spread
from comparison.report.result_rows import TITLES, Result, Row, disturbances

DASH = "\u2013"
KERNELS = 15  # of a profile

STATUS = {"absent": "cannot run here", "skipped": "left out by choice"}
"""In words, of a row without numbers; "failed" is one already."""


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column is left-aligned, the others right-aligned."""

    head: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]

    def text(self) -> str:
        """Return columns aligned by spaces."""
        widths = [max(map(len, column)) for column in zip(self.head, *self.body, strict=True)]

        def line(cells: Sequence[str]) -> str:
            padded = [c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)]
            return "  ".join([cells[0].ljust(widths[0]), *padded]).rstrip()

        return "\n".join(line(cells) for cells in (self.head, *self.body))

    def markdown(self) -> str:
        """Return a Markdown table."""
        rule = ("---", *("---:" for _ in self.head[1:]))
        escaped = (
            tuple(cell.replace("|", "\\|") for cell in row) for row in (self.head, rule, *self.body)
        )
        return "\n".join(f"| {' | '.join(row)} |" for row in escaped)


def at_batch(rows: Sequence[Row], batch: int) -> Table:
    """One batch size, as soon as it is timed."""
    body = [
        (row.title, rate(row.throughput[batch]), ratio(row.speedup.get(batch)))
        for row in rows
        if batch in row.throughput
    ]
    return Table((f"batch {batch}", "img/s", "times the baseline"), tuple(body))


def speed(rows: Sequence[Row]) -> Table:
    """Latency, throughput and what a process costs."""
    batches = sorted({b for row in rows for b in row.throughput})
    gpu = any(row.gpu_bytes for row in rows)
    head = (
        "Contender",
        *("p50 ms", "p90", "p99"),
        *(f"img/s @{b}" for b in batches),
        *("of ceiling", "load s", "peak MB", *(["GPU MB"] if gpu else []), "file MB"),
    )
    return Table(head, tuple(_speed_cells(row, batches, gpu) for row in rows if row.throughput))


def _speed_cells(row: Row, batches: Sequence[int], gpu: bool) -> tuple[str, ...]:
    lat = row.latency
    return (
        row.title,
        *((ms(lat.p50), ms(lat.p90), ms(lat.p99)) if lat else (DASH, DASH, DASH)),
        *(rate(row.throughput.get(b)) for b in batches),
        percent(row.share, 0),
        DASH if row.load_s is None else f"{row.load_s:.1f}",
        megabytes(row.memory_bytes),
        *([megabytes(row.gpu_bytes)] if gpu else []),
        megabytes(row.file_bytes),
    )


def speedup(rows: Sequence[Row]) -> Table:
    """How many times faster than the baseline: median (lower to upper quartile) of the pairs."""
    batches = sorted({b for row in rows for b in row.speedup})
    body = [
        (row.title, *(ratio(row.speedup.get(b)) for b in batches)) for row in rows if row.speedup
    ]
    return Table(("Contender", *(f"batch {b}" for b in batches)), tuple(body))


def accuracy(result: Result) -> Table:
    """Top-1, top-5 and the distance from eager fp32."""
    found = result["accuracy"]["rows"]
    body = []
    for name in (n for n in TITLES if n in found):
        row = found[name]
        cells = [TITLES[name], percent(row["top1"]), percent(row["top5"])]
        if "agreement" in row:
            cells += [
                percent(row["agreement"]),
                str(len(row["differs"])),
                f"{row['max_diff']:.2g}",
                f"{row['mean_diff']:.2g}",
            ]
        else:
            cells += [DASH] * 4
        body.append(tuple(cells))
    head = ("Contender", "top-1", "top-5", "agrees", "images differ", "max |Δ|", "mean |Δ|")
    return Table(head, tuple(body))


def differences(result: Result) -> Table:
    """Each image on which someone's label is not the baseline's, and who says what."""
    said: dict[str, tuple[str, str, list[str]]] = {}
    found = result["accuracy"]["rows"]
    for name in (n for n in TITLES if n in found):
        for differs in found[name].get("differs", ()):
            file = differs["file"]
            said.setdefault(file, (differs["true"], differs["baseline"], []))
            said[file][2].append(f"{TITLES[name]}: {_first(differs['here'])}")
    body = [
        (file, _first(true), _first(baseline), "; ".join(others))
        for file, (true, baseline, others) in sorted(said.items())
    ]
    return Table(("Image", "true class", TITLES[BASELINE], "others"), tuple(body))


def _first(label: str) -> str:
    """Return the first of a class's names, where it has several."""
    return label.split(",", maxsplit=1)[0]


def files(result: Result) -> Table:
    """Files to labels, images a second; beside what its parts reach alone, where that is known."""
    part = result["files"]
    found, theirs = part["rows"], part["rows"].get(BASELINE, {}).get("rounds")
    apart = any("decode_images_s" in row for row in found.values())
    doubtful = not all(d.trusted for d in disturbances(result).values())
    alone = ("decoding alone", "model alone", "reached") if apart else ()
    head = ("Contender", "img/s", "times the baseline", "same label", *alone)
    body = []
    for name in (n for n in TITLES if n in found):
        row = found[name]
        turns, against = row["rounds"], row.get("against") or theirs
        per_s = row.get("images", part["images"]) / median(flat(turns))
        speedup = against and replace(paired_speedup(against, turns), doubtful=doubtful)
        cells = (TITLES[name], rate(per_s), ratio(speedup), percent(row.get("same_labels")))
        body.append(cells + (_parts(row, per_s, result["device"]) if apart else ()))
    return Table(head, tuple(body))


def _parts(row: dict[str, Any], per_s: float, device: str) -> tuple[str, str, str]:
    """Return the rates of decoding and of the model alone, and the share of what they allow.

    On a CPU both take the same cores; a GPU leaves them to decoding.
    """
    if "decode_images_s" not in row:
        return DASH, DASH, DASH
    decode, model = row["decode_images_s"], row["model_images_s"]
    allowed = min(decode, model) if device == "cuda" else 1 / (1 / decode + 1 / model)
    return rate(decode), rate(model), percent(per_s / allowed, 0)


def kernels(found: Sequence[dict[str, Any]]) -> Table:
    """Where a run's time goes, the kernels that take most of it."""
    total = sum(row["microseconds"] for row in found)
    body = tuple(
        (
            row["kernel"],
            f"{row['calls']:g}",
            f"{row['microseconds']:,.0f}",
            percent(row["microseconds"] / total),
        )
        for row in found[:KERNELS]
    )
    return Table(("Kernel", "calls", "\u00b5s", "share"), body)


def excluded(result: Result, rows: Sequence[Row]) -> Table:
    """Who could not run, was left out or failed, and why."""
    listed = {row.name: (row.title, row.status, row.reason or "") for row in rows}
    for part in ("files", "accuracy", "kernels"):
        for name, (status, reason) in result.get(part, {}).get("excluded", {}).items():
            if listed.get(name, ("", "ok", ""))[1] == "ok":
                words = f"{STATUS.get(status, status)}, in {part}"
                listed[name] = (TITLES.get(name, name), words, reason)
    body = [(t, STATUS.get(s, s), r) for t, s, r in listed.values() if s != "ok"]
    return Table(("Contender", "status", "reason"), tuple(body))


def ms(seconds: float | None) -> str:
    """Return milliseconds with three significant digits."""
    return DASH if seconds is None else significant(seconds * 1e3)


def rate(value: float | None) -> str:
    """Return images a second with three significant digits."""
    return DASH if value is None else significant(value)


def significant(value: float) -> str:
    """Return three significant digits, more before the point where there are more."""
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{decimals}f}"


def percent(share: float | None, decimals: int = 1) -> str:
    """Return a share as percent."""
    return DASH if share is None else f"{share:.{decimals}%}"


def megabytes(size: int | None) -> str:
    """Return a size in 1e6 bytes."""
    return DASH if not size else f"{size / 1e6:,.0f}" if size >= 1e7 else f"{size / 1e6:.1f}"


def ratio(found: Spread | None) -> str:
    """Return the median and the quartiles."""
    if found is None:
        return DASH
    return f"{times(found)} ({found.low:.2f}{DASH}{found.high:.2f})"


def times(found: Spread | None) -> str:
    """Return the median, with a mark where it is not to be trusted."""
    return DASH if found is None else f"{found.median:.2f}{MARK if found.doubtful else ''}"
