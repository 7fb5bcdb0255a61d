"""The classifier: every kind of image, in order, with errors in their places."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import EXAMPLES
from vit_engine.classifier import Classifier
from vit_engine.errors import UsageError
from vit_engine.outputs.prediction import Prediction


def test_scores_are_a_softmax(vit: Classifier) -> None:
    labels = vit.contract.output.labels
    (prediction,) = vit.classify(EXAMPLES[0], top_k=len(labels) + 10)
    assert len(prediction.topk) == len(labels)
    assert sum(s.score for s in prediction.topk) == pytest.approx(1)
    assert [s.score for s in prediction.topk] == sorted(
        (s.score for s in prediction.topk), reverse=True
    )
    assert all(labels[s.index] == s.label for s in prediction.topk)


def test_a_bad_image_keeps_its_place_and_its_neighbours(vit: Classifier, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(EXAMPLES[0].read_bytes()[:500])
    mixed: list[Path | bytes] = list(EXAMPLES)
    for place in (0, 5, 6, len(mixed)):
        mixed.insert(place, bad)
    mixed.append(b"not an image")
    alone = {p.path: p for p in vit.classify(EXAMPLES)}
    predictions = list(vit.classify(mixed, batch=4))
    assert [p.path for p in predictions] == [str(m) if isinstance(m, Path) else None for m in mixed]
    for prediction in predictions:
        if prediction.path is None or prediction.path == str(bad):
            assert prediction.error_code in {"truncated", "decode", "format"}
            assert prediction.error
            assert (prediction.label, prediction.index, prediction.score) == (None, None, None)
        else:
            assert prediction.error is None
            assert prediction.index == alone[prediction.path].index
            assert prediction.score == pytest.approx(alone[prediction.path].score, abs=2e-3)


def test_a_generator_is_drawn_as_it_is_needed(vit: Classifier) -> None:
    drawn = 0

    def endless():
        nonlocal drawn
        while True:
            drawn += 1
            yield EXAMPLES[drawn % len(EXAMPLES)]

    stream = vit.classify(endless(), batch=4)
    assert drawn == 0
    assert isinstance(next(stream), Prediction)
    assert drawn <= 64
    stream.close()


def test_nothing_gives_nothing(vit: Classifier) -> None:
    assert list(vit.classify([])) == []


def test_threads_may_share_a_classifier(vit: Classifier) -> None:
    expected = [p.index for p in vit.classify(EXAMPLES)]
    found: list[list[int | None]] = []

    def work() -> None:
        found.extend([p.index for p in vit.classify(EXAMPLES, batch=b)] for b in (1, 3, 8))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 12


def test_logits_that_are_not_finite_are_an_error(vit: Classifier) -> None:
    logits = np.zeros((3, len(vit.contract.output.labels)), np.float32)
    logits[0, 3], logits[2, 1] = np.nan, -np.inf
    codes = [(p.error_code, len(p.topk)) for p in vit.predictions(logits)]
    assert codes == [("nonfinite", 0), (None, 5), ("nonfinite", 0)]


def test_equal_scores_go_by_index(vit: Classifier) -> None:
    logits = np.zeros((2, len(vit.contract.output.labels)), np.float32)
    logits[1, [2, 7]] = 1
    found = [[s.index for s in p.topk] for p in vit.predictions(logits, 4)]
    assert found == [[0, 1, 2, 3], [2, 7, 0, 1]]


@pytest.mark.parametrize("options", [{"top_k": 0}, {"batch": 0}, {"batch": -3}])
def test_numbers_below_one_are_refused_at_once(vit: Classifier, options: dict[str, int]) -> None:
    for call in (vit.classify, vit.stream):
        with pytest.raises(UsageError, match=r"is -?\d, it must be at least 1"):
            call(EXAMPLES, **options)


@pytest.mark.parametrize("value", [2.5, 2.0, "2", [2], np.float32(2)])
@pytest.mark.parametrize("name", ["top_k", "batch"])
def test_other_types_are_refused_at_once(vit: Classifier, name: str, value: Any) -> None:
    for call in (vit.classify, vit.stream):
        with pytest.raises(TypeError, match=rf"{name} is .*\(.*\), it must be a whole number"):
            call(EXAMPLES, **{name: value})


def test_so_are_those_of_predictions(vit: Classifier) -> None:
    logits = np.zeros((1, len(vit.contract.output.labels)), np.float32)
    with pytest.raises(UsageError, match="top_k is 0"):
        vit.predictions(logits, 0)
    with pytest.raises(TypeError, match=r"top_k is 2\.5"):
        vit.predictions(logits, 2.5)


def test_numbers_of_numpy_are_numbers(vit: Classifier) -> None:
    (prediction,) = vit.classify(EXAMPLES[0], top_k=np.int64(2), batch=np.uint8(1))
    assert len(prediction.topk) == 2


@pytest.mark.parametrize("given", ["vit.onnx", Path("vit.onnx"), None, b"vit.onnx"])
def test_a_classifier_is_made_of_an_engine(given: Any) -> None:
    with pytest.raises(
        TypeError, match=r"takes an open Engine, not .*; Classifier.load\(path\) opens a model"
    ):
        Classifier(given)
