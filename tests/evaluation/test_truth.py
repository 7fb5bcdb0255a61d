"""--truth, --against and --report: what a user learns of a model on images of their own."""

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import ROOT, Run
from vit_engine.artefact.metadata import path_from_name, read_contract
from vit_engine.classifier import LabelledBatch
from vit_engine.errors import UsageError
from vit_engine.evaluation.evaluation import Evaluation
from vit_engine.evaluation.truth import Truth, truth_from_name
from vit_engine.outputs.prediction import Prediction, Score
from vit_engine.outputs.scores import Scores

LABELS = ("tabby, tabby cat", "crane", "crane", "Egyptian cat", "7")
EXAMPLES = sorted((ROOT / "examples").iterdir())


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The examples in folders by class; two in those of others, one in that of none."""
    folder = tmp_path / "photos"
    for path in EXAMPLES:
        label = path.stem.partition("-")[0]
        place = {"arrow": "star", "bricks": "star", "heart": "hearts"}.get(label, label)
        (folder / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / place)
    (folder / "star/bad.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture
def infer(run_command: Run, tmp_path: Path):
    def run(*arguments: object, **options: Any):
        line = ("vit-infer", "-m", "demo", "--provider", "cpu")
        return run_command(*line, *map(str, arguments), cwd=tmp_path, **options)

    return run


def test_folders_are_classes(infer, photos: Path, tmp_path: Path) -> None:
    done = infer("photos", "--truth", "folders", "--report", "r/r.json", "--html", "x.html")
    assert done.returncode == 3
    assert "top-1 86.7% (13 of 15)" in done.stderr
    assert "most confused: star taken for arrow (1), star taken for bricks (1)" in done.stderr
    assert "1 image with a true class has no label" in done.stderr
    assert "'hearts'" in done.stderr
    document = json.loads((tmp_path / "r/r.json").read_text())
    truth = document["truth"]
    assert (truth["images"], truth["failed"], truth["without_truth"]) == (15, 1, 0)
    assert truth["unknown_classes"] == {"hearts": 1}
    assert truth["top1"] == pytest.approx(13 / 15)
    (star,) = [c for c in truth["classes"] if c["label"] == "star"]
    assert (star["images"], star["right"], star["recall"]) == (3, 1, pytest.approx(1 / 3))
    assert sum(b["images"] for b in truth["calibration"]["bins"]) == 15
    shown = truth["mistakes"]["most_confident"]
    assert [m["score"] for m in shown] == sorted((m["score"] for m in shown), reverse=True)
    assert {(m["truth"], m["label"]) for m in shown} == {("star", "arrow"), ("star", "bricks")}
    page = (tmp_path / "x.html").read_text()
    assert "Most confident mistakes" in page and "star (true)" in page
    assert len(done.stdout.splitlines()) == 17  # the rows are as they were
    again = infer("photos", "--truth", "folders", "--report", "r/r.json", "-q")
    assert again.returncode == 3 and again.stderr == ""


def write_csv(path: Path, *rows: tuple[object, ...]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_a_csv_beside_the_images_or_with_paths_as_given(infer, photos: Path) -> None:
    indices = {
        name: i for i, name in enumerate(read_contract(path_from_name("demo")).output.labels)
    }
    files = sorted(p for p in photos.rglob("*.*") if p.stem.partition("-")[0] in indices)
    truths = [(p, p.stem.partition("-")[0]) for p in files]
    beside = write_csv(photos / "t.csv", ("path", "label"),
                       *((p.relative_to(photos), t) for p, t in truths))  # fmt: skip
    given = write_csv(photos / "else/t.csv", ("index", "path"),
                      *((indices[t], p.relative_to(photos.parent)) for p, t in truths))  # fmt: skip
    for table in (beside, given):
        done = infer("photos", "--truth", table)
        assert "top-1 100.0% (16 of 16), top-5 100.0%" in done.stderr, done.stderr
        assert "1 image has no true class" in done.stderr
    done = infer("photos/star", "--truth", beside)
    assert "13 rows of the truth are no image of this run" in done.stderr


def test_a_path_that_is_both_is_ambiguous(infer, tmp_path: Path) -> None:
    shutil.copy(EXAMPLES[0], tmp_path / "a.jpg")
    table = write_csv(tmp_path / "data/t.csv", ("path", "label"), ("a.jpg", "arrow"))
    assert "top-1 100.0% (1 of 1)" in infer("a.jpg", "--truth", table).stderr
    shutil.copy(EXAMPLES[1], tmp_path / "data/a.jpg")
    done = infer("a.jpg", "--truth", table)
    assert done.returncode == 2
    assert "row 1: a.jpg is there twice, beside the table (" in done.stderr
    row = json.loads(infer("data/t.csv").stdout)
    assert row["error_code"] == "missing" and "is there twice" in row["error"]
    (tmp_path / "a.jpg").unlink()
    row = json.loads(infer("data/t.csv").stdout)
    assert (row["path"], row["label"]) == ("data/a.jpg", EXAMPLES[1].stem.partition("-")[0])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("file", "label")], "its columns are 'file', 'label'; expected 'path', and 'label'"),
        ([("path", "kind"), ("a", "b")], "expected 'path', and 'label' or 'index'"),
        ([("path", "label")], "has no rows"),
        ([("path", "label"), ("", "crane")], "row 1 has no path"),
        ([("path", "index"), ("a", "5")], "the index '5'; expected a whole number from 0 to 4"),
        ([("path", "index"), ("a", "x")], "the index 'x'"),
        ([("path", "label", "index"), ("a", "tabby", "3")], "row 1 contradicts itself: 'tabby'"),
        ([("path", "label"), ("a", "7"), ("b", "7"), ("a", "tabby")], "row 3 gives a another"),
        ([("path", "label"), ("a", "cat"), ("b", "crane")], "no row has a class of the model"),
    ],
)
def test_a_csv_that_is_none_is_refused_in_words(
    rows: list[tuple[str, ...]], words: str, tmp_path: Path
) -> None:
    table = write_csv(tmp_path / "t.csv", *rows)
    with pytest.raises(UsageError, match=r"--truth .*t\.csv: ") as told:
        truth_from_name(str(table), LABELS)
    assert words in str(told.value)


def test_a_truth_that_is_not_there_names_what_is_near(infer, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").touch()
    done = infer(EXAMPLES[0], "--truth", "lables.csv")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no such file; did you mean labels.csv?" in done.stderr
    assert infer(EXAMPLES[0], "--truth", "labels.csv").returncode == 2


@pytest.mark.parametrize("separator", [";", "\t", ","])
def test_labels_synonyms_and_indices_name_classes(separator: str, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    rows = ["path", "label"], ["a", "tabby"], ["b", "Egyptian cat"], ["c", "7"], ["d", "crane"]
    text = "\n".join(separator.join(row) for row in [*rows, ["e", "4"]])
    table.write_text(f"\ufeff{text}\n", encoding="utf-8")
    truth = truth_from_name(str(table), LABELS)
    found = [truth.index(os.path.abspath(name)) for name in "abcdef"]  # noqa: PTH100
    assert found == [0, 3, 4, None, 4, None]
    assert truth.unknown == {"crane": 1}
    assert truth.unmatched == 0


def test_the_numbers_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    n, classes = 500, 12
    logits = rng.normal(size=(n, classes)).astype(np.float32) * 2
    logits[::50] = np.round(logits[::50])  # ties
    labels = [f"c{i}" for i in range(classes)]
    true = rng.integers(0, classes, n)
    evaluation = Evaluation(
        Truth(_Known(), None), Scores(tuple(labels), "softmax"), thumbnails=False
    )
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    best = logits.argmax(1)
    for part in np.array_split(np.arange(n), 7):
        predictions = [
            Prediction(f"c{true[i]}/x.jpg", (Score(labels[best[i]], best[i], shares[i, best[i]]),))
            for i in part
        ]
        evaluation.add(LabelledBatch(predictions, [None] * len(part), 0, list(logits[part])))
    found = evaluation.report()
    ranks = np.argsort(-logits, axis=1, kind="stable")
    assert found["top1"] == pytest.approx((best == true).mean())
    assert found["top5"] == pytest.approx((ranks[:, :5] == true[:, None]).any(1).mean())
    score = shares.max(1)
    bins = np.minimum((score * 10).astype(int), 9)
    error = (
        sum(abs(score[bins == b].sum() - (best == true)[bins == b].sum()) for b in range(10)) / n
    )
    assert found["calibration"]["expected_error"] == pytest.approx(error, abs=1e-6)
    wrong = best != true
    confident = [m["score"] for m in found["mistakes"]["most_confident"]]
    np.testing.assert_allclose(confident, np.sort(score[wrong])[::-1][:60], rtol=1e-5)
    least = [m["truth_score"] for m in found["mistakes"]["worst"]]
    given = shares[np.arange(n), true]
    np.testing.assert_allclose(least, np.sort(given[wrong])[:60], rtol=1e-5)
    assert sum(c["images"] for c in found["confusions"]) == wrong.sum()
    assert sum(c["images"] for c in found["classes"]) == n


class _Known:
    def index(self, text: str) -> int:
        return int(text.removeprefix("c"))


def test_two_models_on_the_same_pixels(
    infer, run_command: Run, photos: Path, tmp_path: Path
) -> None:
    other = shutil.copy(path_from_name("demo"), tmp_path / "same.onnx")
    done = infer("photos", "--against", other, "--report", "r.json", "--html", "x.html")
    assert done.returncode == 3, done.stderr
    assert "against demo fp16: 100.0% agree, 0 of 16 flipped" in done.stderr
    found = json.loads((tmp_path / "r.json").read_text())["against"]
    assert (found["images"], found["agreement"], found["max_abs_diff"]) == (16, 1.0, 0.0)


def test_what_flipped_is_told_and_shown(infer, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from safetensors.numpy import load_file, save_file

    demo = ROOT / "export/vit_export/demo"
    shutil.copytree(demo, tmp_path / "ckpt", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    tensors = load_file(demo / "model.safetensors")
    bias = next(name for name in tensors if name.endswith("classifier.bias"))
    tensors[bias] = tensors[bias].copy()
    star = read_contract(path_from_name("demo")).output.labels.index("star")
    tensors[bias][star] += 1000
    save_file(tensors, tmp_path / "ckpt/model.safetensors", metadata={"format": "pt"})
    same = infer("photos", "--against", "pytorch:demo")
    assert "against pytorch:demo: 100.0% agree" in same.stderr, same.stderr
    done = infer(*("photos", "--against", "pytorch:ckpt", "--report", "r.json", "--html", "x.html"))
    assert "15 of 16 flipped" in done.stderr, done.stderr
    found = json.loads((tmp_path / "r.json").read_text())["against"]
    assert len(found["flips"]) == 15
    assert {f["other_label"] for f in found["flips"]} == {"star"}
    page = (tmp_path / "x.html").read_text()
    assert "Images that flipped" in page and "star (other)" in page


def test_models_that_do_not_go_together_are_refused(infer, tiny_artefact: Path) -> None:
    done = infer(EXAMPLES[0], "--against", tiny_artefact)
    assert (done.returncode, done.stdout) == (2, "")
    assert "two models are compared on the same pixels" in done.stderr
    done = infer(EXAMPLES[0], "--against", "absent.onnx")
    assert done.returncode == 2 and "absent.onnx: no such file" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--report", "r.json"], "add one of them"),
        (["--truth", "folders", "--resume", "-o", "r.csv"], "leave out --resume"),
        (["--truth", "folders", "--ray", "-o", "rows"], "--truth does not work with --ray"),
        (["--truth", "t.csv", "--report", "t.csv", "--overwrite"], "is the truth of this run"),
        (["--truth", "t.csv", "--report", "mine.json"], "is not recognised"),
        (["--truth", "folders", "--report", "."], "is a folder"),
    ],
)
def test_options_that_make_no_sense_write_nothing(
    infer, options: list[str], words: str, tmp_path: Path
) -> None:
    write_csv(tmp_path / "t.csv", ("path", "label"), ("a", "arrow"))
    (tmp_path / "mine.json").write_text('{"mine": 1}')
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    done = infer(EXAMPLES[0], *options)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert words in done.stderr
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
