"""Plots as inline SVG: no script, no font and no picture from elsewhere."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 72, 210, 20, 52


@dataclass(frozen=True)
class Series:
    """A named line, or a set of points, in the colour of its class."""

    name: str
    style: str  # a CSS class: "ours", "pytorch", ...
    dash: int  # which of a family's dash patterns and marks
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Bar:
    """A horizontal bar with its label to the left and its value to the right."""

    name: str
    style: str
    value: float
    text: str


@dataclass(frozen=True)
class Box:
    """Percentiles of one row: p10, p25, p50, p75, p90, and p99 or None."""

    name: str
    style: str
    marks: tuple[float, float, float, float, float, float | None]
    text: str


class Axis:
    """Maps values to pixels, linearly or by logarithm, with round ticks."""

    def __init__(self, values: Sequence[float], span: tuple[float, float], *, log: bool) -> None:
        low, high = min(values), max(values)
        self.log, self.span = log, span
        if log:
            self.ticks = _log_ticks(low, high)
            self.low, self.high = math.log(self.ticks[0]), math.log(self.ticks[-1])
        else:
            self.ticks = _linear_ticks(low, high)
            self.low, self.high = self.ticks[0], self.ticks[-1]

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        place = (math.log(value) if self.log else value) - self.low
        start, end = self.span
        return start + (end - start) * place / (self.high - self.low)


def _linear_ticks(low: float, high: float) -> list[float]:
    spread = (high - low) or abs(high) or 1
    step = 10 ** math.floor(math.log10(spread / 4))
    step *= next(m for m in (1, 2, 2.5, 5, 10) if spread / (step * m) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * i for i in range(first, max(last, first + 1) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    steps = [m * 10**e for e in range(-4, 8) for m in (1, 2, 5)]
    first = max(i for i, s in enumerate(steps) if s <= low)
    last = min(i for i, s in enumerate(steps) if s >= high)
    return steps[first : max(last, first + 1) + 1]


def lines(series: Sequence[Series], x_title: str, y_title: str) -> str:
    """Lines over a logarithmic x of powers of two, y from zero; names at the lines' ends."""
    xs = sorted({x for s in series for x, _ in s.points})
    y = Axis([0, *(v for s in series for _, v in s.points)], (HEIGHT - BOTTOM, TOP), log=False)
    inner = WIDTH - LEFT - RIGHT

    def x(value: float) -> float:
        low, high = math.log2(xs[0]), math.log2(xs[-1])
        share = (math.log2(value) - low) / (high - low) if high > low else 0.5
        return LEFT + 12 + (inner - 24) * share

    parts = [*_y_axis(y, y_title), _x_title(x_title)]
    parts += [_text(x(v), HEIGHT - BOTTOM + 20, f"{v:g}", "middle", "tick") for v in xs]
    ends = _spaced([y(s.points[-1][1]) for s in series], 16, TOP, HEIGHT - BOTTOM)
    for s, end in zip(series, ends, strict=True):
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in s.points)
        last = s.points[-1]
        parts.append(
            f'<g class="{s.style} d{s.dash}"><title>{escape(s.name)}</title>'
            f'<polyline class="line" points="{path}"/>'
            + "".join(
                f'<circle class="dot" cx="{x(a):.1f}" cy="{y(b):.1f}" r="3.5"/>'
                for a, b in s.points
            )
            + f'<path class="lead" d="M{x(last[0]) + 6:.1f} {y(last[1]):.1f} '
            f'L{WIDTH - RIGHT + 10} {end:.1f}"/>'
            + _text(WIDTH - RIGHT + 14, end + 4, s.name, "start", "name")
            + "</g>"
        )
    return _svg(parts, HEIGHT, f"{y_title} by {x_title}")


def scatter(series: Sequence[Series], x_title: str, y_title: str) -> str:
    """Points with their names beside them; both axes fit the points."""
    every = [p for s in series for p in s.points]
    x = Axis([0, *(a for a, _ in every)], (LEFT + 8, WIDTH - RIGHT + 60), log=False)
    y = Axis(_padded([b for _, b in every]), (HEIGHT - BOTTOM, TOP), log=False)
    parts = [*_y_axis(y, y_title, suffix="%"), _x_title(x_title)]
    parts += [_text(x(v), HEIGHT - BOTTOM + 20, f"{v:g}", "middle", "tick") for v in x.ticks]
    # Names keep clear of each other and of every dot.
    taken = [(x(a) - 8, x(a) + 8, y(b) + 4) for a, b in every]
    for s in sorted(series, key=lambda s: s.points[0][0], reverse=True):
        px, py = x(s.points[0][0]), y(s.points[0][1])
        width = 7.6 * len(s.name)  # pixels, a bold name's at most
        left = px + 10 + width > WIDTH
        text_x = px - 10 if left else px + 10
        start = text_x - width if left else text_x
        text_y = _free(start, start + width, py + 4, taken)
        taken.append((start, start + width, text_y))
        parts.append(
            f'<g class="{s.style}"><title>{escape(s.name)}</title>'
            f'<path class="lead" d="M{px:.1f} {py:.1f} L{text_x:.1f} {text_y - 4:.1f}"/>'
            f'<circle class="dot" cx="{px:.1f}" cy="{py:.1f}" r="6"/>'
            + _text(text_x, text_y, s.name, "end" if left else "start", "name")
            + "</g>"
        )
    return _svg(parts, HEIGHT, f"{y_title} against {x_title}")


def bars(found: Sequence[Bar], x_title: str, limit: float | None = None) -> str:
    """Horizontal bars from zero, with a line at `limit`."""
    left, row = 210, 30
    height = TOP + row * len(found) + BOTTOM - 8
    x = Axis(
        [0, *(b.value for b in found), *([limit] if limit else [])], (left, WIDTH - 70), log=False
    )
    parts = [_x_title(x_title, left, WIDTH - 70, height)]
    for tick in x.ticks:
        parts.append(f'<path class="grid" d="M{x(tick):.1f} {TOP - 6} V{height - BOTTOM + 4}"/>')
        text = f"{tick:.0%}" if limit else f"{tick:g}"
        parts.append(_text(x(tick), height - BOTTOM + 20, text, "middle", "tick"))
    for i, bar in enumerate(found):
        y = TOP + row * i
        parts.append(
            f'<g class="{bar.style}"><title>{escape(bar.name)}: {escape(bar.text)}</title>'
            f'<rect class="bar" x="{left}" y="{y + 4}" width="{max(1, x(bar.value) - left):.1f}" '
            f'height="{row - 11}" rx="2"/>'
            + _text(left - 10, y + 19, bar.name, "end", "name")
            + _text(x(bar.value) + 8, y + 19, bar.text, "start", "value")
            + "</g>"
        )
    if limit:
        parts.append(f'<path class="limit" d="M{x(limit):.1f} {TOP - 8} V{height - BOTTOM + 4}"/>')
    return _svg(parts, height, x_title)


def boxes(found: Sequence[Box], x_title: str) -> str:
    """Box plots on a logarithmic axis: box p25 to p75, whiskers p10 to p90, a ring at p99."""
    left, row = 210, 30
    height = TOP + row * len(found) + BOTTOM - 8
    every = [m for box in found for m in box.marks if m is not None]
    x = Axis(every, (left, WIDTH - 100), log=True)
    parts = [_x_title(x_title, left, WIDTH - 100, height)]
    for tick in x.ticks:
        parts.append(f'<path class="grid" d="M{x(tick):.1f} {TOP - 6} V{height - BOTTOM + 4}"/>')
        parts.append(_text(x(tick), height - BOTTOM + 20, f"{tick:g}", "middle", "tick"))
    for i, box in enumerate(found):
        y = TOP + row * i + row / 2
        p10, p25, p50, p75, p90 = (x(m) for m in box.marks[:5])
        p99 = box.marks[5]
        end = max(p90, x(p99) if p99 else 0) + 12
        parts.append(
            f'<g class="{box.style}"><title>{escape(box.name)}: {escape(box.text)}</title>'
            f'<path class="whisker" d="M{p10:.1f} {y} H{p90:.1f}"/>'
            f'<rect class="box" x="{p25:.1f}" y="{y - 8}" width="{max(2, p75 - p25):.1f}" '
            'height="16" rx="2"/>'
            f'<path class="median" d="M{p50:.1f} {y - 10} V{y + 10}"/>'
            + (f'<circle class="ring" cx="{x(p99):.1f}" cy="{y}" r="4"/>' if p99 else "")
            + _text(left - 10, y + 4, box.name, "end", "name")
            + _text(end, y + 4, box.text, "start", "value")
            + "</g>"
        )
    return _svg(parts, height, x_title)


def _svg(parts: Sequence[str], height: float, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(label)}">'
        + "".join(parts)
        + "</svg>"
    )


def _y_axis(y: Axis, title: str, suffix: str = "") -> list[str]:
    parts = []
    for tick in y.ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {y(tick):.1f} H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 8, y(tick) + 4, f"{tick:g}{suffix}", "end", "tick"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text class="axis" text-anchor="middle" transform="translate(14 {middle}) rotate(-90)">'
        f"{escape(title)}</text>"
    )
    return parts


def _x_title(
    title: str, left: float = LEFT, right: float = WIDTH - RIGHT, height: float = HEIGHT
) -> str:
    return _text((left + right) / 2, height - 10, title, "middle", "axis")


def _text(x: float, y: float, text: str, anchor: str, style: str) -> str:
    return (
        f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )


def _spaced(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move places apart to at least `gap`, in their order, within low to high."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = [0.0] * len(places)
    last = low - gap
    for i in order:
        last = moved[i] = max(places[i], last + gap)
    last = high + gap
    for i in reversed(order):
        last = moved[i] = min(moved[i], last - gap)
    return moved


def _free(start: float, end: float, y: float, taken: Sequence[tuple[float, float, float]]) -> float:
    """Return the y nearest to the wanted one where a text overlaps no other."""
    for shift in (0, *(s * sign for s in range(15, 120, 15) for sign in (-1, 1))):
        if all(end < a or start > b or abs(y + shift - t) >= 14 for a, b, t in taken):
            return y + shift
    return y


def _padded(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    pad = (high - low) * 0.1 or 1.0
    return [low - pad, high + pad]
