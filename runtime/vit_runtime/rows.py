"""Predictions as rows of text: JSON lines, CSV, or a table to read."""

import csv
import io
import json
from collections.abc import Callable
from typing import Any

from vit_runtime.classifier import Prediction
from vit_runtime.sources import printable

COLUMNS = ("path", "label", "index", "score", "topk", "error", "error_code")


def row_from_prediction(prediction: Prediction) -> dict[str, Any]:
    """Return the row of one image, the same in every format: its labels or its error."""
    topk = [{"label": s.label, "index": s.index, "score": s.score} for s in prediction.topk]
    values = (
        prediction.path,
        prediction.label,
        prediction.index,
        prediction.score,
        topk,
        prediction.error,
        prediction.error_code,
    )
    return dict(zip(COLUMNS, values, strict=True))


def jsonl_line(prediction: Prediction) -> str:
    """Return one JSON document; a path's undecodable bytes are lone surrogate escapes."""
    row = row_from_prediction(prediction)
    return json.dumps(row) + "\n"


def csv_line(prediction: Prediction) -> str:
    """Return one CSV record; `topk` is JSON in its cell."""
    row = row_from_prediction(prediction)
    row["topk"] = json.dumps(row["topk"])
    return _csv(row.values())


def table_line(prediction: Prediction) -> str:
    """Return one line to read: path, then labels with percentages, or the error."""
    path = printable(prediction.path or "-")
    if prediction.error is not None:
        return f"{path:<32}  {prediction.error_code}: {printable(prediction.error)}\n"
    labels = (f"{printable(s.label)} {s.score:.1%}" for s in prediction.topk)
    return f"{path:<32}  {', '.join(labels)}\n"


def _csv(values: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


FORMATS: dict[str, tuple[str, Callable[[Prediction], str]]] = {
    "table": ("", table_line),
    "jsonl": ("", jsonl_line),
    "csv": (_csv(COLUMNS), csv_line),
}
"""By name: the header, and the line of one prediction."""
