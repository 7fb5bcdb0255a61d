"""SIGINT and SIGTERM as a request to stop soon: the first sets a flag, a later one ends all."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from vit_engine.cli.ending import is_repeated

GRACE = 10
"""Seconds after the first signal until the process ends whatever it is doing."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Interrupt:
    """The number of the first signal that came, 0 until one does."""

    signum: int = 0

    def __call__(self) -> bool:
        """Tell whether it is time to stop."""
        return self.signum != 0

    @property
    def exit_code(self) -> int:
        """The exit code of a command that the signal has stopped."""
        return 128 + self.signum


@contextmanager
def interrupts() -> Iterator[Interrupt]:
    """Turn the two signals into a flag while the context lasts; main thread only."""
    interrupt = Interrupt()

    def handle(signum: int, _: FrameType | None) -> None:
        repeated = signum in _SIGNALS and is_repeated()
        if not interrupt.signum:
            interrupt.signum = signum
            signal.alarm(GRACE)
        elif not repeated:  # a second one, or the alarm
            os._exit(interrupt.exit_code)

    before = {s: signal.signal(s, handle) for s in (*_SIGNALS, signal.SIGALRM)}
    try:
        yield interrupt
    finally:
        signal.alarm(0)
        for signum, handler in before.items():
            signal.signal(signum, handler)
