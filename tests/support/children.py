"""What child processes do in tests: they answer, wait, or fail in some way."""

import os
import time
from multiprocessing.synchronize import Event
from typing import Any

from vit_engine.images import decoder_process
from vit_engine.machine.worker import Channel
from vit_engine.providers.engine_cache import EngineCache
from vit_engine.sources.sample import Sample


def echo(channel: Channel) -> None:
    """Answer each request with itself, or do what one of these says."""
    for spec in channel.requests():
        match spec:
            case b"abort":
                os.abort()
            case b"exit":
                raise SystemExit(7)
            case b"hang":
                time.sleep(60)
            case b"2 GiB":
                try:
                    channel.answer(bytes(2**31))
                except MemoryError:
                    channel.answer(b"MemoryError")
            case b"fail":
                raise ValueError("what went wrong")
        channel.answer(spec)


def hang(channel: Channel) -> None:
    """Answer nothing."""
    time.sleep(60)


def decode_hostile(channel: Channel) -> None:
    """Decode as a decoder process does, but for two images that bring it down."""
    decode = decoder_process.image_from_item

    def decode_or_not(item: Sample, **options: Any) -> Any:
        match item.data:
            case b"crash":
                os.abort()
            case b"hang":
                time.sleep(60)
        return decode(item, **options)

    decoder_process.image_from_item = decode_or_not
    decoder_process.serve(channel)


def hold_cache(held: Event, released: Event) -> None:
    """Keep the lock of an engine cache until it is released."""
    with EngineCache.of({"artefact": "a"}).locked():
        held.set()
        released.wait(60)


def abort(channel: Channel) -> None:
    """End by a signal, whatever is asked."""
    os.abort()


def leave(channel: Channel) -> None:
    """End with an exit code, whatever is asked."""
    raise SystemExit(7)
