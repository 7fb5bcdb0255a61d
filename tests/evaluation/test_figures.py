"""The figures of an evaluation and of a comparison, held against NumPy and numbers by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from support import slow_case
from vit_engine.artefact.contract import ScoreKind
from vit_engine.errors import UsageError
from vit_engine.evaluation import free_labels
from vit_engine.evaluation.against import ModelComparison
from vit_engine.evaluation.class_names import Fact
from vit_engine.evaluation.evaluation import Evaluation
from vit_engine.evaluation.examples import JudgedImage
from vit_engine.evaluation.free_labels import average_precision
from vit_engine.evaluation.temperature import TemperatureScaling
from vit_engine.evaluation.truth import GroundTruth
from vit_engine.image_model import LabelledBatch
from vit_engine.outputs.comparison import Comparison
from vit_engine.outputs.prediction import Prediction
from vit_engine.outputs.scores import Scores

BLANK = np.zeros((2, 2, 3), np.uint8)


def evaluated(
    function: ScoreKind,
    logits: NDArray[np.float32],
    truths: list[tuple[Any, ...]],
    *,
    threshold: float = 0.5,
) -> Evaluation:
    output = Scores(tuple(f"c{i}" for i in range(logits.shape[1])), function)
    truth = GroundTruth(None, lambda name: Fact(truths[int(name)]))
    found = Evaluation(truth, output, threshold=threshold, thumbnails=False)
    for part in np.array_split(np.arange(len(logits)), 7):
        rows = [Prediction(f"{i}/x.jpg") for i in part]
        found.add(LabelledBatch(rows, [BLANK] * len(part), 0, list(logits[part])))
    return found


def test_one_label_is_judged_by_the_best() -> None:
    rng = np.random.default_rng(0)
    n, classes = 500, 12
    logits = rng.normal(size=(n, classes)).astype(np.float32) * 2
    logits[::50] = np.round(logits[::50])  # ties
    true = rng.integers(0, classes, n)
    found = evaluated("softmax", logits, [(int(i),) for i in true]).report()
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    best = logits.argmax(1)
    assert found["top1"] == pytest.approx((best == true).mean())
    ranks = np.argsort(-logits, axis=1, kind="stable")
    assert found["top5"] == pytest.approx((ranks[:, :5] == true[:, None]).any(1).mean())
    score = shares.max(1)
    bins = np.minimum((score * 10).astype(int), 9)
    error = (
        sum(abs(score[bins == b].sum() - (best == true)[bins == b].sum()) for b in range(10)) / n
    )
    assert found["calibration"]["expected_error"] == pytest.approx(error, abs=1e-6)
    wrong = best != true
    confident = [m["score"] for m in found["mistakes"]["most_confident"]]
    np.testing.assert_allclose(confident, np.sort(score[wrong])[::-1][:60], rtol=1e-5)
    least = [m["truth_score"] for m in found["mistakes"]["worst"]]
    given = shares[np.arange(n), true]
    np.testing.assert_allclose(least, np.sort(given[wrong])[:60], rtol=1e-5)
    assert sum(c["images"] for c in found["confusions"]) == wrong.sum()
    assert sum(c["images"] for c in found["classes"]) == n


LOGITS = np.array([[2, -1, -3, -9], [1, 3, -2, -9], [-1, 1, -1, -9], [-2, -2, -1, -9]], np.float32)
TRUE = [(0,), (0, 1), (0, 2), ()]


def test_free_labels_are_judged_each_by_itself() -> None:
    """By hand: right 0, 0, 1; given 0, 0, 1, 1; true 0, 0, 0, 1, 2; the last label nowhere."""
    found = evaluated("sigmoid", LOGITS, TRUE).report()
    assert found["micro"] == pytest.approx({"precision": 3 / 4, "recall": 3 / 5, "f1": 6 / 9})
    assert found["macro"] == pytest.approx(
        {"precision": (1 + 1 / 2 + 0) / 3, "recall": (2 / 3 + 1 + 0) / 3, "f1": (4 / 5 + 2 / 3) / 3}
    )
    assert found["exact_match"] == 3 / 4
    # scikit-learn's average_precision_score: 1; 1; 1/2, two labels tie for the first place
    assert [c["average_precision"] for c in found["classes"]] == pytest.approx([1, 1, 1 / 2])
    assert found["mean_average_precision"] == pytest.approx(5 / 6)
    assert [c["label"] for c in found["classes"]] == ["c0", "c1", "c2"]
    (wrong,) = found["mistakes"]["wrong"]
    assert (wrong["path"], wrong["truth"]) == ("2/x.jpg", ["c0", "c2"])
    assert [label["label"] for label in wrong["labels"]] == ["c1", "c0", "c2"]
    strict = evaluated("sigmoid", LOGITS, TRUE, threshold=0.9).report()
    assert strict["micro"]["precision"] == 1
    assert strict["micro"]["recall"] == 1 / 5


@pytest.mark.parametrize(
    ("truth", "scores", "expected"),
    [
        ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 0.8333333),  # the example of scikit-learn's page
        ([1, 0, 1, 0], [0.5, 0.5, 0.5, 0.5], 0.5),
        ([0, 1, 0], [3, 2, 1], 0.5),
        ([1, 1, 1], [1, 2, 3], 1),
    ],
)
def test_average_precision(truth: list[int], scores: list[float], expected: float) -> None:
    found = average_precision(np.array(truth, bool), np.array(scores, np.float32))
    assert found == pytest.approx(expected)


def test_one_logit_is_not_always_right() -> None:
    logits = np.array([[3], [-3], [2], [-1]], np.float32)
    found = evaluated("sigmoid", logits, [(0,), (0,), (), ()]).report()
    assert found["exact_match"] == 0.5
    assert found["micro"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5}


def test_too_many_scores_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_labels, "MAX_SCORES", 11)
    found = evaluated("sigmoid", LOGITS, TRUE)
    assert found.report()["mean_average_precision"] is None
    assert "mean average precision not computed of more than 11 scores" in "\n".join(found.lines())
    assert found.report()["micro"]["precision"] == 3 / 4


def test_values_are_judged_by_their_errors() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(1000, 3, (40, 2))
    logits = (true + rng.normal(0, 1, true.shape)).astype(np.float32)
    evaluation = evaluated("none", logits, [tuple(row) for row in true.tolist()])
    found, errors = evaluation.report(), logits - true
    assert found["mean_absolute_error"] == pytest.approx(np.abs(errors).mean())
    assert found["root_mean_square_error"] == pytest.approx(np.sqrt((errors**2).mean(0)).mean())
    spread = ((true - true.mean(0)) ** 2).sum(0)
    assert found["r2"] == pytest.approx((1 - (errors**2).sum(0) / spread).mean())
    worst = found["mistakes"]["worst"]
    assert worst[0]["error"] == pytest.approx(np.abs(errors).max()) == found["max_error"]
    assert len(worst) == 40
    assert "R² 0." in next(evaluation.lines())


@pytest.mark.parametrize("part", [1, 3, 10])
def test_a_model_and_its_opposite_never_agree(part: int) -> None:
    logits = np.random.default_rng(0).normal(5, 2, (10, 1)).astype(np.float32)
    logits[0] = -1

    def compared(function: ScoreKind, found: NDArray[np.float32]) -> Comparison:
        result = Comparison(Scores(("a",), function))
        for i in range(0, len(logits), part):
            result.add(found[i : i + part], logits[i : i + part])
        return result

    assert compared("sigmoid", -logits).agreement == 0
    assert compared("sigmoid", logits).agreement == 1
    opposite, same = compared("none", -logits), compared("none", logits)
    assert opposite.agreement is None and same.agreement is None
    assert opposite.r2 is not None and opposite.r2 < -10 and same.r2 == 1
    assert str(opposite).startswith("R² -")
    assert opposite.max_abs_diff == pytest.approx(2 * np.abs(logits).max())
    constant = compared("none", logits * 0 + 1)
    assert constant.r2 is not None and constant.r2 < 0


@pytest.mark.parametrize(
    ("function", "temperature"),
    [
        ("softmax", 0.4),
        ("sigmoid", 3),
        *(
            slow_case(*other)
            for other in [("softmax", 1), ("softmax", 3), ("sigmoid", 0.4), ("sigmoid", 1)]
        ),
    ],
)
def test_the_temperature_is_that_of_the_truth(function: ScoreKind, temperature: float) -> None:
    """Truths that are drawn by the scores of a temperature lead back to it, and to no other."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (6000, 5)).astype(np.float32)
    output = Scores(tuple("abcde"), function, 1.7)
    scores = replace(output, temperature=temperature).scores(logits)
    scaling = TemperatureScaling(output)
    for row, shares in zip(logits, scores, strict=True):
        free = tuple(np.flatnonzero(rng.random(5) < shares))
        true = free if function == "sigmoid" else (int(rng.choice(5, p=shares)),)
        scaling.add(JudgedImage(None, BLANK, row, true))
    found = scaling.fitted()
    assert found == pytest.approx(temperature, rel=0.06)
    losses = [scaling.log_loss(found * share) for share in (0.97, 1, 1.03)]
    assert min(losses) == losses[1] < scaling.log_loss(output.temperature)
    if function == "softmax":
        taken = scores[np.arange(len(scores)), [int(true[0]) for true in scaling._true]]
        assert scaling.log_loss(temperature) == pytest.approx(-np.log(taken).mean(), rel=1e-6)


def test_images_that_are_all_right_decide_no_temperature() -> None:
    scaling = TemperatureScaling(Scores(("a", "b"), "softmax"))
    scaling.add(JudgedImage(None, BLANK, np.array([3, 1], np.float32), (0,)))
    with pytest.raises(UsageError, match=r"images \(1\) do not decide a temperature"):
        scaling.fitted()


def test_what_another_model_cannot_tell_is_said() -> None:
    output = Scores(("a", "b"), "softmax")
    theirs = np.array([[1, 2], [np.nan, 0], [3, 1]], np.float32)
    found = ModelComparison("x", lambda _: theirs, output, threshold=0.5, thumbnails=False)
    rows = [Prediction(f"{i}.jpg") for i in range(4)]
    ours = [*np.array([[1, 2], [1, 2], [1, 2]], np.float32), None]
    found.add(LabelledBatch(rows, [BLANK] * 4, 0, ours))
    assert (found.images, found.nonfinite, found.failed) == (2, 1, 2)
    first, second = found.lines()
    assert first == "against x: NaN or Inf on 1 of 3 images"
    assert "the same label on 50.0% of 2 images" in second
    (flip,) = found.report()["flips"]
    assert flip["path"] == "2.jpg"
    assert [label["label"] for label in flip["labels"]] == ["b", "a"]
