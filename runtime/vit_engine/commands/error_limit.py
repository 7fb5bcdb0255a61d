"""--max-errors: how many images may fail before a run is stopped."""

import math
from argparse import ArgumentTypeError
from dataclasses import dataclass

LEAST = 100
"""Rows before a percentage is looked at while a run goes on: of fewer it says little."""


@dataclass(frozen=True)
class ErrorLimit:
    """A number of images, or a percentage of them; `text` is how the user wrote it."""

    text: str
    most: float
    is_percentage: bool

    @classmethod
    def parse(cls, text: str) -> "ErrorLimit":
        """Return the limit that "20" or "1.5%" stands for; argparse's error for anything else."""
        is_percentage = text.endswith("%")
        try:
            most = float(text[:-1]) if is_percentage else int(text)
        except ValueError:
            most = math.nan
        if not 0 <= most <= (100 if is_percentage else math.inf):
            raise ArgumentTypeError(
                f"{text!r} is not a number of images such as 20, or a percentage such as 5%"
            )
        return cls(text, most, is_percentage)

    def is_passed(self, done: int, failed: int, *, at_end: bool = False) -> bool:
        """Tell whether too many of the images so far have failed."""
        if not self.is_percentage:
            return failed > self.most
        return (done >= LEAST or at_end) and failed > done * self.most / 100
