"""vit-export, as a user runs it."""

import json
import os
from pathlib import Path

import pytest

from conftest import Run, write_checkpoint
from vit_engine.artefact.metadata import read_contract


def test_a_checkpoint_becomes_one_verified_file(
    tiny_folder: Path, tmp_path: Path, run_command: Run
) -> None:
    out = tmp_path / "new" / "vit.onnx"
    ended = run_command("vit-export", tiny_folder, "--fp16", "-o", out)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ""
    assert [p.name for p in out.parent.iterdir()] == ["vit.onnx"]
    assert "verified on 19 images against eager PyTorch: top-1 agreement 100.0%" in ended.stderr
    contract = read_contract(out)
    assert contract.identity.precision == "fp16"
    assert contract.identity.model == tiny_folder.name
    assert contract.parity is not None
    umask = os.umask(0)
    os.umask(umask)
    assert out.stat().st_mode & 0o777 == 0o666 & ~umask


def test_hf_io_writes_the_layout_that_others_read(
    tiny_folder: Path, tmp_path: Path, run_command: Run
) -> None:
    out = tmp_path / "hf"
    ended = run_command("vit-export", tiny_folder, "--io", "hf", "-o", out)
    assert ended.returncode == 0, ended.stderr
    files = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert files == ["config.json", "onnx/model_fp16.onnx", "preprocessor_config.json"]
    contract = read_contract(out / "onnx/model_fp16.onnx")
    assert (contract.input.name, contract.input.layout) == ("pixel_values", "NCHW")


def test_images_of_ones_own_and_no_images(
    tiny_folder: Path, tmp_path: Path, run_command: Run, test_data: Path
) -> None:
    out = tmp_path / "vit.onnx"
    cats = test_data / "coco-cats"
    ended = run_command("vit-export", tiny_folder, "-o", out, "--verify-images", cats)
    assert ended.returncode == 0, ended.stderr
    parity = read_contract(out).parity
    assert parity is not None
    assert parity.images == 1
    ended = run_command("vit-export", tiny_folder, "-o", out, "--no-verify")
    assert ended.returncode == 0
    assert "not verified" in ended.stderr
    assert read_contract(out).parity is None


def test_the_same_checkpoint_gives_the_same_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    from vit_export.artefact import export
    from vit_export.checkpoints.checkpoint import load

    for name in ("a", "b"):
        export(load(str(tiny_folder)), tmp_path / name, precision="fp16", images=None)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_refused_checkpoint_spares_the_old_artefact(tmp_path: Path, run_command: Run) -> None:
    folder = write_checkpoint(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "swin"
    (folder / "config.json").write_text(json.dumps(config))
    out = tmp_path / "vit.onnx"
    out.write_bytes(b"old")
    ended = run_command("vit-export", folder, "-o", out)
    assert ended.returncode == 2
    assert "swin" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert out.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no/such", "--offline"], "no/such"),
        (["no such model"], "no such model"),
        (["demo", "-o", "."], "is a folder; -o takes a file"),
        (["demo", "--fp16", "--fp32"], "not allowed with"),
        (["demo", "--verify-images", "absent"], "absent"),
        (["demo", "--revision", "v1"], "has no revision"),
        (["demo", "--triton-tensorrt"], "only makes sense together with --triton DIR"),
        (["demo", "--int8", "--min-agreement", "2"], "'2' is not a share from 0 to 1"),
        (["demo", "--int8", "--min-agreement", "-1"], "'-1' is not a share from 0 to 1"),
        (["demo", "--int8", "--min-agreement", "nan"], "'nan' is not a share from 0 to 1"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: list[str], words: str, tmp_path: Path, run_command: Run
) -> None:
    ended = run_command("vit-export", *arguments, cwd=tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert words in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert not [p for p in tmp_path.rglob("*.onnx*") if p.is_file()]


def test_a_folder_that_cannot_be_written(tiny_folder: Path, run_command: Run) -> None:
    ended = run_command("vit-export", tiny_folder, "-o", "/proc/vit.onnx")
    assert ended.returncode == 4
    assert "/proc/vit.onnx: cannot be written" in ended.stderr


def test_the_bundled_artefact_is_the_bundled_checkpoint(tmp_path: Path) -> None:
    """What the runtime ships is what the exporter makes today of what the exporter ships."""
    import onnx

    from vit_engine.artefact.metadata import path_from_name
    from vit_export.artefact import export
    from vit_export.checkpoints.checkpoint import load

    export(load("demo"), tmp_path / "demo.onnx", precision="fp16", images=None)
    shipped, fresh = onnx.load(path_from_name("demo")), onnx.load(tmp_path / "demo.onnx")
    assert shipped.graph == fresh.graph
    assert read_contract(path_from_name("demo")).parity is not None


@pytest.mark.hub
def test_the_published_model_gives_its_published_logits(
    test_data: Path, tmp_path: Path, run_command: Run
) -> None:
    """Logits as in transformers' own tests of google/vit-base-patch16-224, tolerance 1e-4."""
    import numpy as np
    from PIL import Image

    from vit_engine.engine import Engine
    from vit_engine.images.preprocess import pixels_from_image

    out = tmp_path / "vit.onnx"
    assert run_command("vit-export", "--fp32", "-o", out, timeout=1800).returncode == 0
    with Engine.open(out, provider="cpu") as engine:
        image = Image.open(next((test_data / "coco-cats").iterdir()))
        pixels = pixels_from_image(image, engine.contract.preprocessing)
        logits = engine.run(pixels[None])[0]
        assert engine.contract.output.labels[logits.argmax()] == "Egyptian cat"
    np.testing.assert_allclose(logits[:3], [-0.2744, 0.8215, -0.0836], atol=1e-4)
