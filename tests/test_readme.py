"""The README's snippets do what they say."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from loopback_hub import serving
from vit_engine.rows.formats import COLUMNS
from vit_export.checkpoints.checkpoint import DEFAULT_MODEL

README = (ROOT / "README.md").read_text()
DEMO = ROOT / "export/vit_export/demo"
OTHERS = {"--rm", "--gpus", "--model-repository", "--dashboard-host", "--data-binary"}
"""Options of Docker, Triton, Ray and curl."""


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory):
    """A folder with what the snippets name, and a hub that serves the default model's files."""
    folder = tmp_path_factory.mktemp("readme")
    checkpoint = folder / "my-checkpoint"
    checkpoint.mkdir()
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        shutil.copy(DEMO / name, checkpoint)
    shutil.copytree(ROOT / "examples", folder / "images")
    shutil.copytree(ROOT / "examples", folder / "validation")
    rows = ["path,label"]
    for image in sorted((ROOT / "examples").iterdir()):
        label = image.stem.partition("-")[0]
        (folder / "photos" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(image, folder / "photos" / label)
        rows.append(f"photos/{label}/{image.name},{label}")
    (folder / "labels.csv").write_text("\n".join(rows))
    shutil.copy(ROOT / "examples/circle-01.jpg", folder / "images/cat.jpg")
    shutil.copy(ROOT / "examples/star-01.png", folder / "images/dog.jpg")
    with serving(checkpoint, DEFAULT_MODEL) as hub:
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "MODELSCOPE_ENDPOINT": hub.url,
            "MODELSCOPE_CACHE": str(folder / ".cache"),
            "MODELSCOPE_HOME": str(folder / ".cache"),
            "NO_PROXY": "127.0.0.1",
        }
        yield folder, environment


def run(line: str, sandbox: tuple[Path, dict[str, str]]) -> subprocess.CompletedProcess[str]:
    folder, environment = sandbox
    return subprocess.run(
        ["bash", "-euc", line],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_every_shell_snippet_runs(sandbox) -> None:
    lines = [line for snippet in snippets("sh") for line in snippet.splitlines()]
    commands = [line for line in lines if not line.startswith("pip install ")]
    assert len(commands) >= 7
    for line in commands:
        ended = run(line, sandbox)
        assert ended.returncode == 0, f"{line}\n{ended.stderr}"


def test_every_python_snippet_runs(sandbox) -> None:
    for snippet in snippets("python"):
        folder, environment = sandbox
        shutil.copy(ROOT / "runtime/vit_engine/artefact/demo.onnx", folder / "vit.onnx")
        ended = subprocess.run(
            [sys.executable, "-c", snippet],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        assert "circle" in ended.stdout
        assert "star" in ended.stdout


def test_the_row_is_a_row() -> None:
    (row,) = (json.loads(s) for s in snippets("json"))
    assert tuple(row) == COLUMNS


def test_the_extras_named_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    named = {
        e
        for extras in re.findall(r"(?:vit-engine|'\.)\[([a-z,]+)\]", README)
        for e in extras.split(",")
    }
    assert named
    for extra in named:
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra


def test_every_option_named_exists() -> None:
    """An option of a command that the README names is one that the command knows."""
    shown = ""
    modules = [
        ["-m", m]
        for m in (
            "vit_export.cli",
            "vit_engine.commands.infer",
            "vit_engine.commands.serve",
            "vit_engine.commands.doctor",
        )
    ]
    for program in (*modules, [str(ROOT / "benchmarks/compare.py")]):
        ended = subprocess.run(
            [sys.executable, *program, "--help"], capture_output=True, text=True, check=True
        )
        shown += ended.stdout
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", README)) - OTHERS:
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", shown), option
