"""The report's pictures as inline SVG: text stays text, and nothing is fetched from elsewhere."""

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from statistics import mean, median
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from comparison.report.result_rows import Row
from comparison.report.result_tables import ms

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, LINE, PAPER = "#1c2430", "#5a6675", "#dde3ea", "#ffffff"
COLOURS = {"ours": "#0b6e4f", "pytorch": "#c2452d", "optimum": "#b7791f", "openvino": "#2f5fb3"}
OTHER = "#6b5b95"
PALETTE = {"ink": INK, "soft": SOFT, "line": LINE, "paper": PAPER, **COLOURS}
"""What the page takes its colours from, as the pictures do."""
DASHES = ((), (7, 4), (2, 3), (9, 3, 2, 3), (4, 2))
"""The members of a family share a colour, not a dash."""

WIDTH, HEIGHT, ROW = 760, 400, 30
"""Of a picture, and of one row in a picture of rows; in CSS pixels."""

SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 12.5,
    "text.color": SOFT,
    "axes.labelcolor": SOFT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "lines.scale_dashes": False,
}

TITLED = "titled:"
"""Begins the id of what shows the rest of it when pointed at."""


def throughput(rows: Sequence[Row]) -> str:
    """Lines over the batch size, with names at their ends."""

    def draw(axes: "Axes") -> None:
        batches = sorted({batch for row in rows for batch in row.throughput})
        axes.set_xscale("log", base=2)
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.minorticks_off()
        axes.set(xlabel="batch size", ylabel="images a second")
        axes.grid(visible=False, axis="x")
        for row in rows:
            place = [r.name for r in rows if r.family == row.family].index(row.name)
            axes.plot(
                *zip(*row.throughput.items(), strict=True),
                color=colour(row),
                dashes=DASHES[place % len(DASHES)],
                linewidth=3 if row.family == "ours" else 2,
                marker="o",
                markersize=6,
                clip_on=False,
                gid=TITLED + row.title,
            )
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter("{x:,g}")
        last = [list(row.throughput.items())[-1] for row in rows]
        pixels = axes.transData.transform(last)
        span = axes.get_window_extent()
        ends = apart(pixels[:, 1].tolist(), 16, span.y0, span.y1)
        for row, point, y in zip(rows, last, ends, strict=True):
            name(axes, row, point, (span.x1 + 14, y))

    return picture("throughput", draw, right=room_for(rows))


def latency(rows: Sequence[Row]) -> str:
    """Percentiles of batch 1: box p25 to p75, line p50, whiskers p10 to p90, a ring at p99."""
    rows = sorted((row for row in rows if row.samples), key=lambda row: median(row.samples))

    def draw(axes: "Axes") -> None:
        axes.set_xscale("log")
        for y, row in enumerate(rows):
            assert row.latency is not None
            p10, p25, p50, p75, p90 = np.quantile(row.samples, (0.1, 0.25, 0.5, 0.75, 0.9)) * 1e3
            p99 = row.latency.p99 and row.latency.p99 * 1e3
            text, family = f"{ms(row.latency.p50)} ms", colour(row)
            axes.hlines(y, p10, p90, color=family, linewidth=1.5)
            box = axes.barh(y, p75 - p25, 0.53, p25, color=family, alpha=0.35)
            box[0].set_gid(f"{TITLED}{row.title}: {text}")
            axes.vlines(p50, y - 0.33, y + 0.33, color=family, linewidth=3)
            if p99:
                ring: Any = {"color": family, "markerfacecolor": "none", "markeredgewidth": 1.5}
                axes.plot(p99, y, "o", markersize=8, **ring)
            beside(axes, max(p90, p99 or 0), y, text, 10)
        one_two_five(axes)
        axes.set_xlabel("milliseconds")
        names_on_the_left(axes, rows)

    return picture("latency", draw, left=room_for(rows), right=100, rows=len(rows)) if rows else ""


def accuracy_against_speed(rows: Sequence[Row], top1: dict[str, float]) -> str:
    """Points, with names beside them that keep clear of each other."""
    rows = [row for row in rows if row.name in top1 and row.best]

    def draw(axes: "Axes") -> None:
        points = [(row.best or 0.0, top1[row.name] * 100) for row in rows]
        axes.set(xlabel="images a second", ylabel="top-1")
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.yaxis.set_major_formatter("{x:g}%")
        axes.locator_params(axis="y", nbins=5)
        axes.grid(visible=False, axis="x")
        low, high = min(y for _, y in points), max(y for _, y in points)
        room = (high - low) / 4 or 1
        axes.set_ylim(low - room, high + room)
        for row, (x, y) in zip(rows, points, strict=True):
            axes.plot(x, y, "o", markersize=11, color=colour(row), gid=TITLED + row.title)
        axes.set_xlim(left=0)
        extent = axes.get_window_extent()
        within = (extent.y0 + 8, extent.y1)
        taken = [(x - 8, x + 8, y) for x, y in axes.transData.transform(points)]
        order = sorted(range(len(rows)), key=lambda i: -points[i][0])
        for i in order:
            x, y = axes.transData.transform(points[i])
            width = width_of(rows[i])
            on_the_left = x + 10 + width > WIDTH
            start = x - 10 - width if on_the_left else x + 10
            y = free(start, start + width, y, taken, within)
            taken.append((start, start + width, y))
            place = (x - 10 if on_the_left else start, y)
            name(axes, rows[i], points[i], place, "right" if on_the_left else "left")

    return picture("trade", draw, right=150, rows=max(11, len(rows))) if rows else ""


def share_of_the_ceiling(rows: Sequence[Row]) -> str:
    """Bars from zero, with a line at the ceiling."""
    rows = sorted((row for row in rows if row.share), key=lambda row: -(row.share or 0))

    def draw(axes: "Axes") -> None:
        axes.axvline(1, color=INK, linewidth=1, dashes=(4, 3))
        for y, row in enumerate(rows):
            assert row.share is not None
            text = f"{row.share:.0%} of {row.about['compute']}"
            bar = axes.barh(y, row.share, 0.63, color=colour(row), alpha=0.85)
            bar[0].set_gid(f"{TITLED}{row.title}: {text}")
            beside(axes, row.share, y, text, 8)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
        axes.set_xlim(left=0)
        axes.set_xlabel("share of the ceiling")
        names_on_the_left(axes, rows)

    return picture("ceiling", draw, left=room_for(rows), right=100, rows=len(rows)) if rows else ""


def colour(row: Row) -> str:
    """Return the colour of a row's family."""
    return COLOURS.get(row.family, OTHER)


def width_of(row: Row) -> float:
    """Return the pixels that a row's name takes, at most."""
    return (8.2 if row.family == "ours" else 7.4) * len(row.title)  # bold, or not


def room_for(rows: Sequence[Row]) -> float:
    """Return a margin that holds the rows' names."""
    return max(map(width_of, rows), default=0) + 25


def picture(
    title: str,
    draw: Callable[["Axes"], None],
    *,
    left: float = 88,
    right: float,
    rows: int | None = None,
) -> str:
    """Return what `draw` makes of axes with these margins as an SVG element."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    height = HEIGHT if rows is None else 70 + ROW * rows
    with mpl.rc_context(SETTINGS | {"svg.hashsalt": title}):
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)  # a point is a pixel
        place = (left / WIDTH, 52 / height, (WIDTH - left - right) / WIDTH, (height - 72) / height)
        axes = figure.add_axes(place, frame_on=False)
        axes.tick_params(length=0, pad=8, colors=SOFT)
        draw(axes)
        return svg_of(figure, title)


def svg_of(figure: "Figure", title: str) -> str:
    """Return a figure as an element for a page that holds others."""
    file = io.StringIO()
    figure.savefig(
        file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )
    text = file.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(rf'<g id="{TITLED}([^"]*)">', r"<g><title>\1</title>", text)
    text = re.sub(r' id="\w+_\d+"', "", text)  # each picture counts from 1
    text = re.sub(r"\s*\n\s*", " ", text).replace("*{stroke", "svg *{stroke")
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)


def names_on_the_left(axes: "Axes", rows: Sequence[Row]) -> None:
    """Write the rows' names at their places, the first on top."""
    axes.set_yticks(range(len(rows)), [row.title for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set(color=colour(row), fontweight="bold" if row.family == "ours" else "normal")


def name(
    axes: "Axes",
    row: Row,
    point: tuple[float, float],
    place: tuple[float, float],
    alignment: Literal["left", "right"] = "left",
) -> None:
    """Write a row's name at a place in pixels, with a thin line to its point."""
    axes.annotate(
        row.title,
        point,
        place,
        textcoords="figure pixels",
        color=colour(row),
        fontweight="bold" if row.family == "ours" else "normal",
        horizontalalignment=alignment,
        verticalalignment="center_baseline",
        arrowprops={
            "arrowstyle": "-",
            "color": colour(row),
            "linewidth": 0.8,
            "alpha": 0.45,
            "shrinkA": 0,
            "relpos": (float(alignment == "right"), 0.5),
        },
    )


def beside(axes: "Axes", x: float, y: float, text: str, gap: float) -> None:
    """Write a value to the right of a mark."""
    axes.annotate(
        text,
        (x, y),
        (gap, 0),
        textcoords="offset pixels",
        verticalalignment="center_baseline",
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.5},
    )


def one_two_five(axes: "Axes") -> None:
    """Mark a logarithmic x axis at 1, 2, 5, 10, ..., or at powers of ten where it is long."""
    from matplotlib.ticker import LogLocator, NullLocator

    steps: Any = np.outer(10.0 ** np.arange(-4, 8), (1, 2, 5)).ravel()
    low, high = axes.dataLim.intervalx
    axes.set_xlim(steps[steps <= low].max(), steps[steps >= high].min())
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")


def apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return places moved as little as gives each `gap`, in their order, within low to high."""
    order = np.argsort(places)
    blocks: list[list[float]] = []  # of touching names: each name's place less its steps up
    for step, i in enumerate(order):
        block = [places[i] - gap * step]
        while blocks and mean(blocks[-1]) > mean(block):
            block = blocks.pop() + block
        blocks.append(block)
    lowest = [mean(block) for block in blocks for _ in block]
    clipped = np.clip(lowest, low, max(low, high - gap * (len(places) - 1)))
    moved = dict(zip(order, clipped + gap * np.arange(len(places)), strict=True))
    return [float(moved[i]) for i in range(len(places))]


def free(
    start: float,
    end: float,
    y: float,
    taken: Sequence[tuple[float, float, float]],
    within: tuple[float, float],
) -> float:
    """Return the y nearest to the wanted one where a text overlaps no other."""
    lowest, highest = within
    most = int(highest - lowest)
    for shift in (0, *(s * sign for s in range(15, most, 15) for sign in (1, -1))):
        clear = all(end < a or start > b or abs(y + shift - t) >= 15 for a, b, t in taken)
        if clear and lowest <= y + shift <= highest:
            return y + shift
    return y
