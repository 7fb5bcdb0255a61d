"""What Ray costs on one machine: the same images through vit-infer's own pipeline and through Ray.

python benchmarks/ray_overhead.py MODEL FOLDER [--images 200 1000] [--rounds 1]
"""

import argparse
import itertools
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset
import ray

from vit_engine.classifier import Classifier
from vit_engine.cluster import connection, manifest, run
from vit_engine.cluster.connection import Workers
from vit_engine.images.decode_pool import Job
from vit_engine.images.decoder_process import DecoderProcess, SharedPixels, Task
from vit_engine.machine.processor import usable_cores
from vit_engine.prediction import Prediction
from vit_engine.sources.find import items_from_sources
from vit_engine.sources.item import Item
from vit_engine.sources.stores import folder_from_path

SCANNED = 100_000


def main() -> None:
    """Measure the parts of the cost model, then both ways for each number of images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {usable_cores()} cores, ray {ray.__version__}")
    found = list(items_from_sources([str(arguments.folder)]))
    with tempfile.TemporaryDirectory() as scratch:
        print(f"scan to manifest: {scan_rate(Path(scratch)):,.0f} files/s")
        with Classifier.load(arguments.model) as vit:
            print(f"decode, one process: {decode_rate(vit, found[:200]):.0f} images/s")
            print(f"engine, {usable_cores()} threads: {engine_rate(vit):.1f} images/s")
        for number in arguments.images:
            folder = linked(found, Path(scratch), number)
            here, there, started = list[float](), list[float](), list[float]()
            for turn in range(arguments.rounds):
                start = time.monotonic()
                expected = on_one(arguments.model, folder)
                here.append(time.monotonic() - start)
                start = time.monotonic()
                out = Path(scratch, f"out-{number}-{turn}")
                with timed_start(started):
                    run.label([str(folder)], str(out), model=arguments.model)
                there.append(time.monotonic() - start)
                differ = differences(expected, out)
            a, b, s = (statistics.median(x) for x in (here, there, started))
            print(
                f"{number} images: one machine {a:.1f} s; Ray {b:.1f} s, {s:.1f} s of them to "
                f"start and end it; {number / a:.1f} and {number / (b - s):.1f} images/s; "
                f"rows that differ: {differ}"
            )


def scan_rate(scratch: Path) -> float:
    """Return how many empty files a second, in 100 folders, become rows of a manifest."""
    for i in range(SCANNED):
        folder = scratch / "tree" / f"{i % 100:02}"
        if i < 100:
            folder.mkdir(parents=True)
        (folder / f"{i:06}.jpg").touch()
    start = time.monotonic()
    items = items_from_sources([str(scratch / "tree")])
    assert manifest.write(items, folder_from_path(str(scratch / "manifest"))) == SCANNED
    return SCANNED / (time.monotonic() - start)


def decode_rate(vit: Classifier, items: Sequence[Item]) -> float:
    """Return the rate of what one decode task does, whole files from a warm disk cache."""
    given = vit.contract.input
    with SharedPixels(len(items), given.height, given.width) as shared:
        decoder = DecoderProcess(shared, Task(vit.contract.preprocessing))
        decoder.decode([Job(items[0], 0)])
        start = time.monotonic()
        decoder.decode([Job(item, slot) for slot, item in enumerate(items)])
        rate = len(items) / (time.monotonic() - start)
        decoder.close()
    return rate


def engine_rate(vit: Classifier, seconds: float = 5) -> float:
    """Return what one classifier does with pixels at hand."""
    given = vit.contract.input
    batch = np.zeros((vit.engine.max_batch, given.height, given.width, 3), np.uint8)
    vit.engine.run(batch)
    done, start = 0, time.monotonic()
    while time.monotonic() - start < seconds:
        vit.engine.run(batch)
        done += len(batch)
    return done / (time.monotonic() - start)


def linked(found: Sequence[Item], scratch: Path, number: int) -> Path:
    """Return a folder of `number` copies of the images, which cost no disk."""
    folder = scratch / f"images-{number}"
    folder.mkdir()
    for i, item in enumerate(itertools.islice(itertools.cycle(found), number)):
        source = Path(item.path)
        (folder / f"{i:06}{source.suffix}").symlink_to(source.resolve())
    return folder


def on_one(model: str, folder: Path) -> list[Prediction]:
    """Label with vit-infer's own pipeline."""
    with Classifier.load(model) as vit:
        found = vit.stream(items_from_sources([str(folder)]))
        return [prediction for labelled in found for prediction in labelled.predictions]


@contextmanager
def timed_start(seconds: list[float]) -> Any:
    """Add up what it takes to start Ray and to end it."""
    connected = connection.connected

    @contextmanager
    def timed(address: str | None, workers: Workers) -> Any:
        start = time.monotonic()
        with connected(address, workers) as room:
            spent = time.monotonic() - start
            yield room
            start = time.monotonic()
        seconds.append(spent + time.monotonic() - start)

    connection.connected = timed
    try:
        yield
    finally:
        connection.connected = connected


def differences(expected: Sequence[Prediction], out: Path) -> int:
    """Return how many rows have another label, or a score off by more than 1e-5."""
    rows = pyarrow.dataset.dataset(out / "rows").to_table().sort_by("row_id").to_pylist()
    assert [row["row_id"] for row in rows] == list(range(len(expected)))
    return sum(
        (row["path"], row["label"]) != (p.path, p.label) or abs(row["score"] - p.score) > 1e-5
        for row, p in zip(rows, expected, strict=True)
    )


if __name__ == "__main__":
    main()
