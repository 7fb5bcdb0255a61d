"""From logits to labels with scores: three kinds, which labels are given, and their rows."""

import numpy as np
import pytest

from vit_engine.artefact.contract import Output, ScoreKind
from vit_engine.errors import UsageError
from vit_engine.outputs.kinds import output_from_contract
from vit_engine.outputs.prediction import Prediction, Score
from vit_engine.outputs.scores import DEFAULT_TOP_K, ScoreOptions, Scores, Selection

LABELS = tuple("abcdefgh")
LOGITS = np.array([[0, 3, -2, 1, 1, -9, 2, -1]], np.float32)


def given(function: ScoreKind, top_k: int, threshold: float | None = None) -> list[str]:
    output = Scores(LABELS, function)
    (found,) = output.results(LOGITS, output.selection(ScoreOptions(top_k, threshold)))
    return [score.label for score in found.topk]


def test_each_kind_of_score() -> None:
    output = Scores(LABELS, "softmax")
    softmax = output.scores(LOGITS)
    np.testing.assert_allclose(softmax.sum(), 1)
    np.testing.assert_allclose(softmax, np.exp(LOGITS) / np.exp(LOGITS).sum(), rtol=1e-6)
    sigmoid = output.scores(LOGITS, "sigmoid")
    np.testing.assert_allclose(sigmoid, 1 / (1 + np.exp(-LOGITS)), rtol=1e-6)
    np.testing.assert_array_equal(Scores(LABELS, "none").scores(LOGITS), LOGITS)


@pytest.mark.parametrize("function", ["softmax", "sigmoid"])
def test_large_logits_neither_overflow_nor_warn(function: ScoreKind) -> None:
    found = Scores(tuple("abc"), function).scores(np.array([[-3e38, 0, 3e38]], np.float32))
    assert found[0, 0] == 0
    assert found[0, 2] == 1


def test_a_threshold_and_a_number_of_labels() -> None:
    assert given("sigmoid", 8) == list("bgdeahcf")
    assert given("sigmoid", 8, 0.5) == list("bgdea")  # a's score is a half
    assert given("sigmoid", 2, 0.5) == list("bg")
    assert given("sigmoid", 8, 0.99) == []
    assert given("softmax", 8, 0.2) == list("bg")
    assert given("none", 8, 1.0) == list("bgde")
    assert given("none", 3, -100.0) == list("bgd")


def test_one_logit_is_a_share_or_a_value() -> None:
    logits = np.array([[-1.5], [np.nan], [2.5]], np.float32)
    values = Scores(("score",), "none")
    found = list(values.results(logits, values.selection(ScoreOptions()), ["a", None, "c"]))
    assert found[0] == Prediction("a", (Score("score", 0, -1.5),))
    assert (found[1].error_code, found[1].topk) == ("nonfinite", ())
    assert found[2] == Prediction("c", (Score("score", 0, 2.5),))
    sigmoid = Scores(("score",), "sigmoid")
    found = list(sigmoid.results(logits, sigmoid.selection(ScoreOptions(1, 0.5))))
    assert (found[0].topk, found[0].error) == ((), None)
    assert found[2].score == pytest.approx(0.924142)


def test_what_options_mean() -> None:
    output = output_from_contract(Output("logits", LABELS, "sigmoid"))
    assert output == Scores(LABELS, "sigmoid") and output.shape == (8,)

    def selection(top_k: int | None = None, threshold: float | None = None) -> Selection:
        return output.selection(ScoreOptions(top_k, threshold))

    assert selection() == Selection(DEFAULT_TOP_K, None, "sigmoid")
    assert selection(top_k=20) == Selection(8, None, "sigmoid")
    assert selection(threshold=0.3) == Selection(8, 0.3, "sigmoid")
    assert selection(top_k=2, threshold=0.3) == Selection(2, 0.3, "sigmoid")
    for threshold, words in ((1.5, "from 0 to 1"), (-0.1, "from 0 to 1"), (np.inf, "finite")):
        with pytest.raises(UsageError, match=words):
            selection(threshold=threshold)
    asked = ScoreOptions(threshold=65.0, function_to_apply="none")
    assert output.selection(asked) == Selection(8, 65.0, "none")


def test_rows_have_the_columns_of_their_kind() -> None:
    output = Scores(LABELS, "softmax")
    (found,) = output.results(LOGITS, output.selection(ScoreOptions(2)), ["x.jpg"])
    row = found.to_dict()
    assert list(row) == ["path", *output.columns, "error", "error_code"]
    assert row["topk"] == found.to_json()
    for name, kind in output.columns.items():
        if isinstance(kind, list):
            (fields,) = kind
            assert [{n: type(v) for n, v in score.items()} for score in row[name]] == [fields] * 2
        else:
            assert type(row[name]) is kind
