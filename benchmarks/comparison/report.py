"""A stored result read into rows, and the rows as a table for terminals and in Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from comparison import stats
from comparison.contenders import BASELINE, CONTENDERS

Result = dict[str, Any]
TITLES = {entry.name: entry.title for entry in CONTENDERS}
FAMILIES = {entry.name: entry.family for entry in CONTENDERS}


@dataclass(frozen=True)
class Row:
    """One contender's numbers, None where there are none; times in seconds, sizes in bytes."""

    name: str
    title: str
    family: str
    status: str  # "ok", "failed" or "absent"
    reason: str | None
    about: dict[str, Any]
    latency: stats.Latency | None  # at batch 1
    samples: tuple[float, ...]  # of batch 1
    throughput: dict[int, float]  # images a second by batch size, from the median run
    speedup: dict[int, stats.Spread]  # against the baseline, pair by pair
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


def _row(
    name: str, row: dict[str, Any], baseline: dict[str, Any], limits: dict[str, float], gflop: float
) -> Row:
    ok = row["status"] == "ok"
    rounds = {int(b): turns for b, turns in row.get("rounds", {}).items()} if ok else {}
    # a row of a later sitting brings the turns that the baseline took in that one
    theirs = row.get("against") or baseline.get("rounds", {})
    if baseline.get("status") != "ok":
        theirs = {}
    throughput = {b: b / stats.quantile(stats.flat(turns), 0.5) for b, turns in rounds.items()}
    about = row.get("about", {})
    limit = limits.get(about.get("compute", ""))
    samples = stats.flat(rounds.get(1, []))
    return Row(
        name=name,
        title=TITLES.get(name, name),
        family=FAMILIES.get(name, "other"),
        status=row["status"],
        reason=row["reason"],
        about=about,
        latency=stats.latency(samples) if samples else None,
        samples=tuple(samples),
        throughput=dict(sorted(throughput.items())),
        speedup={
            b: stats.paired_speedup(theirs[str(b)], turns)
            for b, turns in sorted(rounds.items())
            if str(b) in theirs
        },
        share=max(throughput.values()) * gflop / limit if limit and throughput else None,
        load_s=row.get("load_s") if ok else None,
        memory_bytes=row.get("memory_bytes") if ok else None,
        gpu_bytes=row.get("gpu_bytes") if ok else None,
        file_bytes=row.get("file_bytes") if ok else None,
    )


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
        return "\n".join(f"| {' | '.join(cells)} |" for cells in (self.head, rule, *self.body))


def speed_table(rows: Sequence[Row]) -> Table:
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


def speedup_table(rows: Sequence[Row]) -> Table:
    """How many times faster than the baseline: median (lower to upper quartile) of the pairs."""
    batches = sorted({b for row in rows for b in row.speedup})
    body = [
        (row.title, *(ratio(row.speedup.get(b)) for b in batches)) for row in rows if row.speedup
    ]
    return Table(("Contender", *(f"batch {b}" for b in batches)), tuple(body))


def accuracy_table(result: Result) -> Table:
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


def differences_table(result: Result) -> Table:
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


def files_table(result: Result) -> Table:
    """Files to labels, images a second."""
    files = result["files"]
    found, images = files["rows"], files["images"]
    theirs = found.get(BASELINE, {}).get("rounds")
    body = []
    for name in (n for n in TITLES if n in found):
        turns = found[name]["rounds"]
        against = found[name].get("against") or theirs
        speedup = stats.paired_speedup(against, turns) if against else None
        seconds = stats.quantile(stats.flat(turns), 0.5)
        same = found[name].get("same_labels")
        body.append(
            (
                TITLES[name],
                rate(found[name].get("images", images) / seconds),
                ratio(speedup),
                percent(same),
            )
        )
    head = ("Contender", "img/s", "times the baseline", "same label")
    return Table(head, tuple(body))


def excluded_table(result: Result, rows: Sequence[Row]) -> Table:
    """Who could not run, or failed, and why."""
    listed = {row.name: (row.title, row.status, row.reason or "") for row in rows}
    for part in ("files", "accuracy"):
        for name, (status, reason) in result.get(part, {}).get("excluded", {}).items():
            if listed.get(name, ("", "ok", ""))[1] == "ok":
                listed[name] = (TITLES.get(name, name), f"{status} in {part}", reason)
    words = {"absent": "cannot run here"}
    body = [(t, words.get(s, s), r) for t, s, r in listed.values() if s != "ok"]
    return Table(("Contender", "status", "reason"), tuple(body))


DASH = "\u2013"


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


def ratio(found: stats.Spread | None) -> str:
    """Return the median and the quartiles."""
    if found is None:
        return DASH
    return f"{found.median:.2f} ({found.low:.2f}{DASH}{found.high:.2f})"


def machine_line(result: Result) -> str:
    """Return the machine in one line."""
    m = result["machine"]
    features = f" with {', '.join(m['cpu_features'])}" if m["cpu_features"] else ""
    cpu = f"{m['cpu']} ({m['cpu_family']})" if m["cpu_family"] else m["cpu"]
    gpu = f"{m['gpu']}; " if m["gpu"] else ""
    return (
        f"{gpu}{cpu}, {m['cores']} cores{features}; {m['memory_gib']} GiB; {m['system']}; "
        f"Python {m['python']}; {m['threads']} threads; commit {m['commit'] or 'unknown'}"
    )


def method_lines(result: Result) -> list[str]:
    """Return how the numbers came about, for the reader who would dispute them."""
    plan = result["plan"]
    return [
        "Every contender runs in a process of its own with "
        f"{result['machine']['threads']} threads, from the same checkpoint files, on the same "
        "images. The processes take turns, in an order that rotates from round to round; one "
        "computes at a time.",
        f"Latency is that of batch 1 over {plan['latency_rounds']} rounds; throughput is the "
        "batch size over the median time of a run, called synchronously, host memory to host "
        "memory. Contenders that take floats get them ready-made: their normalisation is not "
        "timed, vit-engine's is.",
        "“Times the baseline” is the median (and quartiles) of the ratios of two turns in the "
        "same round, so that drift of the machine cancels.",
        "A ceiling is the fastest large matrix product that PyTorch or ONNX Runtime reached in "
        "that precision in this run. Shares count the whole architecture's "
        f"{result['speed']['model']['gflop']:.1f} GFLOP an image for everyone, also for a "
        "contender that leaves out what no one reads. PyTorch's row in fp32 and an fp16 file on a "
        "CPU are held to the fp32 ceiling, which is what they compute in.",
        "Load is from the start of the imports to the first label, the converted file at hand; "
        "torch.compile compiles in it. Peak memory is the process's, all batch sizes included.",
        "A contender that crashes, hangs, returns NaN or logits unrelated to the baseline's is "
        "out of every table but the last.",
    ]


def model_line(result: Result) -> str:
    """Return what was timed."""
    m = result["speed"]["model"]
    return (
        f"{m['name']}: {m['layers']} layers of {m['hidden_size']}, {m['image_size']} pixels, "
        f"{m['labels']} labels, {m['gflop']:.1f} GFLOP an image"
    )


def sections(result: Result) -> list[tuple[str, str, Table]]:
    """Return title, note and table of each part that has been measured."""
    rows = rows_from_result(result)
    found = [
        ("Speed", f"{model_line(result)}.", speed_table(rows)),
        ("Times the baseline", f"{TITLES[BASELINE]} is 1.", speedup_table(rows)),
    ]
    if "files" in result:
        files = result["files"]
        note = (
            f"{files['images']} image files ({files['source']}) at batch {files['batch']}, "
            "decoded by Pillow in every row: vit-infer's path beside a DataLoader and a pipeline."
        )
        found.append(("Files to labels", note, files_table(result)))
    if "accuracy" in result:
        part = result["accuracy"]
        note = (
            f"{part['model']['name']} on {part['images']} labelled images ({part['source']}). "
            f"“Agrees” and the differences of the logits are against {TITLES[BASELINE]}."
        )
        found.append(("Accuracy", note, accuracy_table(result)))
        differences = differences_table(result)
        note = f"{len(differences.body)} images have a label that is not the baseline's."
        found.append(("Where the labels differ", note, differences))
    excluded = excluded_table(result, rows)
    if excluded.body:
        found.append(("Not in the tables", "", excluded))
    return [part for part in found if part[2].body]


def markdown(result: Result) -> str:
    """Return the report in Markdown."""
    parts = [f"# {title(result)}", machine_line(result), *(f"**{note}**" for note in notes(result))]
    for name, note, table in sections(result):
        parts += [f"## {name}", note, table.markdown()]
    parts += ["## How it was measured", "\n".join(f"- {line}" for line in method_lines(result))]
    limits = ", ".join(f"{p} {g:,.0f}" for p, g in sorted(ceilings(result).items()))
    parts += [f"Ceilings in GFLOP/s: {limits or 'not measured'}.", versions(result)]
    return "\n\n".join(part for part in parts if part) + "\n"


def title(result: Result) -> str:
    """Return the report's heading."""
    return f"vit-engine beside its peers, {result['speed']['model']['name']}"


def notes(result: Result) -> list[str]:
    """Return what a reader must know before any number."""
    cut = ["Interrupted: this is what was finished."] if result.get("interrupted") else []
    return [*result["notes"], *cut]


def versions(result: Result) -> str:
    """Return what each row ran on."""
    lines = []
    for row in rows_from_result(result):
        if row.about:
            note = f"; {row.about['note']}" if "note" in row.about else ""
            lines.append(f"- {row.title}: {row.about['runtime']}{note}")
    return "\n".join(lines)
