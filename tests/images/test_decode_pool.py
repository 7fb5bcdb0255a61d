"""The pool that decodes ahead, with real threads: order, buffer slots, errors, ends of all kinds.

Decoders write an image's number into its slot, so that pixels tell whose they are. No test depends
on how long anything takes; what would hang is ended by an alarm, and fails.
"""

import contextlib
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from support import wait_until
from support.threads import PATIENCE, Block, wait_for
from vit_engine.errors import ImageError
from vit_engine.images.decode_pool import MAX_PENDING_BYTES, Batch, DecodeJob, DecodePool, slots_for
from vit_engine.machine.threads import prefetch

SHAPE = (2, 2, 3)


@pytest.fixture(autouse=True)
def ends(bounded: None) -> Iterator[None]:
    """Threads are switched often, and none is left behind."""
    before, interval = set(threading.enumerate()), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
        wait_until(lambda: set(threading.enumerate()) <= before)
    finally:
        sys.setswitchinterval(interval)


def stamp(number: int) -> NDArray[np.uint8]:
    """The pixels of an image: its number."""
    return np.frombuffer(number.to_bytes(12, "big"), np.uint8).reshape(SHAPE)


class Decoders:
    """What makes a pool's decoders: they stamp slots, call `each` before, and refuse `bad`.

    Those that are `heedless` finish what they were handed when they are cancelled.
    """

    def __init__(
        self,
        slots: int,
        *,
        each: Callable[[int], None] = lambda number: None,
        start: Callable[[int], None] = lambda count: None,
        bad: Iterable[int] = (),
        heedless: bool = False,
    ) -> None:
        self.pixels = np.zeros((slots, *SHAPE), np.uint8)
        self.each, self.start, self.bad, self.heedless = each, start, frozenset(bad), heedless
        self.decoded: list[int] = []
        self.made: list[Decoder] = []
        self._lock = threading.Lock()

    def new(self) -> "Decoder":
        with self._lock:
            decoder = Decoder(self)
            self.made.append(decoder)
            count = len(self.made)
        self.start(count)
        decoder.started = True
        return decoder

    def pool(self, batch: int, workers: int, **options: Any) -> DecodePool[int]:
        return DecodePool(self.pixels, self.new, batch=batch, workers=workers, **options)

    def assert_closed(self) -> None:
        assert [decoder.closed for decoder in self.made] == [d.started for d in self.made]


class Decoder:
    def __init__(self, owner: Decoders) -> None:
        self.owner, self.cancelled = owner, threading.Event()
        self.started, self.closed = False, 0

    def decode(self, jobs: Sequence[DecodeJob[int]]) -> None:
        for job in jobs:
            if self.cancelled.is_set() and not self.owner.heedless:
                return
            self.owner.each(job.image)
            if job.image in self.owner.bad:
                job.error = ImageError("decode", f"image {job.image}")
            else:
                self.owner.pixels[job.slot] = stamp(job.image)
            self.owner.decoded.append(job.image)

    def cancel(self) -> None:
        self.cancelled.set()

    def close(self) -> None:
        self.closed += 1


def numbers(batches: Iterable[Batch[int]]) -> list[int]:
    return [job.image for batch in batches for job in batch.jobs]


def assert_sound(batch: Batch[int], bad: Iterable[int] = ()) -> None:
    """Errors are where they belong, and the pixels are those of the others, in order."""
    good = [job.image for job in batch.jobs if job.error is None]
    assert good == [job.image for job in batch.jobs if job.image not in bad]
    for job in batch.jobs:
        assert job.error is None or str(job.error) == f"image {job.image}"
    assert batch.pixels.shape == (len(good), *SHAPE)
    expected = np.array([stamp(number) for number in good], np.uint8).reshape(-1, *SHAPE)
    np.testing.assert_array_equal(batch.pixels, expected)


class Reader:
    """Images 0 to `count` - 1 for a pool, and a consumer that holds some batches."""

    def __init__(self, decoders: Decoders, count: int) -> None:
        self.decoders, self.count = decoders, count
        self.read, self.freed = 0, 0
        self.closed = threading.Event()
        self.live: deque[Batch[int]] = deque()

    def images(self) -> Iterator[int]:
        try:
            for number in range(self.count):
                # One image is read before a slot is there for it.
                assert number <= self.freed + len(self.decoders.pixels)
                self.read += 1
                yield number
        finally:
            self.closed.set()

    def hold(self, batch: Batch[int]) -> None:
        assert_sound(batch, self.decoders.bad)
        self.live.append(batch)
        slots = [job.slot for held in self.live for job in held.jobs]
        assert len(slots) == len(set(slots)), "two live images share a slot"

    def free(self, pool: DecodePool[int]) -> None:
        """Free the oldest batch, which later ones must not have touched."""
        batch = self.live.popleft()
        assert_sound(batch, self.decoders.bad)
        self.freed += len(batch.jobs)
        pool.free(batch)

    def consume(self, pool: DecodePool[int], *, held: int, **options: Any) -> list[list[int]]:
        """Read all, with `held` batches in hand while the next is asked for."""
        found = []
        for batch in pool.batches(self.images(), **options):
            self.hold(batch)
            found.append(numbers([batch]))
            if len(self.live) > held:
                self.free(pool)
        while self.live:
            self.free(pool)
        return found


# Races do not shrink.
@settings(max_examples=60, deadline=None, phases=[Phase.reuse, Phase.generate])
@given(
    batch=st.integers(1, 17),
    workers=st.integers(1, 9),
    count=st.integers(0, 150),
    spare=st.integers(0, 16),
    held=st.integers(0, 2),
    bad=st.sets(st.integers(0, 149)),
    batch_timeout=st.sampled_from([None, None, 0.0, 0.001]),
    sized=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_every_image_comes_once_in_order_and_keeps_its_slot(
    *,
    batch: int,
    workers: int,
    count: int,
    spare: int,
    held: int,
    bad: set[int],
    batch_timeout: float | None,
    sized: bool,
    seed: int,
) -> None:
    """With `spare` slots the buffer's end lies within batches."""

    def one_of(choices: Sequence[float], number: int) -> float:
        return random.Random(seed * 1000 + number).choice(choices)

    def delay(number: int) -> None:
        time.sleep(one_of((0, 0, 0, 1e-4, 1e-3), number))

    def size_of(number: int) -> int:
        return (
            int(
                one_of(
                    (0, 1, MAX_PENDING_BYTES // 3, MAX_PENDING_BYTES, 2 * MAX_PENDING_BYTES), number
                )
            )
            if sized
            else 0
        )

    decoders = Decoders(slots_for(batch, workers) + spare, each=delay, bad=bad)
    reader = Reader(decoders, count)
    with decoders.pool(batch, workers, size_of=size_of) as pool:
        found = reader.consume(pool, held=held, batch_timeout=batch_timeout)
    assert [number for numbers in found for number in numbers] == list(range(count))
    assert sorted(decoders.decoded) == list(range(count))
    if batch_timeout is None:
        assert [len(numbers) for numbers in found[:-1]] == [batch] * (len(found) - 1)
    assert all(1 <= len(numbers) <= batch for numbers in found)
    assert len(decoders.made) <= min(workers, count)
    decoders.assert_closed()


def test_a_batch_without_errors_is_not_copied() -> None:
    decoders = Decoders(slots_for(4, 2), bad=[0, 3, 5])
    with decoders.pool(4, 2) as pool:
        views = [np.shares_memory(b.pixels, decoders.pixels) for b in pool.batches(range(12))]
    assert views == [True, False, True]  # errors at the ends leave no hole


def test_a_batch_is_shared_by_all_workers() -> None:
    together = threading.Barrier(4)

    def meet(number: int) -> None:
        together.wait(PATIENCE)

    decoders = Decoders(slots_for(4, 4), each=meet)
    with decoders.pool(4, 4) as pool:
        assert len(Reader(decoders, 40).consume(pool, held=0)) == 10
    assert len(decoders.made) == 4


@pytest.mark.parametrize("count", [0, 1, 8])
def test_no_more_decoders_start_than_images_need(count: int) -> None:
    decoders = Decoders(slots_for(64, 8))  # each is handed 8 images at once
    with decoders.pool(64, 8) as pool:
        assert numbers(pool.batches(range(count))) == list(range(count))
    assert len(decoders.made) == min(count, 1)


def test_a_consumer_that_frees_nothing_gets_no_more_than_there_are_slots() -> None:
    decoders = Decoders(slots := slots_for(4, 2))
    reader = Reader(decoders, 200)
    batches: list[Batch[int]] = []
    with decoders.pool(4, 2) as pool:
        thread = threading.Thread(target=lambda: batches.extend(pool.batches(reader.images())))
        thread.start()
        wait_until(lambda: len(batches) == slots // 4 and reader.read == slots + 1)
        time.sleep(0.3)  # nothing more happens, however long
        assert (len(batches), len(decoders.decoded), reader.read) == (slots // 4, slots, slots + 1)
        for at in range(50):
            wait_until(lambda at=at: len(batches) > at)
            reader.hold(batches[at])
            reader.free(pool)
        thread.join()
    assert numbers(batches) == list(range(200))


class Slow:
    """Images of which all but the `first` come `pause` seconds apart, until it is `enough`."""

    def __init__(self, first: int, count: int, pause: float) -> None:
        self.first, self.count, self.pause = first, count, pause
        self.enough = threading.Event()
        self.read = 0

    def __iter__(self) -> Iterator[int]:
        for number in range(self.count):
            if number >= self.first:
                self.enough.wait(self.pause)
            self.read += 1
            yield number


def test_a_batch_is_not_kept_waiting_for_an_image_to_come() -> None:
    images = Slow(3, 20, PATIENCE)
    decoders = Decoders(slots_for(8, 2))
    with decoders.pool(8, 2) as pool:
        batches = pool.batches(images, batch_timeout=0.05)
        found = numbers([next(batches)])
        while len(found) < 3:  # on a slow machine they may be batches of their own
            found += numbers([next(batches)])
        assert images.read == 3
        images.enough.set()
        assert found + numbers(batches) == list(range(20))


def test_a_batch_is_not_kept_waiting_by_images_that_drip() -> None:
    """Each comes so soon after the one before that `batch_timeout` is never over between two."""
    images = Slow(1, 300, 0.05)
    decoders = Decoders(slots_for(300, 2))
    with decoders.pool(300, 2) as pool:
        batches = pool.batches(images, batch_timeout=0.5)
        first = next(batches)
        images.enough.set()
        assert len(first.jobs) < 300
        assert numbers([first, *batches]) == list(range(300))


def test_a_batch_is_not_kept_waiting_for_an_image_to_be_decoded() -> None:
    received = threading.Event()
    in_time: list[bool] = []

    def each(number: int) -> None:
        if number == 2:
            in_time.append(received.wait(PATIENCE))

    decoders = Decoders(slots_for(8, 2), each=each)
    with decoders.pool(8, 2) as pool:
        batches = pool.batches(range(6), batch_timeout=0.05)
        found = numbers([next(batches)])
        received.set()
        found += numbers(batches)
    assert in_time == [True]
    assert found == list(range(6))


@pytest.mark.parametrize("images", [0, 4, 8, 100])
def test_no_batch_comes_once_stopped(images: int) -> None:
    received: list[int] = []
    decoders = Decoders(slots_for(4, 2))
    with decoders.pool(4, 2) as pool:
        for batch in pool.batches(range(100), stopped=lambda: len(received) >= images):
            assert_sound(batch)
            received.extend(numbers([batch]))
            pool.free(batch)
    assert received == list(range(images))
    decoders.assert_closed()


@pytest.mark.parametrize("batch_timeout", [None, 1000.0])
@pytest.mark.parametrize("stuck", ["images", "decoder", "start"])
def test_stopping_waits_for_nothing(stuck: str, batch_timeout: float | None) -> None:
    block, stop = Block(), threading.Event()

    def images() -> Iterator[int]:
        yield from range(6)
        if stuck == "images":
            block()
        yield from range(6, 20)

    def each(number: int) -> None:
        if (number, stuck) == (5, "decoder"):
            block()

    def start(count: int) -> None:
        if stuck == "start":
            block()

    decoders = Decoders(slots_for(4, 2), each=each, start=start)
    with decoders.pool(4, 2) as pool:
        batches = pool.batches(images(), batch_timeout=batch_timeout, stopped=stop.is_set)
        if stuck != "start":
            assert numbers([next(batches)]) == [0, 1, 2, 3]
        stopping = threading.Timer(0.2, stop.set)  # when the next batch is waited for
        stopping.start()
        assert numbers(batches) == []
        assert block.reached.is_set()
        assert not block.released.is_set()
        block.released.set()
        stopping.join()
    decoders.assert_closed()


class BrokenError(Exception):
    """What a caller's images or decoders may raise."""


@pytest.mark.parametrize("kind", [BrokenError, SystemExit])
@pytest.mark.parametrize("number", [0, 1, 7, 30])
@pytest.mark.parametrize("place", ["images", "decoder"])
def test_what_is_raised_at_an_image_reaches_the_caller(
    place: str, number: int, kind: type[BaseException]
) -> None:
    fault = kind("broken")

    def at(here: str, i: int) -> None:
        if (here, i) == (place, number):
            raise fault

    def images() -> Iterator[int]:
        for i in range(60):
            at("images", i)
            yield i

    decoders = Decoders(slots_for(4, 3), each=lambda i: at("decoder", i))
    found: list[int] = []

    def consume() -> None:
        with decoders.pool(4, 3) as pool:
            for batch in pool.batches(images()):
                assert_sound(batch)
                found.extend(numbers([batch]))
                pool.free(batch)

    with pytest.raises(kind) as caught:
        consume()
    assert caught.value is fault
    assert found == list(range(len(found)))
    assert len(found) == number if place == "images" else len(found) <= number
    decoders.assert_closed()


@pytest.mark.parametrize("which", [1, 2])
def test_a_decoder_that_does_not_start_reaches_the_caller(which: int) -> None:
    """The second one starts while the first is at work."""
    fault, failing = BrokenError("broken"), threading.Event()

    def start(count: int) -> None:
        if count == which:
            failing.set()
            raise fault

    decoders = Decoders(slots_for(4, 2), start=start, each=lambda number: wait_for(failing))
    with pytest.raises(BrokenError) as caught, decoders.pool(4, 2) as pool:
        list(pool.batches(range(60)))
    assert caught.value is fault
    decoders.assert_closed()


def leave(pool: DecodePool[int], images: Iterable[int], before: Callable[[], None]) -> None:
    """Take one batch, and no more."""
    with pool:
        for batch in pool.batches(images):
            assert_sound(batch)
            before()
            break


def test_leaving_while_the_next_image_is_waited_for() -> None:
    """The feeder is left to that image; then it ends, and closes the images."""
    block, closed = Block(), threading.Event()

    def images() -> Iterator[int]:
        try:
            yield from range(7)
            block()
            yield from range(7, 10)
        finally:
            closed.set()

    decoders = Decoders(slots_for(4, 2))
    leave(decoders.pool(4, 2), images(), lambda: wait_for(block.reached))
    decoders.assert_closed()
    assert not closed.is_set()
    block.released.set()
    wait_for(closed)
    assert max(decoders.decoded) < 7


def test_leaving_while_the_pool_is_full() -> None:
    decoders = Decoders(slots := slots_for(4, 2))
    reader = Reader(decoders, 1000)
    leave(
        decoders.pool(4, 2), reader.images(), lambda: wait_until(lambda: reader.read == slots + 1)
    )
    wait_for(reader.closed)
    assert reader.read == slots + 1
    decoders.assert_closed()


@pytest.mark.parametrize("heedless", [False, True])
def test_leaving_ends_what_is_being_decoded(heedless: bool) -> None:
    decoders = Decoders(slots := slots_for(4, 2), heedless=heedless)
    reader = Reader(decoders, 1000)
    waiting: list[int] = []

    def each(number: int) -> None:
        if number >= 4:
            waiting.append(number)
            wait_until(lambda: any(decoder.cancelled.is_set() for decoder in decoders.made))

    decoders.each = each

    def before() -> None:
        wait_until(lambda: len(waiting) == 2 and reader.read == slots + 1)

    leave(decoders.pool(4, 2), reader.images(), before)
    assert [decoder.cancelled.is_set() for decoder in decoders.made] == [True, True]
    assert max(decoders.decoded) < 8
    decoders.assert_closed()


def test_leaving_while_a_decoder_starts_waits_and_closes_it() -> None:
    block, leaving = Block(), threading.Event()

    def start(count: int) -> None:
        if count == 2:
            block()

    def each(number: int) -> None:
        if number > 0:  # leave something to the second one
            wait_for(block.reached)

    def images() -> Iterator[int]:
        yield 0
        wait_until(lambda: decoders.decoded == [0])  # by the first one: the second has no task yet
        yield from range(1, 1000)

    def before() -> None:
        wait_for(block.reached)
        leaving.set()

    def release() -> None:
        wait_for(leaving)
        time.sleep(0.2)
        block.released.set()

    releasing = threading.Thread(target=release)
    decoders = Decoders(slots_for(1, 2), start=start, each=each)
    releasing.start()
    leave(decoders.pool(1, 2), images(), before)
    releasing.join()
    assert [decoder.started for decoder in decoders.made] == [True, True]
    decoders.assert_closed()


def test_an_exception_of_the_consumer_passes() -> None:
    decoders, fault = Decoders(slots_for(4, 2)), BrokenError("of the consumer")

    def fail() -> None:
        raise fault

    with pytest.raises(BrokenError) as caught:
        leave(decoders.pool(4, 2), range(1000), fail)
    assert caught.value is fault
    decoders.assert_closed()


def test_batches_may_be_closed_before_the_pool() -> None:
    decoders = Decoders(slots_for(4, 2))
    reader = Reader(decoders, 1000)
    with decoders.pool(4, 2) as pool:
        with contextlib.closing(pool.batches(reader.images())) as batches:
            assert_sound(next(batches))
        assert list(batches) == []
    wait_for(reader.closed)
    decoders.assert_closed()


def test_a_pool_that_is_not_used_ends() -> None:
    decoders = Decoders(slots_for(4, 2))
    with decoders.pool(4, 2):
        pass
    assert not decoders.made


def test_batches_read_on_another_thread_end_with_the_pool() -> None:
    """As `Classifier` reads them."""
    decoders = Decoders(slots_for(4, 2))
    reader = Reader(decoders, 1000)
    with (
        decoders.pool(4, 2) as pool,
        contextlib.closing(prefetch(pool.batches(reader.images()))) as batches,
    ):
        for batch in batches:
            reader.hold(batch)
            reader.free(pool)
            if reader.freed == 400:
                break
    wait_for(reader.closed)
    decoders.assert_closed()


@settings(deadline=None)
@given(batch=st.integers(1, 1000), workers=st.integers(1, 256))
def test_slots_are_whole_batches_for_the_engine_and_the_workers(batch: int, workers: int) -> None:
    """Three batches around the engine, and a batch or two chunks a worker, whichever is more."""
    slots = slots_for(batch, workers)
    assert slots % batch == 0
    assert slots >= 4 * batch
    assert slots >= 3 * batch + 2 * workers
    assert slots <= 4 * batch + 2 * max(batch, workers)


def test_bytes_that_come_with_images_are_bounded() -> None:
    """HELD wait to be decoded, or one image of more; those that come with none never wait."""
    mib = 2**20
    sizes = (
        [20 * mib] * 30
        + [200 * mib, 0] * 5
        + [0] * 50
        + [1, MAX_PENDING_BYTES, MAX_PENDING_BYTES + 1] * 5
    )
    decoders = Decoders(400)

    def images() -> Iterator[int]:
        for number in range(len(sizes)):
            yield number
            decoded = set(decoders.decoded)
            held = [sizes[i] for i in range(number + 1) if sizes[i] and i not in decoded]
            assert sum(held) <= MAX_PENDING_BYTES or len(held) == 1

    with decoders.pool(batch=32, workers=3, size_of=sizes.__getitem__) as pool:
        found = []
        for batch in pool.batches(images()):
            found += [job.image for job in batch.jobs]
            pool.free(batch)
    assert found == list(range(len(sizes)))


def test_leaving_while_bytes_are_waited_for() -> None:
    decoders = Decoders(slots_for(1, 1))
    reader = Reader(decoders, 1000)

    def each(number: int) -> None:
        if number >= 1:
            wait_until(decoders.made[0].cancelled.is_set)

    decoders.each = each
    sizes = [
        0,
        MAX_PENDING_BYTES // 2,
        MAX_PENDING_BYTES // 2,
        MAX_PENDING_BYTES,
    ]  # the second is at a decoder, which the third awaits
    pool = decoders.pool(1, 1, size_of=sizes.__getitem__)
    leave(pool, reader.images(), lambda: wait_until(lambda: reader.read == 4))
    wait_for(reader.closed)
    assert reader.read == 4
    decoders.assert_closed()
