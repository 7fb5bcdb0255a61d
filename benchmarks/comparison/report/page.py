"""The page to put before a manager: what was found, plots, tables, how it was measured."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

from comparison.report import plots, report_text
from comparison.report.rows import Result, Row, rows_from_result
from comparison.report.sections import model_line, sections
from comparison.report.table import megabytes

TEMPLATE = Path(__file__).with_name("page.html")


def page(result: Result) -> str:
    """Return one HTML document that needs nothing but itself."""
    rows = rows_from_result(result)
    return Template(TEMPLATE.read_text()).substitute(
        title=escape(report_text.title(result)),
        colours=" ".join(f"--{name}: {colour};" for name, colour in plots.PALETTE.items()),
        day=escape(result["made"][:10]),
        headline=escape(headline(rows)),
        model=escape(model_line(result)),
        machine=escape(report_text.machine_line(result)),
        notes=_each("<p class='note'>{}</p>", report_text.notes(result)),
        cards=_cards(rows),
        plots="\n".join(_plots(result, [row for row in rows if row.throughput])),
        tables="\n".join(table.html() for table in sections(result)),
        method=_each("<li>{}</li>", report_text.method_lines(result)),
        versions=_each("<li>{}</li>", report_text.versions(result)),
        command=escape(result["command"]),
    )


def _each(element: str, texts: Iterable[str]) -> str:
    return "".join(element.format(escape(text)) for text in texts)


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


def _cards(rows: Sequence[Row]) -> str:
    """Key figures: each of ours beside the baseline, at batch 1 and at the largest.

    None where any is not to be trusted.
    """
    cards = [
        f"<div class='card'><p class='what'>{escape(row.title)}</p>"
        f"<p class='figure'>{row.speedup[min(row.speedup)].median:.2f}&times;</p>"
        f"<p class='sub'>eager PyTorch fp32 at batch {min(row.speedup)}; "
        f"{row.speedup[max(row.speedup)].median:.2f}&times; at batch {max(row.speedup)}; "
        f"{megabytes(row.file_bytes)} MB on disk</p></div>"
        for row in _ours(rows)
    ]
    return f"<section class='cards'>{''.join(cards)}</section>" if cards and _quiet(rows) else ""


def _plots(result: Result, rows: Sequence[Row]) -> list[str]:
    """Return the figures that there are numbers for."""
    judged = result.get("accuracy", {"rows": {}, "model": {"name": ""}, "images": 0})
    top1 = {name: row["top1"] for name, row in judged["rows"].items()}
    model = judged["model"]["name"]
    if model != result["speed"]["model"]["name"]:
        model += ", another model than the timed one"
    figures = (
        (
            "throughput",
            "Throughput by batch size",
            "Images a second, from the median run. Higher is better.",
            plots.throughput(rows),
        ),
        (
            "latency",
            "Latency of one image",
            "Batch 1. Box: the middle half of the runs, line: median (the number), whisker: p10 to "
            "p90, ring: p99 where there are 100 runs. Logarithmic; lower is better.",
            plots.latency([row for row in rows if row.samples]),
        ),
        (
            "trade",
            "Accuracy against speed",
            f"Top-1 of {model}, on {judged['images']} images; speed at the best batch "
            "size. Up and to the right is better.",
            plots.accuracy_against_speed([row for row in rows if row.name in top1], top1),
        ),
        (
            "ceiling",
            "Share of the machine's ceiling",
            "Useful arithmetic a second at the best batch size, as a share of the fastest large "
            "matrix product measured in the same precision (GFLOP/s: "
            f"{report_text.ceilings_line(result)}).",
            plots.share_of_the_ceiling([row for row in rows if row.share]),
        ),
    )
    return [
        f'<figure id="{name}"><h2>{escape(title)}</h2><figcaption>{escape(caption)}</figcaption>'
        f"{svg}</figure>"
        for name, title, caption, svg in figures
        if svg
    ]
