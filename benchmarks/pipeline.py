"""Files to labels beside its ceilings; what isolation costs; what reduced decoding changes.

python benchmarks/pipeline.py MODEL FOLDER [--images 400] [--rounds 3]
"""

import argparse
import itertools
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from vit_engine.classifier import Classifier
from vit_engine.images.decode_pool import DecodePool, slots_for
from vit_engine.images.decoder_process import DecoderProcess, SharedPixels, Task
from vit_engine.machine.processor import usable_cores
from vit_engine.sources.find import items_from_sources
from vit_engine.sources.item import Item

DECODED = 600
"""Images of a turn of decoding alone, at least: its processes take a while to start."""


def main() -> None:
    """Take turns between the parts and the whole, and print the best of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    found = list(items_from_sources([str(arguments.folder)]))
    items = list(itertools.islice(itertools.cycle(found), arguments.images))
    many = list(itertools.islice(itertools.cycle(found), max(DECODED, arguments.images)))
    with Classifier.load(arguments.model, provider=arguments.provider) as vit:
        task = Task(vit.contract.preprocessing)
        fast = Task(vit.contract.preprocessing, fast=True)
        turns: dict[str, tuple[int, Callable[[], object]]] = {
            "decode alone, isolated": (len(many), lambda: decode(vit, many, task)),
            "decode alone, threads": (len(many), lambda: decode_in_threads(many, task)),
            "decode alone, isolated, fast": (len(many), lambda: decode(vit, many, fast)),
            "engine alone": (len(items), lambda: run_engine(vit, len(items))),
            "files to labels": (len(items), lambda: [None for _ in vit.stream(items)]),
        }
        run_engine(vit, 2 * vit.engine.max_batch)  # warm
        rates: dict[str, list[float]] = {name: [] for name in turns}
        for _ in range(arguments.rounds):
            for name, (images, turn) in turns.items():
                start = time.monotonic()
                turn()
                rates[name].append(images / (time.monotonic() - start))
                print(f"{name} {rates[name][-1]:.1f}", file=sys.stderr)
        report(vit, {name: max(r) for name, r in rates.items()})
        print(agreement(vit, found, task, fast))


def decode(vit: Classifier, items: list[Item], task: Task) -> None:
    """Fill batches as a run does, with no engine behind them."""
    batch, workers, given = vit.engine.max_batch, usable_cores(), vit.contract.input
    with SharedPixels(slots_for(batch, workers), given.height, given.width) as shared:
        pool: DecodePool[Item] = DecodePool(
            shared.array, lambda: DecoderProcess(shared, task), batch=batch, workers=workers
        )
        with pool:
            for filled in pool.batches(items):
                pool.free(filled)


def decode_in_threads(items: list[Item], task: Task) -> None:
    """Decode in this process: what isolation is measured against."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        for _ in pool.map(task.pixels, items):
            pass


def run_engine(vit: Classifier, images: int) -> None:
    """Run as many images as a run has, from memory."""
    given, size = vit.contract.input, vit.engine.max_batch
    shape = (size, given.height, given.width, 3)
    batch = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for done in range(0, images, size):
        vit.engine.run(batch[: images - done])


def report(vit: Classifier, rates: dict[str, float]) -> None:
    """Print the rates, and the whole beside the slower of its parts and beside what cores allow."""
    identity = vit.contract.identity
    print(
        f"{identity.model} {identity.precision} on {vit.engine.provider}, batch "
        f"{vit.engine.max_batch}, {usable_cores()} cores of {platform.machine()}, "
        f"load {os.getloadavg()[0]:.1f} at the end; images/s, best of the rounds:"
    )
    for name, rate in rates.items():
        print(f"  {name:<30} {rate:8.1f}")
    whole, decoder, engine = (
        rates[n] for n in ("files to labels", "decode alone, isolated", "engine alone")
    )
    print(f"  of the slower part             {whole / min(decoder, engine):8.1%}")
    if vit.engine.provider == "cpu":
        shared = 1 / (1 / decoder + 1 / engine)
        print(f"  of what shared cores allow     {whole / shared:8.1%}")


def agreement(vit: Classifier, items: list[Item], task: Task, fast: Task) -> str:
    """Say how often --fast-decode gives the same first label, and how far its scores move."""
    exact, drafted = (
        [p for batch in vit.stream(items, task=t) for p in batch.predictions] for t in (task, fast)
    )
    pairs = [(a, b) for a, b in zip(exact, drafted, strict=True) if a.error is None]
    same = sum(a.index == b.index for a, b in pairs)
    moved = [abs((a.score or 0) - (b.score or 0)) for a, b in pairs if a.index == b.index]
    return (
        f"  --fast-decode: first label as without in {same} of {len(pairs)}, "
        f"its score off by {statistics.mean(moved):.4f} on average, {max(moved):.3f} at most"
    )


if __name__ == "__main__":
    main()
