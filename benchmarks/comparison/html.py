"""The page to put before a manager: what was found, plots, tables, how it was measured."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from comparison import report, stats, tables
from comparison.plots import Bar, Box, Series, bars, boxes, lines, scatter
from comparison.rows import Result, Row, ceilings, rows_from_result

STYLE = Path(__file__).with_name("page.css")


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
            f"<style>{STYLE.read_text()}</style></head><body><main>",
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


def headline(rows: Sequence[Row]) -> str:
    """Say in one sentence what ours is worth at its best, and who is ahead of it."""
    ours = [r for r in rows if r.family == "ours" and r.speedup]
    if not ours:
        return "vit-engine beside its peers"
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


def _cards(rows: Sequence[Row]) -> str:
    """Key figures: each of ours beside the baseline, at batch 1 and at the largest."""
    cards = []
    for row in rows:
        if row.family == "ours" and row.speedup:
            first, last = min(row.speedup), max(row.speedup)
            cards.append(
                f"<div class='card'><p class='what'>{escape(row.title)}</p>"
                f"<p class='figure'>{row.speedup[first].median:.2f}&times;</p>"
                f"<p class='sub'>eager PyTorch fp32 at batch {first}; "
                f"{row.speedup[last].median:.2f}&times; at batch {last}; "
                f"{tables.megabytes(row.file_bytes)} MB on disk</p></div>"
            )
    return f"<section class='cards'>{''.join(cards)}</section>" if cards else ""


def _plots(result: Result, rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    figures = [_throughput(rows), _latency(rows), _trade(result, rows), _share(result, rows)]
    return [f for f in figures if f]


def _throughput(rows: Sequence[Row]) -> str:
    series = [
        Series(row.title, row.family, _place(row, rows), tuple(row.throughput.items()))
        for row in rows
    ]
    return _figure(
        "throughput",
        "Throughput by batch size",
        "Images a second, from the median run. Higher is better.",
        lines(series, "batch size", "images a second"),
    )


def _latency(rows: Sequence[Row]) -> str:
    found = []
    for row in sorted(rows, key=lambda r: r.latency.p50 if r.latency else 0):
        if not row.latency:
            continue
        p10, p25, p50, p75, p90 = (
            stats.quantile(row.samples, q) * 1e3 for q in (0.1, 0.25, 0.5, 0.75, 0.9)
        )
        p99 = None if row.latency.p99 is None else row.latency.p99 * 1e3
        text = f"{tables.ms(row.latency.p50)} ms"
        found.append(Box(row.title, row.family, (p10, p25, p50, p75, p90, p99), text))
    if not found:
        return ""
    return _figure(
        "latency",
        "Latency of one image",
        "Batch 1. Box: the middle half of the runs, line: median (the number), whisker: p10 to "
        "p90, ring: p99 where there are 100 runs. Logarithmic; lower is better.",
        boxes(found, "milliseconds"),
    )


def _trade(result: Result, rows: Sequence[Row]) -> str:
    accuracy = result.get("accuracy", {}).get("rows", {})
    series = []
    for row in rows:
        found = accuracy.get(row.name)
        if found and row.best:
            point = (row.best, found["top1"] * 100)
            series.append(Series(row.title, row.family, 0, (point,)))
    if not series:
        return ""
    model = result["accuracy"]["model"]["name"]
    other = (
        "" if model == result["speed"]["model"]["name"] else ", another model than the timed one"
    )
    return _figure(
        "trade",
        "Accuracy against speed",
        f"Top-1 of {model}{other}, on {result['accuracy']['images']} images; speed at the best "
        "batch size. Up and to the right is better.",
        scatter(series, "images a second", "top-1"),
    )


def _share(result: Result, rows: Sequence[Row]) -> str:
    limits = ceilings(result)
    found = [
        Bar(
            f"{row.title}",
            row.family,
            row.share,
            f"{row.share:.0%} of {row.about['compute']}",
        )
        for row in sorted(rows, key=lambda r: -(r.share or 0))
        if row.share
    ]
    if not found:
        return ""
    told = ", ".join(f"{p} {g:,.0f}" for p, g in sorted(limits.items()))
    return _figure(
        "ceiling",
        "Share of the machine's ceiling",
        "Useful arithmetic a second at the best batch size, as a share of the fastest large matrix "
        f"product measured in the same precision (GFLOP/s: {told}).",
        bars(found, "share of the ceiling", limit=1.0),
    )


def _figure(name: str, title: str, caption: str, svg: str) -> str:
    return (
        f'<figure id="{name}"><h2>{escape(title)}</h2><figcaption>{escape(caption)}</figcaption>'
        f"{svg}</figure>"
    )


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
        words = "words" if name.startswith(("Not", "Where")) else "numbers"
        parts.append(
            f"<section><h2>{escape(name)}</h2><p>{escape(note)}</p><div class='scroll'>"
            f"<table class='{words}'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
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


def _place(row: Row, rows: Sequence[Row]) -> int:
    """Return which of its family this row is: members share a colour, not a dash."""
    return [r.name for r in rows if r.family == row.family].index(row.name) % 5
