"""The embedder: a vector for each image, and which class opens which file."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from support import EXAMPLES
from support.embedding_model import SIDE, SIZE, SPACE, write_embedding_model
from vit_engine import Classifier, Embedder, ImageError, UsageError
from vit_engine.sources.sample import Sample


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedder]:
    path = tmp_path_factory.mktemp("embedder") / "clip.onnx"
    write_embedding_model(path)
    with Embedder.load(path, provider="cpu") as found:
        yield found


def test_images_of_every_kind_become_vectors_in_order(embedder: Embedder) -> None:
    found = embedder.embed(EXAMPLES, batch=3)
    assert found.shape == (len(EXAMPLES), SIZE) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    pixels = np.stack([embedder.pixels(path) for path in EXAMPLES])
    np.testing.assert_allclose(embedder.embed(pixels), found, atol=1e-6)
    np.testing.assert_allclose(embedder.embed(EXAMPLES[1]), found[1:2], atol=1e-6)
    np.testing.assert_allclose(embedder(EXAMPLES[1]), found[1], atol=1e-6)
    assert embedder(EXAMPLES[:2]).shape == (2, SIZE)
    assert embedder.embed([]).shape == (0, SIZE)
    assert (embedder.output.size, embedder.output.space) == (SIZE, SPACE)


def test_a_stream_has_errors_in_their_places(embedder: Embedder, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    samples = [Sample(str(path)) for path in (EXAMPLES[0], tmp_path / "bad.jpg", EXAMPLES[1])]
    rows = [row for batch in embedder.stream(samples) for row in batch.predictions]
    assert [row.error_code for row in rows] == [None, "format", None]
    assert rows[1].vector is None and rows[1].space is None
    expected = embedder.embed(EXAMPLES[:2])
    np.testing.assert_allclose([rows[0].vector, rows[2].vector], expected, atol=1e-6)


def test_embed_raises_where_there_is_no_vector(embedder: Embedder, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"images\[1\]"):
        embedder.embed([EXAMPLES[0], b"no image"])
    write_embedding_model(tmp_path / "nan.onnx", scale=np.nan)
    with (
        Embedder.load(tmp_path / "nan.onnx", provider="cpu") as broken,
        pytest.raises(ImageError, match=r"images\[0\]: the model gave NaN or Inf"),
    ):
        broken.embed(np.full((2, SIDE, SIDE, 3), 200, np.uint8))


def test_each_class_opens_its_own_kind(tmp_path: Path) -> None:
    write_embedding_model(tmp_path / "clip.onnx")
    with pytest.raises(UsageError, match=r"gives vectors, not labels.* Embedder.load\(path\)"):
        Classifier.load(tmp_path / "clip.onnx", provider="cpu")
    with pytest.raises(UsageError, match=r"labels, not vectors.* Classifier.load\(path\).*--embed"):
        Embedder.load("demo", provider="cpu")


@pytest.mark.parametrize("asked", [{"top_k": 3}, {"threshold": 0.5}])
def test_labels_cannot_be_asked_of_vectors(embedder: Embedder, asked: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="gives each image a vector, not labels"):
        embedder.stream([], **asked)
