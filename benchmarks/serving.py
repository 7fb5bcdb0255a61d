"""Requests a second of vit-serve beside other servers of the same artefact, on loopback, by wrk.

    python benchmarks/serving.py --model deit.onnx --images photographs/ --rounds 2

The servers run at the same time and take turns under load, so that all of them meet the same
machine. The pipeline of vit-infer is the ceiling of many clients, and decoding and running one
image after another that of one client, for whom nothing overlaps. A contender whose library is not
installed is left out, and named. CPU time is that of a server and all its children; wrk's is not in
it, though it takes of the same cores.
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
    needs: str
    base64: bool = False  # takes images as base64 in JSON


CONTENDERS = (
    Contender("vit-serve", "vit_engine.commands.serve", "uvicorn"),
    Contender("FastAPI by hand", "serving_contenders.by_hand", "fastapi"),
    Contender("LitServe", "serving_contenders.litserve_batches", "litserve", base64=True),
    Contender("Ray Serve batches", "serving_contenders.ray_serve_batches", "opentelemetry"),
)

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
    parser.add_argument("--only", nargs="+", default=[c.name for c in CONTENDERS])
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed (apt-get install wrk)")
    paths = sorted(p for p in arguments.images.iterdir() if p.suffix.lower() in EXTENSIONS)
    turns: dict[tuple[str, int], list[Turn]] = {}
    alone: list[tuple[float, float, float]] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        bodies = bodies_of(paths, Path(folder))
        servers = {}
        for contender in (c for c in CONTENDERS if c.name in arguments.only):
            if importlib.util.find_spec(contender.needs):
                servers[contender] = stack.enter_context(started(contender, arguments.model))
            else:
                print(f"{contender.name}: {contender.needs} is not installed", file=sys.stderr)
        for _ in range(arguments.rounds):
            alone.append(without_http(arguments.model, paths, arguments.seconds))
            for clients, contender in product(arguments.clients, servers):
                found = turn(contender, servers[contender], clients, bodies, arguments.seconds)
                turns.setdefault((contender.name, clients), []).append(found)
    best, used, singly = (median(found) for found in zip(*alone, strict=True))
    print(
        f"{cpu().name}, {usable_cores()} cores; {arguments.model}, {arguments.rounds} rounds of "
        f"{arguments.seconds:g} s; pipeline {best:.1f} images/s, {used:.2f} CPU ms each; "
        f"one image after another {singly:.1f} images/s\n\n{table(turns, best).markdown()}"
    )


def table(turns: dict[tuple[str, int], list[Turn]], best: float) -> Table:
    """Return the turns' medians, and what they are beside the pipeline."""
    head = ("server", "clients", "images/s", "of the pipeline", "p50 ms", "p99 ms", "CPU ms")
    body = []
    for (name, clients), found in turns.items():
        m = {what: median(turn[what] for turn in found) for what in found[0]}
        cells = [name, str(clients), f"{m['rate']:.1f}", f"{m['rate'] / best:.0%}"]
        cells += [f"{m['p50']:.1f}", f"{m['p99']:.1f}", f"{m['cpu']:.2f}", f"{m['health']:.1f}"]
        body.append((*cells, f"{sum(turn['errors'] for turn in found):.0f}"))
    return Table("", "", (*head, "health p99 ms", "errors"), tuple(body))


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
        [sys.executable, "-m", contender.module, model, "--port", str(port)],
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
    before = cpu_seconds(pid)
    with ThreadPoolExecutor() as pool:
        loading = pool.submit(wrk, seconds)
        while not wait([loading], 0.05).done:
            looks.extend(filter(None, [health(port)]))
        found = loading.result()
    used = cpu_seconds(pid) - before
    return {
        **{what: found[what] for what in ("p50", "p99", "errors")},
        "rate": found["requests"] / found["seconds"],
        "cpu": used / max(1, found["requests"]) * 1e3,
        "health": quantiles(looks, n=100)[-1] if len(looks) > 1 else float("nan"),
    }


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and all below it that live."""
    known = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            known[int(stat.parent.name)] = int(fields[1]), int(fields[11]) + int(fields[12])

    def is_below(found: int) -> bool:
        return found == pid or (found in known and is_below(known[found][0]))

    ticks = sum(used for child, (_, used) in known.items() if is_below(child))
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
