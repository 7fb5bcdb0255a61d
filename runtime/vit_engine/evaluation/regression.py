"""Regressions: how far their values are from the true ones."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from vit_engine.evaluation.examples import Examples, JudgedImage
from vit_engine.outputs.comparison import Comparison
from vit_engine.outputs.scores import Scores
from vit_engine.rows.contact_sheet import Section


class Values:
    """Judges by the errors; by scikit-learn's definitions, means over the values of an image."""

    def __init__(self, output: Scores, *, thumbnails: bool) -> None:
        self._labels, self._errors = output.labels, Comparison(output)
        self._worst = Examples("Largest errors", thumbnails=thumbnails)

    def add(self, image: JudgedImage) -> None:
        """Count an image of as many true values as the model has labels."""
        logits, true = image.logits, image.true
        truth = np.array([true])
        self._errors.add(logits[None], truth)
        error = float(np.abs(logits - truth).max())
        found = {"truth": list(true), "values": logits.tolist(), "error": error}
        pairs = zip(self._labels, logits.tolist(), true, strict=True)
        shown = [x for a, b, t in pairs for x in ((a, b), (f"{a} (true)", t))]
        self._worst.add(error, image, found, shown)

    def report(self) -> dict[str, Any]:
        """Return what was found, as it goes into JSON."""
        some, errors = self._errors.images > 0, self._errors
        return {
            "mean_absolute_error": errors.mean_abs_diff if some else None,
            "root_mean_square_error": errors.root_mean_square if some else None,
            "r2": errors.r2,
            "max_error": errors.max_abs_diff if some else None,
            "mistakes": {"worst": self._worst.report()},
        }

    def lines(self) -> Iterator[str]:
        """Yield what is printed."""
        errors = self._errors
        yield (
            f"mean absolute error {errors.mean_abs_diff:.4g}, root mean square error "
            f"{errors.root_mean_square:.4g}, {errors} on {errors.images:,} images"
        )

    def sections(self) -> list[Section]:
        """Return the errors that the page shows."""
        return self._worst.sections()
