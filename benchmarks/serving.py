"""Requests a second of vit-serve beside other servers of the same artefact, on loopback, by wrk.

    python benchmarks/serving.py --model deit.onnx --images photographs/ --rounds 2
    python benchmarks/serving.py --model deit.onnx --images photographs/ --stub --picture it.svg

The servers run at the same time and take turns under load, so that all of them meet the same
machine. The pipeline of vit-infer is the ceiling of many clients, and decoding and running one
image after another that of one client, for whom nothing overlaps. A contender whose library is not
installed is left out, and named. CPU time is that of a server and all its children; wrk's is not in
it, though it takes of the same cores.

With --stub, decoding and the engine take no time: what a server does besides is measured, over
workers and decoders, as CPU time of its fronts and of its engine's process. The picture shows that
rate over workers, and what it foretells for machines with a GPU.
"""

import argparse
import base64
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import cycle, product
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

from comparison.report.table import Table
from vit_engine import Classifier
from vit_engine.machine.processor import cpu, usable_cores
from vit_engine.sources.sample import Sample
from vit_engine.sources.signatures import EXTENSIONS

HERE = Path(__file__).parent
CLIENTS = (1, 8, 64, 256)
START_S, STOP_S = 90, 10


class Contender(NamedTuple):
    """A server: the module that is started with a model and a port, and what it needs."""

    name: str
    module: str
    needs: str = "uvicorn"
    options: tuple[str, ...] = ()
    base64: bool = False  # takes images as base64 in JSON


CONTENDERS = (
    Contender("vit-serve", "vit_engine.commands.serve"),
    Contender("FastAPI by hand", "serving_contenders.by_hand", "fastapi"),
    Contender("LitServe", "serving_contenders.litserve_batches", "litserve", base64=True),
    Contender("Ray Serve batches", "serving_contenders.ray_serve_batches", "opentelemetry"),
)

STUBBED = tuple(
    Contender(
        f"{workers} workers, {decoders} decoders",
        "serving_contenders.stubbed",
        options=(str(decoders), str(workers)),
    )
    for workers, decoders in ((1, 2), (1, 16), (1, 48), (2, 16), (4, 16))
)

DECODING_MS, FRONT_MS = 7.1, 0.8
"""Thread-milliseconds of an image on the host of an H200, in decoding and in a front [NOTES]."""

ENGINES = ("engine_server import", "import run_engine")
DECODERS = ("decoder_process import", "import decode")
"""What the command lines of vit-serve's children have in them."""

GPU_RATE = 9000  # images a second of ViT-B/16 there

Turn = dict[str, float]
"""What one server did under one load: a rate, milliseconds and a number of errors."""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--stub", action="store_true")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    contenders = STUBBED if arguments.stub else CONTENDERS
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed (apt-get install wrk)")
    paths = sorted(p for p in arguments.images.iterdir() if p.suffix.lower() in EXTENSIONS)
    turns: dict[tuple[str, int], list[Turn]] = {}
    alone: list[tuple[float, float, float]] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        bodies = bodies_of(paths, Path(folder))
        servers = {}
        for contender in (c for c in contenders if c.name in (arguments.only or c.name)):
            if importlib.util.find_spec(contender.needs):
                servers[contender] = stack.enter_context(started(contender, arguments.model))
            else:
                print(f"{contender.name}: {contender.needs} is not installed", file=sys.stderr)
        for _ in range(arguments.rounds):
            if not arguments.stub:
                alone.append(without_http(arguments.model, paths, arguments.seconds))
            for clients, contender in product(arguments.clients, servers):
                found = turn(contender, servers[contender], clients, bodies, arguments.seconds)
                turns.setdefault((contender.name, clients), []).append(found)
    head = f"{cpu().name}, {usable_cores()} cores; {arguments.model}, {arguments.rounds} rounds"
    best = 0.0
    if alone:
        best, used, singly = (median(found) for found in zip(*alone, strict=True))
        head += (
            f" of {arguments.seconds:g} s; pipeline {best:.1f} images/s, {used:.2f} CPU ms each; "
            f"one image after another {singly:.1f} images/s"
        )
    print(f"{head}\n\n{table(turns, best).markdown()}")
    if arguments.picture:
        draw(turns, arguments.picture)


def table(turns: dict[tuple[str, int], list[Turn]], best: float) -> Table:
    """Return the turns' medians, and what they are beside the pipeline."""
    head = ("server", "clients", "images/s", "of the pipeline", "p50 ms", "p99 ms", "CPU ms")
    more = ("of fronts", "of engines", "health p99 ms", "errors")
    body = []
    for (name, clients), found in turns.items():
        m = {what: median(turn[what] for turn in found) for what in found[0]}
        share = f"{m['rate'] / best:.0%}" if best else ""
        cells = [name, str(clients), f"{m['rate']:.1f}", share]
        cells += [f"{m['p50']:.1f}", f"{m['p99']:.1f}", f"{m['cpu']:.2f}", f"{m['fronts']:.3f}"]
        cells += [f"{m['engines']:.3f}", f"{m['health']:.1f}"]
        body.append((*cells, f"{sum(turn['errors'] for turn in found):.0f}"))
    return Table("", "", (*head, *more), tuple(body))


def draw(turns: dict[tuple[str, int], list[Turn]], path: Path) -> None:
    """Draw requests a second over workers, and what they foretell over a host's threads."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for (name, _), found in turns.items():
        workers, decoders = (int(word) for word in name.split() if word.isdigit())
        if decoders == 16:
            left.plot(workers, median(turn["rate"] for turn in found), "o", color="#0b6e4f")
    left.set(title=f"measured, {usable_cores()} cores, stubs", xlabel="workers")
    left.set(ylabel="requests a second", ylim=(0, None))
    threads = (16, 32, 64, 96)
    rates = [min(GPU_RATE, 1e3 * n / (DECODING_MS + FRONT_MS)) for n in threads]
    right.plot(threads, rates, "o--", color="#5a6675")
    right.set(title="predicted, one GPU", xlabel="hardware threads", ylim=(0, None))
    figure.savefig(path)


def bodies_of(paths: list[Path], folder: Path) -> dict[bool, Path]:
    """Return lists of the files that wrk sends: images, and the same as base64 in JSON."""
    lists = {False: folder / "plain", True: folder / "encoded"}
    encoded = [folder / f"{number}.json" for number in range(len(paths))]
    for path, target in zip(paths, encoded, strict=True):
        target.write_text(json.dumps({"inputs": base64.b64encode(path.read_bytes()).decode()}))
    lists[False].write_text("".join(f"{path.absolute()}\n" for path in paths))
    lists[True].write_text("".join(f"{path}\n" for path in encoded))
    return lists


@contextlib.contextmanager
def started(contender: Contender, model: str) -> Iterator[tuple[int, int]]:
    """Yield process id and port of a server; it ends with all its children."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-m", contender.module, *line_of(contender, model), "--port", str(port)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + START_S
        while health(port) is None:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{contender.name} did not start")
            time.sleep(0.2)
        yield process.pid, port
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, number)
                process.wait(STOP_S)


def line_of(contender: Contender, model: str) -> list[str]:
    """Return what follows the module; a stub's decoders come first."""
    if not contender.options:
        return [model]
    decoders, workers = contender.options
    return [decoders, model, "--workers", workers]


def health(port: int) -> float | None:
    """Return the milliseconds that /health takes, None where it fails."""
    start = time.perf_counter()
    with contextlib.suppress(OSError):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
            answer.read()
        return (time.perf_counter() - start) * 1e3
    return None


def turn(
    contender: Contender,
    server: tuple[int, int],
    clients: int,
    bodies: dict[bool, Path],
    seconds: float,
) -> Turn:
    """Load one server, after a second that does not count, and ask for its health meanwhile."""
    pid, port = server
    kind = "application/json" if contender.base64 else "image/jpeg"
    environment = os.environ | {"BODIES": str(bodies[contender.base64]), "KIND": kind}

    def wrk(seconds: float) -> dict[str, float]:
        """Run it; whole seconds alone are its unit."""
        line = ["wrk", "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
        line += ["-s", str(HERE / "serving_contenders/post.lua"), f"http://127.0.0.1:{port}"]
        said = subprocess.check_output(line, env=environment, text=True, timeout=120)
        found: dict[str, float] = json.loads(said[said.rindex("{") :])
        return found

    wrk(1)
    looks: list[float] = []
    before = cpu_seconds(pid), cpu_seconds(pid, *ENGINES), cpu_seconds(pid, *DECODERS)
    with ThreadPoolExecutor() as pool:
        loading = pool.submit(wrk, seconds)
        while not wait([loading], 0.05).done:
            looks.extend(filter(None, [health(port)]))
        found = loading.result()
    used, engines = cpu_seconds(pid) - before[0], cpu_seconds(pid, *ENGINES) - before[1]
    decoding = cpu_seconds(pid, *DECODERS) - before[2]
    per = 1e3 / max(1, found["requests"])
    return {
        **{what: found[what] for what in ("p50", "p99", "errors")},
        "rate": found["requests"] / found["seconds"],
        "cpu": used * per,
        "engines": engines * per,
        "fronts": (used - engines - decoding) * per,
        "health": quantiles(looks, n=100)[-1] if len(looks) > 1 else float("nan"),
    }


def cpu_seconds(pid: int, *kinds: str) -> float:
    """Return the processor time of a process and all below it that live; of some `kinds` alone."""
    known = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            known[int(stat.parent.name)] = int(fields[1]), int(fields[11]) + int(fields[12])

    def is_below(found: int) -> bool:
        return found == pid or (found in known and is_below(known[found][0]))

    def is_kind(child: int) -> bool:
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{child}/cmdline").read_text().partition("sys.argv")[2]
            served = line.partition(" as serve")[0]
            return not kinds or any(kind in served for kind in kinds)
        return False

    ticks = sum(used for child, (_, used) in known.items() if is_below(child) and is_kind(child))
    return ticks / os.sysconf("SC_CLK_TCK")


def without_http(model: str, paths: list[Path], seconds: float) -> tuple[float, float, float]:
    """Return images a second and CPU milliseconds an image of vit-infer's pipeline.

    And images a second where each waits for the one before.
    """
    bodies = [path.read_bytes() for path in paths]
    with Classifier.load(model, provider="cpu") as vit:
        before, images, counted, begun = sum(os.times()[:4]), 0, 0, 0.0
        stream: Any = vit.stream(Sample("", data=body) for body in cycle(bodies))
        with contextlib.closing(stream):
            while not begun or time.monotonic() - begun < seconds:
                images += len(next(stream).predictions)
                if not begun and images >= len(bodies):  # the decoders have started
                    counted, begun = images, time.monotonic()
            rate = (images - counted) / (time.monotonic() - begun)
        used = (sum(os.times()[:4]) - before) / images  # of the decoders, too, which have ended
        singly, begun = 0, time.monotonic()
        while time.monotonic() - begun < seconds:
            vit.predictions(vit.engine.run(vit.pixels(bodies[singly % len(bodies)])[None]))
            singly += 1
        return rate, used * 1e3, singly / (time.monotonic() - begun)


if __name__ == "__main__":
    main()
