"""The demo: drawn images, the checkpoint trained on them, and the examples."""

import runpy
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from transformers import ViTForImageClassification, ViTImageProcessorPil

from support import EXAMPLES, ROOT
from vit_export.checkpoints.checkpoint import DEMOS
from vit_export.samples import draw

DEMO, SCRIPTS = DEMOS["demo"], ROOT / "export/scripts"


def labels_of(images: Iterable[Image.Image], *, checkpoint: Path = DEMO) -> list[str]:
    model: Any = ViTForImageClassification.from_pretrained(checkpoint)
    inputs = ViTImageProcessorPil.from_pretrained(checkpoint)(list(images), return_tensors="pt")
    with torch.inference_mode():
        found = model.eval()(**inputs).logits.argmax(1).tolist()
    return [model.config.id2label[i] for i in found]


def test_drawing_is_a_function_of_class_and_seed() -> None:
    first, again = draw.image(3, 7), draw.image(3, 7)
    assert first.mode == "RGB"
    assert first.size == again.size
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != draw.image(3, 8).tobytes()


@pytest.mark.slow
def test_samples_take_the_classes_in_turn_at_many_sizes() -> None:
    drawn = list(draw.samples(2 * len(draw.LABELS)))
    assert [index for _, index in drawn] == list(range(len(draw.LABELS))) * 2
    assert all(160 <= edge <= 320 for image, _ in drawn for edge in image.size)
    assert len({image.size for image, _ in drawn}) > len(draw.LABELS)


@pytest.mark.slow
def test_checkpoint_knows_held_out_images() -> None:
    images, indices = zip(*draw.samples(96), strict=True)
    found = labels_of(images)
    right = sum(a == draw.LABELS[b] for a, b in zip(found, indices, strict=True))
    assert right >= 0.95 * len(images)


def test_examples_get_the_label_in_their_name() -> None:
    images = []
    for path in EXAMPLES:
        with Image.open(path) as image:
            images.append(image.convert("RGB"))
    named = [path.stem.rpartition("-")[0] for path in EXAMPLES]
    assert set(named) == set(draw.LABELS)
    assert labels_of(images) == named


def test_examples_and_checkpoint_stay_small() -> None:
    assert {path.suffix for path in EXAMPLES} == {".jpg", ".png"}
    assert sum(path.stat().st_size for path in EXAMPLES) < 1_000_000
    assert sum(path.stat().st_size for path in DEMO.glob("*.*")) < 3_000_000


@pytest.mark.slow
def test_examples_are_written_again_as_they_are(tmp_path: Path) -> None:
    written = sorted(runpy.run_path(str(SCRIPTS / "draw_examples.py"))["write_examples"](tmp_path))
    assert [path.name for path in written] == [path.name for path in EXAMPLES]
    for new, old in zip(written, EXAMPLES, strict=True):
        with Image.open(new) as a, Image.open(old) as b:
            assert a.size == b.size
            # Processors differ in the last bit of a sine, and codecs in theirs.
            difference = np.asarray(a, dtype=np.int16) - np.asarray(b, dtype=np.int16)
            assert np.abs(difference).mean() < 0.5


@pytest.mark.slow
def test_training_writes_a_checkpoint_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--images", "32", "--epochs", "1", "--held-out", "16", "--seed", "5"]
    monkeypatch.setattr(sys, "argv", ["train_demo.py", "--out", str(tmp_path), *few])
    monkeypatch.syspath_prepend(SCRIPTS)
    runpy.run_path(str(SCRIPTS / "train_demo.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith("held-out accuracy ")
    assert {path.name for path in tmp_path.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    assert set(labels_of([draw.image(0, 0)], checkpoint=tmp_path)) <= set(draw.LABELS)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert names == set(load_file(DEMO / "model.safetensors"))
    assert "vit.encoder.layer.0.attention.attention.query.weight" in names
