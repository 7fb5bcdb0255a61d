"""Scores over labels, the output of a classifier: from logits to labels, and how two agree."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact.contract import ScoreKind
from vit_engine.artefact.description import short_labels
from vit_engine.errors import ImageError, UsageError
from vit_engine.outputs.prediction import Prediction, Score, failed

Logits = NDArray[np.float32]

DEFAULT_TOP_K = 5
"""Labels of an image where neither their number nor a threshold is given."""

DEFAULT_THRESHOLD = 0.5
"""The score from which on a model of labels that do not exclude each other says yes."""


@dataclass(frozen=True)
class ScoreOptions:
    """What a user may ask of an image's labels, by the names of Hugging Face's inference API.

    None is the default: the best few labels or, with a threshold, all that reach it; and the
    model's own function.
    """

    top_k: int | None = None
    threshold: float | None = None
    function_to_apply: ScoreKind | None = None


@dataclass(frozen=True)
class Selection:
    """Which labels of an image are given: the best `top_k`, of those that reach `threshold`."""

    top_k: int
    threshold: float | None
    function: ScoreKind  # that makes scores of logits


@dataclass(frozen=True)
class Scores:
    """The kind of output that has a logit for each of `labels`; `function` makes scores of them.

    Before it they are divided by `temperature`.
    """

    labels: tuple[str, ...]
    function: ScoreKind
    temperature: float = 1.0

    columns: ClassVar[Mapping[str, Any]] = {
        "label": str,
        "index": int,
        "score": float,
        "topk": [{"label": str, "index": int, "score": float}],
    }
    """Of a row, between its path and its error; [x] is a list of x."""

    element: ClassVar[str] = "logit"
    default_threshold: ClassVar[float] = DEFAULT_THRESHOLD

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image in the model's output."""
        return (len(self.labels),)

    def selection(self, options: ScoreOptions) -> Selection:
        """Return which labels a user asks for; UsageError for a threshold that no score can be."""
        top_k, threshold = options.top_k, options.threshold
        function = options.function_to_apply or self.function
        if top_k is None:
            top_k = DEFAULT_TOP_K if threshold is None else len(self.labels)
        if threshold is not None:
            if not math.isfinite(threshold):
                raise UsageError(f"threshold is {threshold}, it must be a finite number")
            if function != "none" and not 0 <= threshold <= 1:
                raise UsageError(
                    f"threshold is {threshold:g}, the scores of this model are from 0 to 1 "
                    f"({function})"
                )
        return Selection(min(top_k, len(self.labels)), threshold, function)

    def scores(self, logits: Logits, function: ScoreKind | None = None) -> NDArray[np.float64]:
        """Return the scores (N, labels) of logits; those of a row that is not finite mean nothing.

        `function` is by default the model's own.
        """
        function, exact = function or self.function, logits.astype(np.float64)
        if function == "none":
            return exact
        exact /= self.temperature
        with np.errstate(invalid="ignore", over="ignore"):
            if function == "sigmoid":
                sigmoid: NDArray[np.float64] = 1 / (1 + np.exp(-exact))
                return sigmoid
            powers: NDArray[np.float64] = np.exp(exact - exact.max(axis=1, keepdims=True))
            softmax: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
        return softmax

    def results(
        self, logits: Logits, selection: Selection, paths: Iterable[str | None] = repeat(None)
    ) -> Iterator[Prediction]:
        """Yield the prediction of each row of logits (N, labels), with its path where there is one.

        It has the selected labels, best first, equal ones by index; a row that is not finite has
        the error `nonfinite`.
        """
        if not len(logits):
            return
        top_k, labels = selection.top_k, self.labels
        scores = self.scores(logits, selection.function)
        worst = np.partition(logits, -top_k, axis=1)[:, -top_k]  # of those that are shown
        minimum = -math.inf if selection.threshold is None else selection.threshold
        for i, (row, path) in enumerate(zip(logits, paths, strict=False)):
            if not np.isfinite(row).all():
                yield failed(path, ImageError("nonfinite", "the model gave NaN or Inf"))
                continue
            shown = np.flatnonzero((row >= worst[i]) & (scores[i] >= minimum))
            shown = shown[np.argsort(-row[shown], kind="stable")][:top_k]
            yield Prediction(
                path, tuple(Score(labels[j], j, float(scores[i, j])) for j in shown.tolist())
            )

    def failed(self, path: str | None, error: ImageError) -> Prediction:
        """Return the result of an image that could not be read or decoded."""
        return failed(path, error)

    @cached_property
    def short_labels(self) -> Mapping[str, str]:
        """By label what a table shows of it."""
        return short_labels(self.labels)

    @property
    def widest_number(self) -> str:
        """The widest that a table shows beside a label."""
        return "-1.23457e-05" if self.function == "none" else "100.0%"

    @property
    def cell_texts(self) -> Collection[str]:
        """The texts of a table's cells."""
        return self.short_labels.values()

    def cells(self, prediction: Prediction) -> list[tuple[str, str]]:
        """Return what a table shows of an image, best first: numbers, and labels in short."""
        form = "{:.6g}" if self.function == "none" else "{:.1%}"
        return [(form.format(s.score), self.short_labels[s.label]) for s in prediction.topk]

    @property
    def agreed(self) -> str:
        """What is alike where two agree on an image."""
        return "the same label" if self.function == "softmax" else "the same labels"

    def agreements(
        self,
        found: Logits,
        expected: Logits,
        *,
        tie: float = -1.0,
        threshold: float = DEFAULT_THRESHOLD,
    ) -> NDArray[np.bool_]:
        """Tell of each image that `expected` decides by more than `tie` whether `found` agrees.

        Softmax: on the best label. Sigmoid: of each label, whether its score reaches `threshold`,
        so also where a model has one label alone. None, a regression: there is nothing to agree on.
        Below 0, `tie` leaves no image out.
        """
        if self.function == "none":
            return np.empty(0, np.bool_)
        if self.function == "sigmoid":
            with np.errstate(divide="ignore"):
                # As a logit.
                minimum = (np.log(threshold) - np.log1p(-threshold)) * self.temperature
            decided = np.abs(expected - minimum) > tie
            alike = ((found >= minimum) == (expected >= minimum)) | ~decided
            per_image: NDArray[np.bool_] = alike.all(axis=1)[decided.any(axis=1)]
            return per_image
        runner_up, best = np.sort(expected, axis=1)[:, -2:].T
        same: NDArray[np.bool_] = (found.argmax(1) == expected.argmax(1))[best - runner_up > tie]
        return same

    def differing(
        self, ours: Logits, theirs: Logits, threshold: float
    ) -> list[tuple[str, float, float]]:
        """Return the labels on which two rows (labels,) differ, with the scores of both.

        Softmax: the best of each. Sigmoid: those whose score reaches `threshold` in one alone.
        None: the few that differ most.
        """
        a, b = self.scores(np.stack([ours, theirs]))
        if self.function == "softmax":
            indices = list(dict.fromkeys((int(a.argmax()), int(b.argmax()))))
        elif self.function == "sigmoid":
            indices = np.flatnonzero((a >= threshold) != (b >= threshold)).tolist()
        else:
            indices = np.argsort(-np.abs(a - b), kind="stable")[:DEFAULT_TOP_K].tolist()
        return [(self.labels[i], float(a[i]), float(b[i])) for i in indices]

    def mismatch(self, other: object) -> str:
        """Say why the outputs of two models cannot be compared; "" where they can."""
        if not isinstance(other, Scores):
            return "it gives vectors, the model gives labels"
        if self.function != other.function:
            return f"its scores are {other.function}, the model's are {self.function}"
        if len(self.labels) != len(other.labels):
            return f"it has {len(other.labels)} labels, the model has {len(self.labels)}"
        pairs = enumerate(zip(self.labels, other.labels, strict=True))
        if different := next(((i, a, b) for i, (a, b) in pairs if a != b), None):
            return "its label {0} is {2!r}, the model's is {1!r}".format(*different)
        return ""
