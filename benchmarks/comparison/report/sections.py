"""The tables of a report."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

from comparison.contenders.entries import BASELINE
from comparison.report import rows as numbers
from comparison.report import table
from comparison.report.front import front
from comparison.report.rows import TITLES, Result, Row, flat, rows_from_result
from comparison.report.table import DASH, Table, table_from_rows

KERNELS = 15  # of a profile

STATUS = {"absent": "cannot run here", "skipped": "left out by choice"}
"""In words, of a row without numbers; "failed" is one already."""

Columns = dict[str, Callable[[Any], str]]
TITLE: Columns = {"Contender": lambda row: row.title}


def sections(result: Result) -> list[Table]:
    """Return the table of each part that has been measured."""
    rows = rows_from_result(result)
    found = [speed(result, rows), speedup(rows)]
    if "files" in result:
        found.append(files(result))
    if "accuracy" in result:
        if _of_vectors(result["accuracy"]):
            found.append(cosines(result))
        else:
            found += [accuracy(result), front(result, rows), differences(result)]
    found += [kernels(result, b) for b in result.get("kernels", {}).get("batches", {})]
    return [shown for shown in (*found, excluded(result, rows)) if shown.body]


def model_line(result: Result) -> str:
    """Return what was timed."""
    model = result["speed"]["model"]
    vectors = _of_vectors(result["speed"])
    gives = "vectors of {vector_size} pooled by {pooling}" if vectors else "{labels} labels"
    return (
        "{name}: {layers} layers of {hidden_size}, {image_size} pixels, {gives}, "
        "{gflop:.1f} GFLOP an image".format_map(model | {"gives": gives.format_map(model)})
    )


def _of_vectors(part: Result) -> bool:
    """Tell whether the model of a part gives vectors, not labels."""
    return "pooling" in part["model"]


def at_batch(result: Result, batch: int) -> Table:
    """One batch size, as soon as it is timed."""
    rows = [row for row in rows_from_result(result) if batch in row.throughput]
    columns: Columns = {
        f"batch {batch}": lambda row: row.title,
        "img/s": partial(rate_at, batch),
        "times the baseline": partial(_ratio_at, batch),
    }
    return table_from_rows("", "", rows, columns)


def rate_at(batch: int, row: Row) -> str:
    """Return a row's images a second at a batch size."""
    return table.rate(row.throughput.get(batch))


def _ratio_at(batch: int, row: Row) -> str:
    return table.ratio(row.speedup.get(batch))


def speed(result: Result, rows: Sequence[Row]) -> Table:
    """Latency, throughput and what a process costs."""
    rows = [row for row in rows if row.throughput]
    batches = sorted({b for row in rows for b in row.throughput})
    columns: Columns = TITLE | {
        "p50 ms": lambda row: table.ms(row.latency(50)),
        "p90": lambda row: table.ms(row.latency(90)),
        "p99": lambda row: table.ms(row.latency(99)),
        **{f"img/s @{b}": partial(rate_at, b) for b in batches},
        "of ceiling": lambda row: table.percent(row.share, 0),
        "load s": lambda row: DASH if row.load_s is None else f"{row.load_s:.1f}",
        "peak MB": lambda row: table.megabytes(row.memory_bytes),
        "GPU MB": lambda row: table.megabytes(row.gpu_bytes),
        "file MB": lambda row: table.megabytes(row.file_bytes),
    }
    if not any(row.gpu_bytes for row in rows):
        del columns["GPU MB"]
    return table_from_rows("Speed", f"{model_line(result)}.", rows, columns)


def speedup(rows: Sequence[Row]) -> Table:
    """How many times faster than the baseline: median (lower to upper quartile) of the pairs."""
    batches = sorted({b for row in rows for b in row.speedup})
    doubtful = any(found.doubtful for row in rows for found in row.speedup.values())
    note = f"{TITLES[BASELINE]} is 1.{f' {table.MARK}: {table.MARK_WORDS}.' if doubtful else ''}"
    columns = TITLE | {f"batch {b}": partial(_ratio_at, b) for b in batches}
    shown = (row for row in rows if row.speedup)
    return table_from_rows("Times the baseline", note, shown, columns)


def files(result: Result) -> Table:
    """Files to labels or vectors, images a second; beside what the parts reach alone, if known."""
    part, on_gpu = result["files"], result["device"] == "cuda"
    vectors = _of_vectors(result["speed"])
    found, theirs = part["rows"], part["rows"].get(BASELINE, {}).get("rounds")
    doubtful = not all(d.trusted for d in numbers.disturbances(result).values())

    def per_s(name: str) -> float:
        count = found[name].get("images", part["images"])
        return float(count / median(flat(found[name]["rounds"])))

    def gain(name: str) -> str:
        if not (against := found[name].get("against") or theirs):
            return DASH
        return table.ratio(
            replace(numbers.paired_speedup(against, found[name]["rounds"]), doubtful=doubtful)
        )

    def reached(name: str) -> str:
        """On a CPU decoding and the model take the same cores; a GPU leaves them to decoding."""
        if "decode_images_s" not in found[name]:
            return DASH
        alone = found[name]["decode_images_s"], found[name]["model_images_s"]
        allowed = min(alone) if on_gpu else 1 / sum(1 / one for one in alone)
        return table.percent(per_s(name) / allowed, 0)

    note = (
        f"{part['images']} image files ({part['source']}) at batch {part['batch']}, "
        "decoded by Pillow in every row: vit-infer's path beside a DataLoader and a pipeline."
    )
    columns: Columns = {
        "Contender": TITLES.__getitem__,
        "img/s": lambda name: table.rate(per_s(name)),
        "times the baseline": gain,
        "same label": lambda name: table.percent(found[name].get("same_labels")),
    }
    if any("decode_images_s" in row for row in found.values()):
        columns |= {
            "decoding alone": lambda name: table.rate(found[name].get("decode_images_s")),
            "model alone": lambda name: table.rate(found[name].get("model_images_s")),
            "reached": reached,
        }
        note += (
            " “Reached” is the share of what decoding alone and the model alone allow together"
            f"{'' if on_gpu else ', on the same cores'}."
        )
    if vectors:
        columns = {k: cell for k, cell in columns.items() if k != "same label"} | {
            "smallest cosine": lambda name: table.cosine(found[name].get("min_cosine"))
        }
    title = f"Files to {'vectors' if vectors else 'labels'}"
    return table_from_rows(title, note, _known(found), columns)


def _known(rows: dict[str, Any]) -> list[str]:
    return [name for name in TITLES if name in rows]


def accuracy(result: Result) -> Table:
    """Top-1, top-5 and the distance from eager fp32."""
    part = result["accuracy"]
    found = part["rows"]
    note = (
        f"{part['model']['name']} on {part['images']} labelled images ({part['source']}). "
        f"“Agrees” and the differences of the logits are against {TITLES[BASELINE]}."
    )
    columns: Columns = {
        "Contender": TITLES.__getitem__,
        "top-1": lambda name: table.percent(found[name]["top1"]),
        "top-5": lambda name: table.percent(found[name]["top5"]),
        "agrees": lambda name: table.percent(found[name]["agreement"]),
        "images differ": lambda name: str(len(found[name]["differs"])),
        "max |Δ|": lambda name: f"{found[name]['max_diff']:.2g}",
        "mean |Δ|": lambda name: f"{found[name]['mean_diff']:.2g}",
    }
    if any("divergence" in row for row in found.values()):
        note += " KL is the mean divergence of the scores from its own, in nats."
        columns["KL"] = lambda name: f"{found[name]['divergence']:.2g}"
    return table_from_rows("Accuracy", note, _known(found), columns)


def cosines(result: Result) -> Table:
    """Return how near vectors are to those of eager fp32, and whether neighbours stay."""
    part = result["accuracy"]
    found = part["rows"]
    note = (
        f"{part['model']['name']} on {part['images']} images ({part['source']}). Cosines are to "
        f"the vectors of {TITLES[BASELINE]}; recall is the share of their ten nearest that stay."
    )
    columns: Columns = {
        "Contender": TITLES.__getitem__,
        "smallest cosine": lambda name: table.cosine(found[name]["min_cosine"]),
        "mean cosine": lambda name: table.cosine(found[name]["mean_cosine"]),
        "recall of ten nearest": lambda name: table.percent(found[name]["recall"]),
    }
    return table_from_rows("Vectors", note, _known(found), columns)


def differences(result: Result) -> Table:
    """Each image on which someone's label is not the baseline's, and who says what."""
    said: dict[tuple[str, str, str], list[str]] = {}
    found = result["accuracy"]["rows"]
    for name in _known(found):
        for differs in found[name]["differs"]:
            # of a class that has several names the first
            true, expected, here = (differs[k].split(",")[0] for k in ("true", "baseline", "here"))
            others = said.setdefault((differs["file"], true, expected), [])
            others.append(f"{TITLES[name]}: {here}")
    body = tuple((*image, "; ".join(others)) for image, others in sorted(said.items()))
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
    columns: Columns = {
        "Kernel": lambda row: row["kernel"],
        "calls": lambda row: f"{row['calls']:g}",
        "\u00b5s": lambda row: f"{row['microseconds']:,.0f}",
        "share": lambda row: table.percent(row["microseconds"] / total),
    }
    title = f"Where a GPU's time goes, batch {batch}"
    return table_from_rows(title, note, found[:KERNELS], columns)


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
