"""A table gives one item a row, in order; what is damaged costs its own rows and no others."""

import csv
import io
import os
import random
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from support import slow_case
from vit_engine.errors import UsageError, printable
from vit_engine.machine.installation import pip_install
from vit_engine.outputs.scores import Scores
from vit_engine.rows.formats import columns_of
from vit_engine.sources.find import samples_from_sources
from vit_engine.sources.tables import paths
from vit_engine.sources.tables.csv_rows import LONGEST_ROW
from vit_engine.sources.tables.paths import LONGEST

SCORES = Scores(("cat",), "softmax")
Found = list[tuple[str, str | None]]


def read(path: Path, column: str = "path", **options: Any) -> Found:
    """The rows of a table that is named: where they lead, or the code of their error."""
    samples = list(samples_from_sources([str(path)], column=column, **options))
    for sample in samples:
        if sample.error is not None:
            assert "\n" not in str(sample.error) and len(str(sample.error)) < 400
    here = f"{path}:"
    return [(i.path.removeprefix(here), i.error and i.error.code) for i in samples]


def refusal(path: Path, column: str = "path") -> str:
    """Why a table is refused where it is named; found by a glob it is a row for the same reason."""
    with pytest.raises(UsageError) as e:
        samples_from_sources([str(path)], column=column)
    words = str(e.value)
    assert words.startswith(f"{printable(str(path))}: ") and "\n" not in words
    (sample,) = samples_from_sources([str(path.with_name("?" + path.name[1:]))], column=column)
    assert sample.path == str(path) and sample.error is not None
    assert words == f"{printable(str(path))}: {sample.error}"
    assert sample.error.code in ("missing", "permission", "not_regular", "empty", "format")
    return words


def write(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "t.csv"


# --- CSV -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        "path,n\na b.jpg,1\nb.jpg,2\n",
        "path,n\r\na b.jpg,1\r\nb.jpg,2\r\n",
        "path,n\ra b.jpg,1\rb.jpg,2",
        "\ufeffpath,n\na b.jpg,1\nb.jpg,2",
        '\ufeff"path","n"\n"a b.jpg","1"\n"b.jpg","2"\n',
        "n,path\n1,a b.jpg\n2,b.jpg\n",
        "\n\npath,n\n\n\na b.jpg,1\r\n\r\nb.jpg,2\n\n",
        "path;n\na b.jpg;1\nb.jpg;2,5\n",
        '"path";"n, m"\n"a b.jpg";1\nb.jpg;2\n',
        "path\tn\na b.jpg\t1\nb.jpg\t2\n",
        "path\na b.jpg\nb.jpg",
        'path,n\na b.jpg,"1\n2, 3"\nb.jpg,""\n',
        'n,n,path\n1,1,a b.jpg\n1,1,b.jpg\n',
        "path,\na b.jpg,1,2,3\nb.jpg\n",
        "path , n\na b.jpg,1\nb.jpg,2\n",
        "path\tn\r\na b.jpg\t1\r\nb.jpg\t2\r\n".encode("utf-16"),  # as Excel has it
        b"\xfe\xff" + "path,n\na b.jpg,1\nb.jpg,2\n".encode("utf-16-be"),
    ],
)  # fmt: skip
def test_csv_as_people_have_it(table: Path, data: bytes | str) -> None:
    assert read(write(table, data)) == [("a b.jpg", None), ("b.jpg", None)]


def test_cells_of_csv(table: Path) -> None:
    cells = ['"a,b.jpg"', '"say ""x"".jpg"', '"new\nline.jpg"', '5" disk.jpg', '""', "", " x ",
             "'=1.jpg", "http://h/a", '"cr\rlf\r\n.jpg"']  # fmt: skip
    assert read(write(table, "n,path\n" + "".join(f"0,{c}\n" for c in cells))) == [
        ("a,b.jpg", None), ('say "x".jpg', None), ("new\nline.jpg", None), ('5" disk.jpg', None),
        ("5", "missing"), ("6", "missing"), (" x ", None), ("'=1.jpg", None), ("http://h/a", None),
        ("cr\rlf\r\n.jpg", None),
    ]  # fmt: skip


def test_what_is_damaged_costs_its_own_row(table: Path) -> None:
    long = "x" * LONGEST
    rows = [
        ("1,a", "a", None), ("2", "2", "missing"), ("3,", "3", "missing"),
        ("4,b\0c", "4", "missing"),
        ('5,"d"e', "5", "format"), (f"6,{long}", long, None), (f"7,{long}x", "7", "too_large"),
        (f'8,"{long}x"', "8", "too_large"), (f'"{"y" * 100_000}",f', "f", None),
        (f"{'y' * 200_000},g", "10", "format"), ('11,"never', "11", "format"), ("12,h", "h", None),
        ('13,"again', "13", "format"), ('14,"i",', "i", None), ('"15,j', "15", "format"),
    ]  # fmt: skip
    data = "n,path\n" + "".join(f"{row}\n" for row, _, _ in rows)
    assert read(write(table, data)) == [(name, code) for _, name, code in rows]


def test_what_is_wrong_with_a_row_is_told(table: Path) -> None:
    cells = ['"never', '"d"e', "y" * 200_000, "z," * LONGEST_ROW, '"the end']
    samples = samples_from_sources([str(write(table, "path\n" + "".join(f"{c}\n" for c in cells)))])
    words = ["a quote is not closed", "',' expected after '\"'", "field limit (131072)",
             "it is longer than 1,048,576 characters", "a quote is not closed"]  # fmt: skip
    for row, (sample, expected) in enumerate(zip(samples, words, strict=True), 1):
        assert sample.path == f"{table}:{row}"
        told = str(sample.error)
        assert told.startswith(f"row {row} is not CSV: ") and told.endswith(expected)


def test_names_in_csv_need_not_be_utf8(table: Path) -> None:
    write(table, b"path\ncaf\xe9.jpg\n\xff\xfe.jpg\n\xed\xa0\x80.jpg\n")
    names = (b"caf\xe9.jpg", b"\xff\xfe.jpg", b"\xed\xa0\x80.jpg")
    assert read(table) == [(os.fsdecode(name), None) for name in names]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("", "is empty"),
        ("\n\n\n", "is empty"),
        ("\ufeff", "is empty"),
        ("path,n\n", "has no rows"),
        ("path,n\n\n\r\n", "has no rows"),
        ("a.jpg\nb.jpg\n", "has no column 'path' but 'a.jpg'; name the one"),
        ("id;file\n1;2\n", "has no column 'path' but 'id', 'file'"),
        ("Path\na\n", "has no column 'path' but 'Path'"),
        ("path,n,path\na,1,b\n", "has 2 columns called 'path'"),
        ('"path\na.jpg\n', "is not CSV: a quote is not closed"),
        ('"path"s\na.jpg\n', "is not CSV: ',' expected after"),
        ("path\na.jpg\n".encode("utf-16-le"), "is not CSV in UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "has no column 'path'"),
        (b"path" + b"x" * 20_000_000, "is not CSV: it is longer than 1,048,576 characters"),
        (b"path," * 1000, "has 1000 columns called 'path'"),
    ],
)
def test_csv_that_is_wrong_from_the_start_is_refused(table: Path, data: Any, words: str) -> None:
    assert words in refusal(write(table, data))


def test_another_column_is_taken_by_name(table: Path) -> None:
    write(table, b"id,file,caf\xe9\n1,a.jpg,b.jpg\n")
    assert read(table, "file") == [("a.jpg", None)]
    assert read(table, os.fsdecode(b"caf\xe9")) == [("b.jpg", None)]
    assert "'path' but 'id', 'file', 'caf\\udce9'" in refusal(table)


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for name in ("no.csv", "no.parquet", "n\0.csv"):
        with pytest.raises(UsageError, match="cannot be read"):
            samples_from_sources([str(tmp_path / name)])


def test_tables_that_a_glob_finds_are_rows(tmp_path: Path) -> None:
    write(tmp_path / "1.csv", "path\na.jpg\n")
    write(tmp_path / "2.csv", "file\nb.jpg\n")
    write(tmp_path / "3.csv", "path\n")
    os.mkfifo(tmp_path / "4.csv")
    (tmp_path / "5.csv").symlink_to("absent")
    write(tmp_path / "6.csv", "path\nc.jpg\n")
    write(tmp_path / "7.parquet", "PAR1")
    samples = list(samples_from_sources([f"{tmp_path}/*"]))
    found = [(i.path.removeprefix(f"{tmp_path}/"), i.error and i.error.code) for i in samples]
    assert found == [
        ("a.jpg", None), ("2.csv", "format"), ("3.csv", "empty"), ("4.csv", "not_regular"),
        ("5.csv", "missing"), ("c.jpg", None), ("7.parquet", "format"),
    ]  # fmt: skip


def test_a_table_that_goes_or_fails_later_is_a_row(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = samples_from_sources([str(write(table, "path\na\n")), "z"])
    table.unlink()
    assert [(i.path, i.error and i.error.code) for i in samples] == [
        (str(table), "missing"),
        ("z", None),
    ]

    class Failing(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            if size := super().readinto(buffer):
                return size
            raise OSError(5, "Input/output error")

    write(table, "path\n" + "a\n" * 5)
    samples = samples_from_sources([str(table), "z"])
    monkeypatch.setattr(paths, "open_regular", Failing)
    found = [(i.path, i.error and str(i.error)) for i in samples]
    words = "cannot be read after row 5: Input/output error"
    assert found == [*[("a", None)] * 5, (str(table), words), ("z", None)]


def test_a_row_of_any_length_takes_little_memory(table: Path) -> None:
    with table.open("wb") as file:
        file.write(b"path,more\n")
        for cell in (b"%s,1\n", b'"%s",1\n', b"a,%s\n"):
            file.write(cell % (b"y" * 20_000_000))
        file.write(b"last,1\n")
    tracemalloc.start()
    found = read(table)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [("1", "format"), ("2", "format"), ("3", "format"), ("last", None)]
    assert most < 10_000_000


@pytest.mark.slow
def test_quotes_that_are_not_closed_do_not_hang(table: Path) -> None:
    """What is read again behind them is bounded; then the rest is given up, and a row says so."""
    for line, rows in (('a",x,"\n', None), ('a,"\n', 15_000), ('a,"b""\n', 30_000)):
        write(table, "path,n\n" + line * 30_000)
        began = time.monotonic()
        samples = list(samples_from_sources([str(table)]))
        assert time.monotonic() - began < 60
        given_up = str(samples[-1].error).endswith("nor is what follows: quotes are not closed")
        assert len(samples) == rows or (rows is None and given_up)


def test_a_row_of_csv_that_another_wrote_keeps_its_apostrophe(table: Path) -> None:
    assert read(write(table, "path,label\n'=1.png,\n")) == [("'=1.png", None)]
    data = ",".join(columns_of(SCORES)) + "\n'=1.png,,,,,,\n=2.png,,,,,,\n'x.png,,,,,,\n"
    assert read(write(table, data)) == [("=1.png", None), ("=2.png", None), ("'x.png", None)]


# --- Parquet ---------------------------------------------------------------------------------


@pytest.fixture
def pa() -> Any:
    return pytest.importorskip("pyarrow", reason="the parquet extra is not installed")


def parquet(path: Path, columns: Any, **options: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
    return path


@pytest.mark.parametrize(
    "name", ["string", "large_string", "string_view", "binary", "large_binary", "binary_view",
             "dictionary", "large dictionary", "binary dictionary"],
)  # fmt: skip
def test_columns_of_strings_in_parquet(name: str, pa: Any, tmp_path: Path) -> None:
    cells = ["a.jpg", None, "b.jpg", "", "a.jpg"]
    if name.endswith("dictionary"):
        plain = {"d": pa.string(), "l": pa.large_string(), "b": pa.binary()}[name[0]]
        column = pa.array(cells).cast(plain).dictionary_encode()
    else:
        made = getattr(pa, name)()
        column = pa.array([c.encode() if c and "binary" in name else c for c in cells], made)
    path = parquet(tmp_path / "t.parquet", {"n": range(5), "path": column}, row_group_size=2)
    assert read(path) == [
        ("a.jpg", None), ("2", "missing"), ("b.jpg", None), ("4", "missing"), ("a.jpg", None),
    ]  # fmt: skip


def test_columns_of_other_types_are_refused_by_name_and_type(pa: Any, tmp_path: Path) -> None:
    for column, words in (
        (pa.array([1, 2]), "int64"),
        (pa.array([1.5]), "double"),
        (pa.array([None]), "null"),
        (pa.array([["a"]]), "list<"),
        (pa.array([{"bytes": b"x", "path": "a"}]), "struct<bytes: binary, path: string>"),
        (pa.array([b"abc"], pa.binary(3)), "fixed_size_binary[3]"),
    ):
        path = parquet(tmp_path / "t.parquet", {"path": column})
        assert f"column 'path' is {words}" in refusal(path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is not Parquet"),
        (b"PAR1", "is not Parquet"),
        (b"PAR1" * 5, "is not Parquet"),
        (b"path\na.jpg\n" * 9, "is not Parquet"),
    ],
)
def test_what_is_no_parquet_is_refused(data: bytes, words: str, pa: Any, tmp_path: Path) -> None:
    assert words in refusal(write(tmp_path / "t.parquet", data))


def test_parquet_without_the_column_or_rows_is_refused(pa: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    assert "no column 'path' but 'file', 'n'" in refusal(parquet(path, {"file": ["a"], "n": [1]}))
    assert "has no rows" in refusal(parquet(path, {"path": pa.array([], pa.string())}))
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["path", "path"])
    assert "has 2 columns called 'path'" in refusal(parquet(path, twice))
    whole = parquet(path, {"path": ["a"] * 100}).read_bytes()
    assert "is not Parquet" in refusal(write(path, whole[:-20]))


def test_columns_whose_names_have_dots(pa: Any, tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", {"a": [{"b": "no"}], "a.b": ["yes.jpg"]})
    assert read(path, "a.b") == [("yes.jpg", None)]


def test_raw_is_of_our_own_rows_alone(pa: Any, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9\n.jpg")
    shown = "caf\\xe9\\n.jpg"
    for raw, expected in (
        (pa.array([os.fsencode(name), None]), name),
        (pa.array([b"\xff\xd8\xff an image", b"another"]), shown),
        (pa.array(["other/1.jpg", "other/2.jpg"]), shown),
        (pa.array([1, 2]), shown),
        (pa.array([os.fsencode(name), None]).cast(pa.string(), safe=False), shown),
    ):
        path = parquet(tmp_path / "t.parquet", {"raw": raw, "path": [shown, "b.jpg"]})
        assert read(path) == [(expected, None), ("b.jpg", None)]
    path = parquet(tmp_path / "t.parquet", {"file": [shown], "raw": [os.fsencode(name)]})
    assert read(path, "file") == [(shown, None)]
    assert read(path, "raw") == [(name, None)]


def test_cells_of_parquet(pa: Any, tmp_path: Path) -> None:
    long = "x" * LONGEST
    cells = [b"a.jpg", b"\xff.jpg", b"b\0c", long.encode(), long.encode() + b"x", b"y" * 5_000_000,
             b"last"]  # fmt: skip
    plain = pa.array(cells)
    # Strings that are not UTF-8, as other writers let them be.
    strings = pa.StringArray.from_buffers(len(cells), plain.buffers()[1], plain.buffers()[2])
    assert read(parquet(tmp_path / "t.parquet", {"path": strings})) == [
        ("a.jpg", None), (os.fsdecode(b"\xff.jpg"), None), ("3", "missing"), (long, None),
        ("5", "too_large"), ("6", "too_large"), ("last", None),
    ]  # fmt: skip


@pytest.mark.parametrize("part", ["dictionary", "data"])
def test_a_damaged_row_group_costs_its_own_rows(part: str, pa: Any, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    names = [f"{i:04}.jpg" for i in range(1000)]
    path = parquet(tmp_path / "t.parquet", {"path": names}, row_group_size=200)
    group = pq.read_metadata(path).row_group(2).column(0)
    at = group.dictionary_page_offset if part == "dictionary" else group.data_page_offset
    data = bytearray(path.read_bytes())
    data[at + 3 : at + 40] = b"\xff" * 37
    path.write_bytes(data)
    samples = list(samples_from_sources([str(path), "z"]))
    good = [name for name in names if not "0400" <= name < "0600"]
    assert [i.path for i in samples if i.error is None] == [*good, "z"]
    (error,) = (i for i in samples if i.error is not None)
    assert samples.index(error) == 400 and error.path == f"{path}:401"
    assert error.error is not None and error.error.code == "decode"
    assert str(error.error).startswith("rows 401 to 600 cannot be read: ")


def test_pages_are_checked_where_they_have_a_sum(pa: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    parquet(path, {"path": ["aaaa.jpg"]}, compression="none", write_page_checksum=True)
    data = path.read_bytes()
    write(path, data.replace(b"aaaa.jpg", b"aaab.jpg", 1))
    assert read(path) == [("1", "decode")]


@pytest.mark.slow
def test_a_few_bytes_may_stand_for_many_long_cells(pa: Any, tmp_path: Path) -> None:
    """A dictionary's one cell of half a megabyte, in a million rows, is no half terabyte."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 5000, pa.int32()), ["x" * 2**19])
    path = parquet(tmp_path / "t.parquet", {"path": column}, store_schema=False)
    assert path.stat().st_size < 100_000
    code = (
        "import sys, pyarrow as pa; from vit_engine.sources.find import samples_from_sources\n"
        "rows = [i.error.code for i in samples_from_sources([sys.argv[1]])]\n"
        "print(len(rows), *set(rows), pa.default_memory_pool().max_memory())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    rows, codes, most = done.stdout.split()
    assert (rows, codes) == ("5000", "too_large") and int(most) < 200_000_000


def test_tables_in_folders_that_are_not_utf8(pa: Any, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9\n")
    folder.mkdir()
    parquet(tmp_path / "t.parquet", {"path": ["a.jpg"]}).rename(folder / "t.parquet")
    write(folder / "t.csv", "path\nb.jpg\n")
    for name, expected in (("t.parquet", "a.jpg"), ("t.csv", "b.jpg"), ("*.parquet", "a.jpg")):
        assert [i.path for i in samples_from_sources([str(folder / name)])] == [expected]


def test_without_pyarrow_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    words = refusal(write(tmp_path / "t.parquet", "PAR1"))
    assert words.endswith(f"is Parquet, which needs pyarrow; {pip_install('parquet')}")


# --- fuzzing ---------------------------------------------------------------------------------

_DIALECTS = [
    {"lineterminator": end, "quoting": quoting, "delimiter": delimiter}
    for end in ("\n", "\r\n", "\r")
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
    for delimiter in ",;\t"
]


def drawn_table(draw: random.Random, bits: list[str]) -> list[list[str]]:
    columns = draw.randint(2, 5)
    rows = [
        ["".join(draw.choices(bits, k=draw.randint(1, 4))) for _ in range(columns)]
        for _ in range(draw.randint(2, 30))
    ]
    rows[0] = [f"c{i}" for i in range(columns)]
    rows[0][draw.randrange(columns)] = "path"
    return rows


def csv_of(rows: list[list[str]], dialect: dict[str, Any]) -> list[bytes]:
    """Each row as a line, or as several."""
    written = []
    for row in rows:
        text = io.StringIO(newline="")
        csv.writer(text, **dialect).writerow(row)
        written.append(text.getvalue().encode("utf-8", "surrogateescape"))
    return written


@pytest.mark.parametrize("inputs", [300, slow_case(10_000)])
def test_a_damaged_line_of_csv_changes_no_other_row(inputs: int, table: Path) -> None:
    draw = random.Random(inputs)
    damage = [b'"', b'""', b"\0", b"\xff", b"\n", b"\r", b",", b'",', b',"', b"x" * 70_000, b""]
    lost = 0
    for _ in range(inputs):
        dialect = draw.choice(_DIALECTS)
        rows = drawn_table(draw, ["a", "b", ".jpg", "/", " "])
        for i, row in enumerate(rows[1:]):
            row[rows[0].index("path")] = f"{i:03}.jpg"
        lines = csv_of(rows, dialect)
        hit = draw.randrange(1, len(lines))
        line = lines[hit]
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(line) + 1)
            line = line[:at] + draw.choice(damage) + line[at + draw.randint(0, 2) :]
        end = dialect["lineterminator"].encode()
        lines[hit] = line if line.endswith(end) else line + end
        write(table, b"".join(lines))
        found = read(table)
        others = [f"{i:03}.jpg" for i in range(len(rows) - 1) if i != hit - 1]
        kept = [name for name, code in found if code is None and name in others]
        assert kept == others, (lines, found)
        lost += len(found) == len(others)
    assert lost < inputs / 20  # a line may become blank, which is no row


@pytest.mark.parametrize("inputs", [500, slow_case(20_000)])
def test_fuzzed_csv(inputs: int, table: Path) -> None:
    """Bytes of any kind are refused in words, or give rows, in no more time than they take."""
    draw = random.Random(inputs)
    bits = [b'"', b"'", b",", b";", b"\n", b"\r", b"\r\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"a",
            b"path"]  # fmt: skip
    refused = 0
    for _ in range(inputs):
        data = b"".join(draw.choices(bits, k=draw.randint(0, 60)))
        if draw.random() < 0.8:
            data = draw.choice([b"path,n\n", b"n;path\r\n", b'"path"\n']) + data
        write(table, data)
        try:
            found = read(table)
        except UsageError as e:
            assert "\n" not in str(e)
            refused += 1
        else:
            assert len(found) <= data.count(b"\n") + data.count(b"\r") + 1
    assert 0 < refused < inputs


def mutated_parquet(data: bytes, draw: random.Random) -> bytes:
    """Damage to pages, to page headers or to the footer: bits, bytes, lengths, cuts and doubles."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(changed))
        if draw.random() < 0.5:  # the footer, which says where all else is
            size = int.from_bytes(data[-8:-4], "little")
            at = min(len(changed) - 1, max(0, len(data) - 8 - size) + draw.randrange(size + 8))
        what = draw.randrange(4)
        if what == 0:
            changed[at] ^= 1 << draw.randrange(8)
        elif what == 1:
            changed[at] = draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)])
        elif what == 2:
            changed[at : at + 4] = draw.choice([b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f"])
        else:
            changed[at : at + draw.randint(0, 8)] = changed[at : at + draw.randint(0, 8)]
    return bytes(changed)


_PARQUET_FUZZER = """
import json, os, random, resource, sys, time
sys.path[:0] = [sys.argv[1], os.path.dirname(sys.argv[1])]
import test_tables as t
from pathlib import Path
import pyarrow as pa
folder, inputs, seed = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**29,) * 2)
draw = random.Random(seed)
whole = [p.read_bytes() for p in sorted(folder.glob("*.whole"))]
path = folder / "t.parquet"
ends, slowest = {}, 0
for n in range(inputs):
    data = t.mutated_parquet(draw.choice(whole), draw)
    path.write_bytes(data)
    began = time.monotonic()
    try:
        found = t.read(path)
        end = "damaged" if any(code for _, code in found) else "rows"
        names = [name for name, code in found if code is None]
        assert len(found) < 100_000
    except t.UsageError as e:
        assert "\\n" not in str(e)
        end = "refused"
    ends[end] = ends.get(end, 0) + 1
    slowest = max(slowest, time.monotonic() - began)
# Not ru_maxrss: it carries the peak of the process that started this one.
(peak,) = (int(x.split()[1]) // 1024 for x in open("/proc/self/status") if x.startswith("VmHWM"))
print(json.dumps({"ends": ends, "slowest": slowest, "MiB": peak}))
"""


@pytest.mark.parametrize("inputs", [300, slow_case(20_000)])
def test_fuzzed_parquet(inputs: int, pa: Any, tmp_path: Path) -> None:
    """In a process of its own, with half a GiB to grow by: what crashes or grows is seen.

    A page's header may claim 2 GiB, which pyarrow takes where it can.
    """
    import json

    names = [f"images/{i:05}.jpg" for i in range(400)]
    for i, options in enumerate(
        (
            {"row_group_size": 100},
            {"row_group_size": 100, "use_dictionary": False, "compression": "none"},
            {"compression": "zstd", "data_page_version": "2.0", "data_page_size": 500},
            {
                "compression": "gzip",
                "use_dictionary": False,
                "column_encoding": {"path": "DELTA_BYTE_ARRAY"},
            },
            {"row_group_size": 50, "write_page_checksum": True},
        )
    ):
        columns = {"n": range(400), "path": names, "raw": pa.array([None] * 400, pa.binary())}
        parquet(tmp_path / "x", columns, **options).rename(tmp_path / f"{i}.whole")
    done = subprocess.run(
        [sys.executable, "-c", _PARQUET_FUZZER, Path(__file__).parent, tmp_path, str(inputs), "7"],
        capture_output=True, text=True, check=False, timeout=560,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    print(found)
    assert set(found["ends"]) == {"rows", "damaged", "refused"}
    assert found["slowest"] < 5
    assert found["MiB"] < 1000
