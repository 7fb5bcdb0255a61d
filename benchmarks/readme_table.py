"""Writes the README's tables from the committed results: python benchmarks/readme_table.py."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparison.report import result_tables as tables
from comparison.report.result_rows import TITLES, Result, Row, rows_from_result

ROOT = Path(__file__).resolve().parents[1]
README, RESULTS = ROOT / "README.md", ROOT / "benchmarks/results"
BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"
BATCHES = (1, 8)


@dataclass(frozen=True)
class Stored:
    """One machine's result for a model; `letter` stands for the machine in the table's head."""

    letter: str
    path: Path
    result: Result
    rows: dict[str, Row]

    @property
    def accuracy(self) -> dict[str, Any]:
        """Return the rows of accuracy, where it is that of the model that was timed."""
        part = self.result.get("accuracy", {})
        same = part.get("model", {}).get("name") == self.result["speed"]["model"]["name"]
        return dict(part["rows"]) if same else {}

    def legend(self) -> str:
        """Say what the letter stands for, and where all of it is told."""
        m = self.result["machine"]
        where = m["gpu"] or (
            f"{m['cpu']} ({m['cpu_family']}), {m['cores']} cores with "
            f"{', '.join(m['cpu_features'])}"
        )
        link = self.path.with_suffix(".md").relative_to(ROOT)
        return f"{self.letter}: {where}; {self.result['made'][:10]}; [the whole report]({link})."


def with_table(text: str) -> str:
    """Return the README with what stands between its markers made anew."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f"{README} has no {BEGIN} ... {END} to write between")
    models: dict[str, list[Stored]] = {}
    letters: dict[str, str] = {}  # by machine
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        rows = {row.name: row for row in rows_from_result(result) if row.speedup}
        same = models.setdefault(result["speed"]["model"]["name"], [])
        letter = letters.setdefault(path.stem.partition("-on-")[2], "ABCDEFGH"[len(letters)])
        same.append(Stored(letter, path, result, rows))
    return f"{before}{BEGIN}\n{''.join(map(_section, models.values()))}{END}{after}"


def _section(found: Sequence[Stored]) -> str:
    """One model on all its machines: times, speed-ups, and accuracy where it is its own."""
    accuracy = next((s.accuracy for s in found if s.accuracy), {})
    head = [found[0].result["speed"]["model"]["name"]]
    for s in found:
        head += [f"{s.letter}: ms @1", *(f"{s.letter}: times @{b}" for b in BATCHES)]
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
            cells += [f"{times[b].median:.2f}" if b in times else tables.DASH for b in BATCHES]
        if accuracy:
            theirs = accuracy.get(name, {})
            cells += [tables.percent(theirs.get(key)) for key in ("top1", "agreement")]
        body.append((*cells, tables.megabytes(known.file_bytes)))
    table = tables.Table(tuple(head), tuple(body)).markdown()
    return f"\n{table}\n\n" + "\\\n".join(s.legend() for s in found) + "\n\n"


def main() -> None:
    """Write the README."""
    README.write_text(with_table(README.read_text()))


if __name__ == "__main__":
    main()
