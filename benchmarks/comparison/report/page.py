"""The report in Markdown, and as a page to put before a manager, with plots."""

from collections.abc import Sequence
from pathlib import Path
from string import Template

from jinja2 import Environment, StrictUndefined

from comparison.report import plots
from comparison.report.rows import (
    QUIET,
    STEADY,
    Result,
    Row,
    ceilings,
    disturbances,
    rows_from_result,
)
from comparison.report.sections import model_line, sections
from comparison.report.table import MARK, megabytes

TEMPLATE = Path(__file__).with_name("page.html")
METHOD = Template(Path(__file__).with_name("method.txt").read_text())


def page(result: Result) -> str:
    """Return one HTML document that needs nothing but itself."""
    rows = rows_from_result(result)
    timed = [row for row in rows if row.throughput]
    judged = result.get("accuracy", {"rows": {}})
    top1 = {name: row["top1"] for name, row in judged["rows"].items()}
    drawn = {
        "throughput": plots.throughput(timed),
        "latency": plots.latency([row for row in timed if row.samples]),
        "trade": plots.accuracy_against_speed([row for row in timed if row.name in top1], top1),
        "ceiling": plots.share_of_the_ceiling([row for row in timed if row.share]),
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text()).render(
        result=result,
        judged=judged,
        palette=plots.PALETTE,
        headline=headline(rows),
        model_line=model_line(result),
        title=title(result),
        machine_line=machine_line(result),
        notes=notes(result),
        ceilings_line=ceilings_line(result),
        method_lines=method_lines(result),
        versions=versions(result),
        cards=_ours(rows) if _quiet(rows) else [],
        megabytes=megabytes,
        plots=drawn,
        tables=sections(result),
    )


def headline(rows: Sequence[Row]) -> str:
    """Say in one sentence what ours is worth at its best, and who is ahead of it."""
    ours = [(s.median, b, row) for row in _ours(rows) for b, s in row.speedup.items()]
    if not ours:
        return "vit-engine beside its peers"
    if not _quiet(rows):
        return "vit-engine beside its peers, on a machine too busy to compare speeds"
    times, batch, best = max(ours, key=lambda found: found[0])
    text = f"{best.title} is {times:.1f} times as fast as eager PyTorch at batch {batch}"
    ahead = [
        row.title
        for row in rows
        if row.family != "ours" and row.throughput.get(batch, 0) > best.throughput[batch]
    ]
    if not ahead:
        return text
    names = " and ".join(filter(None, (", ".join(ahead[:-1]), ahead[-1])))
    return f"{text}; {names} {'is' if len(ahead) == 1 else 'are'} ahead"


def _ours(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.family == "ours" and row.speedup]


def _quiet(rows: Sequence[Row]) -> bool:
    return not any(found.doubtful for row in rows for found in row.speedup.values())


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
        ("spread", "the quartiles of a contender's ratios lay {:.1%} of their median apart"),
    ):
        found = {v: b for b, d in by_batch.items() if (v := getattr(d, name)) is not None}
        if found:
            told.append(f"{words.format(max(found))} (batch {found[max(found)]})")
    text = f"While speeds were taken, at most: {'; '.join(told)}." if told else ""
    if doubtful := [str(batch) for batch, d in by_batch.items() if not d.trusted]:
        text += (
            f" Over {QUIET:.0%} for others or {STEADY:.0%} between the quartiles no ratio is to "
            f"be trusted: those with {MARK}, at batch {', '.join(doubtful)}."
        )
    return text


def method_lines(result: Result) -> list[str]:
    """Return how the numbers came about, for the reader who would dispute them."""
    return METHOD.substitute(
        threads=result["machine"]["threads"],
        rounds=result["plan"]["latency_rounds"],
        gflop=f"{result['speed']['model']['gflop']:.1f}",
    ).splitlines()


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
