"""What became of one image: its labels, or why it has none."""

from dataclasses import dataclass
from typing import Any

from vit_engine.errors import ImageError


@dataclass(frozen=True)
class Score:
    """One label of an image, and its score as the model means it."""

    label: str
    index: int
    score: float

    def to_dict(self) -> dict[str, Any]:
        """Return the score as JSON has it."""
        return {"label": self.label, "index": self.index, "score": self.score}


@dataclass(frozen=True)
class Prediction:
    """One image's labels, best first; or, with an error, why it has none.

    Without an error `topk` is empty where no label reaches the threshold that was asked for.
    """

    path: str | None  # None for an image that was not named by a path
    topk: tuple[Score, ...] = ()
    error: str | None = None
    error_code: str | None = None

    @property
    def label(self) -> str | None:
        """The best label, None where there is none."""
        return self.topk[0].label if self.topk else None

    @property
    def index(self) -> int | None:
        """The best label's index in the model's output."""
        return self.topk[0].index if self.topk else None

    @property
    def score(self) -> float | None:
        """The best label's score."""
        return self.topk[0].score if self.topk else None

    def to_json(self) -> list[dict[str, Any]]:
        """Return the labels, best first: what answers a request for this image alone."""
        return [score.to_dict() for score in self.topk]

    def to_dict(self) -> dict[str, Any]:
        """Return the row of the image as vit-infer writes it, the same in every format."""
        return {
            "path": self.path,
            "label": self.label,
            "index": self.index,
            "score": self.score,
            "topk": self.to_json(),
            "error": self.error,
            "error_code": self.error_code,
        }

    def packed(self) -> dict[str, Any]:
        """Return the row in short, which is the same."""
        return self.to_dict()


def failed(path: str | None, error: ImageError) -> Prediction:
    """Return the prediction of an image that could not be read or decoded."""
    return Prediction(path, error=str(error), error_code=error.code)
