"""A comparison from its command line to what it stores, mostly with a contender of ours to test."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compare
from comparison import host, measure, stored_result
from comparison.contenders.entries import BASELINE, CONTENDERS, Entry
from comparison.harness import parts
from comparison.harness.plan import Setting
from comparison.harness.suite import OutOfTimeError
from comparison.inputs import images, models
from comparison.inputs.images import Photos
from comparison.inputs.models import Model
from comparison.measure import Comparison
from vit_engine.errors import UsageError


@pytest.fixture(scope="module")
def demo() -> Model:
    return models.model_from_name("demo")


@pytest.fixture
def compared(
    stub: str, setting: Setting, demo: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Runs a comparison of the stub with itself; returns its exit code and what is stored."""
    monkeypatch.setattr(Entry, "path", property(lambda entry: stub))
    entries = tuple(e for e in CONTENDERS if e.name in (BASELINE, "ours-fp16", "ours-fast-decode"))

    def run(
        seconds: float = 1000, data: Path | None = None, **more: Any
    ) -> tuple[int, dict[str, Any]]:
        path = tmp_path / "result.json"
        wanted = replace(setting, entries=entries, end=time.monotonic() + seconds)
        result = (
            json.loads(path.read_text()) if path.exists() else stored_result.begun(setting, demo)
        )
        settings = {"path": path, **more}
        code = Comparison(wanted, demo, data, result, **settings).run()
        return code, json.loads(path.read_text())

    return run


def test_a_comparison_measures_every_part(compared, setting: Setting, told: list[str]) -> None:
    code, result = compared()
    assert code == 0
    assert result["done"] == ["speed 1", "speed 2", "files", "accuracy", "ceilings"]
    rows = result["speed"]["rows"]
    assert {n: r["status"] for n, r in rows.items()} == {BASELINE: "ok", "ours-fp16": "ok"}
    assert len(rows["ours-fp16"]["rounds"]["1"]) == setting.plan.latency_rounds
    assert rows["ours-fp16"]["memory_bytes"] > 1e6
    assert result["files"]["rows"]["ours-fast-decode"]["same_labels"] == 1
    assert result["accuracy"]["rows"]["ours-fp16"]["agreement"] == 1
    assert result["ceilings"]["gemm-fp32-torch"]["gflops"] > 0
    assert "accuracy on 20 images" in told


def test_ctrl_c_leaves_what_is_finished_to_be_resumed(
    compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(measure, "at_batch", lambda *_: signal.raise_signal(signal.SIGINT))
        code, result = compared()
    assert code == 130
    assert result["interrupted"]
    assert result["done"] == ["speed 1"]
    first = result["speed"]["rows"]["ours-fp16"]["rounds"]["1"]
    result["speed"]["rows"]["ours-fp16"]["status"] = "skipped"
    code, result = compared(parts=("speed",))
    assert (code, result["interrupted"]) == (0, False)
    assert result["done"] == ["speed 1", "speed 2"]
    assert result["speed"]["rows"]["ours-fp16"]["rounds"]["1"] == first, "measured once"


def test_what_does_not_fit_into_the_budget_is_left_out(
    compared, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "CEILINGS_S", 2000.0)
    code, result = compared(parts=("speed", "ceilings"))
    assert (code, result["done"]) == (0, ["speed 1", "speed 2"])
    assert result["no_time_for"] == ["ceilings"]
    assert told[-1].startswith("ceilings: left out, 2000 s in the ")


def test_a_budget_that_is_no_time_at_all_fails(compared) -> None:
    with pytest.raises(OutOfTimeError, match="the baseline cannot run: not done with 'load'"):
        compared(seconds=0.01)


def test_class_folders_from_images_to_accuracy(compared, demo: Model, tmp_path: Path) -> None:
    photos = images.drawn_photos(20, tmp_path / "drawn")
    for path, index in zip(photos.files, photos.classes, strict=True):
        (tmp_path / "set" / demo.labels[index]).mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / "set" / demo.labels[index] / "same name.png")
    code, result = compared(data=tmp_path / "set", parts=("accuracy",))
    assert (code, result["done"]) == (0, ["accuracy"])
    assert (result["accuracy"]["images"], result["accuracy"]["source"]) == (16, "set")
    assert result["accuracy"]["rows"]["ours-fp16"]["agreement"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "."], "--data needs --model"),
        (["--contenders", "nobody"], "no contender 'nobody'"),
        (["--model", "no-such-folder"], "no-such-folder"),
        (["--add", "ours-fp16", "--resume"], "--add goes with neither"),
    ],
)
def test_bad_usage_is_one_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["compare.py", *arguments, "--cache", str(tmp_path)])
    assert compare.main() == 2
    line = capsys.readouterr().err
    assert words in line
    assert line.count("\n") == 1


def run_on_demo(folder: Path, *more: object) -> "subprocess.Popen[str]":
    """All parts on the bundled checkpoint, with real contenders."""
    given = ("--quick", "--model", "demo", "--cache", folder / "cache", "-o", folder, *more)
    command = [sys.executable, compare.__file__, *map(str, given)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_whole_run_can_be_stopped_resumed_and_added_to(tmp_path: Path) -> None:
    def stored() -> dict[str, Any]:
        (path,) = tmp_path.glob("demo-on-*-quick.json")
        result: dict[str, Any] = json.loads(path.read_text())
        return result

    few = ("--batches", 1, 2, "--contenders", "ours-fp32", "--budget", 600)
    process = run_on_demo(tmp_path, *few)
    assert process.stdout
    assert process.stdout.readline().startswith("batch 1")
    process.send_signal(signal.SIGTERM)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "vit-engine fp32" in stdout
    first = stored()["speed"]["rows"]["ours-fp32"]["rounds"]["1"]
    (report,) = tmp_path.glob("demo-on-*-quick.md")
    assert "Interrupted" in report.read_text()
    _, stderr = (again := run_on_demo(tmp_path, *few, "--resume")).communicate(timeout=300)
    assert again.returncode == 0, stderr
    result = stored()
    assert not result["interrupted"]
    assert result["done"] == ["speed 1", "speed 2", "files", "accuracy", "ceilings"]
    assert result["speed"]["rows"]["ours-fp32"]["rounds"]["1"] == first, "measured once"
    assert result["accuracy"]["rows"]["ours-fp32"]["agreement"] == 1
    assert result["accuracy"]["rows"]["pytorch"]["top1"] > 0.9
    assert result["files"]["rows"]["ours-fp32"]["same_labels"] == 1
    assert result["ceilings"]["gemm-fp32-torch"]["gflops"] > 1
    _, stderr = (added := run_on_demo(tmp_path, "--add", "ours-fp16")).communicate(timeout=300)
    assert added.returncode == 0, stderr
    result = stored()
    assert result["speed"]["rows"]["ours-fp32"]["rounds"]["1"] == first
    assert result["speed"]["rows"]["ours-fp16"]["against"].keys() == {"1", "2"}
    assert result["accuracy"]["rows"]["ours-fp16"]["agreement"] == 1


@pytest.mark.slow
def test_vectors_are_held_against_pytorchs(tmp_path: Path) -> None:
    few = ("--batches", 1, "--contenders", "ours-fp32", "fastembed", "--only", "speed", "accuracy")
    process = run_on_demo(
        tmp_path, "--model", "demo-clip", "--task", "embed", "--budget", 250, *few
    )
    _, stderr = process.communicate(timeout=280)
    assert process.returncode == 0, stderr
    (report,) = tmp_path.glob("demo-clip-embed-on-*-quick.md")
    text = report.read_text()
    assert "vectors of 64 pooled by cls" in text
    assert "| Contender | smallest cosine | mean cosine | recall of ten nearest |" in text
    (stored,) = tmp_path.glob("*.json")
    result = json.loads(stored.read_text())
    assert result["done"] == ["speed 1", "accuracy"]
    assert result["accuracy"]["rows"].keys() == {BASELINE, "ours-fp32"}
    ours = result["accuracy"]["rows"]["ours-fp32"]
    assert ours["min_cosine"] > 0.99999 and ours["recall"] > 0.98
    assert result["speed"]["rows"]["fastembed"]["status"] == "absent"
    assert "| fastembed | cannot run here | exports no checkpoint" in text


def test_results_are_called_after_the_machine() -> None:
    card = {"cpu": "AMD EPYC", "cpu_family": "family 25 model 1", "cores": 2, "gpu": None}
    assert host.name(card) == "amd-epyc-25-1-2-cores"
    assert host.name({**card, "gpu": "NVIDIA H200, 143771 MiB, 580.1"}) == "nvidia-h200"


def test_the_command_does_not_tell_where_things_lie(tmp_path: Path) -> None:
    data, plain = tmp_path / "data", ["--batches", "1", "-o", "benchmarks/results"]
    told = stored_result.command(["--data", str(data), f"--model={tmp_path}/a b", *plain])
    data_told, model_told = os.path.relpath(data), f"--model={os.path.relpath(tmp_path)}/a b"
    assert told == shlex.join(
        ["python", "benchmarks/compare.py", "--data", data_told, model_told, *plain]
    )


def test_gflop_of_vit_b(demo: Model) -> None:
    """35.1 GFLOP is what is published for ViT-B/16 at 224 pixels (2 x 17.56 G multiply-adds)."""
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "image_size": 224, "patch_size": 16}
    base = replace(demo.model_config, layers=12, heads=12, **sizes)
    model = replace(demo, model_config=base, labels=("",) * 1000)
    assert model.gflop == pytest.approx(35.1, abs=0.1)


def test_drawn_photos_and_their_arrays(demo: Model, tmp_path: Path) -> None:
    photos = images.drawn_photos(18, tmp_path / "drawn")
    assert [demo.labels[c] in f.name for f, c in zip(photos.files, photos.classes, strict=True)]
    assert photos.classes[:3] == (0, 1, 2)
    written = images.arrays_from_photos(photos, demo, tmp_path)
    raw, floats = np.load(written.uint8), np.load(written.float32)
    size = demo.model_config.image_size
    assert (raw.dtype, raw.shape) == (np.uint8, (18, size, size, 3))
    expected = (raw.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.5
    assert np.allclose(floats, expected, atol=1e-6)


def labelled(folder: Path, names: list[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


@pytest.mark.parametrize(
    ("names", "table", "expected"),
    [
        (["b.png", "a.png"], "path,index\na.png,0\nb.png,2\n", (("a.png", 0), ("b.png", 2))),
        (["b.png", "a.png"], "path,label\na.png,cat\nb.png,owl\n", (("a.png", 0), ("b.png", 2))),
        (["owl/1.png", "cat/2.jpg", "cat/notes.txt"], None, (("2.jpg", 0), ("1.png", 2))),  # label
        (["2/1.png", "0/2.jpg"], None, (("2.jpg", 0), ("1.png", 2))),  # index
        (["n1/1.png", "n2/2.jpg", "n3/3.jpg"], None, (("1.png", 0), ("2.jpg", 1), ("3.jpg", 2))),
    ],
)
def test_a_labelled_set(
    tmp_path: Path, names: list[str], table: str | None, expected: tuple[tuple[str, int], ...]
) -> None:
    folder = labelled(tmp_path, names)
    if table:
        (folder / "labels.csv").write_text(table)
    photos = images.photos_from_folder(folder, ("cat", "dog", "owl"))
    found = zip((p.name for p in photos.files), photos.classes, strict=True)
    assert tuple(found) == expected


@pytest.mark.parametrize(
    ("names", "table", "words"),
    [
        (["notes.txt"], None, "expected labels.csv or class folders"),
        (["n01/1.png"], None, "none of the model's.*'n01'"),
        (["7/1.png", "cat/2.png"], None, "none of the model's.*'7'"),
        (["a.png"], "path,index\na.png,0\nb.png,1\n", "images of the truth that are not .*: 1"),
        (["a.png", "b.png"], "path,index\na.png,0\n", "1 of its 2 images have no true class"),
        (["a.png"], "file,index\na.png,0\n", "expected 'path'"),
    ],
)
def test_a_set_that_makes_no_sense_is_refused(
    tmp_path: Path, names: list[str], table: str | None, words: str
) -> None:
    folder = labelled(tmp_path, names)
    if table:
        (folder / "labels.csv").write_text(table)
    with pytest.raises(UsageError, match=words):
        images.photos_from_folder(folder, ("cat", "dog", "owl"))


def test_accuracy_of_known_logits() -> None:
    photos = Photos("made up", Path(), tuple(map(Path, ("a", "b", "c", "d"))), (0, 1, 2, 5))
    expected = np.eye(7, dtype=np.float32)[[0, 1, 2, 3]] * 10
    found = expected.copy()
    found[1] = [0, 4, 5, 0, 0, 0, 0]  # second best is right, and not the baseline's answer
    row = parts.accuracy_row(found, expected, photos, tuple("ABCDEFG"))
    assert (row["top1"], row["top5"], row["agreement"]) == (0.5, 0.75, 0.75)
    assert row["max_diff"] == 6
    assert row["mean_diff"] == pytest.approx(11 / 28)
    scores = np.exp(expected[1]) / np.exp(expected[1]).sum()
    theirs = np.exp(found[1]) / np.exp(found[1]).sum()
    assert row["divergence"] == pytest.approx((scores * np.log(scores / theirs)).sum() / 4)
    assert row["differs"] == [{"file": "b", "true": "B", "baseline": "B", "here": "C"}]
