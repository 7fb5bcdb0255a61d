"""Texts in, vectors out."""

import sys
from pathlib import Path

import numpy as np
import pytest

from support.two_towers import DEMO_CLIP
from vit_engine import TextEmbedder
from vit_engine.classifier import Classifier
from vit_engine.errors import ArtefactError, MachineError, UsageError
from vit_export.checkpoints.checkpoint import VectorOptions, load
from vit_export.text_artefact import export_text


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.onnx"
    checkpoint = load(str(DEMO_CLIP), vectors=VectorOptions())
    export_text(checkpoint, path, precision="fp32", verified=False)
    return path


def test_texts_become_vectors_of_length_1(path: Path) -> None:
    embedder = TextEmbedder.load(str(path))
    found = embedder.embed(f"text {i}" for i in range(70))  # more than run at once
    assert (found.shape, found.dtype) == ((70, embedder.contract.size), np.float32)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(embedder.embed("text 69"), found[69:], atol=1e-5)
    assert embedder.embed([]).shape == (0, embedder.contract.size)


def test_case_is_the_tokenizers_own(path: Path) -> None:
    small, large = TextEmbedder.load(path).embed(["a red star", "A RED Star"])
    np.testing.assert_array_equal(small, large)


def test_what_is_no_text_for_it_is_refused(path: Path) -> None:
    embedder = TextEmbedder.load(path)
    with pytest.raises(UsageError, match=r"the text 'word.* has \d+ tokens, the model takes 32"):
        embedder.embed(["x", "word " * 40])
    with pytest.raises(UsageError, match="is not UTF-8"):
        embedder.embed("\udcff")
    with pytest.raises(TypeError, match="5 is no text"):
        embedder.embed(["x", 5])  # type: ignore[list-item]


def test_a_closed_one_is_refused(path: Path) -> None:
    with TextEmbedder.load(path) as embedder:
        embedder.embed("x")
    with pytest.raises(UsageError, match="is closed"):
        embedder.embed("x")


def test_the_wrong_kind_says_which_is_meant(path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"holds a model of texts.*TextEmbedder"):
        Classifier.load(path)
    demo = Path(sys.modules["vit_engine"].__path__[0]) / "artefact/demo.onnx"
    with pytest.raises(ArtefactError, match=r"is a model of images; texts need.*--text"):
        TextEmbedder.load(demo)


def test_a_changed_file_is_refused(path: Path, tmp_path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "text.onnx").write_bytes(data)
    with pytest.raises(ArtefactError, match=r"damaged or was altered|not an ONNX file|cut off"):
        TextEmbedder.load(tmp_path / "text.onnx")


def test_without_its_library_there_is_a_line_to_paste(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MachineError, match=r"pip install .*\[text\]"):
        TextEmbedder.load(path)
