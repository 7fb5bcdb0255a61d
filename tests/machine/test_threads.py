"""An iterator that runs ahead on a thread: what it yields and raises, and how it is ended."""

import threading
from collections.abc import Iterator

import pytest

from support.threads import Block, wait_for
from vit_engine.machine import threads
from vit_engine.machine.threads import prefetch

pytestmark = pytest.mark.usefixtures("bounded")


class BrokenError(Exception):
    """What a source may raise."""


def test_ahead_gives_what_the_source_gives() -> None:
    things = [3, None, 0, "", 1]
    assert list(prefetch(iter(things))) == things
    assert list(prefetch(iter([]))) == []


def test_ahead_runs_to_the_end_of_the_source_before_it_is_asked_again() -> None:
    ended = threading.Event()

    def source() -> Iterator[int]:
        yield from range(100)
        ended.set()

    items = prefetch(source())
    assert next(items) == 0
    wait_for(ended)
    assert list(items) == list(range(1, 100))


@pytest.mark.parametrize("kind", [BrokenError, SystemExit])
def test_ahead_raises_what_the_source_raises_after_its_items(kind: type[BaseException]) -> None:
    fault = kind("broken")

    def source() -> Iterator[int]:
        yield from range(3)
        raise fault

    found: list[int] = []
    with pytest.raises(kind) as caught:
        found.extend(prefetch(source()))
    assert caught.value is fault


def test_ahead_that_is_closed_ends_its_source_with_the_next_item() -> None:
    block, closed = Block(), threading.Event()
    given: list[int] = []

    def source() -> Iterator[int]:
        try:
            for number in range(1000):
                given.append(number)
                yield number
                block()
        finally:
            closed.set()

    items = prefetch(source())
    assert next(items) == 0
    wait_for(block.reached)
    items.close()
    assert not closed.is_set()
    block.released.set()
    wait_for(closed)
    assert given == [0, 1]


def test_ahead_that_is_stopped_waits_for_what_is_under_way() -> None:
    stop, waiting = threading.Event(), threading.Event()

    def stopped() -> bool:
        if stop.is_set():
            waiting.set()  # for the first time, with nothing found
        return stop.is_set()

    def source() -> Iterator[int]:
        yield 0
        wait_for(waiting)
        yield 1

    items = prefetch(source(), stopped)
    assert next(items) == 0
    stop.set()
    assert list(items) == [1]


def test_ahead_that_is_stopped_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_PATIENCE", 0.2)
    block = Block()

    def source() -> Iterator[int]:
        yield 0
        block()

    assert list(prefetch(source(), lambda: True)) == [0]
    assert not block.released.is_set()
    block.released.set()
