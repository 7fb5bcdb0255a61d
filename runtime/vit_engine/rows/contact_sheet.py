"""A contact sheet: a run's images and labels as one HTML page to look at."""

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

from vit_engine.artefact.contract import Contract
from vit_engine.classifier import LabelledBatch
from vit_engine.errors import printable
from vit_engine.machine.atomic import write_whole

MAX_IMAGES, MAX_ERRORS = 600, 600
"""The most that a sheet shows: a random sample of more images, the first of more errors."""

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
            scores = [[score.label, float(f"{score.score:.6g}")] for score in prediction.topk]
            image = {"path": name, "order": order, "topk": scores, "image": thumbnail(pixels)}
            self._images[place : place + 1] = [image]

    @property
    def is_labelled(self) -> bool:
        """Whether any image so far has a label."""
        return self._labelled > 0

    def write(self, path: Path, sections: Sequence[Section] = ()) -> None:
        """Write the page, the sections before its images, whole or not at all."""
        identity = self._contract.identity
        data = {
            "model": f"{identity.model} {identity.precision}",
            "score": self._contract.output.score,
            "labelled": self._labelled,
            "failed": self._failed,
            "before": self._before,
            "images": sorted(self._images, key=lambda image: image["order"]),
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
