"""Embeddings, the output of a model without a classifier's head: a vector for each image."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vit_engine.artefact.contract import Pooling
from vit_engine.errors import ImageError

Vectors = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Embedding:
    """One image's vector (size,); or, with an error, why it has none."""

    path: str | None  # None for an image that was not named by a path
    vector: Vectors | None = None
    error: str | None = None
    error_code: str | None = None

    def to_json(self) -> list[float]:
        """Return the vector: what answers a request for this image alone."""
        return [] if self.vector is None else self.vector.tolist()

    def to_dict(self) -> dict[str, Any]:
        """Return the row of the image as vit-infer writes it, the same in every format."""
        return {
            "path": self.path,
            "embedding": None if self.vector is None else self.to_json(),
            "error": self.error,
            "error_code": self.error_code,
        }


@dataclass(frozen=True)
class EmbeddingOptions:
    """What a user may ask of vectors, which is nothing so far."""


@dataclass(frozen=True)
class Embeddings:
    """The kind of output that is a vector of `size` numbers; see `contract.EmbeddingOutput`."""

    size: int
    pooling: Pooling
    normalized: bool
    space: str

    options: ClassVar[type[EmbeddingOptions]] = EmbeddingOptions
    columns: ClassVar[Mapping[str, Any]] = {"embedding": [float]}
    """Of a row, between its path and its error; [x] is a list of x."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image in the model's output."""
        return (self.size,)

    def results(
        self, vectors: Vectors, paths: Iterable[str | None] = repeat(None)
    ) -> Iterator[Embedding]:
        """Yield the embedding of each row (N, size), with its path where there is one.

        A row that is not finite has the error `nonfinite`.
        """
        for row, path in zip(vectors, paths, strict=False):
            if np.isfinite(row).all():
                yield Embedding(path, row)
            else:
                yield self.failed(path, ImageError("nonfinite", "the model gave NaN or Inf"))

    def failed(self, path: str | None, error: ImageError) -> Embedding:
        """Return the result of an image that could not be read or decoded."""
        return Embedding(path, error=str(error), error_code=error.code)


def cosines(a: Vectors, b: Vectors) -> NDArray[np.float64]:
    """Return the cosine of each row of `a` (N, size) to the same row of `b`, (N,)."""
    one, other = (unit(x) for x in (a, b))
    return np.asarray((one * other).sum(1))


def recall(found: Vectors, expected: Vectors, k: int = 10) -> float:
    """Return the share of the `k` nearest others by cosine that two sets of vectors agree on.

    Both are (N, size), of the same images. Of fewer than k + 1 images all others would be near, so
    half of them count; of fewer than three it is 1.
    """
    k = min(k, (len(found) - 1) // 2)
    if k < 1:
        return 1.0
    near = [_nearest_others(x, k) for x in (found, expected)]
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(*near, strict=True)]))


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return vectors (N, size) at length 1; one of zeros stays as it is."""
    exact = vectors.astype(np.float64)
    length = np.linalg.norm(exact, axis=1, keepdims=True)
    return np.asarray(exact / np.where(length > 0, length, 1.0))


def _nearest_others(vectors: Vectors, k: int) -> NDArray[np.intp]:
    units = unit(vectors)
    near = units @ units.T
    np.fill_diagonal(near, -np.inf)
    return np.argsort(-near, axis=1, kind="stable")[:, :k]
