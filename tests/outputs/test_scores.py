"""From logits to scores: three kinds, and which labels are given."""

import numpy as np
import pytest

from vit_engine.artefact.contract import Output, ScoreKind
from vit_engine.errors import UsageError
from vit_engine.outputs.scores import (
    DEFAULT_TOP_K,
    Score,
    Selection,
    best_scores,
    scores_from_logits,
    selection_from_options,
)

LABELS = tuple("abcdefgh")
LOGITS = np.array([[0, 3, -2, 1, 1, -9, 2, -1]], np.float32)


def given(score: ScoreKind, selection: Selection) -> list[str]:
    (found,) = best_scores(LOGITS, Output("logits", LABELS, score), selection)
    assert found is not None
    return [label.label for label in found]


def test_each_kind_of_score() -> None:
    softmax = scores_from_logits(LOGITS, "softmax")
    np.testing.assert_allclose(softmax.sum(), 1)
    np.testing.assert_allclose(softmax, np.exp(LOGITS) / np.exp(LOGITS).sum(), rtol=1e-6)
    sigmoid = scores_from_logits(LOGITS, "sigmoid")
    np.testing.assert_allclose(sigmoid, 1 / (1 + np.exp(-LOGITS)), rtol=1e-6)
    np.testing.assert_array_equal(scores_from_logits(LOGITS, "none"), LOGITS)


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_large_logits_neither_overflow_nor_warn(score: ScoreKind) -> None:
    large = np.array([[-3e38, 0, 3e38]], np.float32)
    found = scores_from_logits(large, score)
    assert found[0, 0] == 0
    assert found[0, 2] == 1


def test_a_threshold_and_a_number_of_labels() -> None:
    assert given("sigmoid", Selection(8, None)) == list("bgdeahcf")
    assert given("sigmoid", Selection(8, 0.5)) == list("bgdea")  # a's score is a half
    assert given("sigmoid", Selection(2, 0.5)) == list("bg")
    assert given("sigmoid", Selection(8, 0.99)) == []
    assert given("softmax", Selection(8, 0.2)) == list("bg")
    assert given("none", Selection(8, 1.0)) == list("bgde")
    assert given("none", Selection(3, -100.0)) == list("bgd")


def test_one_logit_is_a_share_or_a_value() -> None:
    logits = np.array([[-1.5], [np.nan], [2.5]], np.float32)
    output = Output("logits", ("score",), "none")
    assert list(best_scores(logits, output, Selection(1, None))) == [
        (Score("score", 0, -1.5),),
        None,
        (Score("score", 0, 2.5),),
    ]
    found = list(best_scores(logits, Output("logits", ("score",), "sigmoid"), Selection(1, 0.5)))
    assert found[0] == ()
    assert found[2] is not None
    assert found[2][0].score == pytest.approx(0.924142)


def test_what_options_mean() -> None:
    output = Output("logits", LABELS, "sigmoid")

    def selection(top_k: int | None = None, threshold: float | None = None) -> Selection:
        return selection_from_options(output, top_k=top_k, threshold=threshold)

    assert selection() == Selection(DEFAULT_TOP_K, None)
    assert selection(top_k=20) == Selection(8, None)
    assert selection(threshold=0.3) == Selection(8, 0.3)
    assert selection(top_k=2, threshold=0.3) == Selection(2, 0.3)
    for threshold, words in ((1.5, "from 0 to 1"), (-0.1, "from 0 to 1"), (np.inf, "finite")):
        with pytest.raises(UsageError, match=words):
            selection(threshold=threshold)
    values = Output("logits", LABELS, "none")
    assert selection_from_options(values, top_k=None, threshold=65.0) == Selection(8, 65.0)
