"""vit-search: the nearest images of a file of vectors, by images and by texts."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.embedding_model import write_embedding_model
from vit_engine import Embedder
from vit_engine.commands import infer, search
from vit_engine.errors import UsageError
from vit_engine.rows import vector_reader
from vit_engine.rows.vector_reader import VectorFile

IMAGES = 20

Command = Callable[..., str]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Return what runs a command in a folder of images and a model, and gives what it prints."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(IMAGES):
        pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{i:02}.png")
    (tmp_path / "images/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    write_embedding_model(tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)

    def command(module: object, *arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["command", *map(str, arguments)])
        module.main()  # type: ignore[attr-defined]
        return capsys.readouterr().out

    return command


@pytest.mark.parametrize("name", ["v.parquet", "v.npy", "v.jsonl"])
def test_the_nearest_are_those_of_all_vectors(
    name: str, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the format, and however many blocks it is read in; a row without a vector is left
    out."""
    monkeypatch.setattr(vector_reader, "BLOCK", 3)
    run(infer, "images", "-m", "model.onnx", "-o", name, "-q")
    paths = [f"images/{i:02}.png" for i in range(IMAGES)]
    with Embedder.load("model.onnx") as embedder:
        vectors = embedder.embed(paths)
    order = np.argsort(-vectors @ vectors[:2].T, axis=0)[:5].T
    text = run(search, name, paths[0], paths[1], "-m", "model.onnx", "-k", 5)
    for i, line in enumerate(map(json.loads, text.splitlines())):
        assert line["query"] == paths[i]
        assert [r["path"] for r in line["results"]] == [paths[j] for j in order[i]]
        assert line["results"][0]["score"] == pytest.approx(1)


def test_a_folder_is_all_its_files(run: Command, tmp_path: Path) -> None:
    """As Ray writes it; of two spaces it is refused."""
    (tmp_path / "rows").mkdir()
    for half in ("0", "1"):
        run(infer, f"images/{half}*.png", "-m", "model.onnx", "-o", f"rows/{half}.parquet", "-q")
    text = run(search, "rows", "images/05.png", "-m", "model.onnx", "-k", 100)
    assert len(json.loads(text)["results"]) == IMAGES
    write_embedding_model(tmp_path / "other.onnx", space="6" * 64)
    run(infer, "images/05.png", "-m", "other.onnx", "-o", "rows/2.parquet", "-q")
    with pytest.raises(UsageError, match="several spaces"):
        VectorFile(tmp_path / "rows")


def test_a_page_shows_what_was_found(run: Command, tmp_path: Path) -> None:
    """But images that are gone, which it counts."""
    run(infer, "images", "-m", "model.onnx", "-o", "v.parquet", "-q")
    (tmp_path / "images/07.png").unlink()
    query = "images/03.png"
    found = run(search, "v.parquet", query, "-m", "model.onnx", "-k", 20, "--html", "page.html")
    assert len(json.loads(found)["results"]) == IMAGES
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/jpeg;base64,") == IMAGES - 1
    assert "1 of the 20 nearest cannot be read any more" in page


def test_rows_of_another_run_are_not_taken_for_those_of_the_vectors(
    run: Command, tmp_path: Path
) -> None:
    run(infer, "images", "-m", "model.onnx", "-o", "v.npy", "-q")
    run(infer, "images/0*.png", "-m", "model.onnx", "-o", "w.npy", "-q")
    (tmp_path / "w.npy.parquet").replace(tmp_path / "v.npy.parquet")
    with pytest.raises(UsageError, match="not those of its 20 vectors"):
        VectorFile(tmp_path / "v.npy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.npy", "images/01.png"], "missing.npy: No such file"),
        (["images/01.png", "images/01.png"], "has no vectors of vit-infer"),
        (["v.jsonl", "a dog"], "there is no file a dog"),
        (["v.jsonl", "images/99.PNG"], "images/99.PNG: no such file"),
        (["v.jsonl", "images/01.png"], "name the vectors' model with -m"),
        (["v.jsonl", "images/01.png", "-m", "other.onnx"], "cannot be compared"),
        (["v.jsonl", "images/01.png", "-m", "demo"], "gives labels, not vectors"),
        (["v.jsonl", "images/01.png", "--html", "p.html"], "name the vectors' model with -m"),
        (["v.jsonl", "images/01.png", "-m", "model.onnx", "--overwrite"], "needs a file"),
        (
            ["v.jsonl", "images/01.png", "-m", "model.onnx", "--html", "v.jsonl", "--overwrite"],
            "would write over a source",
        ),
        (
            ["v.jsonl", "images/01.png", "-m", "model.onnx", "--html", "model.onnx", "--overwrite"],
            "would write over a model",
        ),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], message: str, run: Command, tmp_path: Path
) -> None:
    if arguments[0] == "v.jsonl":
        run(infer, "images", "-m", "model.onnx", "-o", "v.jsonl", "-q")
    write_embedding_model(tmp_path / "other.onnx", space="6" * 64)
    with pytest.raises(UsageError, match=message) as caught:
        run(search, *arguments)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
