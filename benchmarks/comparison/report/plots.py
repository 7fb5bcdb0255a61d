"""The report's pictures as inline SVG: text stays text, and nothing is fetched from elsewhere."""

import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from comparison.report.rows import Row
from comparison.report.table import ms

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

WIDTH, HEIGHT, ROW, NAME = 760, 400, 30, 16
"""Of a picture, of one row in a picture of rows, and of a name in a column; in CSS pixels."""

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


def throughput(rows: Sequence[Row]) -> str:
    """Lines over the batch size, with names at their ends."""

    def draw(axes: "Axes") -> None:
        batches = sorted({batch for row in rows for batch in row.throughput})
        axes.set_xscale("log", base=2)
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.minorticks_off()
        axes.set(xlabel="batch size", ylabel="images a second")
        families = Counter[str]()
        for row in rows:
            dashes = DASHES[families[row.family] % len(DASHES)]
            families[row.family] += 1
            width = 3 if row.family == "ours" else 2
            how: Any = {"color": colour_of(row), "dashes": dashes, "linewidth": width}
            x, y = zip(*row.throughput.items(), strict=True)
            axes.plot(x, y, marker="o", markersize=6, clip_on=False, **how)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter("{x:,g}")
        _names_on_the_right(axes, rows, [list(row.throughput.items())[-1] for row in rows])

    return _picture("throughput", draw, rows, in_rows=False)


def latency(rows: Sequence[Row]) -> str:
    """Percentiles of batch 1: box p25 to p75, line p50, whiskers p10 to p90, a ring at p99."""
    rows = sorted(rows, key=lambda row: median(row.samples))

    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import LogLocator, NullLocator

        axes.set_xscale("log")
        axes.set_xlabel("milliseconds")
        for y, row in enumerate(rows):
            p10, p25, p50, p75, p90 = np.quantile(row.samples, (0.1, 0.25, 0.5, 0.75, 0.9)) * 1e3
            p99, colour = (row.latency(99) or 0) * 1e3, colour_of(row)
            axes.hlines(y, p10, p90, color=colour, linewidth=1.5)
            axes.barh(y, p75 - p25, 0.53, p25, color=colour, alpha=0.35)
            axes.vlines(p50, y - 0.33, y + 0.33, color=colour, linewidth=3)
            if p99:
                axes.plot(p99, y, "o", markersize=8, color=colour, markerfacecolor="none")
            _value(axes, max(p90, p99), y, f"{ms(row.latency(50))} ms")
        low, high = axes.dataLim.intervalx
        steps: Any = np.outer(10.0 ** np.arange(-4, 8), (1, 2, 5)).ravel()
        axes.set_xlim(steps[steps <= low].max(), steps[steps >= high].min())
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")

    return _picture("latency", draw, rows, in_rows=True)


def against_speed(rows: Sequence[Row], values: dict[str, float], what: str) -> str:
    """Points of a value over the speed, each with a line to its name.

    Shares are drawn as percent; differences on a logarithmic scale, the smallest on top.
    """
    rows = sorted(rows, key=lambda row: row.best)

    def draw(axes: "Axes") -> None:
        points = [(row.best, values[row.name]) for row in rows]
        axes.set(xlabel="images a second", ylabel=what)
        axes.xaxis.set_major_formatter("{x:,g}")
        if what.startswith("mean"):
            axes.set_yscale("log")
            axes.invert_yaxis()
        else:
            axes.yaxis.set_major_formatter("{x:.1%}")
            axes.locator_params(axis="y", nbins=5)
        axes.margins(y=0.25)
        for row, (x, y) in zip(rows, points, strict=True):
            axes.plot(x, y, "o", markersize=11, color=colour_of(row))
        axes.set_xlim(left=0)
        _names_on_the_right(axes, rows, points)

    return _picture(what, draw, rows, in_rows=False)


def share_of_the_ceiling(rows: Sequence[Row]) -> str:
    """Bars from zero, with a line at the ceiling."""
    rows = sorted(rows, key=lambda row: -(row.share or 0))

    def draw(axes: "Axes") -> None:
        axes.axvline(1, color=INK, linewidth=1, dashes=(4, 3))
        for y, row in enumerate(rows):
            share = row.share or 0
            axes.barh(y, share, 0.63, color=colour_of(row), alpha=0.85)
            _value(axes, share, y, f"{share:.0%} of {row.about['compute']}")
        axes.xaxis.set_major_formatter("{x:.0%}")
        axes.set_xlim(left=0)
        axes.set_xlabel("share of the ceiling")

    return _picture("ceiling", draw, rows, in_rows=True)


def colour_of(row: Row) -> str:
    """Return the colour of a row's family."""
    return COLOURS.get(row.family, OTHER)


def name_style(row: Row) -> dict[str, Any]:
    """Return how a row's name is written."""
    return {"color": colour_of(row), "fontweight": "bold" if row.family == "ours" else "normal"}


def _picture(
    title: str, draw: Callable[["Axes"], None], rows: Sequence[Row], *, in_rows: bool
) -> str:
    """Return what `draw` makes of axes as an SVG element, "" without rows.

    In rows, their names stand on the left at their places, the first on top; else there is room for
    them on the right.
    """
    if not rows:
        return ""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = 25 + max((8.2 if row.family == "ours" else 7.4) * len(row.title) for row in rows)
    left, right = (names, 100.0) if in_rows else (88.0, names)
    height = 70 + ROW * len(rows) if in_rows else max(HEIGHT, 72 + NAME * len(rows))
    with mpl.rc_context(SETTINGS | {"svg.hashsalt": title}):
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)  # a point is a pixel
        place = (left / WIDTH, 52 / height, (WIDTH - left - right) / WIDTH, (height - 72) / height)
        axes = figure.add_axes(place, frame_on=False)
        axes.tick_params(length=0, pad=8, colors=SOFT)
        axes.grid(visible=False, axis="y" if in_rows else "x")
        draw(axes)
        if in_rows:
            axes.set_yticks(range(len(rows)), [row.title for row in rows])
            axes.set_ylim(len(rows) - 0.5, -0.5)
            for label, row in zip(axes.get_yticklabels(), rows, strict=True):
                label.set(**name_style(row))
        return svg_of(figure, title)


def svg_of(figure: "Figure", title: str) -> str:
    """Return a figure as an SVG element that says `title` to who cannot see it."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r' id="\w+_\d+"', "", text)  # each picture counts from 1
    text = re.sub(r"\s*\n\s*", " ", text).replace("*{stroke", "svg *{stroke")
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


def _names_on_the_right(
    axes: "Axes", rows: Sequence[Row], points: Sequence[tuple[float, float]]
) -> None:
    """Write the rows' names in a column, each near its point and with a thin line to it."""
    extent = axes.get_window_extent()
    wanted = [float(y) for _, y in axes.transData.transform(points)]
    for row, point, y in zip(rows, points, apart(wanted, NAME, extent.y1), strict=True):
        line = {"arrowstyle": "-", "color": colour_of(row), "linewidth": 0.8, "alpha": 0.45}
        axes.annotate(
            row.title,
            point,
            (extent.x1 + 14, y),
            textcoords="figure pixels",
            verticalalignment="center_baseline",
            arrowprops=line | {"shrinkA": 0, "relpos": (0, 0.5)},
            **name_style(row),
        )


def apart(places: Sequence[float], gap: float, top: float) -> list[float]:
    """Return places in their order, moved up to lie `gap` apart, then down to end at the top."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    for before, i in pairwise(order):
        moved[i] = max(moved[i], moved[before] + gap)
    for i in reversed(order):
        moved[i] = min(moved[i], top)
        top = moved[i] - gap
    return moved


def _value(axes: "Axes", x: float, y: float, text: str) -> None:
    """Write a value to the right of a mark."""
    box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.5}
    how: Any = {"textcoords": "offset pixels", "verticalalignment": "center_baseline"}
    axes.annotate(text, (x, y), (10, 0), bbox=box, **how)
