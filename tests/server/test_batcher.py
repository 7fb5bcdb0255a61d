"""Batches of an engine's process: without linger, from several fronts, and how it is given up."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from vit_engine.engine import Engine
from vit_engine.server.engines.batcher import Batcher
from vit_engine.server.engines.messages import EngineInfo, SlotViews

SLOTS = 32


class FakeFront:
    """Slots, each with another image, and what is said of them."""

    def __init__(self, engine: Engine) -> None:
        info = EngineInfo(engine.contract, "cpu", 4, 1)
        self.memory = bytearray(SLOTS * info.slot_bytes)
        self.views = SlotViews(memoryview(self.memory), SLOTS, info.slot_bytes, engine.contract)
        for slot in range(SLOTS):
            self.views.pixels[slot] = slot
        self.said: list[tuple[list[int], int, str]] = []

    def done(self, slots: Sequence[int], images: int, seconds: float, failure: str) -> None:
        self.said.append(([*slots], images, failure))


class HeldEngine:
    """An engine whose batches end when the test says so."""

    def __init__(self, in_flight: int = 1) -> None:
        self.engine = Engine.open("demo", provider="cpu", max_batch=4)
        self.max_batch, self.in_flight = 4, in_flight
        self.batches: list[tuple[Any, Future[Any]]] = []

    def submit(self, batch: Any) -> Any:
        self.batches.append((batch, Future()))
        return self.batches[-1][1]

    def finish(self, number: int) -> None:
        batch, future = self.batches[number]
        future.set_result(self.engine.run(batch))

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch, _ in self.batches]


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60))


def batcher_of(engine: Any, faults: list[str], hang_timeout: float = 60) -> Batcher:
    return Batcher(engine, hang_timeout=hang_timeout, on_fault=faults.append)


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_waits_while_a_batch_runs_goes_together() -> None:
    async def work() -> None:
        held = HeldEngine()
        batcher, a, b = batcher_of(held, []), FakeFront(held.engine), FakeFront(held.engine)
        batcher.add(a, [0])
        batcher.add(a, [2 * 1, 2 * 2])
        batcher.add(b, [2 * 3, 2 * 4, 2 * 5])
        assert held.sizes == [1]  # the first did not wait for company
        held.finish(0)
        await turns()
        held.finish(1)
        await turns()
        held.finish(2)
        await turns()
        assert held.sizes == [1, 4, 1]
        # One front is told the size of a batch, so that each is counted once.
        assert a.said == [([0], 1, ""), ([1, 2], 4, "")]
        assert b.said == [([3, 4], 0, ""), ([5], 1, "")]
        for front, slot in ((a, 0), (a, 2), (b, 4), (b, 5)):
            pixels = np.full((1, *front.views.pixels.shape[1:]), slot, np.uint8)
            np.testing.assert_allclose(
                front.views.results[slot], held.engine.run(pixels)[0], atol=1e-4
            )

    run(work)


def test_more_than_one_batch_where_the_provider_wants_that() -> None:
    async def work() -> None:
        held = HeldEngine(in_flight=2)
        batcher, front = batcher_of(held, []), FakeFront(held.engine)
        batcher.add(front, [2 * slot for slot in range(12)])
        assert held.sizes == [4, 4]
        held.finish(1)
        await turns()
        assert held.sizes == [4, 4, 4]

    run(work)


def test_tensors_and_pixels_do_not_mix_and_who_leaves_is_forgotten() -> None:
    async def work() -> None:
        held = HeldEngine()
        batcher, a, b = batcher_of(held, []), FakeFront(held.engine), FakeFront(held.engine)
        batcher.add(a, [0])
        batcher.add(a, [2 * 1, 2 * 2 + 1, 2 * 3 + 1])
        batcher.add(b, [2 * 1])
        batcher.forget(b)
        for number in range(3):
            held.finish(number)
            await turns()
        assert held.sizes == [1, 1, 2]
        assert not batcher.waiting and not b.said

    run(work)


def test_failures_in_a_row_are_a_fault() -> None:
    async def work() -> None:
        held, faults = HeldEngine(), list[str]()
        batcher, front = batcher_of(held, faults), FakeFront(held.engine)
        for number in range(3):
            assert not faults
            batcher.add(front, [0])
            held.batches[number][1].set_exception(RuntimeError("CUDA error 700"))
            await turns()
        assert faults == ["the last 3 batches have failed"]
        assert front.said[0] == ([0], 1, "CUDA error 700")

    run(work)


def test_a_batch_that_hangs_is_a_fault() -> None:
    async def work() -> None:
        held, faults = HeldEngine(), list[str]()
        batcher = batcher_of(held, faults, hang_timeout=0.2)
        batcher.add(FakeFront(held.engine), [0])
        while not faults:
            await asyncio.sleep(0.02)
        assert "running for more than 0.2 s" in faults[0]

    run(work)
