"""Writes the tables of docs/benchmarks.md, and the README's chart, from the committed results.

python benchmarks/readme_table.py
"""

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from comparison.report import table
from comparison.report.bars import Panel, speed_and_labels
from comparison.report.rows import TITLES, Result, Row, rows_from_result
from comparison.report.sections import rate_at

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
BATCHES = {"cpu": (1, 8), "cuda": (1, 64)}
"""Sizes that are shown, by the device that the comparison was about."""
PAGE = ROOT / "docs/benchmarks.md"
BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"
CHART = ROOT / "docs/speed.svg"
HEADLINE = "ViT-B/16, seeded random weights"
"""The model of the README's chart; on which machines, and beside whom."""
CHART_ROWS = {
    "Zen 4": (
        "pytorch-compile-bf16", "zentorch-bf16", "openvino-bf16", "openvino-int8-bf16",
        "ours-fp16", "ours-openvino-bf16", "ours-openvino-int8-bf16",
    ),
    "H200": ("pytorch-fp16", "pytorch-compile-fp16", "ours-cuda-graphs", "ours-cuda-pipelined"),
}  # fmt: skip
KNOWN_AS = {
    "family 25 model 1": "Zen 3", "family 25 model 17": "Zen 4", "family 26 model 2": "Zen 5",
}  # fmt: skip

Columns = dict[str, Callable[[str], str]]


class Stored(NamedTuple):
    """One machine's result for a model."""

    machine: str  # by the name that people know
    path: Path
    result: Result
    rows: dict[str, Row]
    accuracy: dict[str, Any]  # rows of it, where it is that of the model that was timed
    batches: tuple[int, ...]  # that are shown

    def cells(self, cell: Callable[[Row], str]) -> Callable[[str], str]:
        """Return what makes a column's cell of a contender's name."""
        return lambda name: cell(self.rows[name]) if name in self.rows else table.DASH

    def legend(self) -> str:
        """Say which machine it is, and where all of it is told."""
        m = self.result["machine"]
        cpu = f"{m['cpu']} ({m['cpu_family']}), {m['cores']} cores"
        where = m["gpu"] or f"{cpu} with {', '.join(m['cpu_features'])}"
        link = os.path.relpath(self.path.with_suffix(".md"), PAGE.parent)
        shown = [r.speedup[b] for r in self.rows.values() for b in self.batches if b in r.speedup]
        doubtful = any(found.doubtful for found in shown)
        doubt = f"; {table.MARK}: {table.MARK_WORDS}" if doubtful else ""
        day = self.result["made"][:10]
        return f"{self.machine}: {where}; {day}{doubt}; [the whole report]({link})."


def stored() -> dict[str, list[Stored]]:
    """Return the committed results by the name of the model that was timed."""
    models: dict[str, list[Stored]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        rows = {row.name: row for row in rows_from_result(result) if row.speedup}
        m = result["machine"]
        gpu = (m["gpu"] or "").partition(",")[0].removeprefix("NVIDIA ")
        machine = gpu or KNOWN_AS.get(m["cpu_family"], m["cpu"])
        timed, judged = result["speed"]["model"]["name"], result.get("accuracy")
        accuracy = judged["rows"] if judged and judged["model"]["name"] == timed else {}
        batches = BATCHES[result["device"]]
        one = Stored(machine, path, result, rows, accuracy, batches)
        models.setdefault(timed, []).append(one)
    return models


def every_table() -> str:
    """Return all models on all their machines, for docs/benchmarks.md."""
    text = ""

    def times(batch: int, row: Row) -> str:
        return table.times(row.speedup.get(batch))

    for model, same in stored().items():
        for device in BATCHES:
            if found := [s for s in same if s.result["device"] == device]:
                assert len({s.machine for s in found}) == len(found), "two machines of one name"
                columns: Columns = {}
                for s in found:
                    columns[f"{s.machine}: ms @1"] = s.cells(lambda r: table.ms(r.latency(50)))
                    for batch in s.batches:
                        columns[f"{s.machine}: times @{batch}"] = s.cells(partial(times, batch))
                if device == "cuda":
                    most = found[0].batches[-1]
                    columns[f"images/s @{most}"] = found[0].cells(partial(rate_at, most))
                text += "\n" + _table(model, found, columns | _labels(found))
    return text


def chart() -> str:
    """Return the README's chart, an SVG element; labels are a trained model's, on the same CPU."""
    models, panels = stored(), []
    for machine, names in CHART_ROWS.items():
        one = next(s for s in models[HEADLINE] if s.machine == machine)
        m, same = one.result["machine"], [s for s in chain(*models.values()) if s.accuracy]
        judged = next((s.accuracy for s in same if s.machine == machine), {})
        kept = {name: row["agreement"] for name, row in judged.items()}
        where = f"an NVIDIA {machine}" if m["gpu"] else f"{m['cores']} cores of an AMD {machine}"
        title = f"ViT-B/16 on {where}: times eager fp32"
        panels.append(Panel(title, [one.rows[name] for name in names], one.batches, kept))
    return speed_and_labels(panels)


def _labels(found: Sequence[Stored]) -> Columns:
    """Return columns on the labels, of the first machine that knows: they hardly depend on it."""
    rows = {name: row for s in reversed(found) for name, row in s.accuracy.items()}

    def cell(what: str, name: str) -> str:
        return table.percent(rows.get(name, {}).get(what))

    heads = {"top-1": "top1", "agrees": "agreement"} if rows else {}
    return {head: partial(cell, what) for head, what in heads.items()}


def _table(model: str, found: Sequence[Stored], columns: Columns) -> str:
    """Return a table of those contenders that some machine has timed, ours in bold."""
    rows = {name: row for s in reversed(found) for name, row in s.rows.items()}

    def titled(name: str) -> str:
        return f"**{TITLES[name]}**" if rows[name].family == "ours" else TITLES[name]

    timed = [name for name in TITLES if name in rows]
    size: Columns = {"file MB": lambda name: table.megabytes(rows[name].file_bytes)}
    shown = table.table_from_rows("", "", timed, {model: titled} | columns | size)
    marked = [_best_in_bold(*column) for column in zip(shown.head, *shown.body, strict=True)]
    shown = replace(shown, body=tuple(zip(*marked, strict=True)))
    legend = "\\\n".join(s.legend() for s in found)
    return f"{shown.markdown()}\n\n{legend}\n\n"


def _best_in_bold(head: str, *cells: str) -> list[str]:
    """Mark a column's best numbers, but where the first row, the baseline, has one of them."""
    numbers = [float(re.sub(r"[^\d.]", "", c)) if c[:1].isdigit() else None for c in cells]
    best = (min if re.search("ms|MB", head) else max)((n for n in numbers if n), default=None)
    bold = [best is not None and n == best != numbers[0] for n in numbers]
    return [f"**{c}**" if b else c for c, b in zip(cells, bold, strict=True)]


def with_tables(text: str) -> str:
    """Return the page's text with what stands between its markers made anew."""
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        sys.exit(f"{PAGE} has no {BEGIN} ... {END} to write between")
    return f"{before}{BEGIN}\n{every_table()}{END}{after}"


def main() -> None:
    """Write the page and the chart."""
    PAGE.write_text(with_tables(PAGE.read_text()))
    CHART.write_text(chart() + "\n")


if __name__ == "__main__":
    main()
