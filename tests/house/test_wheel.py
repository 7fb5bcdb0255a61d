"""The wheel by itself: all that a machine gets which only labels images."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT

pytestmark = pytest.mark.slow  # it fills an environment


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make wheel` makes."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), "."]
    subprocess.run(build, cwd=ROOT, check=True, timeout=300)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def run(wheel: Path, tmp_path_factory: pytest.TempPathFactory):
    """Run a command of an environment that holds the wheel with its extra `cpu` alone."""
    folder = tmp_path_factory.mktemp("alone")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True, timeout=120)
    python = folder / "venv/bin/python"
    install = [python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt"]
    subprocess.run([*install, f"{wheel}[cpu]"], check=True, timeout=500)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{python.parent}:{environment['PATH']}"

    def command(*line: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python.parent / line[0], *line[1:]],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return command


def test_it_labels_with_the_demo_and_writes_csv_and_html(run, tmp_path: Path) -> None:
    rows, sheet = tmp_path / "labels.csv", tmp_path / "sheet.html"
    done = run("vit-infer", ROOT / "examples", "-m", "demo", "-o", rows, "--html", sheet)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    with rows.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == len(list((ROOT / "examples").iterdir()))
    assert all(Path(row["path"]).name.startswith(row["label"]) for row in found)
    assert sheet.read_text().count("data:image/") >= len(found)


def test_it_says_which_extra_an_export_needs(run, wheel: Path) -> None:
    done = run("vit-export", "demo", "-o", "mine.onnx")
    assert done.returncode == 4
    (line,) = done.stderr.splitlines()
    assert line.startswith("vit-export: vit-export needs ")
    assert line.endswith(f"not installed: python -m pip install '{wheel}[export]'")


@pytest.mark.parametrize(
    ("options", "extra"),
    [
        (("--format", "parquet", "-o", "labels.parquet"), "parquet"),
        (("--provider", "openvino"), "openvino"),
        (("--ray", "-o", "rows"), "ray"),
    ],
)
def test_it_says_which_extra_an_option_needs(
    run, wheel: Path, options: tuple[str, ...], extra: str
) -> None:
    done = run("vit-infer", ROOT / "examples", "-m", "demo", *options)
    assert done.returncode in (2, 4)
    (line,) = done.stderr.splitlines()
    assert f"pip install '{wheel}[{extra}]'" in line


def test_the_server_names_its_extra_and_the_doctor_finds_the_cpu(run, wheel: Path) -> None:
    refused = run("vit-serve", "demo")
    assert refused.returncode == 4
    assert refused.stderr.endswith(f"pip install '{wheel}[serve]'\n")
    told = run("vit-doctor")
    assert told.returncode == 0, told.stdout
    assert "cpu " in told.stdout and "works" in told.stdout
