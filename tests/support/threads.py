"""Threads that wait for each other in tests, and give up in the end."""

import threading

PATIENCE = 30.0
"""Seconds for what takes milliseconds on an idle machine."""


def wait_for(event: threading.Event) -> None:
    assert event.wait(PATIENCE), "waited in vain"


class Block:
    """A place where threads stay, until released."""

    def __init__(self) -> None:
        self.reached, self.released = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        wait_for(self.released)
