"""Writes the README's table from the committed results: python benchmarks/readme_table.py."""

import json
import sys
from pathlib import Path

from comparison import tables
from comparison.rows import rows_from_result

ROOT = Path(__file__).resolve().parents[1]
README, RESULTS = ROOT / "README.md", ROOT / "benchmarks/results"
BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"


def with_table(text: str) -> str:
    """Return the README with what stands between its markers made anew."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f"{README} has no {BEGIN} ... {END} to write between")
    tables = [_section(path) for path in sorted(RESULTS.glob("*.json"))]
    return f"{before}{BEGIN}\n{''.join(tables)}{END}{after}"


def _section(path: Path) -> str:
    """One result as a short table: the speed-ups, and accuracy where it is the same model's."""
    result = json.loads(path.read_text())
    rows = [row for row in rows_from_result(result) if row.speedup]
    batches = [b for b in (1, 8, 32) if all(b in row.speedup for row in rows[:1])]
    accuracy = result.get("accuracy", {})
    same = accuracy.get("model", {}).get("name") == result["speed"]["model"]["name"]
    found = accuracy["rows"] if same else {}
    head = (
        result["speed"]["model"]["name"],
        "ms @1",
        *(f"img/s @{b}" for b in batches if b > 1),
        *(f"times @{b}" for b in batches),
        *(("top-1", "agrees") if found else ()),
        "load s",
        "file MB",
    )
    body = []
    for row in rows:
        theirs = found.get(row.name, {})
        body.append(
            (
                f"**{row.title}**" if row.family == "ours" else row.title,
                tables.ms(row.latency.p50 if row.latency else None),
                *(tables.rate(row.throughput.get(b)) for b in batches if b > 1),
                *(f"{row.speedup[b].median:.2f}" if b in row.speedup else "" for b in batches),
                *(
                    (tables.percent(theirs.get("top1")), tables.percent(theirs.get("agreement")))
                    if found
                    else ()
                ),
                tables.DASH if row.load_s is None else f"{row.load_s:.1f}",
                tables.megabytes(row.file_bytes),
            )
        )
    machine = result["machine"]
    where = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    link = path.with_suffix(".md").relative_to(ROOT)
    table = tables.Table(head, tuple(body)).markdown()
    return f"\n{table}\n\n{where}; {result['made'][:10]}; [the whole report]({link}).\n\n"


def main() -> None:
    """Write the README."""
    README.write_text(with_table(README.read_text()))


if __name__ == "__main__":
    main()
