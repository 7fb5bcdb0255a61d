"""What a run writes, and what it never writes over: mistakes, links, full disks, damaged states."""

import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import ROOT, Run
from vit_engine.artefact.metadata import path_from_name, read_contract
from vit_engine.commands.infer import main
from vit_engine.errors import UsageError, WriteError
from vit_engine.outputs.prediction import Prediction, Score
from vit_engine.outputs.scores import Scores
from vit_engine.rows import partial_state
from vit_engine.rows.contact_sheet import ContactSheet, is_sheet
from vit_engine.rows.file_output import FileOutput
from vit_engine.rows.formats import are_rows, format_from_name
from vit_engine.rows.partial_state import PartialState
from vit_engine.rows.target import Target, target_from_path
from vit_engine.sources.item import Item

SCORES = Scores(("cat",), "softmax")
EXAMPLES = sorted((ROOT / "examples").iterdir())
STAR = next(path for path in EXAMPLES if path.name == "star-01.png")
IS_ROOT = os.geteuid() == 0
NOBODY = 54321

Infer = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def infer(run_command: Run, tmp_path: Path) -> Infer:
    """vit-infer on the demo, in a folder with photos/ (three images), bad.jpg and model.onnx."""
    (tmp_path / "photos").mkdir()
    for path in EXAMPLES[:3]:
        shutil.copy(path, tmp_path / "photos")
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    shutil.copy(path_from_name("demo"), tmp_path / "model.onnx")
    line = ["vit-infer", "-m", "model.onnx", "--provider", "cpu"]
    return lambda *arguments, **options: run_command(*line, *arguments, cwd=tmp_path, **options)


def contents(folder: Path) -> dict[str, bytes | str]:
    """Every name below a folder, with what is in a file and what a link leads to."""
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink()
        # Nothing is read that might wait.
        else path.read_bytes() if path.is_file() else "no file"
        for path in sorted(folder.rglob("*"))
    }  # fmt: skip


Refuse = Callable[..., None]


@pytest.fixture
def refuse(
    infer: Infer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Refuse:
    """Have vit-infer refuse a line, in one line and without a row; in this process, to be fast."""

    def refuse(words: str, *line: object, code: int = 2) -> None:
        with monkeypatch.context() as patched:
            patched.chdir(tmp_path)
            words_of_line = ["vit-infer", "-m", "model.onnx", *map(str, line)]
            patched.setattr(sys, "argv", words_of_line)
            patched.setattr(sys, "stderr", sys.stderr)  # which the command wraps
            found = main()
        told = capfd.readouterr()
        assert (found, told.out) == (code, ""), told.err
        (shown,) = told.err.splitlines()
        assert shown.startswith("vit-infer: ")
        assert words in shown

    return refuse


OURS = {
    "rows.csv": b"path,label,index,score,topk,error,error_code\nold.jpg,old,1,0.5,[],,\n",
    "rows.jsonl": b'{"path": "old.jpg", "label": "old", "index": 1, "score": 0.5, "topk": [], '
    b'"error": null, "error_code": null}\n',
    "sheet.html": b"<!doctype html>\n<title>vit-infer contact sheet</title>\nold",
}
"""What earlier runs may have left."""

FOREIGN = {
    "rows.csv": b"path,label\na.jpg,cat\n",
    "rows.jsonl": b'{"path": "a.jpg"}\n',
    "rows.txt": b"notes\n",
    "rows.parquet": b"PAR1 of another program",
    "sheet.html": b"<title>My page</title>",
}


def option(name: str) -> list[str]:
    """The option that writes a file of this name."""
    form = ["--format", "table"] if name.endswith(".txt") else []
    return ["--html" if name.endswith(".html") else "-o", name, *form]


# What is named and is not there


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("phtos", "phtos: no such file or folder; did you mean photos?"),
        ("photos/arow-01.png", "no such file or folder; did you mean photos/arrow-01.jpg?"),
        ("phtos/2024/x.jpg", "phtos/2024/x.jpg: no such file or folder; did you mean photos?"),
        ("bad.jpg/x", "bad.jpg/x: no such file or folder"),
        ("zzz", "zzz: no such file or folder"),
        ("", "'': no such file or folder"),
        ("n" * 256, ": File name too long"),
        ("two\nlines", "two\\nlines: no such file or folder"),
    ],
)
def test_a_source_that_is_not_there_is_told_before_anything_is_touched(
    refuse: Refuse, tmp_path: Path, source: str, words: str
) -> None:
    for name in ("rows.csv", "sheet.html"):
        (tmp_path / name).write_bytes(OURS[name])
    before = contents(tmp_path)
    line = ["photos", source, "-o", "rows.csv", "--html", "sheet.html"]
    for more in ([], ["--overwrite"], ["--resume"], ["-m", "absent.onnx"]):
        refuse(words, *line, *more)
    refuse(words, source, "--ray", "-o", "folder")
    assert contents(tmp_path) == before


def test_what_else_is_a_source_needs_no_file(infer: Infer, tmp_path: Path) -> None:
    """Links to nothing are there themselves; a list and a table may name what is not."""
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "[x].jpg").write_bytes(STAR.read_bytes())
    (tmp_path / "list.csv").write_text("path\nabsent.jpg\n")
    sources = ["gone.jpg", "[x].jpg", "list.csv", "-", "photos/*.png", "http://127.0.0.1:1/x.jpg"]
    done = infer(*sources, input="absent too.jpg\n")
    codes = [json.loads(line)["error_code"] for line in done.stdout.splitlines()]
    assert codes == ["missing", None, "missing", "missing", *[None] * (len(codes) - 5), "missing"]


# What is there already


@pytest.mark.parametrize("name", FOREIGN)
def test_what_others_wrote_is_replaced_only_when_asked(
    infer: Infer, refuse: Refuse, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(FOREIGN[name])
    before = contents(tmp_path)
    for more in ([], ["--resume", "-o", "more.csv"] if name == "sheet.html" else ["--resume"]):
        words = f"{name}: is there already, and is not recognised as something that vit-infer wrote"
        refuse(words, "photos", *option(name), *more, "-m", "absent.onnx")
    assert contents(tmp_path) == before
    assert infer("photos", *option(name), "--overwrite").returncode == 0
    assert (tmp_path / name).read_bytes() != FOREIGN[name]
    assert contents(tmp_path).keys() == before.keys()


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_what_a_run_wrote_another_replaces_if_it_labels_something(
    infer: Infer, tmp_path: Path, name: str, more: list[str]
) -> None:
    (tmp_path / name).write_bytes(OURS[name])
    before = contents(tmp_path)
    assert infer("bad.jpg", STAR, *option(name), *more).returncode == 3
    assert contents(tmp_path).keys() == before.keys()
    assert b"star" in (tmp_path / name).read_bytes()


@pytest.mark.parametrize("name", OURS)
def test_a_run_without_a_label_leaves_what_is_there(
    infer: Infer, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(OURS[name])
    before = contents(tmp_path)
    for _ in range(2):  # the second replaces what the first has put aside
        done = infer("bad.jpg", *option(name), "-q")
        assert done.returncode == 3
        words = f"no image has a label, so {name} stays as it was; this run's is {name}.failed"
        assert done.stderr == f"vit-infer: {words}\n"
        after = contents(tmp_path)
        assert b"bad.jpg" in after.pop(f"{name}.failed")  # type: ignore[operator]
        assert after == before
    assert infer("bad.jpg", *option(name), "--overwrite").returncode == 3
    assert b"bad.jpg" in (tmp_path / name).read_bytes()


def test_where_rows_would_be_put_aside_others_are_safe_too(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(OURS["rows.csv"])
    (tmp_path / "rows.csv.failed").write_bytes(b"mine")
    before = contents(tmp_path)
    refuse("rows.csv.failed: is there already, and is not recognised", "bad.jpg", "-o", "rows.csv")
    assert contents(tmp_path) == before


def test_a_run_of_no_image_leaves_what_is_there(infer: Infer, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(OURS["rows.csv"])
    done = infer("-", "-o", "rows.csv", input="")
    assert done.returncode == 3 and "rows.csv stays as it was" in done.stderr
    assert (tmp_path / "rows.csv").read_bytes() == OURS["rows.csv"]
    assert infer("-", "-o", "new.csv", input="").returncode == 0


def test_rows_in_every_format_are_known_again(infer: Infer, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    for form in ("csv", "jsonl", "parquet", "csv"):
        line = [STAR, "-o", "rows.dat", "--format", form, "--html", "sheet.htm", "-q"]
        done = infer(*line)
        assert (done.returncode, done.stderr) == (0, "")
    assert are_rows(tmp_path / "rows.dat") and is_sheet(tmp_path / "sheet.htm")


def test_overwrite_needs_a_file(refuse: Refuse) -> None:
    refuse("--overwrite needs a file; name it with -o, --html or --report", "photos", "--overwrite")


def test_an_empty_file_is_nobodys(infer: Infer, tmp_path: Path) -> None:
    for name in ("rows.csv", "sheet.html"):
        (tmp_path / name).touch()
    done = infer(STAR, "-o", "rows.csv", "--html", "sheet.html")
    assert done.returncode == 0, done.stderr
    assert b"star" in (tmp_path / "rows.csv").read_bytes()


def test_what_comes_there_while_a_run_goes_on_is_safe_too(tmp_path: Path) -> None:
    place = target(tmp_path / "rows.csv")
    with (
        pytest.raises(UsageError, match=r"not recognised .*rows.csv.partial keeps .* --resume"),
        FileOutput(place, format_from_name("csv", SCORES)) as output,
    ):
        for _ in output.begin(iter(ITEMS), lambda: SAME):
            pass
        output.write(ROWS)
        place.path.write_text("mine")
        output.finish()
    assert place.path.read_text() == "mine"
    place.path.unlink()
    assert labelled(place, "csv", resume=True) == rows_in("csv")


# The model, the inputs, and the other output


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["photos", "-o", "model.onnx"], "-o model.onnx is the model of this run"),
        (["photos", "--html", "model.onnx"], "--html model.onnx is the model of this run"),
        (["photos", "-o", "link.onnx"], "is the model of this run"),
        (["photos", "-o", "twin.onnx"], "-o twin.onnx is the model of this run"),
        (["bad.jpg", "photos", "-o", "bad.jpg"], "-o bad.jpg is a source of this run"),
        (["list.csv", "-o", "list.csv"], "-o list.csv is a source of this run"),
        (["./list.csv", "-o", "photos/../list.csv"], "list.csv is a source of this run"),
        (["*.csv", "-o", "list.csv"], "-o list.csv is a source of this run"),
        (["x.tar", "-o", "x.tar"], "-o x.tar is a source of this run"),
        (["photos", "--html", "photos/IMAGE"], "--html photos/IMAGE is an image of this run"),
        (["photos", "-o", "photos/IMAGE"], "-o photos/IMAGE is an image of this run"),
        (["list.csv", "-o", "bad.jpg"], "-o bad.jpg is an image of this run"),
        (["photos", "-o", "a.csv", "--html", "a.csv"], "-o a.csv and --html a.csv are one file"),
        (["photos", "-o", "a.csv", "--html", "./photos/../a.csv"], "are one file"),
        (["photos", "-o", "a.csv", "--html", "a.csv.partial"], "are one file"),
        (
            ["photos", "-o", "a.csv", "-m", "a.csv.partial"],
            "-o a.csv needs a.csv.partial, which is the model of this run",
        ),
        (["list.csv.partial", "-o", "list.csv"], "list.csv.partial, which is a source"),
    ],
)
@pytest.mark.parametrize("more", [["--overwrite"], ["--overwrite", "--resume"]])
def test_neither_inputs_nor_the_model_nor_each_other_are_written_over(
    refuse: Refuse, tmp_path: Path, line: list[str], words: str, more: list[str]
) -> None:
    (tmp_path / "link.onnx").symlink_to("model.onnx")
    os.link(tmp_path / "model.onnx", tmp_path / "twin.onnx")
    os.link(tmp_path / "model.onnx", tmp_path / "a.csv.partial")
    (tmp_path / "list.csv").write_bytes(OURS["rows.csv"].replace(b"old.jpg", b"bad.jpg"))
    (tmp_path / "list.csv.partial").write_bytes(STAR.read_bytes())
    (tmp_path / "x.tar").write_bytes(b"\0" * 10240)
    before = contents(tmp_path)
    line = [word.replace("IMAGE", EXAMPLES[0].name) for word in line]
    if "a.csv.partial" not in line:
        (tmp_path / "a.csv.partial").unlink()
        del before["a.csv.partial"]
    refuse(words.replace("IMAGE", EXAMPLES[0].name), *line, "--format", "csv", *more)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("list.jsonl", "-o list.jsonl is the list on stdin of this run; name another file"),
        ("bad.jpg", "-o bad.jpg is an image of this run; name another file"),
    ],
)
def test_a_list_on_stdin_and_its_images_are_not_written_over(
    infer: Infer, tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "list.jsonl").write_text("bad.jpg\n")
    before = contents(tmp_path)
    with (tmp_path / "list.jsonl").open() as stdin:
        done = infer("-", "-o", name, "--format", "csv", "--overwrite", stdin=stdin)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"vit-infer: {words}\n"
    assert contents(tmp_path) == before


# Where files lie


def test_links_are_followed_and_kept(infer: Infer, refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/rows.csv").write_bytes(OURS["rows.csv"])
    links = {"latest.csv": "hop.csv", "hop.csv": "data/rows.csv", "new.html": "data/new.html"}
    for name, leads_to in links.items():
        (tmp_path / name).symlink_to(leads_to)
    done = infer(STAR, "-o", "latest.csv", "--html", "new.html")
    assert done.returncode == 0, done.stderr
    for name, leads_to in links.items():
        assert str((tmp_path / name).readlink()) == leads_to
    assert b"star" in (tmp_path / "data/rows.csv").read_bytes()
    assert is_sheet(tmp_path / "data/new.html")
    (tmp_path / "data/rows.csv").write_text("mine")
    refuse("data/rows.csv: is there already, and is not recognised", STAR, "-o", "latest.csv")


NO_PLACE = {
    "bad.jpg/x.csv": "bad.jpg is no folder",
    "circle.csv": "is a link that leads in a circle",
    "photos": "photos is a folder; name a file in it with ",
    f"{'n' * 252}.csv": "the name is too long: it has 256 bytes",
    f"{'é' * 126}.csv": "the name is too long: it has 256 bytes",
    f"{'folder/' * 600}x.csv": "the name is too long: it has 5 bytes, 4205 with",
    "/proc/x.csv": "/proc/x.csv: cannot be written",
}


@pytest.mark.parametrize(("name", "words"), NO_PLACE.items())
@pytest.mark.parametrize("with_option", ["-o", "--html"])
def test_places_where_no_file_can_be_are_told_before_anything_happens(
    refuse: Refuse, tmp_path: Path, name: str, words: str, with_option: str
) -> None:
    (tmp_path / "far.csv").symlink_to("nowhere/x.csv")
    (tmp_path / "circle.csv").symlink_to("circle.csv")
    before = contents(tmp_path)
    line = [with_option, name, *["--format", "csv"] * (with_option == "-o"), "-m", "absent.onnx"]
    refuse(words, "photos", *line, code=4 if name.startswith("/proc") else 2)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["new/deep/x.csv", "far.csv"])
@pytest.mark.parametrize("with_option", ["-o", "--html"])
def test_missing_folders_are_made_and_stay_only_with_a_file(
    infer: Infer, refuse: Refuse, tmp_path: Path, name: str, with_option: str
) -> None:
    (tmp_path / "far.csv").symlink_to("new/x.csv")
    before = contents(tmp_path)
    refuse("absent.onnx: no such file", STAR, with_option, name, "-m", "absent.onnx")
    assert contents(tmp_path) == before
    assert not (tmp_path / "new").exists()
    done = infer(STAR, with_option, name)
    assert done.returncode == 0, done.stderr
    assert b"star" in (tmp_path / name).read_bytes()


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_a_finished_run_has_nothing_to_resume(infer: Infer, tmp_path: Path, form: str) -> None:
    name = f"rows.{form}"
    assert infer(STAR, "-o", name, "--resume").returncode == 0
    before = contents(tmp_path)
    done = infer(STAR, "-o", name, "--resume", "-m", "absent.onnx")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == (
        f"{name} is whole, there is nothing to resume; leave out --resume to label the images "
        "again\n"
    )
    assert contents(tmp_path) == before
    assert "1 image, 0 failed" in infer(STAR, "-o", name, "--resume", "--overwrite").stderr


def test_a_device_is_no_place_for_a_contact_sheet(refuse: Refuse) -> None:
    refuse("--html /dev/null: is no regular file", "photos", "--html", "/dev/null")


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_a_descriptor_is_a_stream_whatever_it_leads_to(
    infer: Infer, tmp_path: Path, name: str
) -> None:
    with (tmp_path / "log").open("ab") as log:
        log.write(b"mine\n")
        log.flush()
        done = infer(
            STAR,
            "-o",
            name,
            "--format",
            "csv",
            "-q",
            stdout=log,
            stderr=subprocess.PIPE,
            capture_output=False,
        )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "log").read_bytes().startswith(b"mine\npath,label,")


def test_a_folder_of_rays_is_no_file(refuse: Refuse) -> None:
    refuse("bad.jpg is a file; with --ray -o names a", "photos", "--ray", "-o", "bad.jpg")


@pytest.mark.parametrize("length", [241, 242, 250, 255])
@pytest.mark.parametrize("letter", ["n", "é"])
def test_the_longest_names_work(tmp_path: Path, length: int, letter: str) -> None:
    """Interrupted and resumed, too, and told from one that differs in its last letter."""
    name = letter * ((length - 4) // len(letter.encode()))
    paths = [tmp_path / f"{name}{last}.js" for last in "ab"]
    for path in paths:
        broken_off(path)
    assert len(list(tmp_path.iterdir())) == 4
    for path in paths:
        assert labelled(target(path), "jsonl", resume=True) == rows_in("jsonl")
    assert sorted(tmp_path.iterdir()) == paths


@pytest.mark.skipif(not IS_ROOT, reason="another user can be had by root alone")
def test_a_folder_of_another_user_is_told(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="cannot be written"):
        os.seteuid(NOBODY)
        try:
            target(tmp_path / "x.csv")
        finally:
            os.seteuid(0)
    assert list(tmp_path.iterdir()) == []


# Interrupted runs

ITEMS = [Item(f"{i}.png") for i in range(40)]
ROWS = [
    Prediction(item.path, (Score(f"label {i}", i, 0.5),))
    if i % 4
    else Prediction(item.path, error="is empty", error_code="empty")
    for i, item in enumerate(ITEMS)
]
SAME = partial_state.Run({"SOURCE": ["photos"], "--timeout": 30.0}, {"--threads": 2})
KEPT = 24


def target(path: Path, *, overwrite: bool = False) -> Target:
    found = target_from_path(path, "-o", are_rows, overwrite=overwrite)
    assert found
    return found


def rows_in(form: str) -> bytes:
    """The rows as they are written without an interruption."""
    found = format_from_name(form, SCORES)
    return found.header + b"".join(map(found.line, ROWS))


def labelled(place: Target, form: str = "jsonl", *, resume: bool = False) -> bytes:
    """Do a run, or the rest of one; return what is then in the file."""
    with FileOutput(place, format_from_name(form, SCORES), resume=resume) as output:
        left = list(output.begin(iter(ITEMS), lambda: SAME))
        output.write(ROWS[len(ROWS) - len(left) :])
        assert output.finish() == ""
    return place.path.read_bytes()


def broken_off(path: Path, form: str = "jsonl", rows: int = KEPT) -> Target:
    """A run that ended after some rows."""
    place = target(path)
    with FileOutput(place, format_from_name(form, SCORES)) as output:
        output.begin(iter(ITEMS), lambda: SAME)
        output.write(ROWS[:rows])
    return place


@pytest.mark.parametrize("form", ["jsonl", "csv", "table"])
@pytest.mark.parametrize("rows", [1, KEPT, len(ROWS)])
def test_a_resumed_run_has_the_rows_of_a_whole_one(tmp_path: Path, form: str, rows: int) -> None:
    place = broken_off(tmp_path / "rows", form, rows)
    with place.beside(".partial").open("ab") as file:
        file.write(b"a torn line")
    assert labelled(place, form, resume=True) == rows_in(form)
    assert list(tmp_path.iterdir()) == [place.path]


def test_a_run_broken_off_before_its_first_row_leaves_nothing(tmp_path: Path) -> None:
    broken_off(tmp_path / "rows.csv", "csv", 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_run_killed_after_its_rows_had_their_name_is_whole(tmp_path: Path, form: str) -> None:
    place = broken_off(tmp_path / f"rows.{form}", form, len(ROWS))
    before = place.beside(".partial").rename(place.path).read_bytes()
    assert labelled(place, form, resume=True) == before == rows_in(form)
    assert list(tmp_path.iterdir()) == [place.path]


def test_another_files_bytes_are_not_taken_for_that_run(tmp_path: Path) -> None:
    """Rows of ours under that name, as many bytes as the state says, and of another run."""
    place = broken_off(tmp_path / "rows.jsonl", rows=len(ROWS))
    place.beside(".partial").unlink()
    other = rows_in("jsonl").replace(b"label 9", b"label 8")
    place.path.write_bytes(other)
    assert labelled(place, resume=True) == rows_in("jsonl")


PLANTED = {
    "link": "is a link",
    "hard link": "has a second name (a hard link)",
    "FIFO": "is no regular file",
    "folder": "is no regular file",
    "device": "is a link",
    "other user's": "belongs to another user",
}


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("suffix", [".partial", ".partial.state"])
@pytest.mark.parametrize("resume", [False, True])
def test_what_is_planted_at_the_names_beside_is_left_alone(
    tmp_path: Path, kind: str, suffix: str, resume: bool
) -> None:
    if kind == "other user's" and not IS_ROOT:
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
    elif kind == "device":
        planted.symlink_to("/dev/zero")
    else:
        shutil.copy(victim, planted)
        os.chown(planted, NOBODY, NOBODY)
    before = contents(tmp_path)
    with pytest.raises(UsageError) as refusal:
        labelled(place, resume=resume)
    assert str(refusal.value).startswith(f"{planted}: {PLANTED[kind]}, and vit-infer needs")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_partial_file_of_nobody_knows_whom_is_left_alone(tmp_path: Path, resume: bool) -> None:
    place = target(tmp_path / "rows.jsonl")
    place.beside(".partial").write_text("mine")
    with pytest.raises(UsageError, match="has 4 bytes, and no state beside it"):
        labelled(place, resume=resume)
    assert contents(tmp_path) == {"rows.jsonl.partial": b"mine"}


@pytest.mark.parametrize("change", ["one bit", "same length", "shorter", "longer"])
def test_a_partial_file_that_is_another_is_not_resumed(tmp_path: Path, change: str) -> None:
    place = broken_off(tmp_path / "rows.jsonl")
    partial = place.beside(".partial")
    data = bytearray(partial.read_bytes())
    if change == "one bit":
        data[len(data) // 2] ^= 1
    elif change == "shorter":
        del data[-1]
    else:
        data = bytearray(b"x" * (len(data) + 9 * (change == "longer")))
    partial.write_bytes(data)
    before = contents(tmp_path)
    for resume in (True, False):
        with pytest.raises(UsageError, match="delete it to start over"):
            labelled(place, resume=resume)
    assert contents(tmp_path) == before


def test_two_runs_do_not_write_to_one_file(tmp_path: Path) -> None:
    place = target(tmp_path / "rows.jsonl")
    with (
        FileOutput(place, format_from_name("jsonl", SCORES)),
        pytest.raises(UsageError, match="another vit-infer is writing to it"),
    ):
        labelled(place)


# Damaged states

NONSENSE: list[Any] = [
    None, True, -1, 0, 1, 23, 25, 1.0, 1e300, 10**30, -(10**30), 2**63, "", "x", "24", "\n\x1b[31m",
    "0" * 64, "f" * 64, "F" * 64, "é", "\ud800", [], [1], {}, {"a": 1}, float("nan"), float("inf"),
    {"SOURCE": ["elsewhere"]}, [[[[[]]]]],
]  # fmt: skip


def mutated(state: bytes, rng: random.Random) -> bytes:
    """Damage a state: its bytes, or what it says, now and then with a seal that is right."""
    kind = rng.randrange(8)
    data, place = bytearray(state), rng.randrange(len(state))
    if kind == 0:
        data[place] = rng.randrange(256)
    elif kind == 1:
        data[place] ^= 1 << rng.randrange(8)
    elif kind == 2:
        del data[place : place + rng.choice((1, 2, 10, 10_000))]
    elif kind == 3:
        data[place:place] = rng.choice((b"0", b" ", b"\n", b"[" * 5000, b"\0", b"9" * 5000, b'"'))
    else:
        document = json.loads(state)
        name = rng.choice([*document, "more"])
        if kind == 4:
            document.pop(name, None)
        elif kind == 5:
            document = dict(reversed(document.items()))
        else:
            document[name] = rng.choice([*NONSENSE, document.get(rng.choice([*document]))])
        seal = document.pop("seal", None)
        text = json.dumps(document)
        if kind == 7:
            seal = hashlib.sha256(text.encode()).hexdigest()
        data = bytearray(f'{text[:-1]}, "seal": {json.dumps(seal)}}}'.encode())
    return bytes(data)


def fuzz(folder: Path, seed: int, times: int) -> dict[str, int]:
    """Resume from damaged states; count those that were refused, and those still right."""
    place = broken_off(folder / "rows.jsonl")
    partial, state = place.beside(".partial"), place.beside(".partial.state")
    rows, whole = partial.read_bytes(), state.read_bytes()
    rng = random.Random(seed)
    counts = {"refused": 0, "right": 0}
    for _ in range(times):
        damaged = mutated(whole, rng)
        state.write_bytes(damaged)
        try:
            found = labelled(place, resume=True)
        except UsageError as e:
            counts["refused"] += 1
            assert str(e).isprintable(), str(e)
            assert len(str(e)) < 500
            assert (partial.read_bytes(), state.read_bytes()) == (rows, damaged)
            assert len(list(folder.iterdir())) == 2
            assert damaged != whole
        else:  # undamaged, or what was changed has no say in the rows
            counts["right"] += 1
            same, was = json.loads(damaged), json.loads(whole)
            assert found == rows_in("jsonl")
            assert {**same, "seal": 0, "notes": 0, "failed": 0} == {
                **was, "seal": 0, "notes": 0, "failed": 0,
            }  # fmt: skip
            place.path.unlink()
            partial.write_bytes(rows)
    return counts


def test_damaged_states_are_refused_and_lose_nothing(tmp_path: Path) -> None:
    counts = fuzz(tmp_path, seed=1, times=400)
    assert counts["refused"] > 350


@pytest.mark.slow
def test_10_000_damaged_states_are_refused_and_lose_nothing(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}: {fuzz(tmp_path, seed, 10_000)}")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n", b"null", b"7", b"{}", b"[]", b'"x"', b"nonsense", b"\xff\xfe", b"[" * 100_000,
        b'{"a":' * 100_000, b"9" * 100_000, b'{"rows": 1e999}', b"NaN", b"\0" * 100,
    ],
)  # fmt: skip
def test_nonsense_for_a_state_leaves_nothing_else(
    refuse: Refuse, tmp_path: Path, content: bytes
) -> None:
    """Nor the partial file that the command has made for itself."""
    (tmp_path / "rows.csv.partial.state").write_bytes(content)
    before = contents(tmp_path)
    for more in ([], ["--resume"]):
        refuse(
            "rows.csv.partial.state: is no state of an interrupted run",
            "photos",
            "-o",
            "rows.csv",
            "-m",
            "absent.onnx",
            *more,
        )
    assert contents(tmp_path) == before


def test_a_damaged_state_is_one_line_and_exit_2(refuse: Refuse, tmp_path: Path) -> None:
    """By the command itself, whose model is not opened for it."""
    place = broken_off(tmp_path / "rows.jsonl")
    state = place.beside(".partial.state")
    whole, rng = state.read_bytes(), random.Random(2)
    for i in range(100):
        damaged = mutated(whole, rng)
        with contextlib.suppress(ValueError):
            PartialState.loads(damaged.decode("ascii"))
            continue
        state.write_bytes(damaged)
        line = [STAR, "-o", "rows.jsonl", "-m", "absent.onnx", *["--resume"] * (i % 2)]
        refuse("rows.jsonl.partial.state: is no state of an interrupted run, or was ", *line)
        assert state.read_bytes() == damaged and place.beside(".partial").stat().st_size


# Full disks


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond a size, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 100, 300, 1000])
@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_disk_full_from_the_beginning_keeps_nothing(tmp_path: Path, size: int, form: str) -> None:
    place = target(tmp_path / "rows")
    with largest_file(size), pytest.raises(WriteError, match="cannot be written") as refusal:
        labelled(place, form)
    assert "--resume" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_keeps_whole_rows_and_nothing_else(tmp_path: Path) -> None:
    place = target(tmp_path / "rows.csv")
    with (
        pytest.raises(WriteError, match=r"rows.csv.partial keeps what was written"),
        FileOutput(place, format_from_name("csv", SCORES)) as output,
    ):
        output.begin(iter(ITEMS), lambda: SAME)
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
    form = format_from_name("parquet", SCORES)
    with pytest.raises(WriteError, match="--resume"), FileOutput(place, form) as output:
        output.begin(iter(ITEMS), lambda: SAME)
        output.write(ROWS)
        output.keep()
        with largest_file(900):
            output.finish()
    assert sorted(contents(tmp_path)) == ["rows.parquet.partial", "rows.parquet.partial.state"]
    labelled(place, "parquet", resume=True)
    assert sorted(contents(tmp_path)) == ["rows.parquet"]


def test_a_disk_too_full_for_the_sheet_leaves_nothing_of_it(tmp_path: Path) -> None:
    sheet = ContactSheet(read_contract(path_from_name("demo")))
    with largest_file(6000), pytest.raises(WriteError, match="cannot be written"):
        sheet.write(tmp_path / "x.html")
    assert list(tmp_path.iterdir()) == []


# What the summary says


def test_what_was_passed_over_is_counted(infer: Infer, tmp_path: Path) -> None:
    for name in ("._a.jpg", "._b.png", "c.heic", ".ipynb_checkpoints/d.png"):
        (tmp_path / "photos" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(b"x")
    done = infer("photos", "bad.jpg")
    assert done.stderr.rstrip().endswith(
        "on cpu; 4 passed over: 2 AppleDouble, 1 in .ipynb_checkpoints, 1 HEIC (not supported)"
    )
    assert infer("photos", "-q").stderr == ""
    assert "passed over" not in infer(STAR).stderr


# The artefact as a whole


def test_the_whole_artefact_is_verified_when_asked(
    infer: Infer, refuse: Refuse, tmp_path: Path
) -> None:
    done = infer("--describe", "--verify")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].split() == [
        "content",
        "whole,",
        "as",
        "it",
        "was",
        "exported",
    ]
    done = infer("--describe", "json", "--verify")
    assert json.loads(done.stdout)["schema"] == 2 and "whole" in done.stderr
    refuse("--verify only makes sense together with --describe", "--verify", "photos")
    data = bytearray((tmp_path / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "model.onnx").write_bytes(data)
    assert infer("--describe").returncode == 0
    for form in ("text", "json"):
        refuse("is damaged or was altered", "--describe", form, "--verify")
