"""Vectors as a kind of output: cosines, neighbours, agreement, and exact rows."""

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from vit_engine.artefact.contract import Precision
from vit_engine.errors import ParityError
from vit_engine.outputs.comparison import Comparison
from vit_engine.outputs.embeddings import (
    Embedding,
    Embeddings,
    cosines,
    nearest_others,
    recall,
    unpacked,
)
from vit_engine.outputs.parity import BOUNDS, check_parity
from vit_engine.outputs.scores import ScoreOptions, Scores

KIND = Embeddings(8, "cls", normalized=False, space="a" * 64)
VECTORS = np.random.default_rng(0).normal(size=(1500, 8)).astype(np.float32)


def near(x: NDArray[np.float32], cosine: float) -> NDArray[np.float32]:
    """Vectors of the same lengths at a cosine to others."""
    other = np.roll(x, 1, axis=1)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    aside = other - (other * unit).sum(1, keepdims=True) * unit
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    turned = unit * cosine + aside * np.sqrt(1 - cosine**2)
    found: NDArray[np.float32] = (turned * np.linalg.norm(x, axis=1, keepdims=True)).astype("f4")
    return found


def test_neighbours_are_those_of_a_plain_search() -> None:
    indices, found = nearest_others(VECTORS, 4)
    for i in (0, 700, 1499):  # of different parts of the search
        cosine = VECTORS @ VECTORS[i] / np.linalg.norm(VECTORS, axis=1) / np.linalg.norm(VECTORS[i])
        cosine[i] = -2
        assert indices[i].tolist() == np.argsort(-cosine)[:4].tolist()
        np.testing.assert_allclose(found[i], np.sort(cosine)[::-1][:4], atol=1e-6)


def test_recall_is_the_share_of_neighbours_that_stay() -> None:
    some = VECTORS[:40]
    assert recall(some, 3 * some) == 1
    assert 0.5 < recall(some, near(some, 0.99)) < 1
    shuffled = np.random.default_rng(1).permutation(some)
    assert recall(some, shuffled) < 0.5
    assert recall(some[:2], -some[:2]) == 1  # nothing to tell them apart by


@pytest.mark.parametrize(
    ("precision", "passing"), [("fp32", 0.999999), ("fp16", 0.9995), ("int8", 0.98)]
)
def test_parity_is_by_cosine_and_length(precision: Precision, passing: float) -> None:
    def check(found: NDArray[np.float32]) -> None:
        words = {"name": "the engine", "reference": "the CPU", "fix": "use --fp32"}
        check_parity(found, VECTORS, BOUNDS[precision], output=KIND, **words)

    check(near(VECTORS, passing))
    with pytest.raises(ParityError, match=r"least cosine .* 0\.9.* \(allowed 0\.9.*; use --fp32"):
        check(near(VECTORS, 2 * passing - 1 - 1e-2))
    with pytest.raises(ParityError, match=r"ratio of their lengths 0\.9"):
        check(VECTORS * np.float32(0.95))
    with pytest.raises(ParityError, match="NaN or Inf on 1 of 1500"):
        check(np.where(VECTORS[3, 3] == VECTORS, np.nan, VECTORS))


def test_two_agree_where_the_cosine_is_high_enough() -> None:
    found = np.concatenate([near(VECTORS[:3], 0.995), near(VECTORS[3:4], 0.9)])
    assert KIND.agreements(found, VECTORS[:4]).tolist() == [True, True, True, False]
    np.testing.assert_allclose(cosines(found, VECTORS[:4]), [0.995] * 3 + [0.9], atol=1e-6)
    for threshold, agreement in ((None, 0.75), (0.999, 0), (0.8, 1)):
        compared = Comparison(KIND, threshold)
        compared.add(found, VECTORS[:4])
        assert compared.agreement == agreement


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (KIND, ""),
        (Embeddings(9, "cls", normalized=False, space="a" * 64), "have 9 numbers"),
        (Embeddings(8, "cls", normalized=False, space="b" * 64), "the space bbbbbbbbbbbb"),
        (Scores(("a", "b"), "softmax"), "gives labels"),
    ],
)
def test_what_cannot_be_compared_is_told(other: object, words: str) -> None:
    assert words in KIND.mismatch(other) and bool(words) == bool(KIND.mismatch(other))
    assert "gives vectors" in Scores(("a",), "sigmoid").mismatch(KIND)


def test_rows_give_back_the_numbers_to_the_bit() -> None:
    odd = np.array([1e-45, 3.4e38, -0.0, 1 / 3, 16777217, 1e-7, 0.1, -2.5], np.float32)
    row = Embedding("a.jpg", odd, KIND.space)
    assert np.array_equal(np.float32(json.loads(json.dumps(row.to_dict()))["embedding"]), odd)
    assert np.array_equal(unpacked(row.packed()["embedding"]), odd)
    assert list(row.packed()) == ["path", *KIND.columns, "error", "error_code"]


def test_a_vector_that_is_not_finite_is_an_error() -> None:
    bad = VECTORS[:3].copy()
    bad[1, 2] = np.inf
    found = list(KIND.results(bad, KIND.selection(ScoreOptions()), ["a", "b", "c"]))
    assert [row.error_code for row in found] == [None, "nonfinite", None]
