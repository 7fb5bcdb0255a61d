"""The scheduler of vit-serve: batches without linger, early refusals, and how it dies."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from support.running_server import CIRCLE, STAR
from vit_engine.engine import Engine
from vit_engine.errors import ImageError
from vit_engine.images import decoder_process
from vit_engine.server.core.admission import Rate
from vit_engine.server.core.metrics import Metrics
from vit_engine.server.core.refusal import RefusalError
from vit_engine.server.core.scheduler import Scheduler
from vit_engine.server.core.settings import SETTINGS, Settings

Submit = Callable[[Any], "Future[Any]"]


@asynccontextmanager
async def working(settings: Settings = SETTINGS) -> AsyncIterator[Scheduler]:
    engine = Engine.open("demo", provider="cpu", max_batch=4)
    scheduler = Scheduler("demo", engine, settings, Metrics())
    scheduler.start()
    try:
        while not scheduler.ready:
            await asyncio.sleep(0.01)
        yield scheduler
    finally:
        await scheduler.close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60))


def test_what_waits_while_a_batch_runs_goes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with working() as scheduler:
            sizes, held = [], threading.Event()
            submit = scheduler.engine.submit

            def slow(batch: Any) -> Any:
                sizes.append(len(batch))
                if len(sizes) == 1:
                    future: Future[Any] = Future()
                    threading.Thread(
                        target=lambda: (
                            held.wait(20) and future.set_result(scheduler.engine.run(batch))
                        )
                    ).start()
                    return future
                return submit(batch)

            monkeypatch.setattr(scheduler.engine, "submit", slow)
            tickets = [
                scheduler.submit([image]) for image in (STAR, CIRCLE, STAR, STAR, STAR, CIRCLE)
            ]
            while scheduler.depths()["ready"] < 5:
                await asyncio.sleep(0.01)
            assert sizes == [1]  # the first did not wait for company
            held.set()
            await asyncio.gather(*(ticket.done for ticket in tickets))
            assert sizes == [1, 4, 1]
            best = [int(np.argmax(t.outcomes[0])) for t in tickets]
            assert best == [3, 0, 3, 3, 3, 0]
            assert set(scheduler.depths().values()) == {0}

    run(work)


def test_more_than_one_batch_where_the_provider_wants_that(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with working() as scheduler:
            futures: list[Future[Any]] = []

            def hold(batch: Any) -> Any:
                futures.append(Future())
                futures[-1].batch = batch
                return futures[-1]

            monkeypatch.setattr(scheduler.engine, "in_flight", 2)
            monkeypatch.setattr(scheduler.engine, "submit", hold)
            feed = np.zeros((64, 64, 3), np.uint8)
            ticket = scheduler.submit([feed] * 12)
            assert [len(f.batch) for f in futures] == [4, 4]
            futures[1].set_result(scheduler.engine.run(futures[1].batch))
            while len(futures) < 3:
                await asyncio.sleep(0)
            for future in (futures[0], futures[2]):
                future.set_result(scheduler.engine.run(future.batch))
            await ticket.done
            assert all(isinstance(outcome, np.ndarray) for outcome in ticket.outcomes)

    run(work)


def test_a_dropped_request_leaves_before_decoding_and_before_the_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None:
        async with working() as scheduler:
            futures: list[tuple[Any, Future[Any]]] = []

            def hold(batch: Any) -> Any:
                futures.append((batch, Future()))
                return futures[-1][1]

            monkeypatch.setattr(scheduler.engine, "submit", hold)
            first = scheduler.submit([STAR])
            while not futures:
                await asyncio.sleep(0.01)
            others = [scheduler.submit([STAR]) for _ in range(100)]
            while scheduler.depths()["ready"] < 10:
                await asyncio.sleep(0.01)
            for ticket in others[1:]:
                scheduler.drop(ticket)
            while scheduler.depths()["decoding"] or not scheduler.depths()["ready"]:
                await asyncio.sleep(0.01)
            assert scheduler.depths() == {"undecoded": 0, "decoding": 0, "ready": 1, "engine": 1}
            batch, future = futures[0]
            future.set_result(scheduler.engine.run(batch))
            await first.done
            while len(futures) < 2:
                await asyncio.sleep(0)
            assert len(futures[1][0]) == 1
            futures[1][1].set_result(scheduler.engine.run(futures[1][0]))
            await others[0].done
            assert scheduler.admission.depth == 0

    run(work)


def test_a_wait_beyond_the_deadline_is_refused_before_it_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None:
        async with working(Settings(deadline=10)) as scheduler:
            monkeypatch.setattr(scheduler.batcher, "rate", Rate(images=2, seconds=1))
            monkeypatch.setattr(scheduler.engine, "submit", lambda batch: Future())
            feed = np.zeros((64, 64, 3), np.uint8)
            for _ in range(20):  # 10 s of work
                scheduler.submit([feed])
            with pytest.raises(RefusalError) as refused:
                scheduler.submit([feed])
            assert (refused.value.status, refused.value.retry_after) == (429, 6)

    run(work)


def test_the_rate_counts_busy_time_alone() -> None:
    rate = Rate(images=4, seconds=1)
    assert rate.wait(8) == 2
    rate.add(100.0, 4, waiting=True)  # nothing waited before: the time until now says nothing
    assert rate.wait(8) == 2
    for number in range(1, 100):
        rate.add(100.0 + number * 2, 4, waiting=True)  # 4 images in 2 s
    assert rate.wait(8) == pytest.approx(4, rel=0.01)
    assert Rate().wait(5) == 0


def test_a_wedged_batch_is_death_and_load_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with working(Settings(hang_timeout=0.3)) as scheduler:
            feed = np.zeros((64, 64, 3), np.uint8)
            scheduler.submit([feed] * 500)
            assert scheduler.alive
            monkeypatch.setattr(scheduler.engine, "submit", lambda batch: Future())
            while scheduler.alive:
                await asyncio.sleep(0.02)
            assert not scheduler.ready
            with pytest.raises(RefusalError, match="a batch has been running") as refused:
                scheduler.submit([STAR])
            assert (refused.value.status, refused.value.code) == (503, "dead")

    run(work)


def test_an_engine_that_fails_again_and_again_is_dead_until_it_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None:
        async with working() as scheduler:

            def fail(batch: Any) -> Any:
                future: Future[Any] = Future()
                future.set_exception(RuntimeError("CUDA error 700"))
                return future

            with monkeypatch.context() as patched:
                patched.setattr(scheduler.engine, "submit", fail)
                for _ in range(3):
                    assert scheduler.alive
                    ticket = scheduler.submit([STAR])
                    await ticket.done
                    outcome = ticket.outcomes[0]
                    assert isinstance(outcome, RefusalError) and outcome.status == 500
                    assert "CUDA error 700" in str(outcome)
            assert not scheduler.alive and not scheduler.ready

    run(work)


def test_decoders_that_do_not_start_are_death_and_no_images_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None:
        async with working() as scheduler:
            with monkeypatch.context() as patched:
                patched.setattr(decoder_process, "serve", lambda channel: None)  # not to be found
                for decoder in list(scheduler.decoders.processes.values()):
                    decoder._worker.kill()
                    while decoder._worker.is_alive():
                        await asyncio.sleep(0.01)
                tickets = [scheduler.submit([STAR]) for _ in range(6)]
                await asyncio.gather(*(ticket.done for ticket in tickets))
                codes = {t.outcomes[0].code for t in tickets}
                assert codes == {"dead"}
                while scheduler.alive:
                    await asyncio.sleep(0.02)
            while not scheduler.ready:  # it tries again
                await asyncio.sleep(0.05)
            ticket = scheduler.submit([STAR])
            await ticket.done
            assert isinstance(ticket.outcomes[0], np.ndarray)

    run(work)


def test_closing_answers_all_that_waits() -> None:
    async def work() -> None:
        async with working() as scheduler:
            tickets = [scheduler.submit([STAR]) for _ in range(50)]
            await scheduler.close()
            await asyncio.gather(*(ticket.done for ticket in tickets))
            for ticket in tickets:
                assert isinstance(ticket.outcomes[0], np.ndarray | RefusalError)
            with pytest.raises(RefusalError, match="shutting down"):
                scheduler.submit([STAR])

    run(work)


def test_a_bad_image_among_good_ones() -> None:
    async def work() -> None:
        async with working() as scheduler:
            ticket = scheduler.submit([STAR, b"no image", CIRCLE])
            await ticket.done
            good, bad, other = ticket.outcomes
            assert isinstance(bad, ImageError) and bad.code == "format"
            assert int(np.argmax(good)) == 3 and int(np.argmax(other)) == 0
            assert all(t.decode > 0 for t in ticket.timings)

    run(work)
