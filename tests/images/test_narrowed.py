"""Greys of more than 8 bits: the pixels are transformers', and the run says so once."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support import ROOT, Run
from vit_engine.classifier import Classifier

WORDS = "greys of 16 or 32 bits or floats"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    values = np.linspace(0, 60_000, 64 * 64).reshape(64, 64)
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "16.png")
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "32.tif")
    Image.fromarray((values / 256).astype(np.uint8)).save(tmp_path / "8.png")
    (tmp_path / "bad.tif").write_bytes(b"II*\0 no image")
    return tmp_path


def test_the_command_warns_once_with_the_count(folder: Path, run_command: Run) -> None:
    line = ("vit-infer", "-m", "demo", "--provider", "cpu", "-b", "1")
    done = run_command(*line, folder)
    assert done.returncode == 3
    warned = [text for text in done.stderr.splitlines() if WORDS in text]
    assert len(warned) == 1 and warned[0].startswith("vit-infer: warning: 3 images have greys")
    assert WORDS not in run_command(*line, ROOT / "examples").stderr
    assert "1 image has greys" in run_command(*line, folder / "16.png").stderr
    assert WORDS not in run_command(*line, folder / "16.png", "-q").stderr


def test_the_api_logs_it_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = sorted(folder.iterdir())
    with Classifier.load("demo", provider="cpu") as vit, caplog.at_level(logging.WARNING):
        assert len(list(vit.classify(paths, batch=1))) == 5
        assert [r.message.partition(" ")[0] for r in caplog.records if WORDS in r.message] == ["3"]
        caplog.clear()
        list(vit.classify(folder / "8.png"))
        assert not caplog.records
