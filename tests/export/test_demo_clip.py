"""The two-tower demo opens in transformers, names what drawings show, finds them by text."""

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel, pipeline

from support import EXAMPLES, ROOT
from vit_export.checkpoints.checkpoint import DEMOS
from vit_export.samples import draw

CLIP = DEMOS["demo-clip"]
SCRIPTS = ROOT / "export/scripts"


def zero_shot(images: list[Image.Image], folder: Path = CLIP) -> list[str]:
    """The best label of each image as transformers' pipeline finds it."""
    find = pipeline(
        "zero-shot-image-classification",
        model=CLIPModel.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        image_processor=CLIPImageProcessorPil.from_pretrained(folder),
    )
    return [found[0]["label"] for found in find(images, candidate_labels=list(draw.LABELS))]


def test_examples_get_the_label_in_their_name_zero_shot() -> None:
    images = [Image.open(path).convert("RGB") for path in EXAMPLES]
    assert zero_shot(images) == [path.stem.rpartition("-")[0] for path in EXAMPLES]


@pytest.mark.slow
def test_held_out_drawings_get_their_label_zero_shot() -> None:
    images, indices = zip(*draw.samples(96), strict=True)
    found = zero_shot(list(images))
    right = sum(a == draw.LABELS[b] for a, b in zip(found, indices, strict=True))
    assert right >= 0.9 * len(images)


def test_texts_find_the_drawings_that_they_name() -> None:
    model: Any = CLIPModel.from_pretrained(CLIP).eval()
    images = [Image.open(path).convert("RGB") for path in EXAMPLES]
    texts = ["a heart", "A drawing of a FLOWER!", "crescent moon", "donut", "brick wall"]
    processor = CLIPImageProcessorPil.from_pretrained(CLIP)
    inputs = AutoTokenizer.from_pretrained(CLIP)(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**inputs, **processor(images, return_tensors="pt")).logits_per_text
    found = [EXAMPLES[i].stem.rpartition("-")[0] for i in logits.argmax(1).tolist()]
    assert found == ["heart", "flower", "crescent", "ring", "bricks"]


def test_any_text_is_encoded_and_ends_where_the_config_says() -> None:
    tokenizer = AutoTokenizer.from_pretrained(CLIP)
    config: Any = CLIPModel.from_pretrained(CLIP).config.text_config
    ids = tokenizer("Zebra 日本 \U0001f600 ÿ!").input_ids
    assert (ids[0], ids[-1]) == (config.bos_token_id, config.eos_token_id)
    assert config.eos_token_id not in ids[:-1]
    assert tokenizer.decode(ids, skip_special_tokens=True).split()[0] == "zebra"
    assert len(tokenizer) == config.vocab_size
    assert tokenizer.model_max_length == config.max_position_embeddings


def test_checkpoint_stays_small() -> None:
    assert sum(path.stat().st_size for path in CLIP.iterdir()) < 2_000_000


@pytest.mark.slow
def test_training_writes_a_checkpoint_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--images", "64", "--epochs", "1", "--held-out", "32", "--seed", "5"]
    monkeypatch.setattr(sys, "argv", ["train_demo_clip.py", "--out", str(tmp_path), *few])
    monkeypatch.syspath_prepend(SCRIPTS)
    runpy.run_path(str(SCRIPTS / "train_demo_clip.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith("held-out accuracy ")
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in CLIP.iterdir()}
    assert (tmp_path / "tokenizer.json").read_bytes() == (CLIP / "tokenizer.json").read_bytes()
    assert set(zero_shot([draw.image(0, 0)], tmp_path)) <= set(draw.LABELS)
