"""What the truth about images may be written as, and what is refused."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from support import write_csv
from vit_engine.artefact.contract import ScoreKind
from vit_engine.errors import UsageError
from vit_engine.evaluation.class_names import Fact
from vit_engine.evaluation.truth import truth_from_name
from vit_engine.outputs.scores import Scores

LABELS = ("tabby, tabby cat", "crane", "crane", "Egyptian cat", "7")
ONE, FREE, VALUES = (Scores(LABELS, function) for function in ("softmax", "sigmoid", "none"))


def facts(table: Path, output: Scores, names: str) -> list[Fact]:
    truth = truth_from_name(str(table), output)
    return [truth.of(os.path.abspath(name)) for name in names]  # noqa: PTH100


@pytest.mark.parametrize("separator", [";", "\t", ","])
def test_labels_synonyms_and_indices_name_classes(separator: str, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    rows = ["path", "label"], ["a", "tabby"], ["b", "Egyptian cat"], ["c", "7"], ["d", "crane"]
    text = "\n".join(separator.join(row) for row in [*rows, ["e", "4"], ["", ""]])
    table.write_text(f"\ufeff{text}\n", encoding="utf-8")
    truth = truth_from_name(str(table), ONE)
    found = [truth.of(os.path.abspath(name)).true for name in "abcdef"]  # noqa: PTH100
    assert found == [(0,), (3,), (4,), None, None, None]
    assert truth.unknown == {"crane": 1, "4": 1}
    assert truth.unmatched == 0


def test_free_labels_may_be_several_or_none(tmp_path: Path) -> None:
    table = write_csv(
        tmp_path / "t.csv",
        ("path", "label"),
        ("a", "tabby|Egyptian cat"),
        ("b", "tabby, tabby cat"),
        ("b", "7"),
        ("c", ""),
        ("d", "none"),
        ("e", "tabby| dog "),
        ("f", "dog|crane"),
    )
    assert facts(table, FREE, "abcdef") == [
        Fact((0, 3)), Fact((0, 4)), Fact(()), Fact(()), Fact((0,), ("dog",)),
        Fact(None, ("dog", "crane")),
    ]  # fmt: skip
    table = write_csv(tmp_path / "i.csv", ("path", "index"), ("a", "3|0"), ("b", "1"), ("b", "2.0"))
    assert facts(table, FREE, "ab") == [Fact((0, 3)), Fact((1, 2))]


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (range(1, 17), range(16), [0, 1, 15]),
        (range(1, 17), range(1, 17), [None, 0, 14]),
        (range(10), range(10), [0, 1, None]),
        ("abc", "abc", [None, None, None]),
        ("abc", "012x", [0, 1, None]),
        ("abc", "0abc", [None, None, None]),
    ],
)
@pytest.mark.parametrize("source", ["folders", "t.csv"])
def test_classes_are_read_as_labels_or_as_indices_never_both(
    labels: Iterable[object],
    names: Iterable[object],
    expected: list[int | None],
    source: str,
    tmp_path: Path,
) -> None:
    """The first of these has 0 to 15 for 1 to 16: all but 0 would be labels, of other classes."""
    output = Scores(tuple(map(str, labels)), "softmax")
    if source == "folders":
        truth = truth_from_name(source, output, map(str, names))
    else:
        rows = ((name, name) for name in names)
        table = write_csv(tmp_path / source, ("path", "label"), *rows, ("", " "))
        truth = truth_from_name(str(table), output)
    paths = [f"{n}/x" if source == "folders" else f"{n}" for n in (0, 1, 15)]
    found = [fact.true and fact.true[0] for path in paths if (fact := truth.of(path))]
    assert found == expected
    by_index = any("read as indices: 0 is" in line for line in truth.remarks())
    assert by_index == (expected[0] == 0 and output.labels[0] != "0")


def test_names_are_compared_as_they_look_or_a_hint_is_given(tmp_path: Path) -> None:
    output = Scores(("caf\u00e9", "b"), "softmax")
    assert truth_from_name("folders", output, ["cafe\u0301"]).of("cafe\u0301/x").true == (0,)
    for written, there in (("p\\a.jpg", "p/a.jpg"), ("\u00e9.jpg", "e\u0301.jpg")):
        table = write_csv(tmp_path / "t.csv", ("path", "label"), (written, "b"))
        truth = truth_from_name(str(table), output)
        assert truth.of(there).true is None
        assert "folders, slashes, case and accents (NFC or NFD)" in list(truth.remarks())[-1]


def test_folders_name_labels(tmp_path: Path) -> None:
    for output in (ONE, FREE):
        truth = truth_from_name("folders", output)
        assert truth.of("x/tabby/a.jpg") == Fact((0,))
        assert truth.of("x/dog/a.jpg") == Fact(None, ("dog",))
        assert truth.of("x/none/a.jpg") == (Fact(()) if output is FREE else Fact(None, ("none",)))
        assert truth.of(None) == Fact(None)
    with pytest.raises(UsageError, match=r"folders is for labels, .*path and value"):
        truth_from_name("folders", VALUES)


def test_values_are_a_column_each(tmp_path: Path) -> None:
    one, two = Scores(("age",), "none"), Scores(("x", "y"), "none")
    table = write_csv(tmp_path / "t.csv", ("value", "path"), ("1.5", "a"), ("-2", "b"))
    assert facts(table, one, "abc") == [Fact((1.5,)), Fact((-2.0,)), Fact(None)]
    table = write_csv(tmp_path / "t.csv", ("path", "y", "x"), ("a", 1, 2))
    assert facts(table, two, "a") == [Fact((2.0, 1.0))]
    assert facts(write_csv(tmp_path / "t.csv", ("path", "age"), ("a", 3)), one, "a") == [Fact((3,))]


@pytest.mark.parametrize(
    ("function", "rows", "words"),
    [
        ("softmax", [("path", "kind"), ("a", "b")], "expected 'path', and 'label' or 'index'"),
        ("softmax", [("file", "label")], "its columns are 'file', 'label'; expected 'path', and"),
        ("softmax", [("path", "label")], "has no rows"),
        ("softmax", [("path", "label"), ("", "crane")], "row 1 has no path"),
        ("softmax", [("path", "index"), ("a", "5")], "row 1: has the index '5'; expected a whole"),
        ("softmax", [("path", "index"), ("a", "x")], "the index 'x'"),
        ("softmax", [("path", "index"), ("a", "1|2")], "the index '1|2'"),
        (
            "softmax",
            [("path", "label", "index"), ("a", "tabby", "3")],
            "row 1: contradicts itself: the label is 'tabby'",
        ),
        (
            "softmax",
            [("path", "label"), ("a", "7"), ("b", "7"), ("a", "tabby")],
            "row 3 says of a something else than row 1",
        ),
        (
            "softmax",
            [("path", "label"), ("a", "cat"), ("b", "crane")],
            "no row has a label of the model: the first has 'cat'",
        ),
        ("sigmoid", [("path", "index"), ("a", "1|9")], "the index '1|9'"),
        ("sigmoid", [("path", "label"), ("a", "cat|dog")], "no row has a label of the model"),
        ("none", [("path", "value"), ("a", "1")], "expected 'path', and 'value', or one for each"),
        ("none", [("path", *LABELS), ("a", 1, 1, 1, 1, "")], "has '' where a number is expected"),
        ("none", [("path", *LABELS), ("a", 1, 1, 1, 1, "nan")], "has 'nan' where a number"),
        ("softmax", [("path", "label"), ("a", 'x"')], "is not CSV"),
    ],
)
def test_what_is_no_truth_is_refused(
    function: ScoreKind, rows: list[tuple[object, ...]], words: str, tmp_path: Path
) -> None:
    table = tmp_path / "t.csv"
    table.write_text("".join(f"{','.join(map(_quoted, row))}\n" for row in rows))
    with pytest.raises(UsageError, match=r"--truth .*t\.csv: ") as told:
        truth_from_name(str(table), Scores(LABELS, function))
    assert words in str(told.value)


def _quoted(cell: object) -> str:
    text = str(cell)
    return f'"{text}"' if "," in text or text.startswith('"') else text.replace('x"', '"x"y')
