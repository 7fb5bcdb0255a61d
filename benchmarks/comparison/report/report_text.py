"""A stored result as sections of words and tables, and the whole in Markdown."""

from collections.abc import Sequence

from comparison.contenders.entries import BASELINE
from comparison.report import result_tables as tables
from comparison.report.quiet import MARK, MARK_WORDS, QUIET, STEADY
from comparison.report.result_rows import (
    TITLES,
    Result,
    Row,
    ceilings,
    disturbances,
    rows_from_result,
)
from comparison.report.result_tables import Table


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
        ("Speed", f"{model_line(result)}.", tables.speed(rows)),
        ("Times the baseline", _times_note(rows), tables.speedup(rows)),
    ]
    if "files" in result:
        files = result["files"]
        note = (
            f"{files['images']} image files ({files['source']}) at batch {files['batch']}, "
            "decoded by Pillow in every row: vit-infer's path beside a DataLoader and a pipeline."
        )
        if any("decode_images_s" in row for row in files["rows"].values()):
            note += (
                " “Reached” is the share of what decoding alone and the model alone allow together"
                f"{'' if result['device'] == 'cuda' else ', on the same cores'}."
            )
        found.append(("Files to labels", note, tables.files(result)))
    if "accuracy" in result:
        part = result["accuracy"]
        note = (
            f"{part['model']['name']} on {part['images']} labelled images ({part['source']}). "
            f"“Agrees” and the differences of the logits are against {TITLES[BASELINE]}."
        )
        found.append(("Accuracy", note, tables.accuracy(result)))
        differences = tables.differences(result)
        note = f"{len(differences.body)} images have a label that is not the baseline's."
        found.append(("Where the labels differ", note, differences))
    for batch, kernels in result.get("kernels", {}).get("batches", {}).items():
        note = (
            f"{TITLES[result['kernels']['contender']]}: the kernels that take most of a run's "
            f"{sum(row['microseconds'] for row in kernels):,.0f} \u00b5s, by PyTorch's profiler."
        )
        found.append((f"Where a GPU's time goes, batch {batch}", note, tables.kernels(kernels)))
    excluded = tables.excluded(result, rows)
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
    found = list(result["notes"])
    if words := _disturbed(result):
        found.append(words)
    if result.get("interrupted"):
        found.append("Interrupted: this is what was finished.")
    if left_out := result.get("no_time_for"):
        found.append(f"The budget left no time for {', '.join(left_out)}; --resume measures it.")
    return found


def _times_note(rows: Sequence[Row]) -> str:
    doubtful = any(found.doubtful for row in rows for found in row.speedup.values())
    return f"{TITLES[BASELINE]} is 1.{f' {MARK}: {MARK_WORDS}.' if doubtful else ''}"


def _disturbed(result: Result) -> str:
    """Return what else went on while speeds were taken, at the batch sizes that had most of it."""
    by_batch = disturbances(result)
    told = []
    for name, words in (
        ("others", "others took {:.1%} of the cores' time"),
        ("switches", "contenders lost a core {:.0f} times a second"),
        ("spread", "the quartiles of a contender's ratios lay {:.1%} of their median apart"),
    ):
        found = {b: v for b, d in by_batch.items() if (v := getattr(d, name)) is not None}
        if found:
            most = max(found, key=lambda b: found[b])
            told.append(f"{words.format(found[most])} (batch {most})")
    text = f"While speeds were taken, at most: {'; '.join(told)}." if told else ""
    if doubtful := [str(batch) for batch, d in by_batch.items() if not d.trusted]:
        text += (
            f" Over {QUIET:.0%} for others or {STEADY:.0%} between the quartiles no ratio is to "
            f"be trusted: those with {MARK}, at batch {', '.join(doubtful)}."
        )
    return text


def versions(result: Result) -> str:
    """Return what each row ran on."""
    lines = []
    for row in rows_from_result(result):
        if row.about:
            note = f"; {row.about['note']}" if "note" in row.about else ""
            lines.append(f"- {row.title}: {row.about['runtime']}{note}")
    return "\n".join(lines)
