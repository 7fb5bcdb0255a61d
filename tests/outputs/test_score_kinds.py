"""From a checkpoint to rows: one logit, several labels an image, and a regression's values."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from support import ROOT, Run, slow_case, write_checkpoint
from vit_engine.artefact.contract import Contract, Parity
from vit_engine.artefact.metadata import read_contract
from vit_engine.classifier import Classifier
from vit_engine.errors import ParityError, UsageError
from vit_engine.outputs.parity import BOUNDS
from vit_engine.outputs.scores import Scores
from vit_engine.sources.sample import Sample
from vit_export import verify
from vit_export.artefact import export
from vit_export.checkpoints.checkpoint import load
from vit_export.graph.weights import Array
from vit_export.quantization import calibration
from vit_export.quantization.pipeline import quantize
from vit_export.quantization.sensitivity import divergence
from vit_export.verify import check_preprocessing, verification_images

EXAMPLES = [str(path) for path in sorted((ROOT / "examples").iterdir())]
KINDS: dict[str, dict[str, Any]] = {
    "one logit": {"num_labels": 1},
    "several labels": {"num_labels": 5, "problem_type": "multi_label_classification"},
    "values": {"num_labels": 2, "problem_type": "regression"},
}
SCORES = {"one logit": "sigmoid", "several labels": "sigmoid", "values": "none"}

Exported = Callable[[str], Path]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Export a tiny checkpoint of a kind, verified, and once alone."""
    made: dict[str, Path] = {}

    def path(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp("kind")
            checkpoint = load(str(write_checkpoint(folder / "model", **KINDS[kind])))
            made[kind] = folder / "vit.onnx"
            images = verification_images(None)
            export(checkpoint, made[kind], precision="fp32", images=images)
        return made[kind]

    return path


def pipeline_rows(folder: Path) -> list[list[dict[str, Any]]]:
    """Return what transformers' own pipeline says of the examples."""
    from transformers import ImageClassificationPipeline, ViTForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    pipe = ImageClassificationPipeline(
        model=ViTForImageClassification.from_pretrained(folder).eval(),
        image_processor=ViTImageProcessorPil.from_pretrained(folder),
    )
    found: list[list[dict[str, Any]]] = [pipe(path) for path in EXAMPLES]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_transformers_pipeline(exported: Exported, kind: str) -> None:
    path = exported(kind)
    with Classifier.load(path, provider="cpu") as vit:
        rows = list(vit.classify(EXAMPLES))
        assert vit.contract.output.score == SCORES[kind]
    values = set()
    for row, theirs in zip(rows, pipeline_rows(path.parent / "model"), strict=True):
        assert [score.label for score in row.topk] == [score["label"] for score in theirs]
        np.testing.assert_allclose(
            [score.score for score in row.topk],
            [score["score"] for score in theirs],
            rtol=1e-3,
            atol=1e-4,
        )
        values |= {score.score for score in row.topk}
    assert len(values) > len(EXAMPLES) / 2  # not 1.0 for all


def parity_of(contract: Contract) -> Parity:
    assert contract.parity is not None
    return contract.parity


def test_agreement_is_recorded_where_there_is_one(exported: Exported) -> None:
    assert parity_of(read_contract(exported("one logit"))).agreement == 1.0
    assert parity_of(read_contract(exported("several labels"))).agreement == 1.0
    assert parity_of(read_contract(exported("values"))).agreement is None


def test_a_threshold_gives_the_labels_that_reach_it(exported: Exported) -> None:
    with Classifier.load(exported("several labels"), provider="cpu") as vit:
        every = list(vit.classify(EXAMPLES, top_k=5))
        some = list(vit.classify(EXAMPLES, threshold=0.5))
        minimum = sorted(s.score for row in every for s in row.topk)[-3]
        few = list(vit.classify(EXAMPLES, threshold=minimum, top_k=1))
        for options, error in (({"threshold": 2}, UsageError), ({"threshold": "0.5"}, TypeError)):
            with pytest.raises(error, match="threshold is "):
                vit.classify(EXAMPLES, **options)
    for row, whole in zip(some, every, strict=True):
        assert [s.label for s in row.topk] == [s.label for s in whole.topk if s.score >= 0.5]
        assert all(s.score >= 0.5 for s in row.topk)
    assert {len(row.topk) for row in few} == {0, 1}
    none = next(row for row in few if not row.topk)
    assert (none.label, none.index, none.score, none.error) == (None, None, None, None)


def test_the_command_follows(exported: Exported, tmp_path: Path, run_command: Run) -> None:
    def infer(kind: str, *options: str | Path) -> str:
        done = run_command("vit-infer", "-m", exported(kind), "--provider", "cpu", *options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    rows = [json.loads(line) for line in infer("several labels", *EXAMPLES, "-q").splitlines()]
    assert {len(row["topk"]) for row in rows} == {5}
    cut = infer("several labels", *EXAMPLES, "-q", "--threshold", "0.6", "-k", "2")
    for row, whole in zip(map(json.loads, cut.splitlines()), rows, strict=True):
        assert row["topk"] == [s for s in whole["topk"] if s["score"] >= 0.6][:2]
    table = infer("values", EXAMPLES[0], "-q", "--format", "table")
    assert "LABEL_0 " in table
    assert "%" not in table
    page = tmp_path / "sheet.html"
    infer("values", *EXAMPLES, "-q", "--html", page)
    assert '"score":"none"' in page.read_text()
    assert "sigmoid: each label by itself" in infer("one logit", "--describe")
    refused = run_command(
        "vit-infer", "-m", exported("one logit"), EXAMPLES[0], "--threshold", "50"
    )
    assert refused.returncode == 2
    assert "threshold is 50, the scores of this model are from 0 to 1" in refused.stderr
    for text in ("nan", "high", "inf"):
        assert run_command("vit-infer", EXAMPLES[0], "--threshold", text).returncode == 2


@pytest.mark.parametrize("image", ["square", "none"])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rule": "shortest_edge", "resize": (32, 32), "crop": (32, 32)}, "differs"),
        ({"filter": "bicubic"}, "differs"),
        ({"mean": (0.5, 0.4, 0.31)}, "differs"),
        ({"resize": (33, 33), "crop": (32, 32)}, "differs"),
    ],
)
def test_a_preprocessing_error_shows_whatever_the_images(
    tiny_folder: Path, tmp_path: Path, image: str, wrong: dict[str, Any], words: str
) -> None:
    checkpoint = load(str(tiny_folder))
    spoilt = replace(checkpoint, preprocessing=replace(checkpoint.preprocessing, **wrong))
    images = [Image.new("RGB", (32, 32), "red")] if image == "square" else []
    check_preprocessing(checkpoint)
    with pytest.raises(ParityError, match=f"the preprocessing .* {words} .* image of "):
        export(spoilt, tmp_path / "vit.onnx", precision="fp32", images=images)
    assert not list(tmp_path.iterdir())


def test_a_crop_that_is_rounded_the_other_way_shows(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    config = {"image_processor_type": "CLIPImageProcessor", "size": 35, "crop_size": 32}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    checkpoint = load(str(folder))
    check_preprocessing(checkpoint)
    spoilt = replace(checkpoint.preprocessing, anchor="centre_half_even")
    with pytest.raises(ParityError, match="differs from the reference's by"):
        check_preprocessing(replace(checkpoint, preprocessing=spoilt))


def test_the_drawn_images_are_always_among_the_users(tmp_path: Path) -> None:
    path = tmp_path / "square.png"
    Image.new("RGB", (64, 64)).save(path)
    drawn, mine = list(verification_images(None)), list(verification_images([Sample(str(path))]))
    assert [image.size for image in mine] == [(64, 64)] + [image.size for image in drawn]
    assert len({round(i.width / i.height, 1) for i in drawn}) > 5
    shapes = list(verify.drawn_shapes())
    assert {image.mode for image in shapes} == {"RGB", "RGBA", "L", "P", "CMYK", "1", "LA"}
    assert len({image.size for image in shapes}) == len(shapes)


@pytest.mark.parametrize("kind", ["several labels", slow_case("values")])
def test_int8_feels_rounding_whatever_the_scores_are(
    exported: Exported, tmp_path: Path, kind: str
) -> None:
    checkpoint = load(str(exported(kind).parent / "model"))
    images, judged = calibration.split(None)
    quantized = quantize(checkpoint, calibration.pixels_of(images, checkpoint.preprocessing))
    assert len(set(quantized.sensitivity.values())) > len(quantized.sensitivity) / 2
    assert min(quantized.sensitivity.values()) > 0
    path = tmp_path / "vit.onnx"
    loose = replace(BOUNDS["int8"], min_agreement=0.8)  # of random weights
    contract = export(
        checkpoint, path, precision="int8", images=judged, bounds=loose, quantized=quantized
    )
    agreement = parity_of(contract).agreement
    assert agreement is None if kind == "values" else agreement >= 0.8


def test_divergence_is_that_of_the_scores() -> None:
    rng = np.random.default_rng(0)
    true, found = rng.normal(0, 3, (2, 20, 4))

    def entropy(p: Array, q: Array) -> Array:
        return np.asarray((p * np.log(p / q)).sum(1))

    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (true, found))
    np.testing.assert_allclose(divergence(true, found, Scores((), "softmax")), entropy(p, q))
    p, q = (1 / (1 + np.exp(-x)) for x in (true, found))
    both = entropy(p, q) + entropy(1 - p, 1 - q)
    np.testing.assert_allclose(divergence(true, found, Scores((), "sigmoid")), both)
    squares = ((true - found) ** 2).sum(1)
    np.testing.assert_allclose(divergence(true, found, Scores((), "none")), squares)
