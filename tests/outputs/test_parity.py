"""The one rule for how far logits may stray."""

import numpy as np
import pytest

from vit_engine.artefact.contract import Input, Parity
from vit_engine.errors import ParityError
from vit_engine.outputs.parity import BOUNDS, Bounds, check_parity, sample_pixels
from vit_engine.outputs.scores import Scores

EXPECTED = np.array([[0.0, 1.0, 9.0], [5.0, 0.0, 1.0]], np.float32)
WORDS = {
    "output": Scores(("a", "b", "c"), "softmax"),
    "name": "the engine",
    "reference": "the CPU",
    "fix": "use --provider cpu",
}


def check(found: np.ndarray, bounds: Bounds = BOUNDS["fp32"], known: Parity | None = None) -> None:
    check_parity(found, EXPECTED, bounds, known=known, **WORDS)


def test_what_is_within_the_bounds_passes() -> None:
    check(EXPECTED)
    check(EXPECTED + np.float32(0.008))  # 0.1 % of a range of 9 is 0.009


def test_what_strays_is_refused_with_numbers_and_a_cure() -> None:
    with pytest.raises(
        ParityError, match=r"the engine differs too much from the CPU: .*0\.02 .*cpu$"
    ):
        check(EXPECTED + np.float32(0.02))
    with pytest.raises(ParityError, match="NaN or Inf on 1 of 2 images, the CPU does not"):
        check(np.where(EXPECTED == 9, np.nan, EXPECTED))


def test_a_flipped_label_is_refused_where_the_reference_decides() -> None:
    flipped = EXPECTED[:, [2, 1, 0]]
    with pytest.raises(ParityError, match="agreement 0 of 2 decided images"):
        check(flipped, Bounds(10.0, 1.0, 0.1))
    check(flipped, Bounds(10.0, 1.0, 2.0))  # nothing is decided by twice the range


def test_the_range_is_the_wider_of_the_images_and_the_contracts() -> None:
    found = EXPECTED + np.float32(0.02)
    known = Parity("x", 20, 1.0, 0.0, 0.0, logit_range=30.0)  # 0.1 % of it is 0.03
    check(found, known=known)
    with pytest.raises(ParityError):
        check(found, known=Parity("x", 20, 1.0, 0.0, 0.0, logit_range=3.0))


ONE = np.array([[-4.0], [-0.01], [6.0]], np.float32)
SIGMOID = Scores(("a", "b", "c"), "sigmoid")


def test_one_logit_agrees_by_its_side_of_a_half() -> None:
    loose, words = Bounds(10.0, 1.0, 0.01), WORDS | {"output": Scores(("a",), "sigmoid")}
    check_parity(ONE, ONE, BOUNDS["fp32"], **words)
    check_parity(np.abs(ONE) * [[-1], [1], [1]], ONE, loose, **words)  # the second is no decision
    with pytest.raises(ParityError, match="agreement 1 of 2 decided images"):
        check_parity(np.abs(ONE), ONE, loose, **words)
    with pytest.raises(ParityError, match="max"):
        check_parity(ONE + np.float32(0.05), ONE, BOUNDS["fp32"], **words)


def test_several_labels_agree_each_by_itself() -> None:
    expected = np.array([[3.0, 2.0, -5.0], [-1.0, -2.0, -3.0], [0.1, -0.1, 0.1]], np.float32)
    found = expected.copy()
    assert SIGMOID.agreements(found, expected).tolist() == [True, True, True]
    found[0, 1] = -2.0  # the best label is still the same one
    assert SIGMOID.agreements(found, expected).tolist() == [False, True, True]
    assert SIGMOID.agreements(found, expected, tie=0.5).tolist() == [False, True]
    assert SIGMOID.agreements(found, expected, tie=2.5).tolist() == [True, True]


def test_values_of_a_regression_agree_within_the_bounds_alone() -> None:
    output = Scores(("a",), "none")
    words = WORDS | {"output": output}
    assert output.agreements(-ONE, ONE).size == 0
    check_parity(ONE + np.float32(0.005), ONE, BOUNDS["fp32"], **words)
    with pytest.raises(ParityError, match=r"difference\| 0.05 \(allowed 0.01\); use"):
        check_parity(ONE + np.float32(0.05), ONE, BOUNDS["fp32"], **words)


def test_samples_are_of_the_inputs_size_and_the_same_each_time() -> None:
    given = Input("pixels", "uint8", "NHWC", 32, 48)
    first = sample_pixels(given)
    assert first.shape == (8, 32, 48, 3)
    np.testing.assert_array_equal(first, sample_pixels(given))
    assert len(np.unique(first.reshape(8, -1), axis=0)) == 8
