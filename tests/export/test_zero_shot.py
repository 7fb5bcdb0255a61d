"""Zero-shot labels in the file: the scores are those of transformers' own pipeline."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from support import ROOT, Run, slow_case
from support.two_towers import (
    CASES,
    DEMO_CLIP,
    TOKENIZER_CONFIG,
    change_json,
    text_vectors,
    write_two_towers,
)
from vit_engine.artefact.contract import ZeroShot
from vit_engine.artefact.metadata import read_contract
from vit_engine.classifier import Classifier
from vit_export.reference import opened

LABELS = ("a red star", "Blue CIRCLE", "what's that?!", "naïve, café: dots & waves", "x")
LONG = "a very small green heart beside a big yellow square and one ring"
IMAGES = [Image.open(path).convert("RGB") for path in sorted((ROOT / "examples").glob("*.jpg"))[:4]]
TEMPLATES = ("a photo of a {}.", "A drawing: {}", "{}")


@pytest.fixture(scope="module", params=[*CASES, "demo"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "demo":
        return DEMO_CLIP
    return write_two_towers(tmp_path_factory.mktemp("towers"), request.param)


def labels_file(folder: Path, *labels: str) -> Path:
    path = folder / "labels.txt"
    path.write_text("\n".join(labels) + "\n")
    return path


def pipeline_scores(folder: Path, labels: tuple[str, ...], template: str) -> np.ndarray:
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    pipe = transformers.pipeline(
        "zero-shot-image-classification",
        model=str(folder),
        image_processor=processor,
        dtype=torch.float32,
    )
    rows = pipe(IMAGES, candidate_labels=list(labels), hypothesis_template=template)
    return np.array([[{r["label"]: r["score"] for r in row}[n] for n in labels] for row in rows])


@pytest.mark.parametrize("options", [[], slow_case(["--template", "a drawing of {}!"])])
def test_scores_are_those_of_the_pipeline(
    folder: Path, options: list[str], run_command: Run, tmp_path: Path
) -> None:
    labels, path = (*LABELS, LONG), tmp_path / "m.onnx"
    line = ["--labels", labels_file(tmp_path, *labels), *options, "--fp32", "-o", path]
    ended = run_command("vit-export", folder, *line)
    assert ended.returncode == 0, ended.stderr
    template = options[-1] if options else "This is a photo of {}."
    contract = read_contract(path)
    assert contract.output.labels == labels
    assert isinstance(contract.zero_shot, ZeroShot)
    assert contract.zero_shot.templates == (template,)
    with Classifier.load(path, provider="cpu") as classifier:
        found = classifier.probabilities(IMAGES)
    np.testing.assert_allclose(found, pipeline_scores(folder, labels, template), atol=1e-5)


@pytest.mark.parametrize("folder", ["demo", *(slow_case(c) for c in CASES)], indirect=True)
def test_several_templates_are_averaged(folder: Path, run_command: Run, tmp_path: Path) -> None:
    """Each text's vector at length 1, then their mean."""
    (tmp_path / "templates.txt").write_text("\ufeff" + "\r\n".join(TEMPLATES[1:]) + "\r\n")
    path = tmp_path / "m.onnx"
    line = ["--template", TEMPLATES[0], tmp_path / "templates.txt", "--fp32", "-o", path]
    ended = run_command("vit-export", folder, "--labels", labels_file(tmp_path, *LABELS), *line)
    assert ended.returncode == 0, ended.stderr
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    with torch.inference_mode():
        texts = sum(
            text_vectors(folder, [template.format(label) for label in LABELS])
            for template in TEMPLATES
        )
        texts /= np.linalg.norm(texts, axis=1, keepdims=True)
        images = model.get_image_features(**processor(IMAGES, return_tensors="pt")).pooler_output
        images = torch.nn.functional.normalize(images).numpy()
        scale, bias = model.logit_scale.exp().item(), float(getattr(model, "logit_bias", 0))
    expected = images @ texts.T * scale + bias
    with Classifier.load(path, provider="cpu") as classifier:
        np.testing.assert_allclose(classifier.logits(IMAGES), expected, atol=2e-4)


def test_one_label_of_siglip(run_command: Run, tmp_path: Path) -> None:
    folder = write_two_towers(tmp_path / "model", "SiglipModel")
    line = ["--labels", labels_file(tmp_path, "a red star"), "--fp32", "-o", tmp_path / "m.onnx"]
    ended = run_command("vit-export", folder, *line)
    assert ended.returncode == 0, ended.stderr
    expected = pipeline_scores(folder, ("a red star",), "This is a photo of {}.")
    with Classifier.load(tmp_path / "m.onnx", provider="cpu") as classifier:
        np.testing.assert_allclose(classifier.probabilities(IMAGES), expected, atol=1e-5)


@pytest.mark.slow
def test_a_thousand_labels_in_half_precision(run_command: Run, tmp_path: Path) -> None:
    labels = tuple(f"label {i}" for i in range(1000))
    line = ["--labels", labels_file(tmp_path, *labels), "-o", tmp_path / "m.onnx"]
    ended = run_command("vit-export", DEMO_CLIP, *line)
    assert ended.returncode == 0, ended.stderr
    assert "1000 labels, scores by softmax" in ended.stderr
    with Classifier.load(tmp_path / "m.onnx", provider="cpu") as classifier:
        contract = classifier.contract
        run, output = opened(str(DEMO_CLIP), contract)  # as vit-eval does for --against pytorch:
        pixels = np.stack([classifier.pixels(image) for image in IMAGES])
        found, expected = classifier.logits(IMAGES), run(pixels)
    assert output.labels == contract.output.labels == labels
    np.testing.assert_allclose(found, expected, atol=0.01 * np.ptp(expected))


def test_configs_beside_it_are_those_of_a_classifier(run_command: Run, tmp_path: Path) -> None:
    line = ["--labels", labels_file(tmp_path, *LABELS), "--io", "hf", "-o", tmp_path / "hf"]
    ended = run_command("vit-export", DEMO_CLIP, *line)
    assert ended.returncode == 0, ended.stderr
    config = transformers.AutoConfig.from_pretrained(tmp_path / "hf")
    assert config.architectures == ["CLIPForImageClassification"]
    assert tuple(config.id2label.values()) == LABELS
    assert config.problem_type == "single_label_classification"


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        ("", [], "is empty"),
        ("\n\n", [], "is empty"),
        ("a\n\nb\n", [], "line 2 is blank"),
        ("a\nb\na\n", [], "'a' stands there twice"),
        ("a\n", [], "one label, whose score would always be 1"),
        (b"caf\xe9\nb\n", [], "is not UTF-8"),
        ("a\n" + "word " * 40 + "\n", [], "tokens, this model's texts have at most 32"),
        ("a\nb\n", ["--embed"], "choose one"),
        ("a\nb\n", ["--template", "a photo"], "no template: it has no {} for the label"),
        ("a\nb\n", ["--template", "{} and {}"], "expected one {}"),
        (None, ["--template", "a {}"], "add --labels"),
        (None, ["--labels", "absent.txt"], "there is no such file"),
    ],
)
def test_mistakes_are_told_in_one_line(
    labels: str | bytes | None, options: list[str], words: str, run_command: Run, tmp_path: Path
) -> None:
    if labels is not None:
        path = tmp_path / "labels.txt"
        path.write_bytes(labels if isinstance(labels, bytes) else labels.encode())
        options = [*options, "--labels", str(path)]
    ended = run_command("vit-export", DEMO_CLIP, *options, "-o", tmp_path / "m.onnx")
    assert ended.returncode == 2
    assert words in ended.stderr
    assert len([line for line in ended.stderr.splitlines() if "read demo_clip" not in line]) == 1
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        (TOKENIZER_CONFIG, {"padding_side": "left"}, "pads on the left"),
        ("config.json", {"text_config": {"vocab_size": 700}}, "in another shape"),
        ("config.json", {"architectures": ["CLIPVisionModelWithProjection"]}, "no text tower"),
        ("config.json", {"text_config": {"eos_token_id": 700}}, "ends texts with token 758"),
    ],
)
def test_another_tokenizer_or_tower_is_refused(
    file: str, change: dict[str, object], words: str, run_command: Run, tmp_path: Path
) -> None:
    folder = shutil.copytree(DEMO_CLIP, tmp_path / "model")
    change_json(folder / file, **change)
    line = ["--labels", labels_file(tmp_path, *LABELS), "-o", tmp_path / "m.onnx"]
    ended = run_command("vit-export", folder, *line)
    assert ended.returncode == 2
    assert words in ended.stderr


def test_what_the_weights_lack_is_not_made_up(run_command: Run, tmp_path: Path) -> None:
    folder = shutil.copytree(DEMO_CLIP, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    del tensors["logit_scale"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    line = ["--labels", labels_file(tmp_path, *LABELS), "-o", tmp_path / "m.onnx"]
    ended = run_command("vit-export", folder, *line)
    assert (ended.returncode, "hold no logit_scale" in ended.stderr) == (2, True), ended.stderr


def test_a_tokenizer_that_is_not_there_is_told(run_command: Run, tmp_path: Path) -> None:
    folder = shutil.copytree(DEMO_CLIP, tmp_path / "model")
    for name in ("tokenizer.json", TOKENIZER_CONFIG):
        (folder / name).unlink()
    line = ["--labels", labels_file(tmp_path, *LABELS), "-o", tmp_path / "m.onnx"]
    ended = run_command("vit-export", folder, *line)
    assert ended.returncode == 2
    assert "its tokenizer's files are missing" in ended.stderr
