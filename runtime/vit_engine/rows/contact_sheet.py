"""A contact sheet: a run's images, with labels or nearest others, as one page to look at."""

import base64
import io
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit_engine.artefact.contract import Contract, EmbeddingOutput
from vit_engine.errors import printable
from vit_engine.image_model import LabelledBatch
from vit_engine.machine.atomic import write_whole
from vit_engine.outputs.embeddings import Embedding, nearest_others

MAX_IMAGES, MAX_ERRORS = 600, 600
"""The most that a sheet shows: a random sample of more images, the first of more errors."""

MAX_OTHERS = 8
"""The nearest others that are shown of an image with a vector."""

SIDE = 144
"""Pixels of a thumbnail's side; about 5 KB each."""

_TITLE = b"<title>vit-infer contact sheet</title>"
_HEAD = 4096  # bytes, in which the title stands


@dataclass(frozen=True)
class Section:
    """A part of the page: lines of text, and images with `path`, `topk` and `image`."""

    title: str
    lines: list[str]
    images: list[dict[str, Any]]


class ContactSheet:
    """Takes a run's batches as they come and keeps a bounded sample of them.

    Of a model that gives vectors each image is shown with its nearest others in that sample.

    A thumbnail is the model's own input: it shows what resizing and cropping left of an image.
    `before` is how many rows a resumed run had already: the sheet says that it lacks their images.
    """

    def __init__(self, contract: Contract, *, before: int = 0) -> None:
        self._contract, self._before = contract, before
        self._images: list[dict[str, Any]] = []
        self._errors: list[dict[str, Any]] = []
        self._labelled = self._failed = 0
        self._random = random.Random(0)

    def add(self, labelled: LabelledBatch) -> None:
        """Add a batch; a thumbnail is made only of an image that enters the sample."""
        for prediction, pixels in zip(labelled.predictions, labelled.pixels, strict=True):
            order = self._labelled + self._failed
            name = printable(prediction.path or "-")
            if prediction.error is not None:
                self._failed += 1
                if len(self._errors) < MAX_ERRORS:
                    error = printable(prediction.error)
                    self._errors.append(
                        {"path": name, "code": prediction.error_code, "error": error}
                    )
                continue
            self._labelled += 1
            place = self._place()
            if place is None or pixels is None:
                continue
            image = {"path": name, "order": order, "image": thumbnail(pixels)}
            if isinstance(prediction, Embedding):
                image["vector"] = np.array(prediction.vector)
            else:
                image["topk"] = [[s.label, float(f"{s.score:.6g}")] for s in prediction.topk]
            self._images[place : place + 1] = [image]

    @property
    def is_labelled(self) -> bool:
        """Whether any image so far has a label."""
        return self._labelled > 0

    def write(self, path: Path, sections: Sequence[Section] = ()) -> None:
        """Write the page, the sections before its images, whole or not at all."""
        identity, output = self._contract.identity, self._contract.output
        images = sorted(self._images, key=lambda image: image["order"])
        if isinstance(output, EmbeddingOutput):
            images = _beside_nearest(images)
        data = {
            "model": f"{identity.model} {identity.precision}",
            "score": "cosine" if isinstance(output, EmbeddingOutput) else output.score,
            "labelled": self._labelled,
            "failed": self._failed,
            "before": self._before,
            "images": images,
            "errors": self._errors,
            "sections": [asdict(section) for section in sections],
        }
        page = resources.files("vit_engine.rows").joinpath("contact_sheet.html").read_text("utf-8")
        # Within a script element only "<" could end the text.
        text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
        write_whole(path, page.replace("__DATA__", text).encode())

    def _place(self) -> int | None:
        """Return where the newest labelled image enters the sample (reservoir sampling)."""
        if self._labelled <= MAX_IMAGES:
            return len(self._images)
        place = self._random.randrange(self._labelled)
        return place if place < MAX_IMAGES else None


def _beside_nearest(images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the images with their nearest others on the sheet, for labels: path, cosine, index."""
    if not images:
        return []
    k = min(MAX_OTHERS, len(images) - 1)
    indices, cosines = nearest_others(np.stack([image["vector"] for image in images]), k)
    return [
        {name: value for name, value in image.items() if name != "vector"}
        | {
            "topk": [
                [images[j]["path"], round(cosine, 4), j]
                for j, cosine in zip(others, near, strict=True)
            ]
        }
        for image, others, near in zip(images, indices.tolist(), cosines.tolist(), strict=True)
    ]


def is_sheet(path: Path) -> bool:
    """Tell whether a file is a contact sheet, whichever run's."""
    try:
        with path.open("rb") as file:
            return _TITLE in file.read(_HEAD)
    except OSError:
        return False


def thumbnail(pixels: NDArray[np.uint8]) -> str:
    """Return the model's input, (H, W, 3), as the data URL of a small JPEG."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
