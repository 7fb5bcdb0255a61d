"""Another model on the same pixels: where its labels differ, and how far its logits drift."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact.contract import Contract
from vit_engine.classifier import LabelledBatch
from vit_engine.engine import Engine
from vit_engine.errors import MachineError, UsageError, printable
from vit_engine.evaluation.evaluation import MOST_SHOWN
from vit_engine.options import DEFAULTS, EngineOptions
from vit_engine.outputs.kinds import output_from_contract
from vit_engine.rows.contact_sheet import thumbnail

PYTORCH = "pytorch:"
"""Before the name of a checkpoint that is run by PyTorch itself."""

_MOST_FLIPS = 10_000  # in the report

Other = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""From pixels (N, H, W, 3) to logits (N, labels)."""


class Against:
    """Takes a run's batches as they come, and gives their pixels to another model as well."""

    def __init__(self, name: str, other: Other, contract: Contract, *, thumbnails: bool) -> None:
        self.name, self._other, self._thumbnails = name, other, thumbnails
        self._labels, self._kind = contract.output.labels, output_from_contract(contract.output)
        self.images = self.same = 0
        self._largest, self._sum, self._low, self._high = 0.0, 0.0, np.inf, -np.inf
        self.flips: list[dict[str, Any]] = []
        self.pictures: list[str] = []  # of the first flips

    def add(self, labelled: LabelledBatch) -> None:
        """Compare a batch; images without a label are passed over."""
        those = [
            (prediction, pixels, logits)
            for prediction, pixels, logits in zip(
                labelled.predictions, labelled.pixels, labelled.logits, strict=True
            )
            if pixels is not None and logits is not None and prediction.error is None
        ]
        if not those:
            return
        ours = np.stack([logits for *_, logits in those])
        theirs = self._other(np.stack([pixels for _, pixels, _ in those]))
        drift = np.abs(theirs - ours)
        self._largest = max(self._largest, float(drift.max()))
        self._sum += float(drift.mean(axis=1).sum())
        self._low, self._high = min(self._low, theirs.min()), max(self._high, theirs.max())
        self.images += len(those)
        for (prediction, pixels, our), their in zip(those, theirs, strict=True):
            a, b = int(our.argmax()), int(their.argmax())
            self.same += a == b
            if a != b and len(self.flips) < _MOST_FLIPS:
                self.flips.append(
                    {
                        "path": printable(prediction.path or "-"),
                        "label": self._labels[a],
                        "score": self._score(our, a),
                        "other_label": self._labels[b],
                        "other_score": self._score(their, b),
                    }
                )
                if self._thumbnails and len(self.pictures) < MOST_SHOWN:
                    self.pictures.append(thumbnail(pixels))

    def _score(self, logits: NDArray[np.float32], index: int) -> float:
        return float(self._kind.scores(logits[None])[0, index])

    def report(self) -> dict[str, Any]:
        """Return all that was found, as it goes into JSON."""
        some = self.images > 0
        return {
            "model": self.name,
            "images": self.images,
            "agreement": self.same / self.images if some else None,
            "flipped": self.images - self.same,
            "max_abs_diff": self._largest if some else None,
            "mean_abs_diff": self._sum / self.images if some else None,
            "logit_range": float(self._high - self._low) if some else None,
            "flips": self.flips,
        }

    def lines(self) -> Iterator[str]:
        """Yield what is told on stderr at the end of the run."""
        if not self.images:
            yield f"against {self.name}: no image has a label"
            return
        found = self.report()
        yield (
            f"against {self.name}: {found['agreement']:.1%} agree, {found['flipped']:,} of "
            f"{self.images:,} flipped; |logit difference| at most {found['max_abs_diff']:.3g}, "
            f"{found['mean_abs_diff']:.3g} in the mean, in a range of {found['logit_range']:.3g}"
        )


@contextmanager
def opened(
    name: str, contract: Contract, *, thumbnails: bool, options: EngineOptions = DEFAULTS
) -> Iterator[Against]:
    """Open the model that `--against` names, beside one of this contract.

    UsageError where the two cannot be compared: their input or their labels differ. MachineError
    where PyTorch is asked for and not installed.
    """
    if name.startswith(PYTORCH):
        try:
            # The one way from the runtime to the exporter, which need not be installed.
            reference = import_module("vit_export.reference")
        except ModuleNotFoundError as e:
            raise MachineError(
                f"--against {printable(name)} needs PyTorch and vit-export (no module {e.name}); "
                "install the extra export"
            ) from e
        run, labels = reference.opened(name.removeprefix(PYTORCH), contract)
        _check_labels(name, labels, contract)
        yield Against(name, run, contract, thumbnails=thumbnails)
        return
    with Engine.open(name, options) as engine:
        theirs = engine.contract
        if _geometry(theirs) != _geometry(contract):
            raise UsageError(
                f"--against {printable(name)}: it takes images {_geometry(theirs)}, the model "
                f"takes them {_geometry(contract)}; two models are compared on the same pixels"
            )
        _check_labels(name, theirs.output.labels, contract)
        identity = theirs.identity
        yield Against(
            f"{identity.model} {identity.precision}", engine.run, contract, thumbnails=thumbnails
        )


def _geometry(contract: Contract) -> str:
    """Say what decides the pixels; mean and standard deviation are in the graph."""
    given, pre = contract.input, contract.preprocessing
    crop = f", cropped to {pre.crop} ({pre.anchor}, {pre.fill})" if pre.crop else ""
    size = f"{given.height}x{given.width}"
    return f"of {size}, resized to {pre.resize} ({pre.rule}, {pre.filter}){crop}"


def _check_labels(name: str, theirs: tuple[str, ...], contract: Contract) -> None:
    ours = contract.output.labels
    if theirs != ours:
        first = next(
            (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None
        )
        words = (
            f"it has {len(theirs)} labels, the model has {len(ours)}"
            if first is None
            else f"its label {first} is {theirs[first]!r}, the model's is {ours[first]!r}"
        )
        raise UsageError(
            f"--against {printable(name)}: {words}; two models are compared on the same labels"
        )
