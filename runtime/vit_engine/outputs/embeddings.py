"""Embeddings, the output of a model without a classifier's head: a vector for each image."""

import base64
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact.contract import Pooling
from vit_engine.errors import ImageError, UsageError
from vit_engine.outputs.scores import ScoreOptions, Selection

Vectors = NDArray[np.float32]

ALIKE = 0.99
"""The cosine from which on two vectors of an image agree, where no other is given."""

NEIGHBOURS = 10
"""The nearest others of an image that `recall` looks at."""

_SHOWN = 3  # numbers of a vector in a table
_ROWS = 1024  # images whose cosines to all others are in memory at once


@dataclass(frozen=True, eq=False)
class Embedding:
    """One image's vector (size,), and the space that it lies in; or, with an error, why not."""

    path: str | None  # None for an image that was not named by a path
    vector: Vectors | None = None
    space: str | None = None
    error: str | None = None
    error_code: str | None = None

    def to_json(self) -> list[float]:
        """Return the vector: what answers a request for this image alone.

        Each number is the shortest of 9 digits or fewer, of which float32 makes the same again.
        """
        return [] if self.vector is None else [float(f"{x:.9g}") for x in self.vector.tolist()]

    def to_dict(self) -> dict[str, Any]:
        """Return the row of the image as vit-infer writes it, the same in every format."""
        return self._row(None if self.vector is None else self.to_json())

    def packed(self) -> dict[str, Any]:
        """Return the row with the bytes of the vector in base64, which `unpacked` reads."""
        if self.vector is None:
            return self._row(None)
        return self._row(base64.b64encode(self.vector.astype("<f4").tobytes()).decode())

    def _row(self, vector: Any) -> dict[str, Any]:
        return {
            "path": self.path,
            "embedding": vector,
            "space": self.space,
            "error": self.error,
            "error_code": self.error_code,
        }


def unpacked(vector: str) -> Vectors:
    """Return the vector (size,) of a row that `Embedding.packed` made."""
    return np.frombuffer(base64.b64decode(vector), "<f4")


@dataclass(frozen=True)
class Embeddings:
    """The kind of output that is a vector of `size` numbers; see `contract.EmbeddingOutput`."""

    size: int
    pooling: Pooling
    normalized: bool
    space: str

    columns: ClassVar[Mapping[str, Any]] = {"embedding": [float], "space": str}
    """Of a row, between its path and its error; [x] is a list of x."""

    element: ClassVar[str] = "vector"
    agreed: ClassVar[str] = "vectors that agree"
    widest_number: ClassVar[str] = "1.23e+03"  # in a table, where it is the length of a vector
    default_threshold: ClassVar[float] = ALIKE

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image in the model's output."""
        return (self.size,)

    def selection(self, options: ScoreOptions) -> Selection:
        """Return that all of a vector is given; UsageError for what only labels can be asked."""
        if options != ScoreOptions():
            raise UsageError(
                "the model gives each image a vector, not labels: top_k (--top-k), threshold "
                "(--threshold) and function_to_apply do not apply; leave them out"
            )
        return Selection(0, None, "none")

    def results(
        self, vectors: Vectors, _: Selection, paths: Iterable[str | None] = repeat(None)
    ) -> Iterator[Embedding]:
        """Yield the embedding of each row (N, size), with its path where there is one.

        A row that is not finite has the error `nonfinite`.
        """
        for row, path in zip(vectors, paths, strict=False):
            if np.isfinite(row).all():
                yield Embedding(path, row, self.space)
            else:
                yield self.failed(path, ImageError("nonfinite", "the model gave NaN or Inf"))

    def failed(self, path: str | None, error: ImageError) -> Embedding:
        """Return the result of an image that could not be read or decoded."""
        return Embedding(path, error=str(error), error_code=error.code)

    @property
    def cell_texts(self) -> Collection[str]:
        """The widest texts of a table's cells."""
        return (_in_short(np.full(self.size, -1.2345)),)

    def cells(self, embedding: Embedding) -> list[tuple[str, str]]:
        """Return what a table shows of an image: its vector's length, and its first numbers."""
        assert embedding.vector is not None
        return [(f"{np.linalg.norm(embedding.vector):.3g}", _in_short(embedding.vector))]

    def agreements(
        self, found: Vectors, expected: Vectors, *, threshold: float = ALIKE
    ) -> NDArray[np.bool_]:
        """Tell of each image whether the cosine of its two vectors is `threshold` or more."""
        return np.asarray(cosines(found, expected) >= threshold)

    def mismatch(self, other: object) -> str:
        """Say why the outputs of two models cannot be compared; "" where they can."""
        if not isinstance(other, Embeddings):
            return "it gives labels, the model gives vectors"
        if self.size != other.size:
            return f"its vectors have {other.size} numbers, the model's have {self.size}"
        if self.space != other.space:
            return (
                f"its vectors lie in the space {other.space:.12}, the model's in {self.space:.12}: "
                "weights, pooling or preprocessing differ, so that cosines between them mean "
                "nothing"
            )
        return ""


def cosines(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the cosine of each row of `a` (N, size) to the same row of `b`, (N,)."""
    one, other = (unit(x) for x in (a, b))
    return np.asarray((one * other).sum(1))


def recall(found: Vectors, expected: Vectors, k: int = NEIGHBOURS) -> float:
    """Return the share of the `k` nearest others by cosine that two sets of vectors agree on.

    Both are (N, size), of the same images. Of fewer than k + 1 images all others would be near, so
    half of them count; of fewer than three it is 1.
    """
    k = min(k, (len(found) - 1) // 2)
    if k < 1:
        return 1.0
    near = [nearest_others(x, k)[0] for x in (found, expected)]
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(*near, strict=True)]))


def nearest_others(vectors: Vectors, k: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return of each of N vectors its `k` nearest others by cosine, nearest first: exact.

    The result is their indices (N, k) and their cosines (N, k); of equal ones the first comes
    first.
    """
    units = unit(vectors)
    indices, near = np.empty((len(units), k), np.intp), np.empty((len(units), k))
    for start in range(0, len(units), _ROWS):
        part = units[start : start + _ROWS] @ units.T
        part[np.arange(len(part)), start + np.arange(len(part))] = -np.inf  # itself
        best = np.argsort(-part, axis=1, kind="stable")[:, :k]
        indices[start : start + _ROWS] = best
        near[start : start + _ROWS] = np.take_along_axis(part, best, axis=1)
    return indices, near


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return vectors (N, size) at length 1; one of zeros stays as it is."""
    exact = vectors.astype(np.float64)
    length = np.linalg.norm(exact, axis=1, keepdims=True)
    return np.asarray(exact / np.where(length > 0, length, 1.0))


def _in_short(vector: NDArray[np.floating]) -> str:
    numbers = " ".join(f"{x:7.4f}" for x in vector[:_SHOWN].tolist())
    return numbers + (" ..." if len(vector) > _SHOWN else "")
