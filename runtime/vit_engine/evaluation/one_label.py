"""Models that give each image one label: accuracy, classes, confusions and calibration."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from vit_engine.errors import printable
from vit_engine.evaluation.examples import Examples, JudgedImage
from vit_engine.outputs.scores import Scores
from vit_engine.rows.contact_sheet import Section

TOP = 5
"""Labels among which the true one may be, besides the first."""

BINS = 10
"""Of equal width, into which scores are sorted for the calibration."""


class OneLabel:
    """Judges by the best label, whatever threshold there is."""

    def __init__(self, output: Scores, *, thumbnails: bool) -> None:
        self._output = output
        self._images = self._right = self._among_top = 0
        self._of_class: Counter[int] = Counter()
        self._right_of: Counter[int] = Counter()
        self._given: Counter[int] = Counter()
        self._confused: Counter[tuple[int, int]] = Counter()
        self._bins = np.zeros((BINS, 3))  # images, sum of scores, right ones
        self._confident = Examples("Most confident mistakes", thumbnails=thumbnails)
        title = "Worst mistakes: the true class had the least"
        self._worst = Examples(title, thumbnails=thumbnails)

    def add(self, image: JudgedImage) -> None:
        """Count an image of one true label."""
        (truth,), logits = image.true, image.logits
        scores, index = self._output.scores(logits[None])[0], int(logits.argmax())
        score, right = float(scores[index]), index == truth
        before = (logits > logits[truth]).sum() + (logits[:truth] == logits[truth]).sum()
        self._images += 1
        self._right += right
        self._among_top += bool(before < TOP)
        self._of_class[truth] += 1
        self._right_of[truth] += right
        self._given[index] += 1
        self._bins[min(BINS - 1, int(score * BINS))] += 1, score, right
        if not right:
            self._confused[truth, index] += 1
            a, b, true_score = self._label(truth), self._label(index), float(scores[truth])
            found = {"truth": a, "label": b, "score": score, "truth_score": true_score}
            shown = [(b, score), (f"{a} (true)", true_score)]
            self._confident.add(score, image, found, shown)
            self._worst.add(-true_score, image, found, shown)

    def _label(self, index: int) -> str:
        return self._output.labels[index]

    @property
    def _calibration_error(self) -> float | None:
        gaps = np.abs(self._bins[:, 1] - self._bins[:, 2])
        return share(gaps.sum(), self._images)

    def report(self) -> dict[str, Any]:
        """Return what was found, as it goes into JSON."""
        return {
            "top1": share(self._right, self._images),
            f"top{TOP}": share(self._among_top, self._images),
            "classes": [
                {
                    "label": self._label(i),
                    "index": i,
                    "images": self._of_class[i],
                    "right": self._right_of[i],
                    "recall": share(self._right_of[i], self._of_class[i]),
                    "predicted": self._given[i],
                    "precision": share(self._right_of[i], self._given[i]),
                }
                for i in sorted(self._of_class.keys() | self._given.keys())
            ],
            "confusions": [
                {"truth": self._label(a), "label": self._label(b), "images": n}
                for (a, b), n in self._confused.most_common()
            ],
            "calibration": {
                "expected_error": self._calibration_error,
                "bins": [
                    {
                        "from": i / BINS,
                        "to": (i + 1) / BINS,
                        "images": int(images),
                        "mean_score": share(scores, images),
                        "top1": share(right, images),
                    }
                    for i, (images, scores, right) in enumerate(self._bins)
                ],
            },
            "mistakes": {
                "most_confident": self._confident.report(),
                "worst": self._worst.report(),
            },
        }

    def lines(self) -> Iterator[str]:
        """Yield what is printed."""
        yield (
            f"top-1 {self._right / self._images:.1%} ({self._right:,} of {self._images:,}), "
            f"top-{TOP} {self._among_top / self._images:.1%}, calibration error "
            f"{self._calibration_error:.1%}"
        )
        pairs = [
            f"{printable(self._label(a))} taken for {printable(self._label(b))} ({n:,})"
            for (a, b), n in self._confused.most_common(3)
        ]
        if pairs:
            yield f"most confused: {', '.join(pairs)}"

    def sections(self) -> list[Section]:
        """Return the mistakes that the page shows."""
        return [*self._confident.sections(), *self._worst.sections()]


def share(part: float, whole: float) -> float | None:
    """Return a share, None of nothing."""
    return float(part / whole) if whole else None
