"""Images in, vectors out: the Python API of the runtime for models without a classifier's head."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_engine.engine import Engine
from vit_engine.errors import ImageError, UsageError
from vit_engine.image_model import ImageModel
from vit_engine.images.image_input import ImageLike, images_from
from vit_engine.outputs.embeddings import Embeddings


class Embedder(ImageModel):
    """An `ImageModel` that gives each image a vector; UsageError for a classifier.

    Vectors may be compared where their `output.space` is the same.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        if not isinstance(engine.output, Embeddings):
            raise UsageError(
                f"{engine.contract.identity.model} gives labels, not vectors: it is a classifier; "
                "open it with Classifier.load(path), or export its vectors with vit-export --embed"
            )
        self._embeddings = engine.output

    @property
    def output(self) -> Embeddings:
        """The size of the vectors, their pooling and their space."""
        return self._embeddings

    def __call__(
        self, images: Iterable[ImageLike] | ImageLike, **options: Any
    ) -> NDArray[np.float32]:
        """Return the vector (size,) of an image, or (N, size) of several; else as `embed`."""
        found = self.embed(images, **options)
        return found if images_from(images) is images else found[0]

    def embed(
        self,
        images: Iterable[ImageLike] | ImageLike,
        *,
        batch: int | None = None,
        urls: bool = False,
    ) -> NDArray[np.float32]:
        """Return the vectors (N, size) of images, in order.

        Images are what they are for `Classifier.classify`; `batch` of them run at once (by default
        the engine's). Raises what `classify` raises, and the ImageError of the first image that
        cannot be read or whose vector is not finite; `stream` gives those an error of their own.
        """
        vectors = self._outputs(images, batch, urls=urls)
        if (bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1))).size:
            raise ImageError("nonfinite", f"images[{bad[0]}]: the model gave NaN or Inf")
        return vectors
