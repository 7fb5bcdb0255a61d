"""Writes the tables of docs/benchmarks.md, and the README's, from the committed results.

python benchmarks/readme_table.py
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from comparison.report import table
from comparison.report.rows import TITLES, Result, Row, rows_from_result

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


@dataclass(frozen=True)
class Stored:
    """One machine's result for a model; `letter` stands for the machine in the table's head."""

    letter: str
    path: Path
    result: Result
    rows: dict[str, Row]

    @property
    def batches(self) -> tuple[int, ...]:
        """Return the sizes that are shown."""
        return BATCHES[self.result["device"]]

    @property
    def accuracy(self) -> dict[str, Any]:
        """Return the rows of accuracy, where it is that of the model that was timed."""
        part = self.result.get("accuracy", {})
        same = part.get("model", {}).get("name") == self.result["speed"]["model"]["name"]
        return dict(part["rows"]) if same else {}

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
        same = models.setdefault(result["speed"]["model"]["name"], [])
        same.append(Stored(letter, path, result, rows))
    return models


Column = tuple[str, Stored, Callable[[Row], str]]
"""Its head, whose rows it shows, and its cells."""


def every_table() -> str:
    """Return all models on all their machines, for docs/benchmarks.md."""
    text = ""
    for model, same in stored().items():
        for found in ([s for s in same if s.result["device"] == device] for device in BATCHES):
            columns: list[Column] = []
            for s in found:
                columns.append((f"{s.letter}: ms @1", s, lambda row: table.ms(row.latency(50))))
                columns += [(f"{s.letter}: times @{b}", s, partial(_times, b)) for b in s.batches]
            if found:
                kept = {"top-1": "top1", "agrees": "agreement"} if _accuracy(found) else {}
                text += "\n" + _table(model, TITLES, columns, kept, _accuracy(found))
                text += _lines(s.legend(ROOT / "docs") for s in found)
    return text


def headline() -> str:
    """Return the README's tables: one model on CPUs and on GPUs, few contenders."""
    models = stored()
    found = sorted(models[HEADLINE], key=lambda s: s.letter)
    cpus = [s for s in found if s.result["device"] == "cpu"]
    name, judged = next((n, same) for n, same in models.items() if _accuracy(same))
    images = next(s.result["accuracy"]["images"] for s in judged if s.accuracy)
    labels = f"Labels: of {name} with its real weights, on {images} photographs."
    head, kept = "ViT-B/16, times as fast as eager PyTorch", {"labels like PyTorch's": "agreement"}
    columns = [(f"{s.letter}, batch {b}", s, partial(_times, b)) for s in cpus for b in s.batches]
    text = "\n" + _table(head, HEADLINE_ROWS, columns, kept, _accuracy(judged))
    text += _lines([*(s.legend(ROOT) for s in cpus), labels])
    for s in (s for s in found if s.result["device"] == "cuda"):
        columns = [(f"{s.letter}, batch {b}", s, partial(_rate, b)) for b in s.batches]
        columns += [(f"times eager fp32, batch {b}", s, partial(_times, b)) for b in s.batches]
        text += _table("ViT-B/16, images a second", GPU_ROWS, columns, size=False)
        text += _lines([s.legend(ROOT)])
    return text


def _times(batch: int, row: Row) -> str:
    return table.times(row.speedup.get(batch))


def _rate(batch: int, row: Row) -> str:
    return table.rate(row.throughput.get(batch))


def _accuracy(found: Sequence[Stored]) -> dict[str, Any]:
    """Return each row's accuracy on the first machine that has it: it hardly depends on that."""
    return {name: row for s in reversed(found) for name, row in s.accuracy.items()}


def _table(
    head: str,
    names: Iterable[str],
    columns: Sequence[Column],
    kept: dict[str, str] | None = None,
    accuracy: dict[str, Any] | None = None,
    *,
    size: bool = True,
) -> str:
    """Return a table of those contenders that some machine has timed, ours in bold.

    `kept` has the heads of columns on the labels, and what of `accuracy` they show.
    """
    heads = [head, *(name for name, _, _ in columns), *(kept or ()), *(["file MB"] if size else [])]
    body = []
    for name in names:
        if known := next((s.rows[name] for _, s, _ in columns if name in s.rows), None):
            cells = [f"**{TITLES[name]}**" if known.family == "ours" else TITLES[name]]
            cells += [
                cell(s.rows[name]) if name in s.rows else table.DASH for _, s, cell in columns
            ]
            theirs = (accuracy or {}).get(name, {})
            cells += [table.percent(theirs.get(what)) for what in (kept or {}).values()]
            cells += [table.megabytes(known.file_bytes)] if size else []
            body.append(tuple(cells))
    return table.Table("", "", tuple(heads), tuple(body)).markdown()


def _lines(legend: Iterable[str]) -> str:
    return "\n\n" + "\\\n".join(legend) + "\n\n"


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
