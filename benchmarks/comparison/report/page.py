"""The report in Markdown, and as a page to put before a manager, with plots."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, select_autoescape

from comparison.report import plots
from comparison.report import rows as numbers
from comparison.report.front import judged as judged_rows
from comparison.report.rows import Result, Row, rows_from_result
from comparison.report.sections import model_line, sections
from comparison.report.table import MARK, megabytes

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=select_autoescape(),
    trim_blocks=True,
)


def markdown(result: Result) -> str:
    """Return the report in Markdown."""
    words = words_around(result)
    (title, machine), notes = words["title"] + words["machine"], words["notes"]
    parts = [f"# {title}", machine, *(f"**{note}**" for note in notes)]
    for table in sections(result):
        parts += [f"## {table.title}", table.note, table.markdown()]
    parts += ["## How it was measured", "\n".join(f"- {line}" for line in words["method"])]
    parts.append(f"Ceilings in GFLOP/s: {_ceilings(result) or 'not measured'}.")
    parts.append("\n".join(f"- {line}" for line in words["versions"]))
    return "\n\n".join(part for part in parts if part) + "\n"


def page(result: Result) -> str:
    """Return one HTML document that needs nothing but itself."""
    rows = rows_from_result(result)
    timed = [row for row in rows if row.throughput]
    judged = result.get("accuracy", {"rows": {}})
    labelled = judged_rows(result, rows)
    kept, mean = (
        {row.name: judged["rows"][row.name][what] for row in labelled}
        for what in ("agreement", "mean_diff")
    )
    drawn = {
        "throughput": plots.throughput(timed),
        "latency": plots.latency([row for row in timed if row.samples]),
        "kept": plots.against_speed(labelled, kept, "labels kept"),
        "nearness": plots.against_speed(
            [row for row in labelled if mean[row.name]], mean, "mean difference of a logit"
        ),
        "ceiling": plots.share_of_the_ceiling([row for row in timed if row.share]),
    }
    return TEMPLATES.get_template("page.html").render(
        result=result,
        judged=judged,
        palette=plots.PALETTE,
        headline=headline(rows),
        model_line=model_line(result),
        words=words_around(result),
        ceilings=_ceilings(result),
        cards=_ours(rows) if _quiet(rows) else [],
        megabytes=megabytes,
        plots=drawn,
        tables=sections(result),
    )


def words_around(result: Result) -> dict[str, list[str]]:
    """Return the lines that stand around the tables, by the blocks of words.txt."""
    by_batch, most = numbers.disturbances(result), []
    for name, words in (
        ("others", "others took {:.1%} of the cores' time"),
        ("spread", "the quartiles of a contender's ratios lay {:.1%} of their median apart"),
    ):
        found = {v: b for b, d in by_batch.items() if (v := getattr(d, name)) is not None}
        if found:
            most.append(f"{words.format(max(found))} (batch {found[max(found)]})")
    template = TEMPLATES.get_template("words.txt")
    known = {"most": most, "doubtful": [b for b, d in by_batch.items() if not d.trusted]}
    known |= {"quiet": numbers.QUIET, "steady": numbers.STEADY, "mark": MARK}
    context = template.new_context(result | known | {"rows": rows_from_result(result)})
    blocks = {name: "".join(block(context)) for name, block in template.blocks.items()}
    return {name: list(filter(None, text.splitlines())) for name, text in blocks.items()}


def _ceilings(result: Result) -> str:
    """Return the fastest product of each precision, "" where none was measured."""
    found = sorted(numbers.ceilings(result).items())
    return ", ".join(f"{name} {gflops:,.0f}" for name, gflops in found)


def headline(rows: Sequence[Row]) -> str:
    """Say in one sentence what ours is worth at its best, and who is ahead of it."""
    ours = [(s.median, b, row) for row in _ours(rows) for b, s in row.speedup.items()]
    if not ours:
        return "vit-engine beside its peers"
    if not _quiet(rows):
        return "vit-engine beside its peers, on a machine too busy to compare speeds"
    times, batch, best = max(ours, key=lambda found: found[0])
    text = f"{best.title} is {times:.1f} times as fast as eager PyTorch at batch {batch}"
    others = [row for row in rows if row.family != "ours"]
    ahead = [r.title for r in others if r.throughput.get(batch, 0) > best.throughput[batch]]
    if not ahead:
        return text
    names = " and ".join(filter(None, (", ".join(ahead[:-1]), ahead[-1])))
    return f"{text}; {names} {'is' if len(ahead) == 1 else 'are'} ahead"


def _ours(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.family == "ours" and row.speedup]


def _quiet(rows: Sequence[Row]) -> bool:
    return not any(found.doubtful for row in rows for found in row.speedup.values())
