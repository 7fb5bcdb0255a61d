"""docs/embeddings.md runs from its first line to its last, and other programs read our vectors."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT

pytestmark = pytest.mark.slow  # three exports

LABELS = "arrow bricks circle heart ring spiral star"
NEIGHBOURS = ("examples/arrow-01.jpg", "examples/star-01.png")
"""Images whose nearest others the page looks for in FAISS and LanceDB, and in DuckDB."""


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its order; the nearest of FAISS, LanceDB and DuckDB are those of vit-search."""
    for library in ("faiss", "lancedb", "duckdb"):
        pytest.importorskip(library)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "labels.txt").write_text("\n".join(LABELS.split()))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    told: dict[str, list[str]] = {"sh": [], "python": [], "vectors": []}
    page = (ROOT / "docs/embeddings.md").read_text()
    for language, snippet in re.findall(r"^```(\w+)\n(.*?)^```", page, re.M | re.S):
        line = ["bash", "-euxc"] if language == "sh" else [sys.executable, "-c"]
        ended = subprocess.run(
            [*line, snippet], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )
        assert ended.returncode == 0, f"{snippet}\n{ended.stderr}"
        told[language].append(ended.stdout)
    assert "(2, 64)" in told["python"][0]
    assert "(1, 64)" in told["python"][1]
    faiss, lancedb, duckdb = told["vectors"]
    for name, found in zip(NEIGHBOURS, ((faiss, lancedb), (duckdb,)), strict=True):
        near = subprocess.run(
            ["vit-search", "vectors.npy", name, "-m", "clip.onnx", "-k", "3", "--format", "table"],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        ours = re.findall(r"examples/\S+", near.stdout)[1:]
        assert len(ours) == 3
        for theirs in found:
            assert re.findall(r"examples/[\w.-]+", theirs) == ours
