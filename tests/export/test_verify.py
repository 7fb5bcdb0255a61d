"""The parity gate: what it measures, on real weights, and what it refuses."""

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file, save_file

from support import Run, write_checkpoint
from vit_engine.engine import Engine
from vit_engine.errors import CheckpointError
from vit_engine.images.preprocess import pixels_from_image, rgb_from_image
from vit_export.artefact import export
from vit_export.checkpoints.checkpoint import Checkpoint, load
from vit_export.eager import eager_outputs
from vit_export.verify import parity_from_outputs


@dataclass(frozen=True)
class Photographs:
    """The labelled photographs, and what eager PyTorch says of them."""

    checkpoint: Checkpoint
    pixels: NDArray[np.uint8]
    expected: NDArray[np.float32]
    truth: NDArray[np.int64]


@pytest.fixture(scope="module")
def photographs(test_data: Path) -> Photographs:
    checkpoint = load(str(test_data / "deit-tiny-imagenet1k"))
    with (test_data / "imagenet-sample/labels.csv").open() as file:
        rows = [row for row in csv.reader(file) if row[0].endswith(".JPEG")]
    assert len(rows) == 200
    images = [rgb_from_image(Image.open(test_data / "imagenet-sample" / row[0])) for row in rows]
    return Photographs(
        checkpoint,
        np.stack([pixels_from_image(image, checkpoint.preprocessing) for image in images]),
        eager_outputs(checkpoint, images),
        np.array([int(row[1]) for row in rows]),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "optimize_graph"), [("fp16", True), ("fp16", False), ("fp32", True)]
)
def test_deit_tiny_on_photographs(
    photographs: Photographs,
    tmp_path: Path,
    precision: str,
    optimize_graph: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pixels, expected, truth = photographs.pixels, photographs.expected, photographs.truth
    path = tmp_path / "vit.onnx"
    export(photographs.checkpoint, path, precision=precision, images=None)
    with Engine.open(path, provider="cpu", optimize_graph=optimize_graph) as engine:
        found = engine.run(pixels)
        alone = np.concatenate([engine.run(pixels[i : i + 1]) for i in range(16)])
    parity = parity_from_outputs(found, expected, photographs.checkpoint.output)
    with capsys.disabled():
        print(
            f"\nDeiT-Tiny {precision}{', adapted' if optimize_graph else ''}: "
            f"max |logit difference| {parity.max_abs_diff:.1e}, "
            f"agreement {parity.agreement:.1%}, top-1 {(found.argmax(1) == truth).mean():.1%} "
            f"(PyTorch {(expected.argmax(1) == truth).mean():.1%})"
        )
    assert parity.agreement == 1.0
    assert parity.max_abs_diff <= {"fp32": 1e-4, "fp16": 0.05}[precision]
    np.testing.assert_allclose(alone, found[:16], atol={"fp32": 1e-4, "fp16": 0.02}[precision])
    assert (alone.argmax(1) == found[:16].argmax(1)).all()


def test_fp16_that_overflows_leaves_nothing_behind(tmp_path: Path, run_command: Run) -> None:
    folder = write_checkpoint(tmp_path / "hot")
    tensors = load_file(folder / "model.safetensors")
    tensors["vit.encoder.layer.0.intermediate.dense.bias"] += 3e5  # beyond float16's 65,504
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "out" / "vit.onnx"
    ended = run_command("vit-export", folder, "--fp16", "-o", out)
    assert ended.returncode == 5
    assert ended.stderr.splitlines()[-1].startswith("vit-export: the fp16 graph gives NaN or Inf")
    assert not out.parent.exists()
    assert run_command("vit-export", folder, "--fp32", "-o", out).returncode == 0


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", {"dtype": "float99"}),
        ("preprocessor_config.json", {"image_mean": [0.5, 0.5]}),
        ("config.json", {"pruned_heads": 5, "id2label": {"0": "a"}, "num_labels": "many"}),
    ],
)
def test_what_transformers_raises_is_one_line(
    file: str, change: dict[str, object], tiny_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "tiny")
    checkpoint = load(str(folder))
    document = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(document | change))
    with pytest.raises(CheckpointError) as caught:
        eager_outputs(checkpoint, [Image.new("RGB", (32, 32))])
    assert str(caught.value).startswith("tiny: transformers cannot ")
    assert "\n" not in str(caught.value)
