"""The page to put before a manager: what was found, plots, tables, how it was measured."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from comparison.report import plots
from comparison.report import report_text as report
from comparison.report.result_rows import Result, Row, ceilings, rows_from_result
from comparison.report.result_tables import megabytes

STYLE = Path(__file__).with_name("page.css")
WORDS = ("Where the labels differ", "Not in the tables")
"""Sections whose tables hold words rather than numbers."""


def page(result: Result) -> str:
    """Return one HTML document that needs nothing but itself."""
    rows = rows_from_result(result)
    timed = [row for row in rows if row.throughput]
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(report.title(result))}</title>",
            f"<style>:root {{ {_colours()} }}\n{STYLE.read_text()}</style></head><body><main>",
            f"<header><p class='kicker'>vit-engine &middot; {escape(result['made'][:10])}</p>"
            f"<h1>{escape(headline(rows))}</h1>",
            f"<p class='lead-in'>{escape(report.model_line(result))}. "
            f"{escape(report.machine_line(result))}.</p></header>",
            *(f"<p class='note'>{escape(note)}</p>" for note in report.notes(result)),
            _cards(timed),
            *_plots(result, timed),
            *_tables(result),
            _method(result),
            "</main></body></html>\n",
        )
    )


def _colours() -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in plots.PALETTE.items())


def headline(rows: Sequence[Row]) -> str:
    """Say in one sentence what ours is worth at its best, and who is ahead of it."""
    ours = [r for r in rows if r.family == "ours" and r.speedup]
    if not ours:
        return "vit-engine beside its peers"
    if not _quiet(rows):
        return "vit-engine beside its peers, on a machine too busy to compare speeds"
    best = max(ours, key=lambda r: max(s.median for s in r.speedup.values()))
    batch, found = max(best.speedup.items(), key=lambda item: item[1].median)
    text = f"{best.title} is {found.median:.1f} times as fast as eager PyTorch at batch {batch}"
    ahead = [
        r.title
        for r in rows
        if r.family != "ours" and r.throughput.get(batch, 0) > best.throughput[batch]
    ]
    if not ahead:
        return text
    names = " and ".join(filter(None, (", ".join(ahead[:-1]), ahead[-1])))
    return f"{text}; {names} {'is' if len(ahead) == 1 else 'are'} ahead"


def _quiet(rows: Sequence[Row]) -> bool:
    return not any(found.doubtful for row in rows for found in row.speedup.values())


def _cards(rows: Sequence[Row]) -> str:
    """Key figures: each of ours beside the baseline, at batch 1 and at the largest.

    None where any is not to be trusted.
    """
    if not _quiet(rows):
        return ""
    cards = []
    for row in rows:
        if row.family == "ours" and row.speedup:
            first, last = min(row.speedup), max(row.speedup)
            cards.append(
                f"<div class='card'><p class='what'>{escape(row.title)}</p>"
                f"<p class='figure'>{row.speedup[first].median:.2f}&times;</p>"
                f"<p class='sub'>eager PyTorch fp32 at batch {first}; "
                f"{row.speedup[last].median:.2f}&times; at batch {last}; "
                f"{megabytes(row.file_bytes)} MB on disk</p></div>"
            )
    return f"<section class='cards'>{''.join(cards)}</section>" if cards else ""


def _plots(result: Result, rows: Sequence[Row]) -> list[str]:
    """Return the figures that there are numbers for."""
    if not rows:
        return []
    accuracy = result.get("accuracy", {"rows": {}, "model": {"name": ""}, "images": 0})
    judged = accuracy["model"]["name"]
    other = (
        "" if judged == result["speed"]["model"]["name"] else ", another model than the timed one"
    )
    limits = ", ".join(f"{p} {g:,.0f}" for p, g in sorted(ceilings(result).items()))
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
            plots.latency(rows),
        ),
        (
            "trade",
            "Accuracy against speed",
            f"Top-1 of {judged}{other}, on {accuracy['images']} images; speed at the best batch "
            "size. Up and to the right is better.",
            plots.accuracy_against_speed(
                rows, {name: row["top1"] for name, row in accuracy["rows"].items()}
            ),
        ),
        (
            "ceiling",
            "Share of the machine's ceiling",
            "Useful arithmetic a second at the best batch size, as a share of the fastest large "
            f"matrix product measured in the same precision (GFLOP/s: {limits}).",
            plots.share_of_the_ceiling(rows),
        ),
    )
    return [
        f'<figure id="{name}"><h2>{escape(title)}</h2><figcaption>{escape(caption)}</figcaption>'
        f"{svg}</figure>"
        for name, title, caption, svg in figures
        if svg
    ]


def _tables(result: Result) -> list[str]:
    parts = []
    for name, note, table in report.sections(result):
        head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
        body = "".join(
            f"<tr class='{'ours' if cells[0].startswith('vit-engine') else ''}'>"
            + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            + "</tr>"
            for cells in table.body
        )
        kind = "words" if name in WORDS else "numbers"
        parts.append(
            f"<section><h2>{escape(name)}</h2><p>{escape(note)}</p><div class='scroll'>"
            f"<table class='{kind}'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            "</div></section>"
        )
    return parts


def _method(result: Result) -> str:
    lines_ = "".join(f"<li>{escape(line)}</li>" for line in report.method_lines(result))
    versions = report.versions(result).replace("- ", "").splitlines()
    told = "".join(f"<li>{escape(line)}</li>" for line in versions)
    return (
        f"<section><h2>How it was measured</h2><ul>{lines_}</ul><h2>Versions</h2><ul>{told}</ul>"
        f"<p class='command'>{escape(result['command'])}</p></section>"
    )
