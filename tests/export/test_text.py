"""The text tower as a file of its own: its vectors are those of transformers' get_text_features."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from support import Run
from support.two_towers import (
    CASES,
    DEMO_CLIP,
    TEXT,
    TOKENIZER_CONFIG,
    change_json,
    text_vectors,
    write_two_towers,
)
from vit_engine.artefact.metadata import read_contract
from vit_engine.outputs.embeddings import cosines
from vit_engine.text_embedder import TextEmbedder

TEXTS = [
    *("a red star", "A Red STAR!", "what's that?! (3.5)", "naïve café", "", "x", "  two   words "),
    "a very small green heart beside a big square and one ring",
]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("model", [*CASES, "demo", "highest"])
def test_vectors_are_those_of_the_library(
    model: str, precision: str, run_command: Run, tmp_path: Path
) -> None:
    """An end of 2 in CLIP's config means that the token of the highest id is read."""
    folder = DEMO_CLIP
    if model == "highest":
        changed = {"text_config": {**TEXT, "eos_token_id": 2}}
        folder = write_two_towers(tmp_path / "model", "CLIPModel", **changed)
    elif model != "demo":
        folder = write_two_towers(tmp_path / "model", model)
    path = tmp_path / "text.onnx"
    ended = run_command("vit-export", folder, "--text", f"--{precision}", "-o", path)
    assert ended.returncode == 0, ended.stderr
    assert "verified: smallest cosine" in ended.stderr
    embedder = TextEmbedder.load(path)
    found, expected = embedder.embed(TEXTS), text_vectors(folder, TEXTS)
    np.testing.assert_allclose(found, expected, atol=2e-5 if precision == "fp32" else 2e-2)
    assert cosines(found, expected).min() > (0.999999 if precision == "fp32" else 0.9995)
    alone = np.concatenate([embedder.embed(text) for text in TEXTS])
    np.testing.assert_allclose(alone, found, atol=1e-5 if precision == "fp32" else 5e-3)


def test_images_and_texts_share_a_space(run_command: Run, tmp_path: Path) -> None:
    for option, name in (("--embed", "image.onnx"), ("--text", "text.onnx")):
        ended = run_command("vit-export", DEMO_CLIP, option, "-o", tmp_path / name)
        assert ended.returncode == 0, ended.stderr
    images = read_contract(tmp_path / "image.onnx").output
    assert TextEmbedder.load(tmp_path / "text.onnx").space == images.space
    again = run_command("vit-export", DEMO_CLIP, "--text", "-o", tmp_path / "text.onnx")
    assert again.returncode == 0, again.stderr  # one of ours may be replaced


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--embed"], "run vit-export twice"),
        (["--labels", "labels.txt"], "run vit-export twice"),
        (["--int8"], "--fp16 or --fp32"),
        (["--io", "hf"], "--fp16 or --fp32"),
        (["--pool", "cls"], "add --embed"),
    ],
)
def test_what_is_not_for_texts_is_refused(
    options: list[str], words: str, run_command: Run, tmp_path: Path
) -> None:
    ended = run_command("vit-export", DEMO_CLIP, "--text", *options, "-o", tmp_path / "text.onnx")
    assert (ended.returncode, words in ended.stderr) == (2, True), ended.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"padding_side": "left"}, "pads on the left"),
        ({"model_input_names": ["input_ids", "attention_mask"]}, "hides padding from attention"),
    ],
)
def test_siglip_is_padded_as_it_was_trained(
    change: dict[str, object], words: str, run_command: Run, tmp_path: Path
) -> None:
    """It reads the last position, so that another padding would change every vector."""
    folder = write_two_towers(tmp_path / "model", "SiglipModel")
    change_json(folder / TOKENIZER_CONFIG, **change)
    ended = run_command("vit-export", folder, "--text", "-o", tmp_path / "text.onnx")
    assert (ended.returncode, words in ended.stderr) == (2, True), ended.stderr


def test_another_activation_is_caught(
    run_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the graph to read the config otherwise than the library, the export would fail."""
    monkeypatch.setattr("vit_export.graph.layers.QUICK_GELU_SLOPE", 1.5)
    ended = run_command("vit-export", DEMO_CLIP, "--text", "--fp32", "-o", tmp_path / "text.onnx")
    assert ended.returncode == 5
    assert "differs too much from eager PyTorch" in ended.stderr
    assert not (tmp_path / "text.onnx").exists()


def test_a_tensor_that_is_not_there_is_named(run_command: Run, tmp_path: Path) -> None:
    folder = shutil.copytree(DEMO_CLIP, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    del tensors["text_projection.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    ended = run_command("vit-export", folder, "--text", "-o", tmp_path / "text.onnx")
    assert (ended.returncode, "text_projection.weight" in ended.stderr) == (2, True), ended.stderr


def test_a_tokenizer_that_the_library_does_not_run_alone_is_refused(
    run_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SigLIP's own is, where transformers strips punctuation before it."""
    document = json.loads((DEMO_CLIP / "tokenizer.json").read_text())
    document["normalizer"] = {"type": "NFC"}
    monkeypatch.setattr(
        "vit_export.packages.texts.transformers_text.TransformersTextModel.tokenizer_json",
        lambda *_: json.dumps(document),
    )
    ended = run_command("vit-export", DEMO_CLIP, "--text", "-o", tmp_path / "text.onnx")
    assert ended.returncode == 2
    assert "does not give the tokens of the library's own CLIPTokenizer" in ended.stderr
