"""How right a run's labels are: accuracy, classes, confusions, calibration and mistakes."""

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_engine.classifier import LabelledBatch
from vit_engine.errors import UsageError, printable
from vit_engine.evaluation.truth import Truth
from vit_engine.outputs.scores import Scores
from vit_engine.rows.contact_sheet import thumbnail

TOP = 5
"""Labels among which the true one may be, besides the first."""

BINS = 10
"""Of equal width, into which scores are sorted for the calibration."""

MOST_SHOWN = 60
"""Images of each kind of mistake that are kept."""


@dataclass(frozen=True)
class Mistake:
    """An image that got a wrong label; `truth_score` is what the model gave the true one."""

    path: str
    truth: str
    label: str
    score: float
    truth_score: float
    image: str  # a data URL of its thumbnail, "" where none was wanted


class Kept:
    """The mistakes with the largest measures, as many as are shown; a thumbnail of each."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Mistake]] = []
        self._order = count()

    def admits(self, measure: float) -> bool:
        """Tell whether a mistake of this measure would be kept."""
        return len(self._heap) < MOST_SHOWN or measure > self._heap[0][0]

    def add(self, measure: float, mistake: Mistake) -> None:
        """Keep a mistake; let the least of too many go."""
        heapq.heappush(self._heap, (measure, -next(self._order), mistake))
        if len(self._heap) > MOST_SHOWN:
            heapq.heappop(self._heap)

    def in_order(self) -> list[Mistake]:
        """Return the mistakes, the largest measure first, equal ones as they came."""
        return [mistake for *_, mistake in sorted(self._heap, key=lambda k: (-k[0], -k[1]))]


class Evaluation:
    """Takes a run's batches as they come, and holds their labels against the truth."""

    def __init__(self, truth: Truth, output: Scores, *, thumbnails: bool) -> None:
        if output.function == "none":
            raise UsageError(
                "--truth is for classes, and this model gives the values of a regression; leave "
                "it out"
            )
        self.truth, self._thumbnails = truth, thumbnails
        self._labels, self._output = output.labels, output
        self.images = self.right = self.among_top = self.failed = self.without_truth = 0
        self._of_class: Counter[int] = Counter()
        self._right_of: Counter[int] = Counter()
        self._said: Counter[int] = Counter()
        self._confused: Counter[tuple[int, int]] = Counter()
        self._bins = np.zeros((BINS, 3))  # images, sum of scores, right ones
        self.most_confident, self.worst = Kept(), Kept()

    def add(self, labelled: LabelledBatch) -> None:
        """Count a batch."""
        for prediction, pixels, logits in zip(
            labelled.predictions, labelled.pixels, labelled.logits, strict=True
        ):
            truth = self.truth.index(prediction.path)
            if truth is None:
                self.without_truth += 1
            elif prediction.error is not None or logits is None:
                self.failed += 1
            else:
                scores = self._output.scores(logits[None])[0]
                index = int(logits.argmax())  # whatever threshold the rows have
                self._count(truth, index, float(scores[index]), logits)
                if index != truth:
                    self._keep(truth, index, prediction.path, scores, pixels)

    def _count(self, truth: int, index: int, score: float, logits: NDArray[np.float32]) -> None:
        right = index == truth
        before = (logits > logits[truth]).sum() + (logits[:truth] == logits[truth]).sum()
        self.images += 1
        self.right += right
        self.among_top += bool(before < TOP)
        self._of_class[truth] += 1
        self._right_of[truth] += right
        self._said[index] += 1
        if not right:
            self._confused[truth, index] += 1
        self._bins[min(BINS - 1, int(score * BINS))] += 1, score, right

    def _keep(
        self,
        truth: int,
        index: int,
        path: str | None,
        scores: NDArray[np.float64],
        pixels: NDArray[np.uint8] | None,
    ) -> None:
        measures = {self.most_confident: float(scores[index]), self.worst: -float(scores[truth])}
        wanting = [kept for kept, measure in measures.items() if kept.admits(measure)]
        if not wanting:
            return
        mistake = Mistake(
            printable(path or "-"),
            self._labels[truth],
            self._labels[index],
            float(scores[index]),
            float(scores[truth]),
            thumbnail(pixels) if self._thumbnails and pixels is not None else "",
        )
        for kept in wanting:
            kept.add(measures[kept], mistake)

    def report(self) -> dict[str, Any]:
        """Return all that was found, as it goes into JSON; shares are of 1, None of no image."""
        filled = self._bins[self._bins[:, 0] > 0]
        error = (
            float(np.abs(filled[:, 1] - filled[:, 2]).sum() / self.images) if self.images else None
        )
        return {
            "images": self.images,
            "top1": _share(self.right, self.images),
            f"top{TOP}": _share(self.among_top, self.images),
            "failed": self.failed,
            "without_truth": self.without_truth - self.truth.unknown.total(),
            "unknown_classes": dict(self.truth.unknown.most_common()),
            "unmatched_rows": self.truth.unmatched,
            "classes": [
                {
                    "label": self._labels[i],
                    "index": i,
                    "images": self._of_class[i],
                    "right": self._right_of[i],
                    "recall": _share(self._right_of[i], self._of_class[i]),
                    "predicted": self._said[i],
                    "precision": _share(self._right_of[i], self._said[i]),
                }
                for i in sorted(self._of_class.keys() | self._said.keys())
            ],
            "confusions": [
                {"truth": self._labels[a], "label": self._labels[b], "images": n}
                for (a, b), n in self._confused.most_common()
            ],
            "calibration": {
                "expected_error": error,
                "bins": [
                    {
                        "from": i / BINS,
                        "to": (i + 1) / BINS,
                        "images": int(images),
                        "mean_score": _share(scores, images),
                        "top1": _share(right, images),
                    }
                    for i, (images, scores, right) in enumerate(self._bins)
                ],
            },
            "mistakes": {
                name: [_without_image(mistake) for mistake in kept.in_order()]
                for name, kept in (("most_confident", self.most_confident), ("worst", self.worst))
            },
        }

    def lines(self) -> Iterator[str]:
        """Yield what is told on stderr at the end of the run."""
        if self.images:
            yield (
                f"top-1 {self.right / self.images:.1%} ({self.right:,} of {self.images:,}), "
                f"top-{TOP} {self.among_top / self.images:.1%}, calibration error "
                f"{self.report()['calibration']['expected_error']:.1%}"
            )
            pairs = [
                f"{printable(self._labels[a])} taken for {printable(self._labels[b])} ({n:,})"
                for (a, b), n in self._confused.most_common(3)
            ]
            if pairs:
                yield f"most confused: {', '.join(pairs)}"
        else:
            yield "no image has a label and a true class"
        if self.failed:
            images, have = ("image", "has") if self.failed == 1 else ("images", "have")
            yield f"{self.failed:,} {images} with a true class {have} no label"
        if without := self.without_truth - self.truth.unknown.total():
            images = "1 image has" if without == 1 else f"{without:,} images have"
            yield f"{images} no true class"
        yield from self.truth.remarks()


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _without_image(mistake: Mistake) -> dict[str, Any]:
    return {name: value for name, value in asdict(mistake).items() if name != "image"}
