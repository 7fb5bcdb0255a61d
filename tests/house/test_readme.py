"""The snippets of the README and of docs/ do what they say, and their links lead somewhere."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import ROOT
from support.loopback_hub import serving
from support.running_server import running
from vit_engine.commands.diagnosis import advice_for
from vit_engine.machine.processor import Cpu
from vit_engine.outputs.scores import Scores
from vit_engine.rows.formats import columns_of
from vit_export.checkpoints.checkpoint import DEFAULT_MODEL
from vit_export.families.timm.architectures import ARCHITECTURES

PAGES = {
    page.name: page.read_text() for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
}
DEMO = ROOT / "export/vit_export/demo"
OTHERS = {
    *(
        "--rm",
        "--gpus",
        "--model-repository",
        "--dashboard-host",
        "--data-binary",
        "--index-url",
        "--stub",
        "--no-deps",
        "--repo",
    )
}
"""Options of Docker, Triton, Ray, curl, pip, gh and benchmarks/serving.py."""
COMMANDS = ("infer", "eval", "search", "serve", "doctor")
Sandbox = tuple[Path, dict[str, str]]
"""A folder and the environment of what runs there."""
SERVED = "http://127.0.0.1:8000"
"""Where the pages say that vit-serve listens."""

each_page = pytest.mark.parametrize("page", PAGES)
each_page_by_itself = pytest.mark.parametrize("page", sorted({*PAGES} - {"embeddings.md"}))
"""test_embeddings_page.py runs that one from its first line to its last."""


def snippets(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory):
    """A folder with what the snippets name, and a hub that serves the default model's files."""
    folder = tmp_path_factory.mktemp("readme")
    checkpoint = folder / "my-checkpoint"
    checkpoint.mkdir()
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        shutil.copy(DEMO / name, checkpoint)
    shutil.copytree(ROOT / "examples", folder / "examples")
    shutil.copytree(ROOT / "examples", folder / "images")
    shutil.copytree(ROOT / "examples", folder / "validation")
    rows = ["path,label"]
    for image in sorted((ROOT / "examples").iterdir()):
        label = image.stem.partition("-")[0]
        (folder / "photos" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(image, folder / "photos" / label)
        rows.append(f"photos/{label}/{image.name},{label}")
    (folder / "truth.csv").write_text("\n".join(rows))
    for name in ("vit.onnx", "mine.onnx"):
        shutil.copy(ROOT / "runtime/vit_engine/artefact/demo.onnx", folder / name)
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


def run(line: list[str], sandbox: Sandbox) -> subprocess.CompletedProcess[str]:
    folder, environment = sandbox
    return subprocess.run(
        line, cwd=folder, env=environment, capture_output=True, text=True, timeout=180, check=False
    )


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """The help of each command, all started at once."""
    modules = ("vit_export.cli", *(f"vit_engine.commands.{name}" for name in COMMANDS))
    lines = {name: ["-m", name] for name in modules}
    lines["compare.py"] = [str(ROOT / "benchmarks/compare.py")]
    started = {
        name: subprocess.Popen([sys.executable, *line, "--help"], stdout=subprocess.PIPE, text=True)
        for name, line in lines.items()
    }
    told = {name: process.communicate(timeout=60)[0] for name, process in started.items()}
    assert not any(process.returncode for process in started.values())
    return told


@pytest.fixture(scope="module")
def tried() -> set[str]:
    """Lines that have run: what several pages show runs once."""
    return set()


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    with running("demo") as server:
        yield server.url


@pytest.mark.parametrize("exports", [False, pytest.param(True, marks=pytest.mark.slow)])
@each_page_by_itself
def test_every_shell_snippet_runs(
    page: str, exports: bool, sandbox: Sandbox, tried: set[str], request: pytest.FixtureRequest
) -> None:
    """Those that load PyTorch, which takes its time, and those that do not."""
    for line in (line for snippet in snippets(page, "sh") for line in snippet.splitlines()):
        if line in tried or line.startswith("vit-export") != exports:
            continue
        tried.add(line)
        asked = line
        if line.startswith("curl "):
            assert SERVED in line
            asked = line.replace(SERVED, request.getfixturevalue("served"))
            asked = asked.replace("curl ", "curl --fail --silent ")
        ended = run(["bash", "-euc", asked], sandbox)
        assert ended.returncode == 0, f"{line}\n{ended.stderr}"


@each_page_by_itself
def test_every_python_snippet_runs(page: str, sandbox) -> None:
    for snippet in snippets(page, "python"):
        shutil.copy(ROOT / "runtime/vit_engine/artefact/demo.onnx", sandbox[0] / "vit.onnx")
        ended = run([sys.executable, "-c", snippet], sandbox)
        assert ended.returncode == 0, ended.stderr
        assert "circle" in ended.stdout
        assert "star" in ended.stdout


@each_page
def test_every_snippet_is_in_a_language_that_is_tried(page: str) -> None:
    """`text` is for what no test can run: installing, a GPU, a cluster, a server of NVIDIA's."""
    fences = re.findall(r"^```(\w*)$", PAGES[page], re.MULTILINE)
    assert set(fences) <= {"", "sh", "python", "json", "table", "csv", "text", "triton", "vectors"}
    for snippet in snippets(page, "text"):
        assert re.search(r"pip install|--provider|s3://|docker|vit-serve|hf:", snippet), snippet
    for snippet in snippets(page, "triton"):
        ast.parse(snippet)


def without_digits(text: str) -> str:
    """Scores differ in their last digits from one processor to another."""
    return re.sub(r"[\d.e-]+", "0", " ".join(text.split()))


def test_the_outputs_shown_are_those_that_come(sandbox) -> None:
    for language, options in (("table", "-k 3"), ("csv", "-k 1")):
        (shown,) = snippets("README.md", language)
        line = f"vit-infer examples/ -m demo {options} --format {language} -q"
        came = run(["bash", "-euc", line], sandbox).stdout
        assert without_digits(came).startswith(without_digits(shown)), came


def test_the_row_is_a_row() -> None:
    (row,) = (json.loads(s) for s in snippets("infer.md", "json"))
    assert tuple(row) == columns_of(Scores(("cat",), "softmax"))


def test_the_version_and_the_count_of_architectures_are_those_of_today() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert set(re.findall(r"vit_engine-([\d.]+)-py3", PAGES["README.md"])) == {version}
    assert f"## {version}," in (ROOT / "CHANGELOG.md").read_text()
    assert f" {len(ARCHITECTURES)} architectures" in PAGES["README.md"]


def test_int8_is_told_alike_everywhere(helps: dict[str, str]) -> None:
    told = [PAGES["README.md"], PAGES["export.md"], helps["vit_export.cli"]]
    told.append(" ".join(advice_for((), Cpu("", ("avx512_vnni",), 1, 1, None, 2**30, None))))
    for text in (" ".join(text.split()) for text in told):
        assert "2.4" in text
        assert "one label in a hundred" in text
    slow = " ".join(advice_for((), Cpu("", ("avx2",), 1, 1, None, 2**30, None)))
    for text in (*told[:2], slow):
        assert "1.3 times as fast" in " ".join(text.split())


def test_the_readme_stays_short() -> None:
    assert len(PAGES["README.md"].splitlines()) < 150


def test_the_first_numbers_are_measured_ones() -> None:
    first = PAGES["README.md"].split("**")[1]
    told = PAGES["benchmarks.md"] + (ROOT / "docs/speed.svg").read_text()
    numbers = re.findall(r"\d+[.,]\d+", first)
    assert numbers
    for number in numbers:
        assert number in told


@each_page
def test_links_lead_somewhere(page: str) -> None:
    folder = ROOT if page == "README.md" else ROOT / "docs"
    for link in re.findall(r"\]\(([^)#\s]+)\)", PAGES[page]):
        assert link.startswith("https://") or (folder / link).exists(), link


def test_the_extras_named_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    named = {
        e
        for extras in re.findall(r"(?:whl|'\.)\[([a-z,]+)\]", "".join(PAGES.values()))
        for e in extras.split(",")
    }
    assert named
    for extra in named:
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra


def test_every_option_named_exists(helps: dict[str, str]) -> None:
    """An option of a command that a page names is one that a command knows."""
    shown, text = "".join(helps.values()), "".join(PAGES.values())
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text)) - OTHERS:
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", shown), option
