"""What a report says around its tables, and the whole in Markdown."""

from comparison.report.rows import (
    QUIET,
    STEADY,
    Result,
    ceilings,
    disturbances,
    rows_from_result,
)
from comparison.report.sections import sections
from comparison.report.table import MARK


def markdown(result: Result) -> str:
    """Return the report in Markdown."""
    parts = [f"# {title(result)}", machine_line(result), *(f"**{note}**" for note in notes(result))]
    for table in sections(result):
        parts += [f"## {table.title}", table.note, table.markdown()]
    parts += ["## How it was measured", "\n".join(f"- {line}" for line in method_lines(result))]
    parts.append(f"Ceilings in GFLOP/s: {ceilings_line(result) or 'not measured'}.")
    parts.append("\n".join(f"- {line}" for line in versions(result)))
    return "\n\n".join(part for part in parts if part) + "\n"


def title(result: Result) -> str:
    """Return the report's heading."""
    return f"vit-engine beside its peers, {result['speed']['model']['name']}"


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


def notes(result: Result) -> list[str]:
    """Return what a reader must know before any number."""
    found = [*result["notes"], _disturbed(result)]
    if result.get("interrupted"):
        found.append("Interrupted: this is what was finished.")
    if left_out := result.get("no_time_for"):
        found.append(f"The budget left no time for {', '.join(left_out)}; --resume measures it.")
    return [note for note in found if note]


def _disturbed(result: Result) -> str:
    """Return what else went on while speeds were taken, at the batch sizes that had most of it."""
    by_batch, told = disturbances(result), []
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


def method_lines(result: Result) -> list[str]:
    """Return how the numbers came about, for the reader who would dispute them."""
    return [
        "Every contender runs in a process of its own with "
        f"{result['machine']['threads']} threads, from the same checkpoint files, on the same "
        "images. The processes take turns, in an order that rotates from round to round; one "
        "computes at a time.",
        f"Latency is that of batch 1 over {result['plan']['latency_rounds']} rounds; throughput is "
        "the batch size over the median time of a run, called synchronously, host memory to host "
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


def ceilings_line(result: Result) -> str:
    """Return the fastest product of each precision, "" where none was measured."""
    return ", ".join(f"{name} {gflops:,.0f}" for name, gflops in sorted(ceilings(result).items()))


def versions(result: Result) -> list[str]:
    """Return what each row ran on."""
    return [
        f"{row.title}: {row.about['runtime']}"
        + (f"; {row.about['note']}" if "note" in row.about else "")
        for row in rows_from_result(result)
        if row.about
    ]
