"""Rows as CSV, JSON Lines and Parquet: every reader gets what is written, hostile or not."""

import csv
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vit_engine.outputs.csv_dialect import unescaped
from vit_engine.outputs.prediction import Prediction, Score
from vit_engine.outputs.scores import Scores
from vit_engine.rows.contact_sheet import is_sheet
from vit_engine.rows.formats import Format, are_rows, columns_of, format_from_name
from vit_engine.sources.tables.paths import items_from_table

SCORES = Scores(("cat",), "softmax")

HOSTILE = [
    "a\rb", "\r", "a\r\nb", "\n", 'say "x"', '"', "a,b", " a ", "", "'", "''", "=1+1", "'=1+1",
    "''=1", "'x", "\t=1", "-", "@", "+", "\ufeff", "\u2028", "\x85", "\x1c", "\x0b", "\\", "\\N",
    "NA", "null", "nan", "007", "1e3", "True", "#", "%00", "path", ";", "\x1b[31m", "\u202e", "🐈",
    "a\0b",
]  # fmt: skip

names = st.one_of(
    st.sampled_from([h for h in HOSTILE if h and "\0" not in h]),
    st.binary(min_size=1, max_size=30).filter(lambda b: b"\0" not in b).map(os.fsdecode),
    st.text(st.sampled_from("\r\n\"',;=+-@\t a\u00e9\udce9\udcff"), min_size=1, max_size=8),
)
labels = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"])))
scores = st.builds(Score, labels, st.integers(0, 2**31), st.floats(0, 1))


@st.composite
def predictions(draw) -> list[Prediction]:
    """Some rows, among them failed ones."""
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        path = draw(names)
        if draw(st.integers(0, 3)):
            rows.append(Prediction(path, tuple(draw(st.lists(scores, max_size=3)))))
        else:
            rows.append(Prediction(path, error=draw(labels), error_code="format"))
    return rows


def written(format_name: Format, rows: list[Prediction], folder: Path, suffix: str) -> Path:
    path = folder / f"rows.{suffix}"
    path.write_bytes(format_name.header + b"".join(map(format_name.line, rows)))
    if format_name.convert:
        lines, path = path, folder / f"converted.{suffix}"
        format_name.convert(lines, path)
    return path


def as_csv_cells(row: Prediction) -> list[str]:
    topk = json.dumps(row.to_dict()["topk"]) if row.error is None else None
    found = row.to_dict() | {"topk": topk}
    return ["" if value is None else str(value) for value in found.values()]


def is_utf8(name: str) -> bool:
    return name.encode("utf-8", "replace") == os.fsencode(name)


@pytest.fixture
def folder(tmp_path):
    """One for all examples, each of which writes its files anew."""
    return tmp_path


every_row = [Prediction(h.replace("\0", "") or "x", (Score(h, 1, 0.5),)) for h in HOSTILE]
ROUGHLY = settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@ROUGHLY
@given(predictions())
@example(every_row)
def test_csv_is_read_back_by_the_csv_module_pandas_and_our_reader(folder, rows):
    pandas = pytest.importorskip("pandas")
    path = written(format_from_name("csv", SCORES), rows, folder, "csv")
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        header, *found = csv.reader(file)
    assert tuple(header) == columns_of(SCORES)
    assert [[unescaped(cell) for cell in row] for row in found] == [as_csv_cells(r) for r in rows]
    frame = pandas.read_csv(
        path, dtype=object, keep_default_na=False, encoding_errors="surrogateescape"
    )
    assert list(frame.columns) == list(columns_of(SCORES))
    assert frame.values.tolist() == found
    assert [item.path for item in items_from_table(str(path), "path")] == [r.path for r in rows]
    assert are_rows(path)


@ROUGHLY
@given(predictions())
@example(every_row)
def test_jsonl_is_read_back_by_json_and_pandas(folder, rows):
    pandas = pytest.importorskip("pandas")
    path = written(format_from_name("jsonl", SCORES), rows, folder, "jsonl")
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line) for line in lines] == [row.to_dict() for row in rows]
    if all(is_utf8(r.path) for r in rows):  # pandas' strings hold no bytes
        frame = pandas.read_json(path, lines=True, dtype=False)
        assert frame["path"].tolist() == [r.path for r in rows]
    assert are_rows(path)


@ROUGHLY
@given(predictions())
@example(every_row)
def test_parquet_is_read_back_by_pyarrow_pandas_and_our_reader(folder, rows):
    pq = pytest.importorskip("pyarrow.parquet")
    pandas = pytest.importorskip("pandas")
    path = written(format_from_name("parquet", SCORES), rows, folder, "parquet")
    found = pq.read_table(path).to_pylist()
    for row, wanted in zip(found, rows, strict=True):
        raw = row.pop("raw")
        assert os.fsencode(wanted.path) == (row["path"].encode() if raw is None else raw)
        assert row | {"path": wanted.path} == wanted.to_dict()
    assert pandas.read_parquet(path)["path"].tolist() == [row["path"] for row in found]
    assert [item.path for item in items_from_table(str(path), "path")] == [r.path for r in rows]
    assert are_rows(path)


@pytest.mark.parametrize(
    ("function", "text"),
    [("softmax", b"12.3% cat"), ("sigmoid", b"12.3% cat"), ("none", b"0.123 cat")],
)
def test_a_table_shows_scores_as_what_they_are(function, text):
    format_name = format_from_name("table", Scores(("cat",), function))
    assert (
        format_name.line(Prediction("a", (Score("cat", 0, 0.123),))).split(None, 1)[1]
        == text + b"\n"
    )
    assert format_name.line(Prediction("a")).split() == [b"a", b"-"]


@pytest.mark.parametrize(
    ("content", "ours"),
    [
        (b"", False),
        (b"path,label\n", False),
        (b"path,label,index,score,topk,error,error_code\n", True),
        (b"path,label,index,score,topk,error,error_code,checked\n", False),
        (b"\xef\xbb\xbfpath,label,index,score,topk,error,error_code\r\n", False),
        (b'{"path": "a", "label": null}\n', False),
        (b"[" * 100_000, False),
        (b'{"path": "a"', False),
        (b"PAR1 and no more", False),
        (b"\xff\xfe\x00", False),
        (b"a.png  star 99.0%\n", False),
    ],
)
def test_rows_are_known_by_their_beginning(content, ours, tmp_path):
    (tmp_path / "file").write_bytes(content)
    assert are_rows(tmp_path / "file") is ours
    assert not is_sheet(tmp_path / "file")


def test_a_parquet_file_of_other_columns_is_not_ours(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"path": ["a"], "label": ["b"]}), tmp_path / "x.parquet")
    assert not are_rows(tmp_path / "x.parquet")
    assert not are_rows(tmp_path / "absent")
