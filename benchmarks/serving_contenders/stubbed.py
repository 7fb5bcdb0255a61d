"""vit-serve whose decoders and engine answer at once: what is left is the work of its fronts.

    python -m serving_contenders.stubbed DECODERS MODEL [options of vit-serve]

Bodies are read, sent to decoder processes and read there; slots go to the engine's process and
come back with logits that do not depend on them.
"""

import pickle
import sys
from concurrent.futures import Future
from typing import Any

import numpy as np

from vit_engine.commands import serve
from vit_engine.engine import Engine
from vit_engine.images import decoder_process
from vit_engine.machine.worker import Channel, Worker
from vit_engine.server.decoding import decoders
from vit_engine.server.engines import engine_process, engine_server
from vit_engine.server.fronts import front, parent


def decode(channel: Channel) -> None:
    """Read what is sent, and say of each image that its pixels are there."""
    requests = channel.requests()
    next(requests)
    for message in requests:
        _, jobs = pickle.loads(message)
        for _ in jobs:
            next(requests)
            channel.answer()


def run_engine(channel: Channel) -> None:
    """Serve an engine that has its answers already."""
    stored: dict[int, Any] = {}

    def submit(engine: Engine, batch: Any) -> "Future[Any]":
        size, done = len(batch), Future[Any]()
        if size not in stored:
            shape = (size, *engine.output.shape)
            stored[size] = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        done.set_result(stored[size])
        return done

    Engine.submit = submit  # type: ignore[method-assign, assignment]
    engine_server.serve(channel)


def serve_front(channel: Channel) -> None:
    """Serve as a front whose decoders are stubs."""
    decoder_process.serve = decode
    front.serve_front(channel)


def main() -> int:
    """Run vit-serve with stubs, and as many decoders as a machine of so many cores has."""
    count = int(sys.argv.pop(1))
    decoder_process.serve = decode
    decoders.usable_cores = parent.usable_cores = lambda: count  # type: ignore[attr-defined]

    def worker_of(stub: Any) -> Any:
        return lambda _, **options: Worker(stub, **options)

    engine_process.Worker = worker_of(run_engine)  # type: ignore[attr-defined]
    parent.Worker = worker_of(serve_front)  # type: ignore[attr-defined]
    return serve.main()


if __name__ == "__main__":
    # Its functions run in children, which know it by its name.
    from serving_contenders import stubbed  # noqa: PLW0406

    sys.exit(stubbed.main())
