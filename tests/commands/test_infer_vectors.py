"""vit-infer with a model that gives vectors, and vit-eval and --describe of two such models."""

import csv
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from support import EXAMPLES, Run
from support.embedding_model import SIZE, SPACE, write_embedding_model

Infer = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, and images of which the second is none."""
    found = tmp_path_factory.mktemp("vectors")
    write_embedding_model(found / "clip.onnx")
    write_embedding_model(found / "near.onnx", noise=0.05)
    write_embedding_model(found / "other.onnx", seed=1, space="6" * 64)
    write_embedding_model(found / "large.onnx", normalized=False, scale=1e5)
    (found / "photos").mkdir()
    for path in EXAMPLES:
        shutil.copy(path, found / "photos")
    (found / "photos/arrow-02.jpg").write_bytes(b"no image")
    return found


@pytest.fixture
def infer(folder: Path, run_command: Run, tmp_path: Path) -> Infer:
    def run(*arguments: str, model: str = "clip.onnx") -> CompletedProcess[str]:
        line = [folder / "photos", "-m", folder / model, "--provider", "cpu", *arguments]
        return run_command("vit-infer", *line, cwd=tmp_path)

    return run


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_format_has_the_same_vectors(infer: Infer, tmp_path: Path) -> None:
    """In half precision as well."""
    for name in ("v.jsonl", "v.csv", "v.parquet", "v.npy"):
        assert infer("-o", name).returncode == 3  # one image failed
    rows = rows_of(tmp_path / "v.jsonl")
    assert [row["error_code"] for row in rows[:3]] == [None, "format", None]
    assert rows[1]["embedding"] is rows[1]["space"] is None
    assert {row["space"] for row in rows} == {SPACE, None}
    table = pq.read_table(tmp_path / "v.parquet")
    assert str(table.schema.field("embedding").type) == f"fixed_size_list<element: float>[{SIZE}]"
    assert json.loads(table.schema.metadata[b"vit_engine"]) == {
        "model": "tiny/embedder", "space": SPACE, "pooling": "cls", "normalized": True,
    }  # fmt: skip
    assert [{**row, "embedding": row["embedding"]} for row in rows] == [
        row | {"embedding": row["embedding"] and pytest.approx(row["embedding"], abs=1e-8)}
        for row in table.drop(["raw"]).to_pylist()
    ]
    with (tmp_path / "v.csv").open(newline="") as file:
        cells = [row["embedding"] for row in csv.DictReader(file)]
    assert [json.loads(cell) if cell else None for cell in cells] == [r["embedding"] for r in rows]
    vectors, beside = np.load(tmp_path / "v.npy"), pq.read_table(tmp_path / "v.npy.parquet")
    good = [row for row in rows if row["error"] is None]
    assert np.array_equal(vectors, np.float32([row["embedding"] for row in good]))
    names = [row["path"] for row in good] + [rows[1]["path"]]  # what failed is last
    assert beside["path"].to_pylist() == names and "embedding" not in beside.column_names
    for name in ("half.parquet", "half.npy"):
        assert infer("-o", name, "--vectors", "float16").returncode == 3
        half = read(tmp_path / name)
        assert half.dtype == np.float16
        np.testing.assert_allclose(half, vectors, atol=1e-3)


def read(path: Path) -> np.ndarray[Any, Any]:
    if path.suffix == ".npy":
        found: np.ndarray[Any, Any] = np.load(path)
        return found
    column = pq.read_table(path)["embedding"].combine_chunks().drop_null()
    return np.asarray(column.flatten().to_numpy()).reshape(-1, SIZE)


def test_what_float16_cannot_hold_is_refused_and_loses_nothing(
    infer: Infer, tmp_path: Path
) -> None:
    done = infer("-o", "v.npy", "--vectors", "float16", model="large.onnx")
    assert done.returncode == 2
    assert re.search(r"more than float16 can hold; use --vectors float32; .* --resume", done.stderr)
    assert not (tmp_path / "v.npy").exists()
    assert infer("-o", "v.npy", "--resume", model="large.onnx").returncode == 3
    assert np.abs(np.load(tmp_path / "v.npy")).max() > np.finfo(np.float16).max


def test_files_of_ours_are_replaced_and_others_are_not(infer: Infer, tmp_path: Path) -> None:
    for _ in range(2):
        assert infer("-o", "v.npy").returncode == 3
    np.save(tmp_path / "mine.npy", np.zeros(3))
    np.save(tmp_path / "theirs.npy.parquet", np.zeros(3))
    (tmp_path / "theirs.npy.parquet.npy").rename(tmp_path / "theirs.npy.parquet")
    for name in ("mine.npy", "theirs.npy"):
        done = infer("-o", name)
        assert (done.returncode, "exists, and is not recognised" in done.stderr) == (2, True)
    assert infer("-o", "theirs.npy", "--overwrite").returncode == 3


@pytest.mark.parametrize(
    ("arguments", "model", "words"),
    [
        (["-k", "3"], "clip.onnx", "gives each image a vector, not labels"),
        (["--threshold", "0.5"], "clip.onnx", "(--threshold)"),
        (["--vectors", "float16", "-o", "v.jsonl"], "clip.onnx", "as Parquet or .npy"),
        (["--vectors", "float16", "-o", "v.parquet"], "demo", "of an embedding model"),
        (["-o", "v.npy"], "demo", "the model gives labels; use --format parquet"),
        (["--format", "npy"], "clip.onnx", "Parquet and .npy need a file"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(
    infer: Infer, tmp_path: Path, arguments: Sequence[str], model: str, words: str
) -> None:
    done = infer(*arguments, *(["-m", "demo"] if model == "demo" else []))
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr and len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_table_shows_lengths_and_first_numbers(infer: Infer) -> None:
    first, second, *_ = infer("--format", "table").stdout.splitlines()
    assert re.search(r"arrow-01.jpg +1 ( ?-?\d\.\d{4} ){3}\.\.\.$", first)
    assert "format: " in second


def test_two_models_are_compared_by_their_neighbours(
    folder: Path, run_command: Run, tmp_path: Path
) -> None:
    def compared(other: str, *more: str) -> CompletedProcess[str]:
        models = ["-m", folder / "clip.onnx", "--against", folder / other, "--provider", "cpu"]
        return run_command("vit-eval", folder / "photos", *models, *more, cwd=tmp_path)

    done = compared("near.onnx", "--report", "found.json", "--html", "found.html")
    assert done.returncode == 3
    assert "cosine at least 0.99" in done.stdout and "nearest others" in done.stdout
    found = json.loads((tmp_path / "found.json").read_text())["against"]
    assert 0.9 < found["min_cosine"] <= found["mean_cosine"] < 1 and 0.5 < found["recall"] <= 1
    assert found["images"] == len(EXAMPLES)
    assert len(found["most_different"]) == len(EXAMPLES)
    refused = compared("other.onnx")
    assert refused.returncode == 2 and "lie in the space 666666666666" in refused.stderr
    no_truth = run_command(
        "vit-eval", folder / "photos", "-m", folder / "clip.onnx", "--truth", "folders"
    )
    assert no_truth.returncode == 2 and "--truth is for labels" in no_truth.stderr


def test_a_description_tells_what_vectors_are(folder: Path, run_command: Run) -> None:
    shown = run_command("vit-infer", "-m", folder / "large.onnx", "--describe").stdout
    assert f"a vector of {SIZE} numbers, not normalised" in shown
    assert "the CLS token" in shown and SPACE in shown
