"""Writes the tables of docs/benchmarks.md, and the README's, from the committed results.

python benchmarks/readme_table.py
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparison.report import result_tables as tables
from comparison.report.quiet import MARK, MARK_WORDS
from comparison.report.result_rows import TITLES, Result, Row, rows_from_result

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
BATCHES = {"cpu": (1, 8), "cuda": (1, 64)}
"""Sizes that are shown, by the device that the comparison was about."""
HEADLINE = "ViT-B/16, seeded random weights"
"""The model of the README's table."""
HEADLINE_ROWS = (
    "pytorch", "pytorch-compile", "pytorch-compile-bf16", "zentorch-bf16", "optimum", "openvino",
    "openvino-bf16", "openvino-int8", "ours-fp16", "ours-int8", "ours-openvino-bf16",
    "ours-openvino-int8-bf16",
)  # fmt: skip
"""Whom the README's table names, and in which order."""
GPU_ROWS = (
    "pytorch", "pytorch-bf16", "pytorch-fp16", "pytorch-compile-fp16", "ours-cuda-fp32",
    "ours-cuda-graphs", "ours-cuda-pipelined",
)  # fmt: skip
"""The same of its table for GPUs."""


@dataclass(frozen=True)
class Stored:
    """One machine's result for a model; `letter` stands for the machine in the table's head."""

    letter: str
    path: Path
    result: Result
    rows: dict[str, Row]

    @property
    def device(self) -> str:
        """Return what the comparison was about, "cpu" or "cuda"."""
        return str(self.result["device"])

    @property
    def accuracy(self) -> dict[str, Any]:
        """Return the rows of accuracy, where it is that of the model that was timed."""
        part = self.result.get("accuracy", {})
        same = part.get("model", {}).get("name") == self.result["speed"]["model"]["name"]
        return dict(part["rows"]) if same else {}

    def legend(self, folder: Path) -> str:
        """Say what the letter stands for, and where all of it is told, in a page of a folder."""
        m = self.result["machine"]
        where = m["gpu"] or (
            f"{m['cpu']} ({m['cpu_family']}), {m['cores']} cores with "
            f"{', '.join(m['cpu_features'])}"
        )
        link = os.path.relpath(self.path.with_suffix(".md"), folder)
        sizes = BATCHES[self.device]
        shown = [r.speedup[b] for r in self.rows.values() for b in sizes if b in r.speedup]
        doubt = f"; {MARK}: {MARK_WORDS}" if any(times.doubtful for times in shown) else ""
        day = self.result["made"][:10]
        return f"{self.letter}: {where}; {day}{doubt}; [the whole report]({link})."


def stored() -> dict[str, list[Stored]]:
    """Return the committed results by the name of the model that was timed."""
    models: dict[str, list[Stored]] = {}
    letters: dict[str, str] = {}  # by machine
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        rows = {row.name: row for row in rows_from_result(result) if row.speedup}
        same = models.setdefault(result["speed"]["model"]["name"], [])
        letter = letters.setdefault(path.stem.partition("-on-")[2], "ABCDEFGH"[len(letters)])
        same.append(Stored(letter, path, result, rows))
    return models


def every_table() -> str:
    """Return all models on all their machines, for docs/benchmarks.md."""
    parts = [
        [s for s in same if s.device == device] for same in stored().values() for device in BATCHES
    ]
    return "".join(_section(part, BATCHES[part[0].device]) for part in parts if part)


def headline() -> str:
    """Return the README's tables: one model on CPUs and on GPUs, few contenders."""
    models = stored()
    found = sorted(models[HEADLINE], key=lambda s: s.letter)
    return _on_cpus([s for s in found if s.device == "cpu"], models) + "".join(
        _on_gpu(s) for s in found if s.device == "cuda"
    )


def _on_cpus(found: Sequence[Stored], models: dict[str, list[Stored]]) -> str:
    """Return how many times as fast all are on each machine, and who keeps the labels."""
    judged = next(kept for kept in models.values() if any(s.accuracy for s in kept))
    accuracy, other = _accuracy(judged), next(s for s in judged if s.accuracy)
    head = ["ViT-B/16, times as fast as eager PyTorch"]
    head += [f"{s.letter}, batch {b}" for s in found for b in BATCHES["cpu"]]
    head += ["labels like PyTorch's", "file MB"]
    body = []
    for name in HEADLINE_ROWS:
        rows = [s.rows.get(name) for s in found]
        known = next(row for row in rows if row)
        times = [row.speedup if row else {} for row in rows]
        cells = [f"**{TITLES[name]}**" if known.family == "ours" else TITLES[name]]
        cells += [tables.times(t.get(b)) for t in times for b in BATCHES["cpu"]]
        cells.append(tables.percent(accuracy.get(name, {}).get("agreement")))
        body.append((*cells, tables.megabytes(known.file_bytes)))
    legend = [s.legend(ROOT) for s in found]
    name, images = other.result["speed"]["model"]["name"], other.result["accuracy"]["images"]
    legend.append(f"Labels: of {name} with its real weights, on {images} photographs.")
    table = tables.Table(tuple(head), tuple(body)).markdown()
    return f"\n{table}\n\n" + "\\\n".join(legend) + "\n\n"


def _on_gpu(found: Stored) -> str:
    """Return images a second on one machine, and how many times as fast that is."""
    sizes = BATCHES["cuda"]
    head = ["ViT-B/16, images a second", *(f"{found.letter}, batch {b}" for b in sizes)]
    head += [f"times eager fp32, batch {b}" for b in sizes]
    body = []
    for name in GPU_ROWS:
        row = found.rows[name]
        cells = [f"**{TITLES[name]}**" if row.family == "ours" else TITLES[name]]
        cells += [tables.rate(row.throughput.get(b)) for b in sizes]
        body.append((*cells, *(tables.times(row.speedup.get(b)) for b in sizes)))
    table = tables.Table(tuple(head), tuple(body)).markdown()
    return f"{table}\n\n{found.legend(ROOT)}\n\n"


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


def _accuracy(found: Sequence[Stored]) -> dict[str, Any]:
    """Return each row's accuracy on the first machine that has it: it hardly depends on that."""
    return {name: row for s in reversed(found) for name, row in s.accuracy.items()}


def _section(found: Sequence[Stored], sizes: Sequence[int]) -> str:
    """One model on all its machines: times, speed-ups, and accuracy where it is its own."""
    accuracy = _accuracy(found)
    head = [found[0].result["speed"]["model"]["name"]]
    for s in found:
        head += [f"{s.letter}: ms @1", *(f"{s.letter}: times @{b}" for b in sizes)]
    head += [*(("top-1", "agrees") if accuracy else ()), "file MB"]
    body = []
    for name, title in TITLES.items():
        rows = [s.rows.get(name) for s in found]
        known = next((row for row in rows if row), None)
        if known is None:
            continue
        cells = [f"**{title}**" if known.family == "ours" else title]
        for row in rows:
            cells.append(tables.ms(row.latency.p50 if row and row.latency else None))
            times = row.speedup if row else {}
            cells += [tables.times(times.get(b)) for b in sizes]
        if accuracy:
            theirs = accuracy.get(name, {})
            cells += [tables.percent(theirs.get(key)) for key in ("top1", "agreement")]
        body.append((*cells, tables.megabytes(known.file_bytes)))
    table = tables.Table(tuple(head), tuple(body)).markdown()
    return f"\n{table}\n\n" + "\\\n".join(s.legend(ROOT / "docs") for s in found) + "\n\n"


def main() -> None:
    """Write the pages."""
    for page in PAGES:
        page.write_text(with_table(page, page.read_text()))


if __name__ == "__main__":
    main()
