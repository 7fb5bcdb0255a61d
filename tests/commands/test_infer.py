"""vit-infer as a user meets it: one row for each image, in order, and the truth at the end."""

import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from importlib import metadata
from pathlib import Path

import pytest
from PIL import Image

from support import EXAMPLES, ROOT, Run
from support.terminal import on_a_terminal
from vit_engine.artefact.metadata import path_from_name
from vit_engine.cli.progress import Progress
from vit_engine.commands.infer_options import command_line
from vit_engine.errors import UsageError

PROGRAM = str(Path(sys.executable).with_name("vit-infer"))


def rows_of(text: str | bytes) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def infer(run_command: Run):
    return lambda *arguments, **options: run_command(
        "vit-infer", "-m", "demo", "--provider", "cpu", *arguments, **options
    )


@pytest.fixture
def mixed(tmp_path) -> Path:
    """A folder of good and bad images: a bad one after every third."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for i in range(60):
        if i % 4 == 3:
            (folder / f"{i:02}.jpg").write_bytes(b"\xff\xd8\xff no image")
        else:
            source = EXAMPLES[i % len(EXAMPLES)]
            shutil.copy(source, folder / f"{i:02}{source.suffix}")
    return folder


def test_a_folder_is_labelled_in_order(infer):
    done = infer(ROOT / "examples", "-k", 2)
    rows = rows_of(done.stdout)
    assert done.returncode == 0
    assert [r["path"] for r in rows] == [str(p) for p in EXAMPLES]
    assert [r["label"] for r in rows] == [p.stem.partition("-")[0] for p in EXAMPLES]
    for row in rows:
        assert list(row) == ["path", "label", "index", "score", "topk", "error", "error_code"]
        assert len(row["topk"]) == 2
        best = {k: row[k] for k in ("label", "index", "score")}
        assert row["topk"][0] == best
        assert row["error"] is row["error_code"] is None
    assert f"{len(EXAMPLES)} images, 0 failed" in done.stderr


def test_bad_images_are_rows_and_change_no_other(infer, mixed):
    done = infer(mixed)
    rows = rows_of(done.stdout)
    assert done.returncode == 3
    assert "60 images, 15 failed" in done.stderr
    assert [Path(r["path"]).name[:2] for r in rows] == [f"{i:02}" for i in range(60)]
    for bad in mixed.glob("??.jpg"):
        if bad.stat().st_size < 100:
            bad.unlink()
    clean = {r["path"]: r for r in rows_of(infer(mixed).stdout)}
    for i, row in enumerate(rows):
        if i % 4 == 3:
            assert row["error_code"] in ("truncated", "decode") and row["label"] is None
        else:
            assert row["index"] == clean[row["path"]]["index"]
            # The batches hold other neighbours and other numbers: fp16 rounding, no more.
            assert row["score"] == pytest.approx(clean[row["path"]]["score"], abs=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("all_cores")
def test_every_odd_image_is_one_row(infer, test_data, tmp_path):
    folder = test_data / "odd-images"
    done = infer(folder, "--all-files", "-o", tmp_path / "rows.jsonl", timeout=300)
    rows = rows_of((tmp_path / "rows.jsonl").read_bytes())
    assert done.returncode == 3
    assert len(rows) > 900
    assert len({r["path"] for r in rows}) == len(rows)
    assert all((r["label"] is None) == (r["error"] is not None) for r in rows)
    failed = [r for r in rows if r["error"]]
    assert f"{len(rows):,} images, {len(failed):,} failed" in done.stderr
    assert {r["error_code"] for r in failed} <= {"decode", "truncated", "too_large", "empty"}


def test_formats_agree(infer, tmp_path, mixed):
    import pyarrow.parquet as pq

    for suffix in ("jsonl", "csv", "parquet"):
        assert infer(mixed, "-o", tmp_path / f"rows.{suffix}").returncode == 3
    expected = rows_of((tmp_path / "rows.jsonl").read_bytes())
    found = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert [{k: r[k] for k in expected[0]} for r in found] == expected
    with (tmp_path / "rows.csv").open(newline="") as file:
        for row, wanted in zip(csv.DictReader(file), expected, strict=True):
            assert row["path"] == wanted["path"]
            assert row["label"] == (wanted["label"] or "")
            assert json.loads(row["topk"] or "[]") == wanted["topk"]
            assert row["error_code"] == (wanted["error_code"] or "")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "mixed", "rows.csv", "rows.jsonl", "rows.parquet",
    ]  # fmt: skip
    table = infer(mixed, "--format", "table").stdout.splitlines()
    assert len(table) == len(expected) and "\x1b" not in "".join(table)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "rows.dat"], "from the name rows.dat; add --format table|jsonl|csv|parquet"),
        (["--format", "parquet"], "need a file"),
        (["--resume"], "name it with -o"),
        (["-o", "."], "is a folder"),
        (["--threads", "-3"], "'-3' is not a whole number of threads, 1 or more"),
        (["--html", "https://host/sheet.html"], "is not a path on this machine, but a URL"),
        (["-o", "s3://bucket/rows.jsonl"], "writing there needs --ray"),
        (["--ray-gpus", "1"], "--ray-gpus only makes sense together with --ray"),
        (["--ray", "-o", "rows", "--html", "x.html"], "--html does not work with --ray"),
        (["--ray", "-o", "rows", "--device", "0,1"], "--device does not work with --ray"),
        (["--device", "0,0"], "devices 0, 0: each GPU can be named once"),
        (["--device", "all", "--provider", "cpu"], "and the cpu provider has none"),
    ],
)
def test_senseless_options_are_refused_in_a_line(infer, arguments, words, tmp_path):
    done = infer(EXAMPLES[0], *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr and len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


IMAGES = "a whole number of images, 1 or more, 2,147,483,647 at most"
PERCENTAGE = "or a percentage such as 5%"
SECONDS, GPUS = "a number of seconds above 0", "a number of GPUs: 0, a share of one"


@pytest.mark.parametrize(
    ("option", "values", "expected"),
    [
        ("-b", ["0", "-3", "x", "1.5", ""], IMAGES),
        ("--batch", ["99999999999"], IMAGES),
        ("-k", ["0", "all"], "a whole number of labels, 1 or more"),
        ("--threads", ["0", "-3", "x"], "a whole number of threads, 1 or more"),
        ("--device", ["-1", "cuda", ""], "the number of a GPU, 0 or more"),
        ("--timeout", ["0", "-1", "-.5", "nan", "inf", "abc", "1e9"], SECONDS),
        ("--max-errors", ["5x", "-1", "101%", "nan%", "many", "1.5", "%"], PERCENTAGE),
        ("--ray-actors", ["0", "two"], "a whole number of models, 1 or more"),
        ("--ray-gpus", ["-1", "1.5", "nan", "inf"], GPUS),
    ],
)
def test_numbers_out_of_bounds_are_refused_in_a_line(option, values, expected, monkeypatch, capsys):
    """Also those that begin with a minus, which argparse takes for options beside -0."""
    for value in values:
        monkeypatch.setattr(sys, "argv", ["vit-infer", str(EXAMPLES[0]), option, value])
        with pytest.raises(SystemExit) as ended:
            command_line().parse()
        shown = capsys.readouterr()
        assert (ended.value.code, shown.out) == (2, "")
        (line,) = shown.err.splitlines()
        assert re.fullmatch(
            rf"vit-infer: argument [-a-z/]*{option}[-a-z/]*: '{re.escape(value)}' is not .*; "
            "'vit-infer --help' lists the options",
            line,
        )
        assert expected in line


def test_options_take_their_bounds_and_names_that_look_like_numbers(monkeypatch):
    line = "vit-infer -0 -b 1 --threads 1 --device 0 --timeout .5 --max-errors 0% --ray-gpus 0.5"
    monkeypatch.setattr(sys, "argv", [*line.split(), "--", "-3"])
    found = command_line().parse()
    assert found.sources == ["-3"] and found.null
    assert (found.batch, found.threads, found.device, found.timeout) == (1, 1, 0, 0.5)
    assert (found.max_errors.maximum, found.ray_gpus) == (0, 0.5)


@pytest.mark.parametrize("command", ["vit-infer", "vit-export"])
def test_the_version_is_that_of_the_package(command, run_command):
    done = run_command(command, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{command} {metadata.version('vit-engine')}\n"


def test_lists_tars_tables_and_urls_are_sources(infer, tmp_path):
    names = "".join(f"{p}\n" for p in EXAMPLES[:3])
    assert len(rows_of(infer("-", input=names).stdout)) == 3
    nul = names.replace("\n", "\0")
    assert len(rows_of(infer("-", "-0", input=nul).stdout)) == 3
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for path in EXAMPLES:
            tar.add(path, f"part/{path.name}")
            tar.addfile(tarfile.TarInfo(f"part/{path.stem}.cls"))
    rows = rows_of(infer(tmp_path / "shard.tar").stdout)
    assert [r["path"] for r in rows] == [f"{tmp_path}/shard.tar/part/{p.name}" for p in EXAMPLES]
    assert [r["label"] for r in rows] == [p.stem.partition("-")[0] for p in EXAMPLES]
    (tmp_path / "list.csv").write_text(f"id,file\n1,{EXAMPLES[0]}\n2,\n3,absent.jpg\n")
    done = infer(tmp_path / "list.csv", "--column", "file")
    assert [r["error_code"] for r in rows_of(done.stdout)] == [None, "missing", "missing"]
    refused = infer(tmp_path / "list.csv")
    assert refused.returncode == 2 and "no column 'path' but 'id', 'file'" in refused.stderr


def test_rows_come_while_the_list_is_still_open(infer):
    with subprocess.Popen(
        [PROGRAM, "-m", "demo", "--provider", "cpu", "-q", "-"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin and process.stdout
        for path in EXAMPLES[:2]:
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["path"] == str(path)
        process.stdin.close()
        assert process.wait(30) == 0


def test_names_that_are_not_utf8_survive_every_format(infer, tmp_path):
    import pyarrow.parquet as pq

    name = os.fsencode(tmp_path) + b"/caf\xe9\n=1.png"
    shutil.copy(EXAMPLES[2], os.fsdecode(name))
    for suffix in ("jsonl", "csv", "parquet"):
        assert infer(tmp_path, "-o", tmp_path / f"r.{suffix}").returncode == 0
    (row,) = rows_of((tmp_path / "r.jsonl").read_bytes())
    assert os.fsencode(row["path"]) == name
    text = (tmp_path / "r.csv").read_text("utf-8", "surrogateescape")
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert os.fsencode(row["path"]) == name
    (row,) = pq.read_table(tmp_path / "r.parquet").to_pylist()
    assert row["raw"] == name
    assert row["path"].endswith("caf\\xe9\\n=1.png")
    (again,) = rows_of(infer(tmp_path / "r.parquet").stdout)
    assert os.fsencode(again["path"]) == name and again["error"] is None
    assert "caf\\xe9\\n=1.png" in infer(tmp_path, "--format", "table").stdout


def test_csv_cells_are_no_formulas(infer, tmp_path):
    names = ["=1+1.png", "+2.png", "-3.png", "@4.png", "\t5.png", "6.png"]
    for name in names:
        shutil.copy(EXAMPLES[2], tmp_path / name)
    listed = "".join(f"{n}\0" for n in names)
    done = infer("-", "-0", "--format", "csv", input=listed, cwd=tmp_path)
    cells = [row["path"] for row in csv.DictReader(io.StringIO(done.stdout, newline=""))]
    assert cells == [*(f"'{n}" for n in names[:5]), "6.png"]


def test_sources_that_are_no_files_are_rows_at_once(infer, tmp_path):
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "empty.png").touch()
    Image.new("RGB", (50_000, 1)).save(tmp_path / "strip.png")
    (tmp_path / "no.png").symlink_to("nowhere")
    paths = [tmp_path / n for n in ("fifo.jpg", "empty.png", "strip.png", "no.png")]
    rows = rows_of(infer(*paths, "/dev/zero").stdout)
    codes = ["not_regular", "empty", None, "missing", "not_regular"]
    assert [r["error_code"] for r in rows] == codes


def test_too_many_errors_stop_the_run(infer, mixed, tmp_path):
    done = infer(mixed, "--max-errors", 3, "-b", 8, "-o", tmp_path / "r.jsonl")
    assert done.returncode == 3
    assert "4 failed, --max-errors is 3" in done.stderr
    assert infer(mixed, "--max-errors", "25%").returncode == 3
    done = infer(mixed, "--max-errors", "24%", "-o", tmp_path / "s.jsonl")
    assert done.returncode == 3 and "15 failed, --max-errors is 24%" in done.stderr
    assert len(rows_of((tmp_path / "s.jsonl").read_bytes())) == 60
    more = infer(mixed, "--max-errors", 20, "-b", 8, "-o", tmp_path / "r.jsonl", "--resume")
    assert more.returncode == 3
    assert len(rows_of((tmp_path / "r.jsonl").read_bytes())) == 60


def test_a_full_device_is_exit_4(infer, mixed):
    done = infer(mixed, "-o", "/dev/full", "--format", "jsonl")
    assert done.returncode == 4
    assert "No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_leaves_ends_the_run_quietly(mixed):
    command = f"{PROGRAM} -m demo --provider cpu -q -b 2 {mixed} | head -n 1"
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, timeout=60, check=True
    )
    assert len(rows_of(done.stdout)) == 1
    assert done.stderr == ""


@pytest.fixture
def broken_off(infer, mixed, tmp_path) -> Path:
    """The output of a run that stopped in the middle."""
    assert infer(mixed, "--max-errors", 5, "-b", 4, "-o", tmp_path / "r.jsonl").returncode == 3
    return tmp_path / "r.jsonl"


def test_other_options_are_not_resumed(infer, mixed, broken_off):
    partial = broken_off.with_name("r.jsonl.partial")
    before = partial.read_bytes()
    for words, options in {
        "was begun with --top-k 5, this run has --top-k 3": ["-k", 3],
        "was begun with --fast-decode false, this run has --fast-decode true": ["--fast-decode"],
    }.items():
        done = infer(mixed, "-b", "4", *options, "-o", broken_off, "--resume")
        assert done.returncode == 2 and words in done.stderr
    assert partial.read_bytes() == before
    assert infer(mixed, "-b", "4", "-o", broken_off, "--resume").returncode == 3


def test_other_sources_are_not_resumed(infer, mixed, broken_off):
    (mixed / "00.jpg").rename(mixed / "000.jpg")
    done = infer(mixed, "-b", 4, "-o", broken_off, "--resume")
    assert done.returncode == 2 and "are not those of the first 24 images" in done.stderr


def test_a_model_that_does_not_open_leaves_the_rows_alone(infer, mixed, broken_off):
    kept = {p.name: p.read_bytes() for p in broken_off.parent.glob("*partial*")}
    assert len(kept) == 2
    done = infer(mixed, "-m", "absent.onnx", "-o", broken_off, "--resume")
    assert done.returncode == 2 and "absent.onnx: no such file" in done.stderr
    assert {p.name: p.read_bytes() for p in broken_off.parent.glob("*partial*")} == kept


def test_resuming_gives_the_rows_of_a_clean_run(infer, mixed, broken_off, tmp_path):
    infer(mixed, "-b", 4, "-o", tmp_path / "clean.jsonl")
    done = infer(mixed, "-b", 4, "--threads", 1, "-o", broken_off, "--resume")
    assert done.returncode == 3
    assert "60 images, 15 failed" in done.stderr
    assert broken_off.read_bytes() == (tmp_path / "clean.jsonl").read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def test_what_was_resolved_is_recorded_and_resumed_by_any_spelling(run_command, mixed, tmp_path):
    """Defaults first, then what they came to by name: other words for the same rows."""
    out = tmp_path / "r.jsonl"
    line = ["vit-infer", mixed, "-o", out]
    assert run_command(*line, "-m", "demo", "--max-errors", 5, "-k", 1000).returncode == 3
    state = json.loads((tmp_path / "r.jsonl.partial.state").read_text())
    found = state["settings"]
    assert found["--provider"] in ("cpu", "cuda") and found["--batch"] >= 1
    assert found["--top-k"] == 16 and found["--format"] == "jsonl"
    path = path_from_name("demo")
    assert found["a model of sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    options = [
        word for name in ("--provider", "--batch", "--top-k") for word in (name, found[name])
    ]
    done = run_command(*line, "-m", path, *options, "--format", "jsonl", "--resume")
    assert done.returncode == 3, done.stderr
    assert len(rows_of(out.read_bytes())) == 60


def test_a_terminal_gets_a_table_progress_and_colour(mixed):
    shown = on_a_terminal(mixed, "-b", 1)
    assert "\x1b[31m" in shown
    assert re.search(r"\r\x1b\[K\d+( of 60)? images, \d+ failed, [\d.]+ images/s", shown)
    assert "60 images, 15 failed" in shown.splitlines()[-1]
    lines = [re.split(r"\r\x1b\[K", line.rstrip())[-1] for line in shown.split("\n")]
    assert [line for line in lines[:60] if ".jpg" not in line and ".png" not in line] == []
    plain = on_a_terminal(mixed, "-q", NO_COLOR="1")
    assert "\x1b" not in plain and "images/s" not in plain
    assert len(plain.splitlines()) == 60


@pytest.mark.slow
def test_progress_counts_no_other_images_for_a_list_on_stdin(mixed, tmp_path, monkeypatch):
    monkeypatch.chdir(mixed)
    names = [p for p in sorted(mixed.iterdir()) if p.stat().st_size > 100]
    (tmp_path / "names").write_text("".join(f"{name}\n" for name in names * 4))
    shown = on_a_terminal("-", "-b", 1, "-o", tmp_path / "r.jsonl", stdin=tmp_path / "names")
    assert re.search(r"\r\x1b\[K\d+ images, 0 failed, [\d.]+ images/s", shown)
    assert " of " not in shown
    shown = on_a_terminal(*names * 4, "-b", 1, "-o", tmp_path / "r.jsonl")
    assert f" of {4 * len(names)} images, 0 failed, " in shown


def test_a_count_that_meets_an_error_is_quiet(monkeypatch):
    """The run meets it too, and tells it."""

    def images():
        yield "a.png"
        ended.set()
        raise UsageError("broken")

    ended, told = threading.Event(), []
    monkeypatch.setattr(threading, "excepthook", told.append)
    progress = Progress(Counter(), done=1)
    progress.count(images)
    assert ended.wait(10)
    for thread in set(threading.enumerate()) - {threading.main_thread()}:
        thread.join(1)
    assert told == [] and progress.line().startswith("1 image, 0 failed, ")


def test_a_table_that_is_damaged_is_counted_all_the_same(tmp_path):
    table = tmp_path / "list.csv"
    table.write_text(f"path\n{EXAMPLES[0]}\n{'x' * 200_000}\n")
    shown = on_a_terminal(table, "-o", tmp_path / "r.jsonl")
    assert "2 images, 1 failed" in shown and "Traceback" not in shown


def test_what_was_passed_over_is_counted(infer, tmp_path):
    (tmp_path / "star.png").write_bytes(EXAMPLES[-1].read_bytes())
    for name in ("._a.jpg", "._b.png", "c.heic", ".ipynb_checkpoints/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert (
        infer(tmp_path)
        .stderr.rstrip()
        .endswith("; 4 passed over: 2 AppleDouble, 1 in .ipynb_checkpoints, 1 HEIC (extra heic)")
    )
    assert infer(tmp_path, "-q").stderr == ""
    done = infer(EXAMPLES[0])
    assert done.stderr.startswith("1 image, 0 failed, ") and "passed over" not in done.stderr


def test_an_altered_artefact_is_not_described(infer, tmp_path):
    model = tmp_path / "model.onnx"
    data = bytearray(path_from_name("demo").read_bytes())
    model.write_bytes(data)
    assert json.loads(infer("-m", model, "--describe", "json").stdout)["schema"] == 2
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    done = infer("-m", model, "--describe")
    assert done.returncode == 2 and "is damaged or was altered" in done.stderr
