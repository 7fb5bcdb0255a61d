"""Another model on the same pixels: where its results differ, and how far its numbers stray."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_engine.errors import MachineError, UsageError, printable
from vit_engine.evaluation.examples import Examples, JudgedImage
from vit_engine.image_model import ImageModel, LabelledBatch
from vit_engine.machine.installation import pip_install
from vit_engine.outputs.comparison import Comparison
from vit_engine.outputs.embeddings import Embeddings, cosines, recall
from vit_engine.outputs.kinds import OutputKind
from vit_engine.outputs.scores import Scores
from vit_engine.rows.contact_sheet import Section

REFERENCES = "vit_engine.references"
"""The entry points, by the name before a colon, that open a checkpoint to be compared with.

Each is a function of the checkpoint's name and the model's contract; it returns what turns pixels
(N, H, W, 3) into outputs (N, ...), and their kind.
"""

PYTORCH = "pytorch"
"""The one that vit-export has."""

_MAX_FLIPS = 10_000  # in the report
_MAX_NEIGHBOURS = 2_000  # images, the first ones, among which nearest others are sought

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class ModelComparison:
    """Takes a run's batches as they come, and gives their pixels to another model as well."""

    def __init__(
        self, name: str, run: Run, output: OutputKind, *, threshold: float, thumbnails: bool
    ) -> None:
        self._name, self._run, self._output, self._threshold = name, run, output, threshold
        self._compared = Comparison(output, threshold)
        self.failed = self.nonfinite = 0  # images without a result, and of them by the other model
        self._flips: list[dict[str, Any]] = []
        self._examples = Examples("Images that differ most", thumbnails=thumbnails)

    @property
    def images(self) -> int:
        """How many images were compared."""
        return self._compared.images

    def add(self, labelled: LabelledBatch) -> None:
        """Compare a batch; images that failed are left out."""
        those = [
            JudgedImage(prediction.path, pixels, logits)
            for prediction, pixels, logits in zip(
                labelled.predictions, labelled.pixels, labelled.logits, strict=True
            )
            if pixels is not None and logits is not None and prediction.error is None
        ]
        self.failed += len(labelled.predictions) - len(those)
        if not those:
            return
        theirs = self._run(np.stack([image.pixels for image in those]))
        finite = np.isfinite(np.abs(theirs).max(axis=1))
        those = [image for image, is_finite in zip(those, finite, strict=True) if is_finite]
        self.nonfinite += len(finite) - len(those)
        self.failed += len(finite) - len(those)
        if not those:
            return
        self._count(those, np.stack([image.logits for image in those]), theirs[finite])

    def _count(
        self, those: list[JudgedImage], ours: NDArray[np.float32], theirs: NDArray[np.float32]
    ) -> None:
        assert isinstance(self._output, Scores)
        same = self._compared.add(ours, theirs)
        apart = np.abs(theirs - ours).max(1)
        for i in np.flatnonzero(~same if same.size else apart > 0).tolist():
            differing = self._output.differing(ours[i], theirs[i], self._threshold)
            labels = [{"label": a, "score": b, "other_score": c} for a, b, c in differing]
            shown = [x for a, b, c in differing for x in ((a, b), (f"{a} (other)", c))]
            if same.size and len(self._flips) < _MAX_FLIPS:
                path = printable(those[i].path or "-")
                self._flips.append({"path": path, "labels": labels})
            self._examples.add(float(apart[i]), those[i], {"labels": labels}, shown)

    def report(self) -> dict[str, Any]:
        """Return all that was found, as it goes into JSON; figures of no image are left out."""
        return {
            "model": self._name,
            "images": self.images,
            "nonfinite": self.nonfinite,
            **(self._figures() if self.images else {}),
            "most_different": self._examples.report(),
        }

    def _figures(self) -> dict[str, Any]:
        found = self._compared
        return {
            "agreement": found.agreement,
            "flipped": None if found.agreement is None else found.different,
            "max_abs_diff": found.max_abs_diff,
            "mean_abs_diff": found.mean_abs_diff,
            "logit_range": found.range,
            "r2": found.r2,
            "flips": self._flips,
        }

    def lines(self) -> Iterator[str]:
        """Yield what is printed at the end of the run."""
        start = f"against {self._name}: "
        if self.nonfinite:
            both = self.nonfinite + self.images
            yield f"{start}NaN or Inf on {self.nonfinite:,} of {both:,} images"
        yield start + (self._summary() if self.images else "no image has a result of both")

    def _summary(self) -> str:
        found = self._compared
        return (
            f"{found}; |logit difference| at most {found.max_abs_diff:.3g}, "
            f"{found.mean_abs_diff:.3g} in the mean, in a range of {found.range:.3g}"
        )

    def sections(self) -> list[Section]:
        """Return what the page shows."""
        lines = Section(f"Against {self._name}", list(self.lines()), [])
        return [lines, *self._examples.sections()]


class VectorComparison(ModelComparison):
    """The same for vectors: their cosines, and whether neighbours stay neighbours."""

    def __init__(self, name: str, run: Run, output: Embeddings, **options: Any) -> None:
        super().__init__(name, run, output, **options)
        self._least, self._sum = 1.0, 0.0
        self._ours, self._theirs = np.empty((2, 0, output.size), np.float32)

    def _count(
        self, those: list[JudgedImage], ours: NDArray[np.float32], theirs: NDArray[np.float32]
    ) -> None:
        self._compared.add(ours, theirs)
        near = cosines(ours, theirs)
        self._least, self._sum = min(self._least, float(near.min())), self._sum + float(near.sum())
        room = _MAX_NEIGHBOURS - len(self._ours)
        self._ours = np.concatenate([self._ours, ours[:room]])
        self._theirs = np.concatenate([self._theirs, theirs[:room]])
        for image, cosine in zip(those, near.tolist(), strict=True):
            self._examples.add(-cosine, image, {"cosine": cosine}, [("cosine", cosine)])

    def _figures(self) -> dict[str, Any]:
        return {
            "min_cosine": self._least,
            "mean_cosine": self._sum / self.images,
            "recall": recall(self._ours, self._theirs),
            "recall_images": len(self._ours),
            "max_abs_diff": self._compared.max_abs_diff,
        }

    def _summary(self) -> str:
        return (
            f"cosine at least {self._least:.6f}, {self._sum / self.images:.6f} in the mean of "
            f"{self.images:,} images; {recall(self._ours, self._theirs):.1%} of an image's nearest "
            f"others are the same, among {len(self._ours):,} images"
        )


@contextmanager
def opened(
    name: str,
    vit: ImageModel,
    load: Callable[[str], ImageModel],
    *,
    threshold: float,
    thumbnails: bool,
) -> Iterator[ModelComparison]:
    """Open the model that `--against` names beside another; `load` opens an artefact.

    It is an artefact, or "pytorch:" and a checkpoint. UsageError where the two cannot be compared:
    their input or their kind of output differs. MachineError where the library that is asked for is
    not installed.
    """
    output = vit.output

    def beside(shown: str, run: Run, theirs: OutputKind) -> ModelComparison:
        if reason := output.mismatch(theirs):
            raise UsageError(f"--against {printable(name)}: {reason}")
        kind: Any = VectorComparison if isinstance(output, Embeddings) else ModelComparison
        comparison: ModelComparison = kind(
            shown, run, output, threshold=threshold, thumbnails=thumbnails
        )
        return comparison

    scheme, _, checkpoint = name.partition(":")
    references = list(entry_points(group=REFERENCES, name=scheme)) if checkpoint else []
    if references or (checkpoint and scheme == PYTORCH):
        try:
            if not references:
                raise ModuleNotFoundError(name="vit_export")
            run, theirs = references[0].load()(checkpoint, vit.contract)
        except ModuleNotFoundError as e:
            raise MachineError(
                f"--against {printable(name)} needs PyTorch and vit-export (no module {e.name}); "
                f"{pip_install('export')}"
            ) from e
        yield beside(name, run, theirs)
        return
    with load(name) as other:
        ours, theirs = _geometry(vit), _geometry(other)
        if ours != theirs:
            raise UsageError(
                f"--against {printable(name)}: it takes images {theirs}, the model takes them "
                f"{ours}; two models are compared on the same pixels"
            )
        identity = other.contract.identity
        yield beside(f"{identity.model} {identity.precision}", other.engine.run, other.output)


def _geometry(vit: ImageModel) -> str:
    """Say what decides the pixels; mean and standard deviation are in the graph."""
    input_spec, pre = vit.contract.input, vit.contract.preprocessing
    crop = f", cropped to {pre.crop} ({pre.anchor}, {pre.fill})" if pre.crop else ""
    size = f"{input_spec.height}x{input_spec.width}"
    return f"of {size}, resized to {pre.resize} ({pre.rule}, {pre.filter}){crop}"
