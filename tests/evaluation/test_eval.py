"""vit-eval: what a user learns of a model on images of their own, whatever its scores are."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import EXAMPLES, ROOT, Run, write_checkpoint, write_csv
from vit_engine.artefact.metadata import path_from_name, read_contract
from vit_engine.classifier import Classifier
from vit_engine.commands.diagnosis import try_provider
from vit_engine.errors import MachineError
from vit_engine.evaluation.against import opened
from vit_engine.options import EngineOptions
from vit_engine.outputs.scores import Scores

KINDS: dict[str, dict[str, Any]] = {
    "one logit": {"num_labels": 1},
    "several labels": {"num_labels": 5, "problem_type": "multi_label_classification"},
    "values": {"num_labels": 1, "problem_type": "regression"},
}

Eval = Callable[..., subprocess.CompletedProcess[str]]


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
def evaluate(run_command: Run, tmp_path: Path) -> Eval:
    def run(*arguments: object, model: object = "demo") -> subprocess.CompletedProcess[str]:
        line = ("vit-eval", "-m", str(model), "--provider", "cpu")
        return run_command(*line, *map(str, arguments), cwd=tmp_path)

    return run


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """Return a tiny model of a kind, and the one whose logits are its logits' opposites."""
    from safetensors.numpy import load_file, save_file

    from vit_export.artefact import export
    from vit_export.checkpoints.checkpoint import load

    made: dict[str, tuple[Path, Path]] = {}

    def pair(kind: str) -> tuple[Path, Path]:
        if kind not in made:
            folder = tmp_path_factory.mktemp("pair")
            paths = folder / "a.onnx", folder / "b.onnx"
            checkpoint = write_checkpoint(folder / "model", **KINDS[kind])
            export(load(str(checkpoint)), paths[0], precision="fp32", images=None)
            tensors = load_file(checkpoint / "model.safetensors")
            for name in tensors:
                if name.startswith("classifier."):
                    tensors[name] = -tensors[name]
            save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
            export(load(str(checkpoint)), paths[1], precision="fp32", images=None)
            made[kind] = paths
        return made[kind]

    return pair


def test_folders_are_classes(evaluate: Eval, photos: Path, tmp_path: Path) -> None:
    files = ("--report", "r/r.json", "--html", "x.html")
    done = evaluate("photos", "--truth", "folders", *files)
    assert done.returncode == 3
    assert "top-1 86.7% (13 of 15)" in done.stdout
    assert "most confused: star taken for arrow (1), star taken for bricks (1)" in done.stdout
    assert "failed, with a known truth: 1" in done.stdout
    assert "none of the model's, or several of one name: 1 ('hearts')" in done.stdout
    assert done.stderr.startswith("17 images, 1 failed, ")
    truth = json.loads((tmp_path / "r/r.json").read_text())["truth"]
    assert (truth["images"], truth["failed"], truth["without_truth"]) == (15, 1, 1)
    assert truth["unknown_labels"] == {"hearts": 1}
    assert truth["top1"] == pytest.approx(13 / 15)
    (star,) = [c for c in truth["classes"] if c["label"] == "star"]
    assert (star["images"], star["right"], star["recall"]) == (3, 1, pytest.approx(1 / 3))
    assert sum(b["images"] for b in truth["calibration"]["bins"]) == 15
    shown = truth["mistakes"]["most_confident"]
    assert [m["score"] for m in shown] == sorted((m["score"] for m in shown), reverse=True)
    assert {(m["truth"], m["label"]) for m in shown} == {("star", "arrow"), ("star", "bricks")}
    page = (tmp_path / "x.html").read_text()
    assert "Most confident mistakes" in page and "star (true)" in page
    again = evaluate("photos", "--truth", "folders", *files, "-q")
    assert (again.returncode, again.stderr, again.stdout) == (3, "", done.stdout)


def test_a_calibrated_copy_has_the_same_labels(
    evaluate: Eval, run_command: Run, photos: Path, tmp_path: Path
) -> None:
    done = evaluate("photos", "--truth", "folders", "--calibrate", "out/c.onnx")
    assert done.returncode == 3, done.stderr
    last = done.stdout.splitlines()[-1]
    found = re.fullmatch(r"temperature (\S+) by 15 images: mean log loss (\S+), (\S+) .*", last)
    assert found and float(found[2]) < float(found[3])
    copy = tmp_path / "out/c.onnx"
    with Classifier.load("demo") as vit, Classifier.load(copy) as calibrated:
        ours, theirs = vit.logits(EXAMPLES), calibrated.logits(EXAMPLES)
        np.testing.assert_array_equal(ours, theirs)
        assert vit.output.temperature == 1
        assert calibrated.output.temperature == pytest.approx(float(found[1]), rel=1e-3)
        sharper = Scores(vit.output.labels, "softmax").scores(ours / np.float32(found[1]))
        np.testing.assert_allclose(calibrated.probabilities(EXAMPLES), sharper, rtol=1e-2)
    again = evaluate("photos", "--truth", "folders", "--calibrate", "d.onnx", model=copy)
    assert f"temperature {found[1]} by 15" in again.stdout
    assert f"; temperature {found[1]}\n" in run_command("vit-infer", "--describe", copy).stdout


def test_a_csv_beside_the_images_or_with_paths_as_given(evaluate: Eval, photos: Path) -> None:
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
        done = evaluate("photos", "--truth", table)
        assert "top-1 100.0% (16 of 16), top-5 100.0%" in done.stdout, done.stderr
        assert "left out, with no known truth: 1" in done.stdout
    done = evaluate("photos/star", "--truth", beside)
    assert "images of the truth that are not in this run: 13" in done.stdout


@pytest.mark.slow
def test_a_path_that_is_both_is_ambiguous(evaluate: Eval, run_command: Run, tmp_path: Path) -> None:
    def row() -> dict[str, Any]:
        line = ("vit-infer", "-m", "demo", "--provider", "cpu", "data/t.csv")
        found: dict[str, Any] = json.loads(run_command(*line, cwd=tmp_path).stdout)
        return found

    shutil.copy(EXAMPLES[0], tmp_path / "a.jpg")
    table = write_csv(tmp_path / "data/t.csv", ("path", "label"), ("a.jpg", "arrow"))
    assert "top-1 100.0% (1 of 1)" in evaluate("a.jpg", "--truth", table).stdout
    shutil.copy(EXAMPLES[1], tmp_path / "data/a.jpg")
    done = evaluate("a.jpg", "--truth", table)
    assert done.returncode == 2
    assert "row 1: a.jpg is there twice, beside the table (" in done.stderr
    assert row()["error_code"] == "missing" and "is there twice" in row()["error"]
    (tmp_path / "a.jpg").unlink()
    found = row()
    assert (found["path"], found["label"]) == ("data/a.jpg", EXAMPLES[1].stem.partition("-")[0])


def test_a_truth_that_is_not_there_names_what_is_near(evaluate: Eval, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").touch()
    done = evaluate(EXAMPLES[0], "--truth", "lables.csv")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no such file; did you mean labels.csv?" in done.stderr
    assert evaluate(EXAMPLES[0], "--truth", "labels.csv").returncode == 2


def test_nothing_to_judge_by_is_an_exit_code(evaluate: Eval, tmp_path: Path) -> None:
    done = evaluate(EXAMPLES[0], "--truth", "folders")
    assert done.returncode == 2
    assert "no image could be judged" in done.stdout
    assert "'examples'" in done.stdout and "--truth: no image could be judged" in done.stderr
    (tmp_path / "empty").mkdir()
    assert evaluate("empty", "--against", "demo").returncode == 2
    (tmp_path / "star").mkdir()
    (tmp_path / "star/bad.jpg").write_bytes(b"no image")
    assert evaluate("star", "--truth", "folders").returncode == 3


def test_several_labels_at_a_threshold(
    models: Callable[[str], tuple[Path, Path]], evaluate: Eval, tmp_path: Path
) -> None:
    model, opposite = models("several labels")
    with Classifier.load(model, EngineOptions("cpu")) as vit:
        scores, labels = vit.probabilities(EXAMPLES), vit.output.labels
    names = ["|".join(np.array(labels)[given >= 0.5]) for given in scores]
    table = write_csv(tmp_path / "t.csv", ("path", "label"), *zip(EXAMPLES, names, strict=True))
    done = evaluate(*EXAMPLES, "--truth", table, "--report", "r.json", model=model)
    assert done.returncode == 0, done.stderr
    assert "micro averages at 0.5: precision 100.0%, recall 100.0%, F1 100.0%" in done.stdout
    assert "mean average precision 100.0%, exact match 100.0% (16 of 16 images)" in done.stdout
    threshold = float(np.quantile(scores[scores >= 0.5], 0.4))
    right, given = (scores >= threshold).sum(), (scores >= 0.5).sum()
    higher = evaluate(*EXAMPLES, "--truth", table, "--threshold", threshold - 1e-6, model=model)
    assert f"precision 100.0%, recall {right / given:.1%}" in higher.stdout
    against = ("--against", opposite, "--report", "r.json", "--html", "x.html")
    done = evaluate(*EXAMPLES, "--truth", table, *against, model=model)
    assert "the same labels on 0.0% of 16 images" in done.stdout
    assert "precision 100.0%" in done.stdout
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["truth"]["exact_match"] == 1
    assert found["against"]["agreement"] == 0
    flip = found["against"]["flips"][0]["labels"][0]
    assert flip["score"] == pytest.approx(1 - flip["other_score"], abs=1e-5)
    assert "(other)" in (tmp_path / "x.html").read_text()


@pytest.mark.slow
def test_one_logit(
    models: Callable[[str], tuple[Path, Path]], evaluate: Eval, tmp_path: Path
) -> None:
    model, opposite = models("one logit")
    for name in ("LABEL_0", "none"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    with Classifier.load(model, EngineOptions("cpu")) as vit:
        scores = vit.probabilities(EXAMPLES)[:, 0]
    middle = float(np.median(scores))
    for path, score in zip(EXAMPLES, scores, strict=True):
        shutil.copy(path, tmp_path / "photos" / ("LABEL_0" if score >= middle else "none"))
    exact = ("photos", "--truth", "folders", "--threshold", middle - 1e-6)
    assert "exact match 100.0% (16 of 16 images)" in evaluate(*exact, model=model).stdout
    assert "exact match 100.0%" not in evaluate(*exact, model=opposite).stdout
    done = evaluate("photos", "--against", opposite, model=model)
    assert "the same labels on 0.0% of 16 images" in done.stdout


def test_values_of_a_regression(
    models: Callable[[str], tuple[Path, Path]], evaluate: Eval, tmp_path: Path
) -> None:
    model, opposite = models("values")
    with Classifier.load(model, EngineOptions("cpu")) as vit:
        values = vit.logits(EXAMPLES)[:, 0]
    rows = zip(EXAMPLES, values + 0.5, strict=True)
    table = write_csv(tmp_path / "t.csv", ("path", "value"), *rows)
    files = ("--report", "r.json", "--html", "x.html")
    done = evaluate(*EXAMPLES, "--truth", table, "--against", opposite, *files, model=model)
    assert done.returncode == 0, done.stderr
    assert "mean absolute error 0.5, root mean square error 0.5, R² " in done.stdout
    assert "R² -" in done.stdout.splitlines()[-1] and "agree" not in done.stdout
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["against"]["agreement"] is None and found["against"]["r2"] < 0
    assert found["against"]["most_different"][0]["labels"][0]["label"] == "LABEL_0"
    assert evaluate(*EXAMPLES, "--truth", "folders", model=model).returncode == 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_doctor_asks_the_kind(models: Callable[[str], tuple[Path, Path]], kind: str) -> None:
    pytest.importorskip("openvino")
    trial = try_provider(str(models(kind)[0]), EngineOptions("openvino"))
    assert trial.state == "works"
    assert trial.agreement == (None if kind == "values" else 1)
    same = "R² " if kind == "values" else "the same labels on 100.0% of 8 images"
    assert f"beside the cpu provider {same}" in trial.detail


def test_two_models_on_the_same_pixels(evaluate: Eval, photos: Path, tmp_path: Path) -> None:
    other = shutil.copy(path_from_name("demo"), tmp_path / "same.onnx")
    done = evaluate("photos", "--against", other, "--report", "r.json")
    assert done.returncode == 3, done.stderr
    assert "against demo fp16: the same label on 100.0% of 16 images; " in done.stdout
    found = json.loads((tmp_path / "r.json").read_text())["against"]
    assert (found["images"], found["agreement"], found["max_abs_diff"]) == (16, 1.0, 0.0)


@pytest.mark.slow  # PyTorch is loaded for it
def test_what_flipped_is_told_and_shown(evaluate: Eval, photos: Path, tmp_path: Path) -> None:
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
    files = ("--report", "r.json", "--html", "x.html")
    done = evaluate("photos", "--against", "pytorch:ckpt", *files)
    assert "against pytorch:ckpt: the same label on 6.2% of 16 images" in done.stdout, done.stderr
    found = json.loads((tmp_path / "r.json").read_text())["against"]
    assert found["flipped"] == len(found["flips"]) == 15
    assert {flip["labels"][1]["label"] for flip in found["flips"]} == {"star"}
    page = (tmp_path / "x.html").read_text()
    assert "Images that differ most" in page and "star (other)" in page


@pytest.mark.parametrize("installed", [True, False], ids=["without torch", "without vit-export"])
def test_without_pytorch_it_is_said(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reference:
        def load(self) -> Any:
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

    found = [Reference()] if installed else []
    monkeypatch.setattr("vit_engine.evaluation.against.entry_points", lambda **_: found)
    with (
        Classifier.load("demo", provider="cpu") as vit,
        pytest.raises(MachineError, match=r"needs PyTorch and vit-export .*; .*pip install"),
        opened("pytorch:demo", vit, Classifier.load, threshold=0.5, thumbnails=False),
    ):
        pass


def test_models_that_do_not_go_together_are_refused(
    evaluate: Eval, models: Callable[[str], tuple[Path, Path]], tiny_artefact: Path
) -> None:
    done = evaluate(EXAMPLES[0], "--against", tiny_artefact)
    assert (done.returncode, done.stdout) == (2, "")
    assert "two models are compared on the same pixels" in done.stderr
    done = evaluate(EXAMPLES[0], "--against", models("one logit")[0], model=tiny_artefact)
    assert done.returncode == 2 and "its scores are sigmoid, the model's are soft" in done.stderr
    done = evaluate(EXAMPLES[0], "--against", "absent.onnx")
    assert done.returncode == 2 and "absent.onnx: no such file" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--report", "r.json"], "nothing to judge by; add --truth or --against"),
        (["--truth", "t.csv", "--report", "t.csv", "--overwrite"], "would write over the truth"),
        (["--truth", "t.csv", "--report", "mine.json"], "is not recognised"),
        (["--truth", "folders", "--report", "."], "is a folder"),
        (["--truth", "folders", "--threshold", "2"], "'2' is not a number from 0 to 1"),
        (["--truth", "folders", "--threshold", "0.4"], "labels that do not exclude each other"),
        (["--truth", "folders", "--overwrite"], "--overwrite needs a file"),
        (["--against", "demo", "--calibrate", "c.onnx"], "labels are known; add --truth"),
        (["--truth", "folders", "--calibrate", "mine.json"], "is not recognised"),
    ],
)
def test_options_that_make_no_sense_write_nothing(
    evaluate: Eval, options: list[str], words: str, tmp_path: Path
) -> None:
    write_csv(tmp_path / "t.csv", ("path", "label"), ("a", "arrow"))
    (tmp_path / "mine.json").write_text('{"mine": 1}')
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    done = evaluate(EXAMPLES[0], *options)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert words in done.stderr
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
