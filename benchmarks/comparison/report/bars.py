"""The README's chart: how many times as fast as the baseline, and how many labels are kept."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from comparison.report.plots import INK, SETTINGS, colour_of, name_style, svg_of
from comparison.report.rows import Row
from comparison.report.table import percent, times

WIDTH, NAMES, BARS, LABELS, HEAD, ROW = 860, 250, 600, 760, 38, 27
"""Of the chart; where names and bars end and the share of labels begins; heights; in pixels."""


class Panel(NamedTuple):
    """One machine's rows, at two batch sizes; `kept` is the share of labels by a row's name."""

    title: str
    rows: Sequence[Row]
    batches: tuple[int, ...]
    kept: Mapping[str, float]


def speed_and_labels(panels: Sequence[Panel]) -> str:
    """Return an SVG element of panels one below the other, with two bars in each row."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    height = sum(HEAD + ROW * len(panel.rows) for panel in panels) + 8
    with mpl.rc_context(SETTINGS | {"svg.hashsalt": "speed", "axes.grid": False}):
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)  # a point is a pixel

        def write(x: int, y: float, text: str, **style: Any) -> None:
            figure.text(x / WIDTH, 1 - y / height, text, va="center_baseline", **style)

        top = 0
        for panel in panels:
            size, head = ROW * len(panel.rows), {"fontweight": "bold", "color": INK}
            write(8, top + HEAD / 2, panel.title, **head)
            small, large = panel.batches
            write(BARS + 15, top + HEAD / 2, f"batch {small} (pale) / {large}", **head)
            write(LABELS, top + HEAD / 2, "labels kept" if panel.kept else "", **head)
            top += HEAD + size
            wide = (BARS - NAMES) / WIDTH
            axes = figure.add_axes((NAMES / WIDTH, 1 - top / height, wide, size / height))
            axes.set_axis_off()
            axes.set_ylim(len(panel.rows) - 0.5, -0.5)
            for i, row in enumerate(panel.rows):
                for batch, y, alpha in ((small, i - 0.2, 0.45), (large, i + 0.2, 1.0)):
                    ratio = row.speedup[batch].median
                    axes.barh(y, ratio, 0.36, color=colour_of(row), alpha=alpha)
                told = " / ".join(times(row.speedup[batch]) for batch in panel.batches)
                middle, style = top - size + ROW * (i + 0.5), name_style(row)
                write(NAMES - 10, middle, row.title, ha="right", **style)
                write(BARS + 15, middle, told, **style)
                if panel.kept:
                    write(LABELS, middle, percent(panel.kept[row.name]), **style)
            axes.set_xlim(left=0)
        text = svg_of(figure, "Times as fast as eager PyTorch in fp32, and labels kept")
    # A picture that a page refers to takes no font from that page.
    return text.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
