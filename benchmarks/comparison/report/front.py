"""The Pareto front: which contenders are the fastest of all that are as faithful."""

from collections.abc import Callable, Sequence
from functools import partial

from comparison.contenders.entries import BASELINE
from comparison.report.rows import TITLES, Result, Row
from comparison.report.table import DASH, Table, table_from_rows

Columns = dict[str, Callable[[Row], str]]

EXACT = 1e-4
"""Mean difference of a logit that counts as none: orders of float32 sums make 1e-6 to 2e-6.

fp16 files lie 7e-4 from the baseline, bf16 1e-2, int8 1e-2 to 8e-2.
"""


def judged(result: Result, rows: Sequence[Row]) -> list[Row]:
    """Return the rows that have a speed, and labels to hold against the baseline's."""
    kept = result.get("accuracy", {}).get("rows", {})
    return [row for row in rows if row.throughput and "agreement" in kept.get(row.name, ())]


def front(result: Result, rows: Sequence[Row]) -> Table:
    """Return who is as fast and as faithful as each judged contender, by batch size, or "front"."""
    rows = judged(result, rows)
    batches = sorted({batch for row in rows for batch in row.throughput})

    def place(batch: int, row: Row) -> str:
        if batch not in row.throughput:
            return DASH
        ahead = [o for o in rows if dominates(result, batch, o, row)]
        return max(ahead, key=lambda o: o.throughput[batch]).title if ahead else "front"

    columns: Columns = {"Contender": lambda row: row.title}
    columns |= {f"batch {batch}": partial(place, batch) for batch in batches}
    note = (
        "“Front”: nobody is both as fast and as faithful, which is to keep as many labels of "
        f"{TITLES[BASELINE]} with logits as near to its own. Else: the fastest of those who are."
    )
    return table_from_rows("Speed and faithfulness together", note, rows, columns)


def dominates(result: Result, batch: int, one: Row, other: Row) -> bool:
    """Tell whether one contender is as fast and as faithful as another, and not its equal."""
    if batch not in one.throughput:
        return False
    ours, theirs = (
        (row.throughput[batch], kept["agreement"], -max(kept["mean_diff"], EXACT))
        for row in (one, other)
        for kept in (result["accuracy"]["rows"][row.name],)
    )
    return ours != theirs and all(a >= b for a, b in zip(ours, theirs, strict=True))
