"""What people name in place of an artefact, and the command that they are told."""

from pathlib import Path

import pytest

from support import Run
from vit_engine.artefact.metadata import path_from_name, read_contract
from vit_engine.errors import ArtefactError, did_you_mean

EXPORT = "--fp16 -o vit.onnx' first, then name vit.onnx"
DEMO = "name 'demo', the bundled model"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ckpt", f"ckpt: is the folder of a checkpoint; run 'vit-export ckpt {EXPORT}"),
        ("ckpt/", f"run 'vit-export ckpt {EXPORT}"),
        ("ckpt/model.safetensors", f"is a part of a checkpoint; run 'vit-export ckpt {EXPORT}"),
        ("ckpt/config.json", f"is a part of a checkpoint; run 'vit-export ckpt {EXPORT}"),
        ("weights.PTH", f"is a part of a checkpoint; run 'vit-export . {EXPORT}"),
        ("exported", "is a folder; name the file in it: exported/vit.onnx"),
        ("hf", "is a folder; name the file in it: hf/onnx/model_fp16.onnx"),
        ("bare", "is a folder without an .onnx file; name a file that vit-export wrote, or"),
        ("mine.onx", "no such file; did you mean mine.onnx?"),
        ("mine", "no such file; did you mean mine.onnx?"),
        ("exported/vit.onxx", "no such file; did you mean exported/vit.onnx?"),
        ("exportd/vit.onnx", "no such file; did you mean exported?"),
        ("nope.onnx", f"no such file; write one with vit-export, or {DEMO}"),
        ("zzz", f"no such file; write one with vit-export, or {DEMO}"),
        ("google/vit-base", f"run 'vit-export google/vit-base {EXPORT}"),
        ("hf:google/vit-base", f"run 'vit-export hf:google/vit-base {EXPORT}"),
        ("https://host/vit.onnx", "is a URL; download the file, and name that"),
        ("broken.onnx", "broken.onnx: is a link to gone.onnx, which is not there"),
        ("photo.jpg", "not an ONNX file; name a file that vit-export wrote, or write one"),
        ("photo.jpg/vit.onnx", "no such file"),
    ],
)  # fmt: skip
def test_the_next_command_is_told(
    name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("ckpt", "exported", "hf/onnx", "bare"):
        Path(folder).mkdir(parents=True)
    for file in (
        "ckpt/config.json",
        "ckpt/model.safetensors",
        "weights.PTH",
        "photo.jpg",
        "exported/vit.onnx",
        "o2.onnx",
        "hf/config.json",
        "hf/onnx/model_fp16.onnx",
        "mine.onnx",
    ):
        Path(file).write_bytes(b"\xff\xd8\xff and more")  # fmt: skip
    Path("broken.onnx").symlink_to("gone.onnx")
    with pytest.raises(ArtefactError) as told:
        read_contract(path_from_name(name))
    assert words in str(told.value)


def test_commands_tell_it_in_one_line(run_command: Run, tmp_path: Path) -> None:
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "ckpt/config.json").touch()
    (tmp_path / "a.jpg").touch()
    for command, *line in (("vit-infer", "a.jpg"), ("vit-infer", "--describe"), ("vit-doctor",)):
        done = run_command(command, *line, "-m", "ckpt", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1
        assert "run 'vit-export ckpt --fp16" in done.stderr


def test_names_that_are_like_none_are_no_suggestion(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert did_you_mean(str(tmp_path / "fotos")) == f"; did you mean {tmp_path}/photos?"
    assert did_you_mean(str(tmp_path / "else")) == ""
    assert did_you_mean(str(tmp_path / "photos/a.jpg")) == ""
