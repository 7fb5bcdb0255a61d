"""SIGINT and SIGTERM: an exception that unwinds the stack, or a flag where a run ends in order."""

import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

ONE_PRESS = 0.5
"""Seconds from one signal to the next that is no other one: nobody presses ^C twice as fast."""

GRACE = 10
"""Seconds after the first signal until `interrupts` ends the process, whatever it is doing."""

_last_signal = [-math.inf]  # by the monotonic clock


def raise_on_signals() -> None:
    """Have both raise KeyboardInterrupt(signal number); one that is ignored, as by nohup, stays so.

    A second signal of the same press raises nothing: cleaning up goes on.
    """

    def handle(number: int, _: object) -> None:
        if not _is_repeated():
            raise KeyboardInterrupt(number)

    for number in _heeded():
        signal.signal(number, handle)


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
    """Turn both into a flag while the context lasts; a later signal ends the process at once.

    In the main thread only.
    """
    interrupt = Interrupt()

    def handle(number: int, _: object) -> None:
        repeated = number != signal.SIGALRM and _is_repeated()
        if not interrupt.signum:
            interrupt.signum = number
            signal.alarm(GRACE)
        elif not repeated:
            os._exit(interrupt.exit_code)

    before = {number: signal.signal(number, handle) for number in (*_heeded(), signal.SIGALRM)}
    try:
        yield interrupt
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _heeded() -> list[signal.Signals]:
    both = (signal.SIGINT, signal.SIGTERM)
    return [number for number in both if signal.getsignal(number) is not signal.SIG_IGN]


def _is_repeated() -> bool:
    """Tell whether the signal that has just come belongs to the one before.

    `timeout -s INT` signals its child and then the group that the child is in; a terminal and the
    program that hands its ^C on do so too.
    """
    before, _last_signal[0] = _last_signal[0], time.monotonic()
    return _last_signal[0] - before <= ONE_PRESS
