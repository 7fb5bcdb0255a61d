"""What --truth and --against find in a run, for stderr, the contact sheet and a report."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vit_engine.artefact.contract import Contract
from vit_engine.classifier import LabelledBatch
from vit_engine.evaluation.against import Against, opened
from vit_engine.evaluation.evaluation import Evaluation, Mistake
from vit_engine.evaluation.truth import truth_from_name
from vit_engine.machine.atomic import write_whole
from vit_engine.options import DEFAULTS, EngineOptions
from vit_engine.outputs.kinds import output_from_contract
from vit_engine.rows.contact_sheet import Section

_KIND = "vit-infer report"
_HEAD = 100  # bytes of a report, in which its kind stands


class Findings:
    """Takes a run's batches as they come; either part is None where it was not asked for."""

    def __init__(self, evaluation: Evaluation | None, other: Against | None) -> None:
        self._evaluation, self._other = evaluation, other

    def add(self, labelled: LabelledBatch) -> None:
        """Count a batch."""
        for part in (self._evaluation, self._other):
            if part is not None:
                part.add(labelled)

    def lines(self) -> Iterator[str]:
        """Yield what is told on stderr at the end of the run."""
        for part in (self._evaluation, self._other):
            if part is not None:
                yield from part.lines()

    def sections(self) -> list[Section]:
        """Return what is shown on the contact sheet before its images."""
        found = []
        if self._evaluation is not None:
            found.append(Section("Against the truth", list(self._evaluation.lines()), []))
            for title, kept in (
                ("Most confident mistakes", self._evaluation.most_confident),
                ("Worst mistakes: the true class had the least", self._evaluation.worst),
            ):
                if images := [_card(mistake) for mistake in kept.in_order()]:
                    found.append(Section(title, [], images))
        if self._other is not None:
            found.append(Section(f"Against {self._other.name}", list(self._other.lines()), []))
            flips = zip(self._other.flips, self._other.pictures, strict=False)
            if images := [_flip(flip, picture) for flip, picture in flips]:
                found.append(Section("Images that flipped", [], images))
        return found

    def write(self, path: Path, model: str) -> None:
        """Write the report as JSON, whole or not at all."""
        document: dict[str, Any] = {"kind": _KIND, "model": model}
        if self._evaluation is not None:
            document["truth"] = self._evaluation.report()
        if self._other is not None:
            document["against"] = self._other.report()
        write_whole(path, f"{json.dumps(document, indent=1)}\n".encode())


@contextmanager
def findings_of(
    contract: Contract,
    *,
    truth: str | None,
    other: str | None,
    thumbnails: bool,
    options: EngineOptions = DEFAULTS,
) -> Iterator[Findings]:
    """Read the truth and open the other model, where they are named.

    UsageError for a truth or a model that does not go with one of this contract.
    """
    evaluation, output = None, output_from_contract(contract.output)
    if truth is not None:
        evaluation = Evaluation(
            truth_from_name(truth, output.labels), output, thumbnails=thumbnails
        )
    if other is None:
        yield Findings(evaluation, None)
        return
    with opened(other, contract, thumbnails=thumbnails, options=options) as second:
        yield Findings(evaluation, second)


def is_report(path: Path) -> bool:
    """Tell whether a file is a report, whichever run's."""
    try:
        with path.open("rb") as file:
            return f'"kind": "{_KIND}"'.encode() in file.read(_HEAD)
    except OSError:
        return False


def _card(mistake: Mistake) -> dict[str, Any]:
    truth = [f"{mistake.truth} (true)", mistake.truth_score]
    topk = [[mistake.label, mistake.score], truth]
    return {"path": mistake.path, "image": mistake.image, "topk": topk}


def _flip(flip: dict[str, Any], picture: str) -> dict[str, Any]:
    topk = [[flip["label"], flip["score"]], [f"{flip['other_label']} (other)", flip["other_score"]]]
    return {"path": flip["path"], "image": picture, "topk": topk}
