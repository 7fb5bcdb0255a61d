"""The tables of a report."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from comparison.contenders.entries import BASELINE
from comparison.report.rows import (
    TITLES,
    Result,
    Row,
    disturbances,
    flat,
    paired_speedup,
    rows_from_result,
)
from comparison.report.table import (
    DASH,
    MARK,
    MARK_WORDS,
    Table,
    megabytes,
    ms,
    percent,
    rate,
    ratio,
)

KERNELS = 15  # of a profile

STATUS = {"absent": "cannot run here", "skipped": "left out by choice"}
"""In words, of a row without numbers; "failed" is one already."""


def sections(result: Result) -> list[Table]:
    """Return the table of each part that has been measured."""
    rows = rows_from_result(result)
    found = [speed(result, rows), speedup(rows)]
    if "files" in result:
        found.append(files(result))
    if "accuracy" in result:
        found += [accuracy(result), differences(result)]
    found += [kernels(result, b) for b in result.get("kernels", {}).get("batches", {})]
    return [table for table in (*found, excluded(result, rows)) if table.body]


def model_line(result: Result) -> str:
    """Return what was timed."""
    m = result["speed"]["model"]
    return (
        f"{m['name']}: {m['layers']} layers of {m['hidden_size']}, {m['image_size']} pixels, "
        f"{m['labels']} labels, {m['gflop']:.1f} GFLOP an image"
    )


def at_batch(rows: Sequence[Row], batch: int) -> Table:
    """One batch size, as soon as it is timed."""
    body = [
        (row.title, rate(row.throughput[batch]), ratio(row.speedup.get(batch)))
        for row in rows
        if batch in row.throughput
    ]
    return Table("", "", (f"batch {batch}", "img/s", "times the baseline"), tuple(body))


def speed(result: Result, rows: Sequence[Row]) -> Table:
    """Latency, throughput and what a process costs."""
    rows = [row for row in rows if row.throughput]
    batches = sorted({b for row in rows for b in row.throughput})
    gpu = ["GPU MB"] if any(row.gpu_bytes for row in rows) else []
    head = (
        *("Contender", "p50 ms", "p90", "p99"),
        *(f"img/s @{b}" for b in batches),
        *("of ceiling", "load s", "peak MB", *gpu, "file MB"),
    )
    body = [
        (
            row.title,
            *(ms(row.latency(p)) for p in (50, 90, 99)),
            *(rate(row.throughput.get(b)) for b in batches),
            percent(row.share, 0),
            DASH if row.load_s is None else f"{row.load_s:.1f}",
            megabytes(row.memory_bytes),
            *([megabytes(row.gpu_bytes)] if gpu else []),
            megabytes(row.file_bytes),
        )
        for row in rows
    ]
    return Table("Speed", f"{model_line(result)}.", head, tuple(body))


def speedup(rows: Sequence[Row]) -> Table:
    """How many times faster than the baseline: median (lower to upper quartile) of the pairs."""
    batches = sorted({b for row in rows for b in row.speedup})
    body = [
        (row.title, *(ratio(row.speedup.get(b)) for b in batches)) for row in rows if row.speedup
    ]
    doubtful = any(found.doubtful for row in rows for found in row.speedup.values())
    note = f"{TITLES[BASELINE]} is 1.{f' {MARK}: {MARK_WORDS}.' if doubtful else ''}"
    head = ("Contender", *(f"batch {b}" for b in batches))
    return Table("Times the baseline", note, head, tuple(body))


def files(result: Result) -> Table:
    """Files to labels, images a second; beside what its parts reach alone, where that is known."""
    part, device = result["files"], result["device"]
    found, theirs = part["rows"], part["rows"].get(BASELINE, {}).get("rounds")
    doubtful = not all(d.trusted for d in disturbances(result).values())
    note = (
        f"{part['images']} image files ({part['source']}) at batch {part['batch']}, "
        "decoded by Pillow in every row: vit-infer's path beside a DataLoader and a pipeline."
    )
    head: tuple[str, ...] = ("Contender", "img/s", "times the baseline", "same label")
    apart = any("decode_images_s" in row for row in found.values())
    if apart:
        head += ("decoding alone", "model alone", "reached")
        note += (
            " “Reached” is the share of what decoding alone and the model alone allow together"
            f"{'' if device == 'cuda' else ', on the same cores'}."
        )
    body = []
    for name in _known(found):
        row = found[name]
        turns, against = row["rounds"], row.get("against") or theirs
        per_s = row.get("images", part["images"]) / median(flat(turns))
        gain = replace(paired_speedup(against, turns), doubtful=doubtful) if against else None
        cells = (TITLES[name], rate(per_s), ratio(gain), percent(row.get("same_labels")))
        body.append(cells + (_parts(row, per_s, device) if apart else ()))
    return Table("Files to labels", note, head, tuple(body))


def _known(rows: dict[str, Any]) -> list[str]:
    return [name for name in TITLES if name in rows]


def _parts(row: dict[str, Any], per_s: float, device: str) -> tuple[str, str, str]:
    """Return the rates of decoding and of the model alone, and the share of what they allow.

    On a CPU both take the same cores; a GPU leaves them to decoding.
    """
    if "decode_images_s" not in row:
        return DASH, DASH, DASH
    decode, model = row["decode_images_s"], row["model_images_s"]
    allowed = min(decode, model) if device == "cuda" else 1 / (1 / decode + 1 / model)
    return rate(decode), rate(model), percent(per_s / allowed, 0)


def accuracy(result: Result) -> Table:
    """Top-1, top-5 and the distance from eager fp32."""
    part = result["accuracy"]
    note = (
        f"{part['model']['name']} on {part['images']} labelled images ({part['source']}). "
        f"“Agrees” and the differences of the logits are against {TITLES[BASELINE]}."
    )
    body = []
    for name in _known(part["rows"]):
        row = part["rows"][name]
        cells = [TITLES[name], *(percent(row.get(k)) for k in ("top1", "top5", "agreement"))]
        if "agreement" in row:
            cells.append(str(len(row["differs"])))
            cells += [f"{row[k]:.2g}" for k in ("max_diff", "mean_diff")]
        else:
            cells += [DASH] * 3
        body.append(tuple(cells))
    head = ("Contender", "top-1", "top-5", "agrees", "images differ", "max |Δ|", "mean |Δ|")
    return Table("Accuracy", note, head, tuple(body))


def differences(result: Result) -> Table:
    """Each image on which someone's label is not the baseline's, and who says what."""
    said: dict[str, tuple[str, str, list[str]]] = {}
    found = result["accuracy"]["rows"]
    for name in _known(found):
        for differs in found[name].get("differs", ()):
            # of a class that has several names the first
            true, expected, here = (differs[k].split(",")[0] for k in ("true", "baseline", "here"))
            said.setdefault(differs["file"], (true, expected, []))[2].append(
                f"{TITLES[name]}: {here}"
            )
    body = tuple(
        (file, true, expected, "; ".join(others))
        for file, (true, expected, others) in sorted(said.items())
    )
    note = f"{len(body)} images have a label that is not the baseline's."
    head = ("Image", "true class", TITLES[BASELINE], "others")
    return Table("Where the labels differ", note, head, body, words=True)


def kernels(result: Result, batch: str) -> Table:
    """Where a run's time goes, the kernels that take most of it."""
    part = result["kernels"]
    found = part["batches"][batch]
    total = sum(row["microseconds"] for row in found)
    note = (
        f"{TITLES[part['contender']]}: the kernels that take most of a run's "
        f"{total:,.0f} \u00b5s, by PyTorch's profiler."
    )
    body = tuple(
        (
            row["kernel"],
            f"{row['calls']:g}",
            f"{row['microseconds']:,.0f}",
            percent(row["microseconds"] / total),
        )
        for row in found[:KERNELS]
    )
    title = f"Where a GPU's time goes, batch {batch}"
    return Table(title, note, ("Kernel", "calls", "\u00b5s", "share"), body)


def excluded(result: Result, rows: Sequence[Row]) -> Table:
    """Who could not run, was left out or failed, and why."""
    listed = {
        row.name: (row.title, STATUS.get(row.status, row.status), row.reason or "")
        for row in rows
        if row.status != "ok"
    }
    for part in ("files", "accuracy", "kernels"):
        for name, (status, reason) in result.get(part, {}).get("excluded", {}).items():
            words = f"{STATUS.get(status, status)}, in {part}"
            listed.setdefault(name, (TITLES.get(name, name), words, reason))
    body = tuple(listed.values())
    return Table("Not in the tables", "", ("Contender", "status", "reason"), body, words=True)
