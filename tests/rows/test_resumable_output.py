"""A run that is broken off, by whatever means, goes on to the rows of one that is not."""

import json
import os
import random
import shutil
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import largest_file
from vit_engine.artefact.metadata import path_from_name, read_contract
from vit_engine.errors import UsageError, WriteError
from vit_engine.machine.output_file import OutputFile, output_file
from vit_engine.outputs.prediction import Prediction, Score
from vit_engine.outputs.scores import Scores
from vit_engine.rows import resumable_output
from vit_engine.rows.contact_sheet import ContactSheet
from vit_engine.rows.formats import are_rows, format_from_name
from vit_engine.rows.resumable_output import ResumableOutput
from vit_engine.sources.sample import Sample

SCORES = Scores(tuple(f"label {i}" for i in range(40)), "softmax")
ITEMS = [Sample(f"{i}.png") for i in range(40)]
ROWS = [
    Prediction(item.path, (Score(f"label {i}", i, 0.5),))
    if i % 4
    else Prediction(item.path, error="is empty", error_code="empty")
    for i, item in enumerate(ITEMS)
]
SETTINGS = {"SOURCE": ["photos"], "--timeout": 30.0}
KEPT = 24
NOBODY = 54321


def target(path: Path, *, overwrite: bool = False) -> OutputFile:
    return output_file(path, "-o", are_rows, overwrite=overwrite)


def opened(
    place: OutputFile, format_name: str = "jsonl", *, resume: bool = False
) -> ResumableOutput:
    return ResumableOutput(place, format_from_name(format_name, SCORES), resume=resume)


def rows_in(format_name: str) -> bytes:
    """The rows as they are written without an interruption."""
    found = format_from_name(format_name, SCORES)
    return found.header + b"".join(map(found.line, ROWS))


def labelled(place: OutputFile, format_name: str = "jsonl", *, resume: bool = False) -> bytes:
    """Do a run, or the rest of one; return what is then in the file."""
    with opened(place, format_name, resume=resume) as output:
        left = list(output.begin(iter(ITEMS), lambda: SETTINGS))
        output.write(ROWS[len(ROWS) - len(left) :])
        assert output.finish() == ""
    return place.path.read_bytes()


def broken_off(path: Path, format_name: str = "jsonl", rows: int = KEPT) -> OutputFile:
    """A run that ended after some rows."""
    place = target(path)
    with opened(place, format_name) as output:
        output.begin(iter(ITEMS), lambda: SETTINGS)
        output.write(ROWS[:rows])
    return place


def contents(folder: Path) -> dict[str, bytes | None]:
    return {p.name: p.read_bytes() if p.is_file() else None for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("format_name", ["jsonl", "csv", "table"])
@pytest.mark.parametrize("rows", [1, KEPT, len(ROWS)])
def test_a_resumed_run_has_the_rows_of_a_whole_one(
    tmp_path: Path, format_name: str, rows: int
) -> None:
    place = broken_off(tmp_path / "rows", format_name, rows)
    with place.beside(".partial").open("ab") as file:
        file.write(b"a torn line")
    assert labelled(place, format_name, resume=True) == rows_in(format_name)
    assert sorted(tmp_path.iterdir()) == [place.path, place.beside(".partial.state")]


def labelled_slowly(place: OutputFile) -> None:
    with opened(place, "csv", resume=True) as output:
        for item in output.begin(iter(ITEMS), lambda: SETTINGS):
            output.write([ROWS[ITEMS.index(item)]])
            time.sleep(0.001)
        output.finish()


def forked(work: Callable[[], None]) -> int:
    """Do something in a child process; return its number. It exits with 1 if that raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, as pytest-xdist has them
        child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def test_a_run_killed_at_any_time_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By SIGKILL, again and again, until it has come to its end: each row is there once."""
    monkeypatch.setattr(resumable_output, "CHUNK_ROWS", 2)
    place, rng, killed = target(tmp_path / "rows.csv"), random.Random(1), 0
    while not place.path.exists():
        child = forked(lambda: labelled_slowly(place))
        time.sleep(rng.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        ended = os.waitpid(child, 0)[1]
        assert ended in (0, signal.SIGKILL)
        killed += ended == signal.SIGKILL
        assert killed < 1000
    assert place.path.read_bytes() == rows_in("csv")
    assert killed > 1
    assert not place.beside(".partial").exists()


def test_a_run_broken_off_before_its_first_row_leaves_nothing(tmp_path: Path) -> None:
    broken_off(tmp_path / "rows.csv", "csv", 0)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_is_continued_or_replaced_only_when_asked(tmp_path: Path) -> None:
    place = broken_off(tmp_path / "rows.jsonl")
    before = contents(tmp_path)
    with pytest.raises(
        UsageError, match=r"has 24 rows .* with --resume, or start over with --over"
    ):
        labelled(place)
    assert contents(tmp_path) == before
    assert labelled(target(place.path, overwrite=True)) == rows_in("jsonl")
    assert list(tmp_path.iterdir()) == [place.path]


@pytest.mark.parametrize("resume", [False, True])
def test_a_deleted_partial_file_starts_over(tmp_path: Path, resume: bool) -> None:
    place = broken_off(tmp_path / "rows.jsonl")
    place.beside(".partial").unlink()
    assert labelled(place, resume=resume) == rows_in("jsonl")
    assert not place.beside(".partial").exists()


def test_rows_without_a_label_do_not_stand_in_the_way(tmp_path: Path) -> None:
    place = broken_off(tmp_path / "rows.jsonl", rows=1)
    assert labelled(place) == rows_in("jsonl")


def test_what_comes_there_while_a_run_goes_on_is_safe_too(tmp_path: Path) -> None:
    place = target(tmp_path / "rows.csv")
    with (
        pytest.raises(UsageError, match=r"not recognised .*rows.csv.partial keeps .* --resume"),
        opened(place, "csv") as output,
    ):
        output.begin(iter(ITEMS), lambda: SETTINGS)
        output.write(ROWS)
        place.path.write_text("mine")
        output.finish()
    assert place.path.read_text() == "mine"
    place.path.unlink()
    assert labelled(place, "csv", resume=True) == rows_in("csv")


PLANTED = ["link", "hard link", "FIFO", "folder", "other user's"]


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("suffix", [".partial", ".partial.state"])
@pytest.mark.parametrize("resume", [False, True])
def test_what_is_planted_at_the_names_beside_is_left_alone(
    tmp_path: Path, kind: str, suffix: str, resume: bool
) -> None:
    if kind == "other user's" and os.geteuid():
        pytest.skip("another user can be had by root alone")
    place = broken_off(tmp_path / "rows.jsonl")
    victim, planted = tmp_path / "victim", place.beside(suffix)
    shutil.copy(planted, victim)
    planted.unlink()
    if kind == "link":
        planted.symlink_to(victim)
    elif kind == "hard link":
        os.link(victim, planted)
    elif kind == "FIFO":
        os.mkfifo(planted)
    elif kind == "folder":
        planted.mkdir()
    else:
        shutil.copy(victim, planted)
        os.chown(planted, NOBODY, NOBODY)
    before = contents(tmp_path)
    with pytest.raises(
        UsageError, match="is a link, or not a regular file of this user only"
    ) as refusal:
        labelled(place, resume=resume)
    assert str(refusal.value).startswith(f"{planted}: ")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_partial_file_of_nobody_knows_whom_is_left_alone(
    tmp_path: Path, resume: bool, overwrite: bool
) -> None:
    place = target(tmp_path / "rows.jsonl", overwrite=overwrite)
    place.beside(".partial").write_text("mine")
    with pytest.raises(UsageError, match="has 4 bytes, and no state beside it"):
        labelled(place, resume=resume)
    assert contents(tmp_path) == {"rows.jsonl.partial": b"mine"}


@pytest.mark.parametrize("change", ["shorter", "same length", "longer"])
def test_a_partial_file_that_is_another_is_not_resumed(tmp_path: Path, change: str) -> None:
    place = broken_off(tmp_path / "rows.jsonl")
    partial = place.beside(".partial")
    size = partial.stat().st_size + {"shorter": -1, "same length": 0, "longer": 9}[change]
    partial.write_bytes(b"x" * size)
    before = contents(tmp_path)
    with pytest.raises(UsageError, match=r"is not what was written there, .* delete it to start"):
        labelled(place, resume=True)
    assert contents(tmp_path) == before


def test_two_runs_do_not_write_to_one_file(tmp_path: Path) -> None:
    place = target(tmp_path / "rows.jsonl")
    with opened(place), pytest.raises(UsageError, match="another vit-infer is writing to it"):
        labelled(place)


# Damaged states

NONSENSE: list[Any] = [
    None, True, -1, 0, 1, 23, 25, 1.0, 1e300, 10**30, -(10**30), 2**63, "", "x", "24", "\n\x1b[31m",
    "0" * 64, "é", "\ud800", [], [1], {}, {"a": 1}, float("nan"), float("inf"),
    {"SOURCE": ["elsewhere"]}, [[[[[]]]]],
]  # fmt: skip


def mutated(state: bytes, rng: random.Random) -> bytes:
    """Damage a state: its bytes, or what it says."""
    kind = rng.randrange(6)
    data, place = bytearray(state), rng.randrange(len(state))
    if kind == 0:
        data[place] = rng.randrange(256)
    elif kind == 1:
        del data[place : place + rng.choice((1, 2, 10, 10_000))]
    elif kind == 2:
        data[place:place] = rng.choice((b"0", b" ", b"\n", b"[" * 5000, b"\0", b"9" * 5000, b'"'))
    else:
        document = json.loads(state)
        name = rng.choice([*document, "more"])
        if kind == 3:
            document.pop(name, None)
        else:
            document[name] = rng.choice([*NONSENSE, document.get(rng.choice([*document]))])
        data = bytearray(json.dumps(document).encode())
    return bytes(data)


def fuzz(folder: Path, seed: int, times: int) -> int:
    """Resume from damaged states: refused, or right; return how many were refused."""
    place = broken_off(folder / "rows.jsonl")
    partial, state = place.beside(".partial"), place.beside(".partial.state")
    rows, whole = partial.read_bytes(), state.read_bytes()
    rng, refused = random.Random(seed), 0
    for _ in range(times):
        damaged = mutated(whole, rng)
        state.write_bytes(damaged)
        try:
            found = labelled(place, resume=True)
        except UsageError as e:
            refused += 1
            assert str(e).isprintable(), str(e)
            assert len(str(e)) < 500
            assert contents(folder) == {partial.name: rows, state.name: damaged}
        else:  # what was changed has no say in the rows
            assert found == rows_in("jsonl"), damaged
            place.path.unlink()
            partial.write_bytes(rows)
    return refused


def test_damaged_states_are_refused_and_lose_nothing(tmp_path: Path) -> None:
    assert 300 < fuzz(tmp_path, seed=1, times=400) < 400


@pytest.mark.slow
def test_10_000_damaged_states_are_refused_and_lose_nothing(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}: {fuzz(tmp_path, seed, 10_000)}")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"null", b"7", b"{}", b"[]", b'"x"', b"nonsense", b"\xff\xfe", b"[" * 100_000,
        b'{"a":' * 100_000, b"9" * 100_000, b'{"rows": 1e999}', b"NaN", b"\0" * 100,
    ],
)  # fmt: skip
def test_nonsense_for_a_state_is_refused_whatever_is_asked(tmp_path: Path, content: bytes) -> None:
    state = broken_off(tmp_path / "rows.csv", "csv").beside(".partial.state")
    state.write_bytes(content)
    before = contents(tmp_path)
    for resume, overwrite in ((False, False), (True, False), (False, True)):
        with pytest.raises(UsageError, match="is no state of an interrupted run, or was damaged"):
            labelled(target(tmp_path / "rows.csv", overwrite=overwrite), "csv", resume=resume)
    assert contents(tmp_path) == before


# Full disks


@pytest.mark.parametrize("size", [0, 100, 300, 1000])
@pytest.mark.parametrize("format_name", ["jsonl", "csv"])
def test_a_disk_full_from_the_beginning_keeps_nothing(
    tmp_path: Path, size: int, format_name: str
) -> None:
    place = target(tmp_path / "rows")
    with largest_file(size), pytest.raises(WriteError, match="cannot be written") as refusal:
        labelled(place, format_name)
    assert "--resume" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_keeps_whole_rows_and_nothing_else(tmp_path: Path) -> None:
    place = target(tmp_path / "rows.csv")
    with (
        pytest.raises(WriteError, match=r"rows.csv.partial keeps the rows so far"),
        opened(place, "csv") as output,
    ):
        output.begin(iter(ITEMS), lambda: SETTINGS)
        output.write(ROWS[:KEPT])
        output.keep()
        with largest_file(place.beside(".partial").stat().st_size + 10):
            output.write(ROWS[KEPT:])
            output.keep()
    assert sorted(contents(tmp_path)) == ["rows.csv.partial", "rows.csv.partial.state"]
    assert place.beside(".partial").read_bytes().endswith(b"\n")
    assert labelled(place, "csv", resume=True) == rows_in("csv")


def test_a_disk_too_full_for_parquet_keeps_the_rows_for_later(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    place = target(tmp_path / "rows.parquet")
    with pytest.raises(WriteError, match="--resume"), opened(place, "parquet") as output:
        output.begin(iter(ITEMS), lambda: SETTINGS)
        output.write(ROWS)
        output.keep()
        with largest_file(900):
            output.finish()
    assert sorted(contents(tmp_path)) == ["rows.parquet.partial", "rows.parquet.partial.state"]
    labelled(place, "parquet", resume=True)
    assert sorted(contents(tmp_path)) == ["rows.parquet", "rows.parquet.partial.state"]


def test_a_disk_too_full_for_the_sheet_leaves_nothing_of_it(tmp_path: Path) -> None:
    sheet = ContactSheet(read_contract(path_from_name("demo")))
    with largest_file(6000), pytest.raises(WriteError, match="cannot be written"):
        sheet.write(tmp_path / "x.html")
    assert list(tmp_path.iterdir()) == []
