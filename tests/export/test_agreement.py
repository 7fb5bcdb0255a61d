"""How surely labels are kept: an estimate that few images suffice for."""

import re

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from support import ROOT
from vit_engine.errors import ParityError
from vit_engine.outputs.scores import Scores
from vit_export.quantization.agreement import agreement_of
from vit_export.quantization.calibration import view_count, views_of

Logits = NDArray[np.float32]

SOFTMAX, SIGMOID = Scores(tuple(map(str, range(50))), "softmax"), Scores(("a", "b"), "sigmoid")


def logits_pair(count: int, noise: float, seed: int = 0) -> tuple[Logits, Logits]:
    """Logits of 50 labels as rounding leaves them, and as they were."""
    rng = np.random.default_rng(seed)
    expected = rng.normal(size=(count, 50)) + 4 * np.eye(50)[rng.integers(0, 50, count)]
    found = expected + noise * rng.normal(size=expected.shape)
    return found.astype(np.float32), expected.astype(np.float32)


@pytest.mark.parametrize("noise", [0.02, 0.05, 0.2])
def test_the_estimate_is_that_of_counting_many(noise: float) -> None:
    found = agreement_of(*logits_pair(20_000, noise), output=SOFTMAX, views=1)
    assert found.expected == pytest.approx(found.counted, abs=0.003)
    assert found.low < found.expected < found.high
    assert found.high - found.low < 0.01


def test_few_images_tell_more_than_by_counting() -> None:
    samples = [
        agreement_of(*logits_pair(20, 0.05, seed), output=SOFTMAX, views=1) for seed in range(200)
    ]
    counted, expected = ([getattr(s, n) for s in samples] for n in ("counted", "expected"))
    assert np.std(expected) < 0.6 * np.std(counted)
    assert np.mean(expected) == pytest.approx(np.mean(counted), abs=0.005)
    true = agreement_of(*logits_pair(20_000, 0.05), output=SOFTMAX, views=1).expected
    assert np.mean([s.low <= true <= s.high for s in samples]) > 0.75


def test_the_views_of_an_image_count_as_one() -> None:
    found, expected = logits_pair(40, 0.1)
    alone = agreement_of(found, expected, output=SOFTMAX, views=1)
    repeated = agreement_of(
        np.repeat(found, 4, 0), np.repeat(expected, 4, 0), output=SOFTMAX, views=4
    )
    assert (repeated.images, repeated.high) == (40, pytest.approx(alone.high))


def test_what_is_decided_and_what_is_not() -> None:
    found = agreement_of(*logits_pair(60, 0.05), output=SOFTMAX, views=1)
    with pytest.raises(ParityError, match=r"int8 keeps too few labels: .* \(allowed 100.0%\); do"):
        found.check(1.0, name="int8", fix="do")
    found.check(0.9, name="int8", fix="do")
    share = r"int8 keeps about \d+\.\d % of labels \(\d\d\.\d to \d+\.\d\)"
    assert re.fullmatch(share, found.in_short(0.5))
    unsure = found.in_short((found.low + found.expected) / 2)
    assert re.match(share + ": more images would tell more surely", unsure)
    asked = re.search(r"up to (\d+)", unsure)
    assert asked and f"up to {asked[1]} are used" in (ROOT / "docs/export.md").read_text()


def test_the_same_logits_are_no_difference() -> None:
    _, expected = logits_pair(10, 1)
    found = agreement_of(expected, expected, output=SOFTMAX, views=1)
    assert (found.counted, found.divergence, found.flipped) == (1, 0, 0)
    assert found.expected > 0.999
    single = agreement_of(expected[:, :1], expected[:, :1], output=SIGMOID, views=1)
    assert single.counted == 1


def test_a_label_on_the_other_side_of_a_half_is_turned() -> None:
    expected = np.array([[3.0, -2.0], [0.1, -4.0]], np.float32)
    found = np.array([[3.1, -2.1], [-0.1, -4.0]], np.float32)
    agreement = agreement_of(found, expected, output=SIGMOID, views=1)
    assert agreement.counted == 0.5
    assert agreement.flipped == pytest.approx(0.1)


def test_views() -> None:
    assert [view_count(n) for n in (1, 20, 60, 160, 500)] == [8, 8, 2, 1, 1]
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    views = [np.asarray(v) for v in views_of(Image.fromarray(pixels), 8)]
    assert np.array_equal(views[0], pixels)
    assert np.array_equal(views[1], pixels[:, ::-1])
    assert len({v.tobytes() for v in views}) == 8
    assert all(v.shape == (40, 32, 3) for v in views[2:])
    assert views_of(Image.new("RGB", (1, 1)), 8)[7].size == (1, 1)
