"""How far a run is: a line on a terminal while it goes on, and the summary at its end."""

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable

from vit_engine.artefact.contract import Contract
from vit_engine.image_model import LabelledBatch
from vit_engine.images.preprocess import format_clipped_to_8bit
from vit_engine.sources.folders import NO_END, in_words

_EVERY = 0.1  # seconds between two updates of the line


class Progress:
    """Counts a run's rows, those of an interrupted run that it resumes included."""

    def __init__(
        self, skipped: Counter[str], *, quiet: bool = False, done: int = 0, failed: int = 0
    ) -> None:
        self.done, self.failed, self.clipped_to_8bit = done, failed, 0
        self.watched = sys.stderr.isatty() and not quiet
        self._skipped, self._quiet = skipped, quiet
        self._before, self._start, self._shown = done, time.monotonic(), 0.0
        self._total: int | None = None

    def count(self, images: Callable[[], Iterable[object]]) -> None:
        """Find out how many rows there will be, in a thread of its own."""

        def work() -> None:
            with contextlib.suppress(Exception):  # the run meets the same error, and reports it
                self._total = sum(1 for _ in images())

        threading.Thread(target=work, daemon=True).start()

    def add(self, labelled: LabelledBatch) -> None:
        """Count a batch, and bring the line up to date, at most every tenth of a second."""
        self.done += len(labelled.predictions)
        self.failed += sum(p.error is not None for p in labelled.predictions)
        self.clipped_to_8bit += labelled.clipped_to_8bit
        now = time.monotonic()
        if self.watched and now - self._shown >= _EVERY:
            self._shown = now
            sys.stderr.write(f"\r\x1b[K{self.line()}")

    def clear(self) -> None:
        """Take the line off the terminal."""
        if self.watched:
            sys.stderr.write("\r\x1b[K")

    def summarize(self, command: str, contract: Contract, provider: str) -> None:
        """Write what the run has come to, unless it is to be quiet."""
        if self._quiet:
            return
        self.clear()
        model = f"{contract.identity.model} {contract.identity.precision}"
        sys.stderr.write(f"{self.line()}, {model} on {provider}{format_skipped(self._skipped)}\n")
        if self.clipped_to_8bit:
            message = format_clipped_to_8bit(self.clipped_to_8bit)
            sys.stderr.write(f"{command}: warning: {message}\n")

    def line(self) -> str:
        """Return "1,200 of 5,000 images, 3 failed, 81.2 images/s, 0:47 left"."""
        rate = (self.done - self._before) / max(time.monotonic() - self._start, 1e-9)
        images, left = number_of_images(self.done), ""
        if self._total is not None and self._total > self.done:
            images = f"{self.done:,} of {number_of_images(self._total)}"
            minutes, seconds = divmod(round((self._total - self.done) / max(rate, 1e-9)), 60)
            left = f", {minutes}:{seconds:02} left" if rate else ""
        return f"{images}, {self.failed:,} failed, {rate:.1f} images/s{left}"


def number_of_images(count: int) -> str:
    """Return "1 image", "2,000 images"."""
    return f"{count:,} image{'s' * (count != 1)}"


def format_skipped(skipped: Counter[str]) -> str:
    """Return "; 2 passed over: 1 AppleDouble (._*), 1 TGA (not supported)", or "" for none."""
    cut = skipped[NO_END]
    total = skipped.total() - cut
    message = f"; {total:,} passed over: {in_words(skipped)}" if total else ""
    if cut:
        tars = "1 tar ends" if cut == 1 else f"{cut:,} tars end"
        message += f"; {tars} without the mark of the end, and may be cut short"
    return message
