"""One model of vit-serve: who is refused, who is dropped, and what the death of a part costs."""

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest
from PIL import Image

from support.running_server import CIRCLE, STAR
from vit_engine.errors import ImageError
from vit_engine.images import decoder_process
from vit_engine.options import EngineOptions
from vit_engine.server.core.admission import Rate
from vit_engine.server.core.refusal import RefusalError
from vit_engine.server.core.scheduler import Scheduler
from vit_engine.server.core.service import Service
from vit_engine.server.core.settings import SETTINGS, Settings
from vit_engine.server.decoding.fair_queue import FairQueue
from vit_engine.server.engines.engine_process import EngineProcess
from vit_engine.server.engines.messages import OpenEngine

FEED = np.zeros((64, 64, 3), np.uint8)


@asynccontextmanager
async def working(settings: Settings = SETTINGS) -> AsyncIterator[tuple[Service, Scheduler]]:
    options = EngineOptions(provider="cpu", max_batch=4)
    service = Service({"demo": "demo"}, settings, options, decoders=2)
    await service.start(wait=True)
    try:
        yield service, service.find("demo")
    finally:
        await service.close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 100))


def engine_pid(service: Service) -> int:
    return service._processes._processes["demo"][0]._worker.pid


async def until(holds: Callable[[], object]) -> None:
    while not holds():
        await asyncio.sleep(0.01)


def large_png() -> bytes:
    """An image of 36 megapixels, of few bytes."""
    file = io.BytesIO()
    Image.new("L", (6000, 6000)).save(file, "PNG")
    return file.getvalue()


def test_a_dropped_request_leaves_before_decoding_and_before_the_engine() -> None:
    async def work() -> None:
        async with working() as (service, scheduler):
            os.kill(engine_pid(service), signal.SIGSTOP)
            first = [scheduler.submit([STAR]) for _ in range(8)]  # all that the engine is handed
            await until(lambda: scheduler.depths()["engine"] == 8)
            others = [scheduler.submit([STAR]) for _ in range(100)]
            await until(lambda: scheduler.depths()["ready"] >= 10)
            for request in others[1:]:
                scheduler.drop(request)
            await until(lambda: not scheduler.depths()["decoding"])
            assert scheduler.depths() == {"undecoded": 0, "decoding": 0, "ready": 1, "engine": 8}
            os.kill(engine_pid(service), signal.SIGCONT)
            await asyncio.gather(*(request.done for request in (*first, others[0])))
            assert all(isinstance(request.outcomes[0], np.ndarray) for request in first)
            assert scheduler.admission.depth == 0
            assert set(scheduler.depths().values()) == {0}

    run(work)


def test_a_wait_beyond_the_deadline_is_refused_before_it_begins() -> None:
    async def work() -> None:
        async with working(Settings(deadline=10)) as (service, scheduler):
            os.kill(engine_pid(service), signal.SIGSTOP)
            scheduler.engine.rate = Rate(images=2, seconds=1)
            for _ in range(20):  # 10 s of work
                scheduler.submit([FEED])
            with pytest.raises(RefusalError) as refused:
                scheduler.submit([FEED])
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


def test_an_engine_that_dies_is_told_at_once_and_started_again() -> None:
    async def work() -> None:
        async with working() as (service, scheduler):
            before = engine_pid(service)
            os.kill(before, signal.SIGSTOP)
            requests = [scheduler.submit([image]) for image in (STAR, FEED, STAR)]
            await until(lambda: scheduler.depths()["engine"] == 3)
            os.kill(before, signal.SIGKILL)
            async with asyncio.timeout(5):  # a second, on a machine that does nothing else
                await asyncio.gather(*(request.done for request in requests))
            for request in requests:
                outcome = request.outcomes[0]
                assert isinstance(outcome, RefusalError) and outcome.status == 503
            assert scheduler.alive and not scheduler.ready
            with pytest.raises(RefusalError, match="loading"):
                scheduler.submit([STAR])
            await until(lambda: scheduler.ready)
            request = scheduler.submit([STAR, FEED])
            await request.done
            assert all(isinstance(outcome, np.ndarray) for outcome in request.outcomes)
            assert engine_pid(service) != before

    run(work)


def test_of_two_engines_each_has_its_share_and_dies_alone() -> None:
    options = EngineOptions(provider="cpu", max_batch=4)

    async def work() -> None:
        engines = {d: EngineProcess("demo", "demo", options, hang_timeout=60) for d in "ab"}
        opened = OpenEngine({d: e.address for d, e in engines.items()}, engines["a"].info)
        service = Service({"demo": "demo"}, SETTINGS, options, engines={"demo": opened})
        await service.start(wait=True)
        try:
            scheduler = service.find("demo")
            await until(lambda: all(scheduler.engine.warm_devices.values()))
            pids = {d: e._worker.pid for d, e in engines.items()}
            for pid in pids.values():
                os.kill(pid, signal.SIGSTOP)
            requests = [scheduler.submit([FEED]) for _ in range(8 + 8 + 2)]
            assert scheduler.depths()["engine"] == 16  # 8 of each, 2 wait
            os.kill(pids["a"], signal.SIGKILL)
            await until(lambda: not scheduler.engine.warm_devices["a"])
            assert scheduler.ready
            assert scheduler.depths() == {"undecoded": 0, "decoding": 0, "ready": 2, "engine": 8}
            os.kill(pids["b"], signal.SIGCONT)
            await asyncio.gather(*(request.done for request in requests))
            refused = [r.outcomes[0] for r in requests if isinstance(r.outcomes[0], RefusalError)]
            assert len(refused) == 8 and {r.status for r in refused} == {503}
            await until(lambda: all(scheduler.engine.warm_devices.values()))
            request = scheduler.submit([FEED] * 8)
            await request.done
            assert all(isinstance(outcome, np.ndarray) for outcome in request.outcomes)
            service.show()
            text = service.metrics.text().decode()
            for device in "ab":
                assert f'vit_engine_ready{{device="{device}",model="demo"}} 1.0' in text
                runs = f'vit_engine_runs_total{{device="{device}",model="demo",outcome="ok"}} '
                assert runs in text
        finally:
            await service.close()
            for engine in engines.values():
                engine.close()

    run(work)


@pytest.mark.slow
def test_decoders_that_do_not_start_are_death_and_no_images_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None:
        async with working() as (_, scheduler):
            with monkeypatch.context() as patched:
                patched.setattr(decoder_process, "serve", lambda channel: None)  # not to be found
                for decoder in scheduler.decoders._decoders:
                    assert decoder.worker is not None
                    decoder.worker.worker.kill()
                await until(lambda: not scheduler.decoders.alive)
                requests = [scheduler.submit([STAR]) for _ in range(6)]
                await asyncio.gather(*(request.done for request in requests))
                assert {request.outcomes[0].code for request in requests} == {"dead"}
                await until(lambda: not scheduler.alive)
            await until(lambda: scheduler.ready)  # it tries again
            request = scheduler.submit([STAR])
            await request.done
            assert isinstance(request.outcomes[0], np.ndarray)

    run(work)


def test_a_decoder_that_dies_or_hangs_costs_its_image_alone() -> None:
    async def work() -> None:
        async with working(Settings(decode_time=0.5)) as (_, scheduler):
            for number, code in ((signal.SIGSEGV, "crash"), (signal.SIGSTOP, "timeout")):
                for decoder in scheduler.decoders._decoders:
                    assert decoder.worker is not None
                    decoder.worker.worker.signal(number)
                requests = [scheduler.submit([STAR]) for _ in range(2)]
                await asyncio.gather(*(request.done for request in requests))
                found = {getattr(request.outcomes[0], "code", "ok") for request in requests}
                # One that was dead before it was given an image costs none.
                assert found <= {code, "ok"}
                await until(lambda: scheduler.decoders.alive == 2)
            request = scheduler.submit([STAR])
            await request.done
            assert isinstance(request.outcomes[0], np.ndarray)

    run(work)


@pytest.mark.slow
def test_large_images_do_not_hold_small_ones() -> None:
    async def work() -> None:
        async with working(Settings(decode_time=30)) as (_, scheduler):
            large = large_png()
            slow = [scheduler.submit([large], client="greedy") for _ in range(6)]
            quick = [scheduler.submit([STAR], client="honest") for _ in range(6)]
            await asyncio.gather(*(request.done for request in quick))
            assert sum(not request.done.done() for request in slow) >= 4
            await asyncio.gather(*(request.done for request in slow))
            assert all(isinstance(request.outcomes[0], np.ndarray) for request in slow + quick)

    run(work)


def test_clients_take_turns() -> None:
    queue: FairQueue[str, int] = FairQueue()
    for number in range(4):
        queue.add("a", number)
    queue.add("b", 10)
    queue.add("c", 20)
    assert queue.discard(lambda item: item == 2) == [2]
    assert queue.next(lambda key: key == "c") == 20
    assert [queue.next() for _ in range(len(queue))] == [0, 10, 1, 3]
    assert queue.next() is None and len(queue) == 0


def test_closing_answers_all_that_waits() -> None:
    async def work() -> None:
        async with working() as (service, scheduler):
            requests = [scheduler.submit([STAR]) for _ in range(50)]
            await service.close()
            await asyncio.gather(*(request.done for request in requests))
            for request in requests:
                assert isinstance(request.outcomes[0], np.ndarray | RefusalError)
            with pytest.raises(RefusalError, match="shutting down"):
                scheduler.submit([STAR])

    run(work)


def test_a_bad_image_among_good_ones() -> None:
    async def work() -> None:
        async with working() as (_, scheduler):
            request = scheduler.submit([STAR, b"no image", CIRCLE])
            await request.done
            good, bad, other = request.outcomes
            assert isinstance(bad, ImageError) and bad.code == "format"
            assert int(np.argmax(good)) == 3 and int(np.argmax(other)) == 0
            assert all(t.decode > 0 for t in request.timings)

    run(work)
