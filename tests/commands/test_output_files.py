"""What a run writes over and what it never does: by one rule for rows, sheets and artefacts."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support import EXAMPLES, Run, slow_case
from vit_engine.artefact.metadata import path_from_name
from vit_engine.cli import exit_codes
from vit_engine.errors import WriteError
from vit_engine.machine.output_file import output_file
from vit_engine.rows.contact_sheet import is_sheet
from vit_engine.rows.formats import are_rows

STAR = next(path for path in EXAMPLES if path.name == "star-01.png")
IMAGE = EXAMPLES[0].name
NOBODY = 54321

Infer = Callable[..., subprocess.CompletedProcess[str]]
Refuse = Callable[..., None]


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


@pytest.fixture
def refuse(
    infer: Infer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Refuse:
    """Have vit-infer refuse a line, in one line and without a row; in this process, to be fast."""

    def refuse(words: str, *line: object, code: int = 2) -> None:
        with monkeypatch.context() as patched:
            patched.chdir(tmp_path)
            patched.setattr("sys.argv", ["vit-infer", "-m", "model.onnx", *map(str, line)])
            patched.setattr("sys.stderr", sys.stderr)  # which the command wraps
            found = exit_codes.start("vit-infer", "vit_engine.commands.infer")
        told = capfd.readouterr()
        assert (found, told.out) == (code, ""), told.err
        (shown,) = told.err.splitlines()
        assert shown.startswith("vit-infer: ")
        assert words in shown

    return refuse


def contents(folder: Path) -> dict[str, bytes | str]:
    """Every name below a folder, with what is in a file and what a link leads to."""
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink()
        # Nothing is read that might wait.
        else path.read_bytes() if path.is_file() else "no file"
        for path in sorted(folder.rglob("*"))
    }  # fmt: skip


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
        ("", "'': no such file or folder"),
        ("n" * 256, ": File name too long"),
        ("two\nlines", "two\\nlines: no such file or folder"),
        ("model.onnx", "model.onnx is a model, and no image; name it with -m model.onnx"),
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


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["photos", "-o", "rows.json"], "rows are JSON lines, one document a row; name the file"),
        (["photos", "-o", "out/"], "-o out/: is a folder; name a file in it: out/labels.csv"),
        (["photos", "-o", "photos/"], "-o photos/: is a folder; name a file in it"),
        (["--describe", "-m", "demo", "photos"], "--describe takes a model and no images"),
    ],
)
def test_outputs_that_are_none_are_told(line: list[str], words: str, refuse: Refuse) -> None:
    refuse(words, *line)


def test_an_option_that_is_misspelt_is_known(infer: Infer) -> None:
    done = infer("photos", "--treshold", "0.5")
    assert done.returncode == 2
    assert "unrecognized arguments: --treshold 0.5; did you mean --threshold?" in done.stderr


def test_a_name_that_means_another_is_told_in_its_row(infer: Infer, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").symlink_to("gone.jpg")
    shutil.copy(STAR, tmp_path / "photos/caf\u00e9.png")
    names = "broken.jpg\nphotos\\star-01.png\nphotos/cafe\u0301.png\n"
    shutil.copy(STAR, tmp_path / "photos")
    done = infer("-", "--format", "jsonl", input=names)
    assert [json.loads(line)["error"] for line in done.stdout.splitlines()] == [
        "is a link to gone.jpg, which is not there",
        "no such file; write photos/star-01.png, with slashes",
        "no such file; there is one whose accents are encoded otherwise (NFC)",
    ]


def paths_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode in (0, 3), done.stderr
    return [json.loads(row)["path"] for row in done.stdout.splitlines()]


def test_images_are_shared_out(infer: Infer) -> None:
    line = ("photos", "bad.jpg", "--format", "jsonl")
    whole = paths_of(infer(*line))
    shares = [paths_of(infer(*line, "--shard", f"{i}/3")) for i in (1, 2, 3)]
    assert len(whole) == 4 and shares == [whole[i::3] for i in range(3)]
    assert paths_of(infer(*line, "--shard", "9/9")) == []
    assert "'0/3' is no shard; expected 1/N" in infer("photos", "--shard", "0/3").stderr


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_new_images_are_labelled_alone(
    form: str, infer: Infer, refuse: Refuse, tmp_path: Path
) -> None:
    odd, first = os.fsdecode(b"photos/caf\xe9.png"), f"photos/{EXAMPLES[0].name}"
    shutil.copy(STAR, tmp_path / odd)
    name = f"done.{form}"
    assert infer(first, odd, "bad.jpg", "-o", name).returncode == 3
    done = infer("photos", "bad.jpg", "--skip-done", name, "--format", "jsonl")
    assert "2 passed over: 2 labelled before" in done.stderr
    assert paths_of(done) == [*(f"photos/{path.name}" for path in EXAMPLES[1:3]), "bad.jpg"]
    refuse("would write over done rows", "photos", "--skip-done", name, "-o", name)
    refuse(
        "has no rows of vit-infer (there is no such file; did",
        "photos",
        "--skip-done",
        f"dome.{form}",
    )


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
    words = f"{name}: exists, and is not recognised as written by an earlier run; name another "
    for more in ([], ["--resume", "-o", "more.csv"] if name == "sheet.html" else ["--resume"]):
        refuse(words, "photos", *option(name), *more, "-m", "absent.onnx")
    assert contents(tmp_path) == before
    assert infer("photos", *option(name), "--overwrite").returncode == 0
    assert (tmp_path / name).read_bytes() != FOREIGN[name]
    assert contents(tmp_path).keys() == before.keys()


@pytest.mark.parametrize("name", ["rows.csv", "sheet.html", slow_case("rows.jsonl")])
def test_what_a_run_wrote_another_replaces_if_it_labels_something(
    infer: Infer, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(OURS[name])
    before = contents(tmp_path)
    stays = f"no image has a label, so {name} stays as it was"
    kept = "; rows.csv.partial has the rows of this run" if name == "rows.csv" else ""
    for _ in range(2 if kept else 1):  # the second replaces what the first has left of rows
        done = infer("bad.jpg", *option(name), "-q")
        assert done.returncode == 3
        assert done.stderr.startswith(f"vit-infer: {stays}{kept}")
        assert len(done.stderr.splitlines()) == 1
        assert (tmp_path / name).read_bytes() == OURS[name]
    assert infer("bad.jpg", STAR, *option(name)).returncode == 3
    assert contents(tmp_path).keys() == before.keys()
    assert b"star" in (tmp_path / name).read_bytes()
    if kept:
        assert infer("bad.jpg", *option(name), "--overwrite").returncode == 3
        assert b"bad.jpg" in (tmp_path / name).read_bytes()
        assert contents(tmp_path).keys() == before.keys()


def test_a_run_of_no_image_leaves_what_is_there(infer: Infer, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(OURS["rows.csv"])
    before = contents(tmp_path)
    done = infer("-", "-o", "rows.csv", input="")
    assert done.returncode == 3 and done.stderr.endswith("rows.csv stays as it was\n")
    assert contents(tmp_path) == before
    assert infer("-", "-o", "new.csv", input="").returncode == 0


def test_rows_in_every_format_are_known_again(infer: Infer, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    for form in ("parquet", "jsonl", "csv"):
        done = infer(STAR, "-o", "rows.dat", "--format", form, "--html", "sheet.htm", "-q")
        assert (done.returncode, done.stderr) == (0, "")
    assert are_rows(tmp_path / "rows.dat") and is_sheet(tmp_path / "sheet.htm")


def test_an_empty_file_is_nobodys(infer: Infer, tmp_path: Path) -> None:
    for name in ("rows.csv", "sheet.html"):
        (tmp_path / name).touch()
    done = infer(STAR, "-o", "rows.csv", "--html", "sheet.html")
    assert done.returncode == 0, done.stderr
    assert b"star" in (tmp_path / "rows.csv").read_bytes()


@pytest.mark.parametrize("form", ["jsonl", slow_case("parquet")])
def test_a_finished_run_is_resumed_only_by_itself(
    form: str, infer: Infer, refuse: Refuse, tmp_path: Path
) -> None:
    """Nothing to do, or why the labels that are there are not those that this run would give."""
    name = f"rows.{form}"
    assert infer("photos", "bad.jpg", "-o", name, "--resume").returncode == 3
    before = contents(tmp_path)
    done = infer("photos", "bad.jpg", "-o", name, "--resume")
    assert (done.returncode, done.stdout) == (3, "")
    assert "4 images, 1 failed, " in done.stderr
    assert f"{name} is whole, there was nothing to resume; leave out --resume" in done.stderr
    line = ["photos", "bad.jpg", "-o", name, "--resume"]
    refuse("has --top-k 1", *line, "-k", "1", "--provider", "cpu")
    refuse('with SOURCE ["photos", "bad.jpg"]', "photos", *line[2:], "--provider", "cpu")
    assert contents(tmp_path) == before
    shutil.copy(STAR, tmp_path / "photos")
    refuse("its 4 rows are not those of the first 4 images", *line, "--provider", "cpu")
    (tmp_path / "photos" / STAR.name).unlink()
    assert "5 images, 1 fa" not in infer(*line, "--overwrite").stderr
    if form == "jsonl":
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b"{}\n")
        refuse("is whole, and nothing tells of which model", *line, "--provider", "cpu")
    assert infer("photos", "-o", name).returncode == 0
    refuse("it was not written with --resume", "photos", *line[2:], "--provider", "cpu")


# The model, the inputs, and the other output


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["photos", "-o", "model.onnx"], "-o model.onnx would write over the model, model.onnx;"),
        (["photos", "--html", "model.onnx"], "--html model.onnx would write over the model"),
        (["photos", "-o", "link.onnx"], "would write over the model"),
        (["photos", "-o", "twin.onnx"], "-o twin.onnx would write over the model"),
        (["bad.jpg", "photos", "-o", "bad.jpg"], "-o bad.jpg would write over a source"),
        (["./list.csv", "-o", "photos/../list.csv"], "list.csv would write over a source"),
        (["*.csv", "-o", "list.csv"], "-o list.csv would write over a source, list.csv"),
        (["x.tar", "-o", "x.tar"], "-o x.tar would write over a source"),
        (["photos", "--html", f"photos/{IMAGE}"], f"photos/{IMAGE} would write over an image"),
        (["bad.jpg", "-o", f"photos/{IMAGE}"], f"photos/{IMAGE} would write over an image"),
        (["photos", "-o", "phone.heic"], "-o phone.heic would write over an image"),
        (
            ["photos", "-o", "a.csv", "--html", "./photos/../a.csv"],
            "-o a.csv and --html photos/../a.csv would be one file; name two",
        ),
        (["photos", "-o", "a.csv", "--html", "a.csv.partial"], "would be one file"),
        (
            ["photos", "-o", "a.csv", "-m", "a.csv.partial"],
            "-o a.csv would write over the model, a.csv.partial",
        ),
        (["list.csv.partial", "-o", "list.csv"], "over a source, list.csv.partial"),
    ],
)
def test_neither_inputs_nor_the_model_nor_each_other_are_written_over(
    refuse: Refuse, tmp_path: Path, line: list[str], words: str
) -> None:
    (tmp_path / "link.onnx").symlink_to("model.onnx")
    os.link(tmp_path / "model.onnx", tmp_path / "twin.onnx")
    (tmp_path / "list.csv").write_bytes(OURS["rows.csv"].replace(b"old.jpg", b"bad.jpg"))
    (tmp_path / "list.csv.partial").write_bytes(STAR.read_bytes())
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (tmp_path / "x.tar").write_bytes(b"\0" * 10240)
    if "a.csv.partial" in line:
        os.link(tmp_path / "model.onnx", tmp_path / "a.csv.partial")
    before = contents(tmp_path)
    for more in (["--overwrite"], ["--overwrite", "--resume"]):
        refuse(words, *line, "--format", "csv", *more)
    assert contents(tmp_path) == before


def test_a_list_on_stdin_is_not_written_over(infer: Infer, tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text("bad.jpg\n")
    before = contents(tmp_path)
    with (tmp_path / "list.jsonl").open() as stdin:
        done = infer("-", "-o", "list.jsonl", "--overwrite", stdin=stdin)
    assert (done.returncode, done.stdout) == (2, "")
    assert "-o list.jsonl would write over the list on stdin" in done.stderr
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
    refuse("data/rows.csv: exists, and is not recognised", STAR, "-o", "latest.csv")


NO_PLACE = {
    "bad.jpg/x.csv": "Not a directory",
    "circle.csv": "Too many levels of symbolic links",
    "photos": "photos: is a folder; name a file in it",
    f"{'n' * 252}.csv": "File name too long",
    f"{'n' * 240}.csv": "File name too long",  # with .partial.state
    f"{'folder/' * 600}x.csv": "File name too long",
    "/proc/x.csv": "/proc/x.csv: cannot be written",
}


@pytest.mark.parametrize(("name", "words"), NO_PLACE.items(), ids=NO_PLACE.values())
@pytest.mark.parametrize("with_option", ["-o", "--html"])
def test_places_where_no_file_can_be_are_told_before_anything_happens(
    refuse: Refuse, tmp_path: Path, name: str, words: str, with_option: str
) -> None:
    (tmp_path / "circle.csv").symlink_to("circle.csv")
    before = contents(tmp_path)
    line = [with_option, name, *["--format", "csv"] * (with_option == "-o"), "-m", "absent.onnx"]
    refuse(words, "photos", *line, code=4 if name.startswith("/proc") else 2)
    assert contents(tmp_path) == before


def test_missing_folders_are_made(infer: Infer, tmp_path: Path) -> None:
    (tmp_path / "far.csv").symlink_to("new/x.csv")
    done = infer(STAR, "-o", "far.csv", "--html", "newer/deep/x.csv")
    assert done.returncode == 0, done.stderr
    for name in ("far.csv", "newer/deep/x.csv"):
        assert b"star" in (tmp_path / name).read_bytes()


def test_what_needs_a_file_gets_none_elsewhere(refuse: Refuse) -> None:
    refuse("--html /dev/null: is no regular file", "photos", "--html", "/dev/null")
    refuse("bad.jpg is a file; with --ray -o names a", "photos", "--ray", "-o", "bad.jpg")
    refuse("--overwrite needs a file; name it with -o", "photos", "--overwrite")


@pytest.mark.parametrize(
    "name",
    [
        "/dev/stdout",
        slow_case("/dev/fd/1"),
        slow_case("/proc/self/fd/1"),
    ],
)
def test_a_descriptor_is_a_stream_whatever_it_leads_to(
    infer: Infer, tmp_path: Path, name: str
) -> None:
    streams = {"stderr": subprocess.PIPE, "capture_output": False}
    with (tmp_path / "log").open("ab") as log:
        log.write(b"mine\n")
        log.flush()
        done = infer(STAR, "-o", name, "--format", "csv", "-q", stdout=log, **streams)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "log").read_bytes().startswith(b"mine\npath,label,")


@pytest.mark.skipif(os.geteuid() != 0, reason="another user can be had by root alone")
def test_a_folder_of_another_user_is_told(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="cannot be written"):
        os.seteuid(NOBODY)
        try:
            output_file(tmp_path / "x.csv", "-o", are_rows, overwrite=False)
        finally:
            os.seteuid(0)
    assert list(tmp_path.iterdir()) == []
