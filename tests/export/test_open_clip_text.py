"""open_clip's texts: zero-shot scores and vectors as the library gives them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from export.test_open_clip import OWN, write_open_clip
from support import ROOT, Run
from support.two_towers import DEMO_CLIP, EOS, TOKENIZER_CONFIG, change_json
from vit_engine.artefact.metadata import read_contract
from vit_engine.classifier import Classifier
from vit_engine.text_embedder import TextEmbedder

open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")

IMAGES = [Image.open(path).convert("RGB") for path in sorted((ROOT / "examples").glob("*.jpg"))[:4]]
LABELS = (
    *("a Red star", "Blue CIRCLE!", "what's that?! (3.5 m)", "naïve, café: dots & waves", "x"),
    "it\u2019s \u201ca very small\u201d green heart_shape beside a big yellow square and one ring "
    * 2,
)
CLIP = {"width": 32, "heads": 2, "layers": 2}
HUGGING_FACE = CLIP | {"vocab_size": EOS + 1, "hf_tokenizer_name": "made/up"}
SIGLIP = HUGGING_FACE | {
    **{"context_length": 64, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    **{"tokenizer_kwargs": {"clean": "canonicalize"}, "act_kwargs": {"approximate": "tanh"}},
    "norm_kwargs": {"eps": 1e-6},
}
MODELS: dict[str, dict[str, Any]] = {
    "clip": {"text_cfg": CLIP, "quick_gelu": True},
    "custom": {"text_cfg": CLIP | {"mlp_ratio": 2.0}, "custom_text": True},
    "eos": {"text_cfg": HUGGING_FACE | {"pool_type": "eos", "eos_id": EOS}, "custom_text": True},
    "siglip": {"text_cfg": SIGLIP, "custom_text": True, "init_logit_bias": -1.0},
}


def write_texts(folder: Path, name: str) -> Path:
    """Write a random model of images and texts, its logits spread by a scale of about 14."""
    write_open_clip(folder, {"vision_cfg": OWN} | MODELS[name], pickled=name == "clip")
    if "hf_tokenizer_name" in MODELS[name]["text_cfg"]:
        shutil.copyfile(DEMO_CLIP / "tokenizer.json", folder / "tokenizer.json")
        options = json.loads((DEMO_CLIP / TOKENIZER_CONFIG).read_text())
        options |= {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "right"}
        (folder / TOKENIZER_CONFIG).write_text(json.dumps(options))
    return folder


def scores_of_the_library(folder: Path, texts: list[str]) -> np.ndarray:
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
    model.eval()
    with torch.inference_mode():
        logits, _ = model.get_logits(torch.stack([preprocess(image) for image in IMAGES]), tokens)
    found = logits.sigmoid() if model.logit_bias is not None else logits.softmax(-1)
    return np.asarray(found)


def text_vectors(folder: Path, texts: list[str]) -> np.ndarray:
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    with torch.inference_mode():
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
        return np.asarray(model.encode_text(tokens, normalize=True))


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("open_clip"), request.param)


def export(run_command: Run, folder: Path, tmp_path: Path, *options: str) -> Path:
    path = tmp_path / "m.onnx"
    ended = run_command("vit-export", folder, *options, "--fp32", "-o", path)
    assert ended.returncode == 0, ended.stderr
    return path


@pytest.mark.parametrize("number", [6, 1000])
def test_scores_are_those_of_the_library(
    folder: Path, number: int, run_command: Run, tmp_path: Path
) -> None:
    labels = (*LABELS, *(f"label {i}" for i in range(number - len(LABELS))))
    (tmp_path / "labels.txt").write_text("\n".join(label.strip() for label in labels))
    template = ["--template", "a photo of {}."]
    options = ["--labels", str(tmp_path / "labels.txt"), *template]
    with Classifier.load(export(run_command, folder, tmp_path, *options), provider="cpu") as model:
        found = model.probabilities(IMAGES)
    texts = [f"a photo of {label.strip()}." for label in labels]
    expected = scores_of_the_library(folder, texts)
    assert np.ptp(expected, axis=0).max() > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_vectors_of_texts_are_those_of_the_library(
    folder: Path, run_command: Run, tmp_path: Path
) -> None:
    path = export(run_command, folder, tmp_path, "--text")
    texts = [*map(str.strip, LABELS), "", "  a \t b\n "]
    with TextEmbedder.load(path) as model:
        found, space = model.embed(texts), model.space
    np.testing.assert_allclose(found, text_vectors(folder, texts), atol=2e-5)
    assert (
        space
        == read_contract(
            export(run_command, folder, tmp_path, "--embed", "--overwrite")
        ).output.space
    )


def test_one_label(run_command: Run, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a red star")
    options = ["--labels", tmp_path / "labels.txt", "--template", "{}", "--fp32"]
    folder = write_texts(tmp_path / "siglip", "siglip")
    with Classifier.load(export(run_command, folder, tmp_path, *options), provider="cpu") as model:
        expected = scores_of_the_library(folder, ["a red star"])
        np.testing.assert_allclose(model.probabilities(IMAGES), expected, atol=1e-5)
    folder = write_texts(tmp_path / "clip", "clip")
    ended = run_command("vit-export", folder, *options, "-o", tmp_path / "other.onnx")
    assert (ended.returncode, "one label" in ended.stderr) == (2, True), ended.stderr


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("clip", {"hf_model_name": "roberta-base"}, "its text tower is transformers' roberta-base"),
        ("clip", {"hf_tokenizer_name": "some/one"}, "put the tokenizer.json and tokenizer_config"),
        ("clip", {"vocab_size": 1000}, "its tokenizer has 49408 tokens"),
        ("clip", {"embed_cls": True}, "text_cfg has embed_cls"),
        ("clip", {"pool_type": "first"}, "pool_type is 'first'"),
        ("clip", {"context_length": 9}, "this model's texts have at most 9; shorten it"),
        ("eos", {"eos_id": 3}, "they are of two models"),
    ],
)
def test_what_is_refused(
    name: str, change: dict[str, Any], words: str, run_command: Run, tmp_path: Path
) -> None:
    folder = write_texts(tmp_path / "model", name)
    config = json.loads((folder / "open_clip_config.json").read_text())
    text = config["model_cfg"]["text_cfg"]
    change_json(
        folder / "open_clip_config.json",
        model_cfg=config["model_cfg"] | {"text_cfg": text | change},
    )
    (tmp_path / "labels.txt").write_text("\n".join(map(str.strip, LABELS)))
    line = ["--labels", tmp_path / "labels.txt", "-o", tmp_path / "m.onnx"]
    ended = run_command("vit-export", folder, *line)
    assert (ended.returncode, words in ended.stderr) == (2, True), ended.stderr
