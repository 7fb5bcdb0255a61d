"""Models whose labels do not exclude each other: each label is judged by itself at a threshold."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_engine.evaluation.examples import Examples, JudgedImage
from vit_engine.evaluation.one_label import share
from vit_engine.outputs.scores import Scores
from vit_engine.rows.contact_sheet import Section

MAX_SCORES = 50_000_000
"""Scores that are kept for the average precision, which needs all of them: 250 MB."""


class FreeLabels:
    """Judges each label of an image by whether its score reaches the threshold.

    By scikit-learn's definitions, over the labels that some image has or is given. A label that is
    given to no image has the precision 0 in means, one that no image has the recall 0; the mean
    average precision is over the labels that some image has.
    """

    def __init__(self, output: Scores, threshold: float, *, thumbnails: bool) -> None:
        self._output, self._threshold = output, threshold
        self._images = self._exact = 0
        self._true, self._given, self._right = np.zeros((3, *output.shape), np.int64)
        self._logits: list[NDArray[np.float32]] | None = []
        self._truths: list[NDArray[np.bool_]] = []
        self._wrong = Examples("Most confident labels that are wrong", thumbnails=thumbnails)
        self._missed = Examples("True labels that had the least", thumbnails=thumbnails)

    def add(self, image: JudgedImage) -> None:
        """Count an image of any number of true labels."""
        truth = np.zeros(self._output.shape, np.bool_)
        truth[list(image.true)] = True
        scores = self._output.scores(image.logits[None])[0]
        given = scores >= self._threshold
        self._images += 1
        self._exact += bool((given == truth).all())
        self._true += truth
        self._given += given
        self._right += truth & given
        if self._logits is not None:
            self._logits.append(image.logits.copy())
            self._truths.append(truth)
            if self._images * len(truth) > MAX_SCORES:
                self._logits, self._truths = None, []
        labels = self._output.labels
        either = sorted(np.flatnonzero(truth | given).tolist(), key=lambda i: -scores[i])
        found = {
            "truth": [labels[i] for i in np.flatnonzero(truth)],
            "labels": [{"label": labels[i], "score": float(scores[i])} for i in either],
        }
        shown = [(f"{labels[i]}{' (true)' * bool(truth[i])}", float(scores[i])) for i in either]
        if (wrong := scores[given & ~truth]).size:
            self._wrong.add(float(wrong.max()), image, found, shown)
        if (missed := scores[truth & ~given]).size:
            self._missed.add(-float(missed.min()), image, found, shown)

    def _average_precisions(self) -> dict[int, float]:
        """Return the average precision of each label that some image has, where all are kept."""
        if not self._logits:
            return {}
        logits, truths = np.stack(self._logits), np.stack(self._truths)
        return {
            i: average_precision(truths[:, i], logits[:, i])
            for i in np.flatnonzero(self._true).tolist()
        }

    def report(self) -> dict[str, Any]:
        """Return what was found, as it goes into JSON."""
        averages = self._average_precisions()
        counts = zip(self._true.tolist(), self._given.tolist(), self._right.tolist(), strict=True)
        classes = [
            {
                "label": self._output.labels[i],
                "index": i,
                "images": true,
                "predicted": given,
                "right": right,
                "precision": share(right, given),
                "recall": share(right, true),
                "f1": share(2 * right, true + given),
                "average_precision": averages.get(i),
            }
            for i, (true, given, right) in enumerate(counts)
            if true or given
        ]
        true, given, right = (int(n.sum()) for n in (self._true, self._given, self._right))
        names = ("precision", "recall", "f1")
        micro = (share(right, given), share(right, true), share(2 * right, true + given))
        return {
            "threshold": self._threshold,
            "exact_match": share(self._exact, self._images),
            "micro": {name: value or 0.0 for name, value in zip(names, micro, strict=True)},
            "macro": {
                name: share(sum(c[name] or 0.0 for c in classes), len(classes)) or 0.0
                for name in names
            },
            "mean_average_precision": share(sum(averages.values()), len(averages)),
            "classes": classes,
            "mistakes": {"wrong": self._wrong.report(), "missed": self._missed.report()},
        }

    def lines(self) -> Iterator[str]:
        """Yield what is printed."""
        found = self.report()
        for mean in ("micro", "macro"):
            numbers = found[mean]
            yield (
                f"{mean} averages at {self._threshold:g}: precision {numbers['precision']:.1%}, "
                f"recall {numbers['recall']:.1%}, F1 {numbers['f1']:.1%}"
            )
        average = found["mean_average_precision"]
        message = "not computed" if average is None else f"{average:.1%}"
        if self._logits is None:
            message += f" of more than {MAX_SCORES:,} scores"
        yield (
            f"mean average precision {message}, exact match {found['exact_match']:.1%} "
            f"({self._exact:,} of {self._images:,} images)"
        )

    def sections(self) -> list[Section]:
        """Return the mistakes that the page shows."""
        return [*self._wrong.sections(), *self._missed.sections()]


def average_precision(truth: NDArray[np.bool_], scores: NDArray[np.float32]) -> float:
    """Return the sum of the precisions at each score, by the recall that it adds."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # of equal scores
    right = np.cumsum(truth[order])[last]
    return float((np.diff(right, prepend=0) * right / (last + 1)).sum() / right[-1])
