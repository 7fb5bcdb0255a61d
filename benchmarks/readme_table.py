"""Writes the tables of docs/benchmarks.md, and the README's, from the committed results.

python benchmarks/readme_table.py
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from comparison.report import table
from comparison.report.rows import TITLES, Result, Row, rows_from_result
from comparison.report.sections import rate_at

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
BATCHES = {"cpu": (1, 8), "cuda": (1, 64)}
"""Sizes that are shown, by the device that the comparison was about."""
HEADLINE = "ViT-B/16, seeded random weights"
"""The model of the README's tables; whom they name, and in which order."""
HEADLINE_ROWS = (
    "pytorch", "pytorch-compile", "pytorch-compile-bf16", "zentorch-bf16", "optimum", "openvino",
    "openvino-bf16", "openvino-int8", "ours-fp16", "ours-int8", "ours-openvino-bf16",
    "ours-openvino-int8-bf16",
)  # fmt: skip
GPU_ROWS = (
    "pytorch", "pytorch-bf16", "pytorch-fp16", "pytorch-compile-fp16", "ours-cuda-fp32",
    "ours-cuda-graphs", "ours-cuda-pipelined",
)  # fmt: skip

Columns = dict[str, Callable[[str], str]]


class Stored(NamedTuple):
    """One machine's result for a model; `letter` stands for the machine in the table's head."""

    letter: str
    path: Path
    result: Result
    rows: dict[str, Row]
    accuracy: dict[str, Any]  # rows of it, where it is that of the model that was timed
    batches: tuple[int, ...]  # that are shown

    def cells(self, cell: Callable[[Row], str]) -> Callable[[str], str]:
        """Return what makes a column's cell of a contender's name."""
        return lambda name: cell(self.rows[name]) if name in self.rows else table.DASH

    def times(self, head: str) -> Columns:
        """Return a column for each size, of times the baseline."""

        def cell(batch: int, row: Row) -> str:
            return table.times(row.speedup.get(batch))

        return {head.format(self.letter, b): self.cells(partial(cell, b)) for b in self.batches}

    def legend(self, folder: Path) -> str:
        """Say what the letter stands for, and where all of it is told, in a page of a folder."""
        m = self.result["machine"]
        cpu = f"{m['cpu']} ({m['cpu_family']}), {m['cores']} cores"
        where = m["gpu"] or f"{cpu} with {', '.join(m['cpu_features'])}"
        link = os.path.relpath(self.path.with_suffix(".md"), folder)
        shown = [r.speedup[b] for r in self.rows.values() for b in self.batches if b in r.speedup]
        doubtful = any(found.doubtful for found in shown)
        doubt = f"; {table.MARK}: {table.MARK_WORDS}" if doubtful else ""
        day = self.result["made"][:10]
        return f"{self.letter}: {where}; {day}{doubt}; [the whole report]({link})."


def stored() -> dict[str, list[Stored]]:
    """Return the committed results by the name of the model that was timed."""
    models: dict[str, list[Stored]] = {}
    letters: dict[str, str] = {}  # by machine
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        rows = {row.name: row for row in rows_from_result(result) if row.speedup}
        letter = letters.setdefault(path.stem.partition("-on-")[2], "ABCDEFGH"[len(letters)])
        timed, judged = result["speed"]["model"]["name"], result.get("accuracy")
        accuracy = judged["rows"] if judged and judged["model"]["name"] == timed else {}
        batches = BATCHES[result["device"]]
        one = Stored(letter, path, result, rows, accuracy, batches)
        models.setdefault(timed, []).append(one)
    return models


def every_table() -> str:
    """Return all models on all their machines, for docs/benchmarks.md."""
    text = ""
    for model, same in stored().items():
        for device in BATCHES:
            if found := [s for s in same if s.result["device"] == device]:
                columns: Columns = {}
                for s in found:
                    one = s.cells(lambda row: table.ms(row.latency(50)))
                    columns |= {f"{s.letter}: ms @1": one, **s.times("{}: times @{}")}
                columns |= _labels(found, {"top-1": "top1", "agrees": "agreement"})
                legend = [s.legend(ROOT / "docs") for s in found]
                text += "\n" + _table(model, TITLES, found, columns | _size(found), legend)
    return text


def headline() -> str:
    """Return the README's tables: one model on CPUs and on GPUs, few contenders."""
    models = stored()
    found = sorted(models[HEADLINE], key=lambda s: s.letter)
    cpus = [s for s in found if s.result["device"] == "cpu"]
    name, judged = next((n, same) for n, same in models.items() if any(s.accuracy for s in same))
    images = next(s.result["accuracy"]["images"] for s in judged if s.accuracy)
    labels = f"Labels: of {name} with its real weights, on {images} photographs."
    columns = {head: cell for s in cpus for head, cell in s.times("{}, batch {}").items()}
    columns |= _labels(judged, {"labels like PyTorch's": "agreement"}) | _size(cpus)
    legend = [*(s.legend(ROOT) for s in cpus), labels]
    head = "ViT-B/16, times as fast as eager PyTorch"
    text = "\n" + _table(head, HEADLINE_ROWS, cpus, columns, legend)
    for s in (s for s in found if s.result["device"] == "cuda"):
        rates: Columns = {f"{s.letter}, batch {b}": s.cells(partial(rate_at, b)) for b in s.batches}
        columns = rates | s.times("times eager fp32, batch {1}")
        text += _table("ViT-B/16, images a second", GPU_ROWS, [s], columns, [s.legend(ROOT)])
    return text


def _labels(found: Sequence[Stored], heads: dict[str, str]) -> Columns:
    """Return columns on the labels, of the first machine that knows: they hardly depend on it."""
    rows = {name: row for s in reversed(found) for name, row in s.accuracy.items()}

    def cell(what: str, name: str) -> str:
        return table.percent(rows.get(name, {}).get(what))

    return {head: partial(cell, what) for head, what in (heads if rows else {}).items()}


def _size(found: Sequence[Stored]) -> Columns:
    sizes = {name: row.file_bytes for s in reversed(found) for name, row in s.rows.items()}
    return {"file MB": lambda name: table.megabytes(sizes[name])}


def _table(
    head: str, names: Iterable[str], found: Sequence[Stored], columns: Columns, legend: list[str]
) -> str:
    """Return a table of those contenders that some machine has timed, ours in bold."""
    rows = {name: row for s in found for name, row in s.rows.items()}

    def titled(name: str) -> str:
        return f"**{TITLES[name]}**" if rows[name].family == "ours" else TITLES[name]

    timed = [name for name in names if name in rows]
    shown = table.table_from_rows("", "", timed, {head: titled} | columns)
    return shown.markdown() + "\n\n" + "\\\n".join(legend) + "\n\n"


PAGES = {
    ROOT / "docs/benchmarks.md": ("benchmark", every_table),
    ROOT / "README.md": ("headline", headline),
}
"""Where tables stand, the word of their markers there, and what is written."""


def with_table(page: Path, text: str) -> str:
    """Return a page's text with what stands between its markers made anew."""
    word, made = PAGES[page]
    begin, end = f"<!-- {word}:begin -->", f"<!-- {word}:end -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        sys.exit(f"{page} has no {begin} ... {end} to write between")
    return f"{before}{begin}\n{made()}{end}{after}"


def main() -> None:
    """Write the pages."""
    for page in PAGES:
        page.write_text(with_table(page, page.read_text()))


if __name__ == "__main__":
    main()
