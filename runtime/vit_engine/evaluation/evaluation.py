"""How right a run's results are: it finds the truth of each image, and has its kind judged."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vit_engine.evaluation.examples import JudgedImage
from vit_engine.evaluation.free_labels import FreeLabels
from vit_engine.evaluation.one_label import OneLabel
from vit_engine.evaluation.regression import Values
from vit_engine.evaluation.temperature import TemperatureScaling
from vit_engine.evaluation.truth import GroundTruth
from vit_engine.image_model import LabelledBatch
from vit_engine.machine.atomic import write_whole
from vit_engine.outputs.scores import Scores
from vit_engine.rows.contact_sheet import Section

_KIND = "vit-eval report"
_HEAD = 100  # bytes of a report, in which its kind stands


class Evaluation:
    """Takes a run's batches as they come, and holds their results against the truth."""

    def __init__(
        self,
        truth: GroundTruth,
        output: Scores,
        *,
        threshold: float,
        thumbnails: bool,
        scaling: TemperatureScaling | None = None,
    ) -> None:
        self.truth, self._scaling = truth, scaling
        self.images = self.failed = self.without_truth = 0
        self._judge: OneLabel | FreeLabels | Values
        if output.function == "softmax":
            self._judge = OneLabel(output, thumbnails=thumbnails)
        elif output.function == "sigmoid":
            self._judge = FreeLabels(output, threshold, thumbnails=thumbnails)
        else:
            self._judge = Values(output, thumbnails=thumbnails)

    def add(self, labelled: LabelledBatch) -> None:
        """Count a batch."""
        for prediction, pixels, logits in zip(
            labelled.predictions, labelled.pixels, labelled.logits, strict=True
        ):
            fact = self.truth.of(prediction.path)
            if fact.true is None:
                self.without_truth += 1
            elif prediction.error is not None or pixels is None or logits is None:
                self.failed += 1
            else:
                self.images += 1
                image = JudgedImage(prediction.path, pixels, logits, fact.true)
                self._judge.add(image)
                if self._scaling:
                    self._scaling.add(image)

    def report(self) -> dict[str, Any]:
        """Return all that was found, as it goes into JSON."""
        return {
            "images": self.images,
            "failed": self.failed,
            "without_truth": self.without_truth,
            "unknown_labels": dict(self.truth.unknown.most_common()),
            "unmatched_rows": self.truth.unmatched,
            **self._judge.report(),
        }

    def lines(self) -> Iterator[str]:
        """Yield what is printed at the end of the run."""
        if self.images:
            yield from self._judge.lines()
        else:
            yield "no image could be judged: none has both a result and a known truth"
        if self.failed:
            yield f"failed, with a known truth: {self.failed:,}"
        if self.without_truth:
            yield f"left out, with no known truth: {self.without_truth:,}"
        yield from self.truth.remarks()

    def sections(self) -> list[Section]:
        """Return what the page shows."""
        return [Section("Against the truth", list(self.lines()), []), *self._judge.sections()]


def write_report(path: Path, model: str, parts: dict[str, dict[str, Any]]) -> None:
    """Write the parts under their names, whole or not at all."""
    document = {"kind": _KIND, "model": model, **parts}
    write_whole(path, f"{json.dumps(document, indent=1)}\n".encode())


def is_report(path: Path) -> bool:
    """Tell whether a file is a report, whichever run's."""
    try:
        with path.open("rb") as file:
            return f'"kind": "{_KIND}"'.encode() in file.read(_HEAD)
    except OSError:
        return False
