"""The table to read: short labels, columns that align, the width of the terminal."""

import re
from pathlib import Path

import pytest

from support import ROOT
from support.terminal import on_a_terminal
from vit_engine.artefact.description import description_of, short_labels
from vit_engine.artefact.metadata import path_from_name, read_contract
from vit_engine.outputs.prediction import Prediction, Score
from vit_engine.outputs.scores import Scores
from vit_engine.rows.text_table import Table, _cells

IMAGENET = ("tabby, tabby cat", "crane", "crane, bird", "Egyptian cat", "red, ripe", "red, unripe")
NAMES = short_labels(IMAGENET)
OUTPUT = Scores(IMAGENET, "softmax")


def row(path: str, *labels: str) -> Prediction:
    scores = (0.94, 0.04, 0.01)
    return Prediction(path, tuple(Score(x, 1, s) for x, s in zip(labels, scores, strict=False)))


def test_the_first_of_several_names_unless_two_would_be_alike() -> None:
    assert NAMES == {
        "tabby, tabby cat": "tabby", "crane": "crane", "crane, bird": "crane, bird",
        "Egyptian cat": "Egyptian cat", "red, ripe": "red, ripe", "red, unripe": "red, unripe",
    }  # fmt: skip
    assert short_labels([", x", "a"]) == {", x": ", x", "a": "a"}


def lines(table: Table) -> list[str]:
    rows = [
        row("a.jpg", "tabby, tabby cat", "Egyptian cat", "crane"),
        row("a/very/long/path/to/a/photo/of/something/b.jpg", "crane, bird", "tabby, tabby cat"),
        row("日本.jpg", "Egyptian cat", "crane", "tabby, tabby cat"),
        Prediction("c.jpg", error="is cut short " * 9, error_code="truncated"),
    ]
    return [table.line(r).decode().removesuffix("\n") for r in rows]


@pytest.mark.parametrize("width", [40, 61, 80, 120, 200])
def test_columns_align_within_the_width(width: int) -> None:
    shown = lines(Table(OUTPUT, width=width))
    assert max(map(_cells, shown)) <= width
    starts = {_cells(line[: line.index("94.0%")]) for line in shown[:3]}
    assert len(starts) == 1
    if width >= 80:
        assert len({_cells(line[: line.index("  4.0%")]) for line in shown[:3]}) == 1
    assert shown[0].startswith("a.jpg ") and "tabby, tabby" not in shown[0]
    assert width > 110 or (shown[1].startswith("…") and "b.jpg " in shown[1])
    assert "truncated: is cut" in shown[3] and shown[3].endswith("…") == (width < 200)


def test_nothing_is_cut_where_no_terminal_is() -> None:
    shown = lines(Table(OUTPUT))
    assert shown[1].startswith("a/very/long/path/to/a/photo/of/something/b.jpg  ")
    assert shown[3].count("is cut short") == 9
    assert [line.count("%") for line in shown] == [3, 2, 3, 0]


def test_colours_take_no_room() -> None:
    plain, coloured = lines(Table(OUTPUT, width=80)), lines(Table(OUTPUT, width=80, colour=True))
    assert [re.sub(r"\x1b\[\d*m", "", line) for line in coloured] == plain
    assert all("\x1b[1m" in line for line in coloured[:3]) and "\x1b[31m" in coloured[3]


@pytest.mark.parametrize("columns", [60, 132])
def test_a_terminal_has_its_width(columns: int) -> None:
    shown = on_a_terminal(ROOT / "examples", "-q", COLUMNS=str(columns), NO_COLOR="1")
    rows = shown.splitlines()
    assert len(rows) == len(list((ROOT / "examples").iterdir()))
    assert max(map(len, rows)) <= columns
    assert len({line.index("%") for line in rows}) == 1


def test_a_description_names_labels_shortly(tmp_path: Path) -> None:
    from dataclasses import replace

    contract = read_contract(path_from_name("demo"))
    given = replace(contract, output=replace(contract.output, labels=IMAGENET))
    text = description_of(given, "text")
    assert "(tabby, crane, crane, bird, ...)" in text
    assert "tabby, tabby cat" in description_of(given, "json")
