"""vit-export, as a user runs it."""

import contextlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from support import ROOT, Run, write_checkpoint
from vit_engine.artefact.metadata import read_contract
from vit_engine.outputs.parity import BOUNDS


def test_a_checkpoint_becomes_one_verified_file(
    tiny_folder: Path, tmp_path: Path, run_command: Run
) -> None:
    out = tmp_path / "new" / "vit.onnx"
    ended = run_command("vit-export", tiny_folder, "--fp16", "-o", out)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ""
    assert [p.name for p in out.parent.iterdir()] == ["vit.onnx"]
    assert "verified: agreement 100.0%, max |logit difference| " in ended.stderr
    assert ", on 19 images, against transformers " in ended.stderr
    contract = read_contract(out)
    assert contract.identity.precision == "fp16"
    assert contract.identity.model == tiny_folder.name
    parity = contract.parity
    assert parity is not None
    assert 0 < parity.max_abs_diff <= BOUNDS["fp16"].max_diff * parity.logit_range
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
    assert parity.images == 1 + 19  # the drawn ones are always among them
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


def test_a_refused_checkpoint_spares_the_old_artefact(
    tiny_artefact: Path, tmp_path: Path, run_command: Run
) -> None:
    folder = write_checkpoint(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "swin"
    (folder / "config.json").write_text(json.dumps(config))
    out = tmp_path / "vit.onnx"
    shutil.copyfile(tiny_artefact, out)
    ended = run_command("vit-export", folder, "-o", out)
    assert ended.returncode == 2
    assert "swin" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert out.read_bytes() == tiny_artefact.read_bytes()


REFUSED = "exists, and is not recognised as written by an earlier run"


def test_a_file_of_somebody_else_is_spared_until_overwrite(
    tiny_folder: Path, tmp_path: Path, run_command: Run
) -> None:
    out = tmp_path / "thesis.onnx"
    line = ("vit-export", tiny_folder, "--fp32", "--no-verify", "-o", out)
    out.write_bytes(b"a thesis")
    ended = run_command("vit-export", "someone/never-asked-for", "-o", out)
    assert ended.returncode == 2
    assert REFUSED in ended.stderr
    assert "--overwrite" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1  # nothing was fetched or read before
    assert out.read_bytes() == b"a thesis"
    assert run_command(*line, "--overwrite").returncode == 0
    assert run_command(*line).returncode == 0  # an artefact of ours gives way to the next


def test_files_of_somebody_else_in_a_folder_for_hf(
    tiny_folder: Path, tmp_path: Path, run_command: Run
) -> None:
    out = tmp_path / "hf"
    out.mkdir()
    line = ("vit-export", tiny_folder, "--no-verify", "--io", "hf", "-o", out)
    (out / "config.json").write_text("mine")
    ended = run_command(*line)
    assert ended.returncode == 2
    assert f"{out / 'config.json'}: {REFUSED}" in ended.stderr
    assert [p.name for p in out.iterdir()] == ["config.json"]
    assert (out / "config.json").read_text() == "mine"
    assert run_command(*line, "--overwrite").returncode == 0
    assert run_command(*line, "--fp32").returncode == 0  # the configs are an export's now


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "link", "hf"])
def test_the_checkpoint_itself_is_never_written_over(
    file: str, tmp_path: Path, run_command: Run
) -> None:
    folder = write_checkpoint(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (tmp_path / "link").symlink_to(folder / "model.safetensors")
    out = {"link": tmp_path / "link", "hf": folder}.get(file, folder / file)
    io = ["--io", "hf"] if file == "hf" else []
    ended = run_command("vit-export", folder, "--overwrite", *io, "-o", out)
    assert ended.returncode == 2
    assert "would write over a file of the checkpoint itself" in ended.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_device_is_not_written_over(tiny_folder: Path, tmp_path: Path, run_command: Run) -> None:
    os.mkfifo(tmp_path / "pipe")
    ended = run_command("vit-export", tiny_folder, "--overwrite", "-o", tmp_path / "pipe")
    assert ended.returncode == 2
    assert "is no regular file" in ended.stderr
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.slow
def test_a_terminal_is_told_how_far_it_is(tiny_folder: Path, tmp_path: Path) -> None:
    """Each step over the last, and nothing of them left before the lines that stay."""
    ours, terminal = pty.openpty()
    command = [Path(sys.executable).with_name("vit-export"), tiny_folder, "--int8", "--no-verify"]
    command += ["-o", tmp_path / "vit.onnx"]
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        shown = b""
        with os.fdopen(ours, "rb", buffering=0) as screen, contextlib.suppress(OSError):
            while read := screen.read(4096):  # OSError where the last to write has closed it
                shown += read
    assert process.returncode == 0, shown
    over = "\r\x1b[K"
    steps = shown.decode().split(over)
    assert steps[1] == "running the calibration images"
    for pattern in (
        r"rounding .+ \((\d+) of (\d+) .+\)",
        r"running only .+ in int8 \((\d+) of (\d+) .+\)",
    ):
        counts = [tuple(map(int, c.groups())) for s in steps if (c := re.fullmatch(pattern, s))]
        assert counts and counts == [(i, len(counts)) for i in range(len(counts))]
    assert steps[-1].startswith("not verified"), "the last step is wiped"


def test_names_that_are_not_utf8(tmp_path: Path, run_command: Run) -> None:
    strange = os.fsdecode(b"caf\xe9")
    folder = write_checkpoint(tmp_path / strange / strange)
    out = tmp_path / strange / "vit.onnx"
    ended = run_command("vit-export", folder, "--fp32", "-o", out)
    assert ended.returncode == 0, ended.stderr
    assert read_contract(out).identity.model == r"caf\xe9"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no/such", "--offline"], "no/such"),
        (["no such model"], "no such model"),
        (["demo", "-o", "."], "is a folder; name a file in it"),
        (["demo", "--fp16", "--fp32"], "not allowed with"),
        (
            ["no/such", "--verify-images", "absent"],
            "--verify-images: absent: no such file or folder",
        ),
        (
            ["no/such", "--int8", "--calibrate", "absent"],
            "--calibrate: absent: no such file or folder",
        ),
        (
            ["no/such", "--int8", "--calibrate", "empty"],
            "--calibrate: empty: no image in this folder",
        ),
        (["no/such", "--int8", "--calibrate", "x*.jpg"], "--calibrate: x*.jpg: no file matches"),
        (["no/such", "--int8", "--calibrate", "one.jpg"], "--calibrate: one.jpg holds 1 image"),
        (["demo", "-o", "s3://bucket/vit.onnx"], "is not a path on this machine, but a URL"),
        (["demo", "--triton", "https://host/x"], "is not a path on this machine, but a URL"),
        (["demo", "--revision", "v1"], "--revision is for models on a hub"),
        (["demo", "--triton-tensorrt"], "only makes sense together with --triton DIR"),
        (["demo", "--calibrate", "."], "--calibrate is for int8"),
        (["demo", "--min-agreement", "0.9", "--fp16"], "--min-agreement is for int8"),
        (["demo", "--int8", "--embed", "--min-agreement", "0.9"], "--embed gives vectors"),
        (["demo", "--int8", "--min-agreement", "2"], "'2' is not a share from 0 to 1"),
        (["demo", "--int8", "--min-agreement", "-1"], "'-1' is not a share from 0 to 1"),
        (["demo", "--int8", "--min-agreement", "nan"], "'nan' is not a share from 0 to 1"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: list[str], words: str, tmp_path: Path, run_command: Run
) -> None:
    (tmp_path / "one.jpg").touch()
    (tmp_path / "empty").mkdir()
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
    contract = read_contract(path_from_name("demo"))
    assert contract.parity is not None
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert contract.identity.exporter == f"vit-engine {version}"


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
