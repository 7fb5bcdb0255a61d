"""Requests a second of vit-serve beside other servers of the same artefact, on loopback, by wrk.

    python benchmarks/serving.py --model deit.onnx --images photographs/ --rounds 2

The servers run at the same time and take turns under load, so that all of them meet the same
machine. In a process of its own the pipeline of vit-infer is the ceiling of many clients, and
decoding and running one image after another that of one client, for whom nothing overlaps. A
contender whose library is not installed is left out, and named. CPU time is that of a server and
all its children; wrk's is not in it, though it takes of the same cores.
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
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit_engine.machine.processor import cpu, usable_cores

CLIENTS = (1, 8, 64, 256)

_TICKS = os.sysconf("SC_CLK_TCK")

WRK = """
local bodies, at = {}, 0
for path in io.lines(os.getenv("BODIES")) do
  local file = io.open(path, "rb")
  bodies[#bodies + 1] = file:read("*a")
  file:close()
end
request = function()
  at = at % #bodies + 1
  return wrk.format("POST", "/", {["Content-Type"] = os.getenv("KIND")}, bodies[at])
end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('{"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "errors": %d}',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, e.connect + e.read + e.write + e.status + e.timeout))
end
"""

PIPELINE = """
import resource, sys, time
from pathlib import Path
from vit_engine import Classifier
from vit_engine.sources.item import Item

bodies = [Path(line).read_bytes() for line in Path(sys.argv[2]).read_text().splitlines()]
with Classifier.load(sys.argv[1], provider="cpu") as vit:
    used, every, count, start = time.process_time(), 0, 0, None
    done = False
    def images():
        while not done:
            yield from (Item("", data=body) for body in bodies)
    stream = vit.stream(images())
    for batch in stream:
        every += len(batch.predictions)
        if start is None and every >= len(bodies):  # the decoders have started
            start = time.monotonic()
        elif start is not None:
            count += len(batch.predictions)
            seconds = time.monotonic() - start
            if seconds > float(sys.argv[3]):
                break
    done = True
    stream.close()
    own = time.process_time() - used
    single, start = 0, time.monotonic()
    while time.monotonic() - start < float(sys.argv[3]):
        pixels = vit.pixels(bodies[single % len(bodies)])
        vit.predictions(vit.engine.run(pixels[None]))
        single += 1
    singly = single / (time.monotonic() - start)
children = resource.getrusage(resource.RUSAGE_CHILDREN)
print(count / seconds, (own + children.ru_utime + children.ru_stime) / every * 1e3, singly)
"""


@dataclass(frozen=True)
class Contender:
    """A server: how it is started with a model and a port, and what it needs installed."""

    name: str
    line: tuple[str, ...]
    needs: str = "uvicorn"
    base64: bool = False


CONTENDERS = (
    Contender("vit-serve", ("-m", "vit_engine.commands.serve", "MODEL", "--port", "PORT")),
    Contender("FastAPI by hand", ("-m", "serving_contenders.by_hand", "MODEL", "PORT"), "fastapi"),
    Contender(
        "LitServe", ("-m", "serving_contenders.litserve_batches", "MODEL", "PORT"), "litserve", True
    ),
    Contender(
        "Ray Serve batches",
        ("-m", "serving_contenders.ray_serve_batches", "MODEL", "PORT"),
        "opentelemetry",
    ),
)


@dataclass
class Turn:
    """What one server did under one load."""

    rate: float
    p50: float  # milliseconds
    p99: float
    errors: int
    cpu: float  # milliseconds an image
    health: float = 0.0  # milliseconds, p99


@dataclass
class Bodies:
    """Lists of files that wrk sends: images, and the same as JSON."""

    plain: Path
    encoded: Path
    count: int


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
    parser.add_argument("--json", type=Path, help="write every turn to this file as well")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed (apt-get install wrk)")
    turns: dict[tuple[str, int], list[Turn]] = {}
    ceiling: list[tuple[float, float, float]] = []
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        bodies = bodies_in(folder, arguments.images)
        servers = {}
        for contender in CONTENDERS:
            if contender.name not in arguments.only:
                continue
            if importlib.util.find_spec(contender.needs) is None:
                print(f"{contender.name}: {contender.needs} is not installed", file=sys.stderr)
                continue
            servers[contender] = stack.enter_context(started(contender, arguments.model))
        for _ in range(arguments.rounds):
            ceiling.append(pipeline(arguments.model, bodies, arguments.seconds))
            for clients in arguments.clients:
                for contender, server in servers.items():
                    found = turn(contender, server, clients, bodies, arguments.seconds)
                    turns.setdefault((contender.name, clients), []).append(found)
    show(turns, ceiling, arguments)
    if arguments.json:
        found_turns = {f"{n}, {c} clients": [vars(t) for t in ts] for (n, c), ts in turns.items()}
        arguments.json.write_text(json.dumps({"pipeline": ceiling, "turns": found_turns}, indent=1))


def bodies_in(folder: Path, images: Path) -> Bodies:
    """Write what wrk needs: its script, and lists of bodies."""
    (folder / "post.lua").write_text(WRK)
    paths = sorted(p for p in images.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    encoded = []
    for number, path in enumerate(paths):
        encoded.append(folder / f"{number}.json")
        text = base64.b64encode(path.read_bytes()).decode()
        encoded[-1].write_text(json.dumps({"inputs": text}))
    lists = Bodies(folder / "plain", folder / "encoded", len(paths))
    lists.plain.write_text("".join(f"{p.absolute()}\n" for p in paths))
    lists.encoded.write_text("".join(f"{p}\n" for p in encoded))
    return lists


@contextlib.contextmanager
def started(contender: Contender, model: str) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """Start a server, and end it with all its children."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    names = {"MODEL": model, "PORT": str(port)}
    line = [sys.executable, *(names.get(word, word) for word in contender.line)]
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        line, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + 90
        while health(port) is None:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{contender.name} did not start")
            time.sleep(0.2)
        yield process, port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def health(port: int) -> float | None:
    """Return the milliseconds that /health takes, None where it fails."""
    start = time.perf_counter()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
            answer.read()
    except OSError:
        return None
    return (time.perf_counter() - start) * 1e3


def turn(
    contender: Contender,
    server: tuple["subprocess.Popen[bytes]", int],
    clients: int,
    bodies: Bodies,
    seconds: float,
) -> Turn:
    """Load one server, after a second that does not count, and ask for its health meanwhile."""
    process, port = server
    wrk(contender, port, clients, bodies, 1)
    looks: list[float] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            if (found := health(port)) is not None:
                looks.append(found)

    thread = threading.Thread(target=look)
    thread.start()
    before = cpu_seconds(process.pid)
    found = wrk(contender, port, clients, bodies, seconds)
    used = cpu_seconds(process.pid) - before
    done.set()
    thread.join()
    count = max(1, found["requests"])
    return Turn(
        rate=found["requests"] / found["seconds"],
        p50=found["p50"],
        p99=found["p99"],
        errors=found["errors"],
        cpu=used / count * 1e3,
        health=sorted(looks)[int(len(looks) * 0.99)] if looks else float("nan"),
    )


def wrk(
    contender: Contender, port: int, clients: int, bodies: Bodies, seconds: float
) -> dict[str, Any]:
    """Run wrk; whole seconds alone are its unit."""
    folder = bodies.plain.parent
    kind = "application/json" if contender.base64 else "image/jpeg"
    listed = bodies.encoded if contender.base64 else bodies.plain
    line = ["wrk", "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
    ended = subprocess.run(
        [*line, "-s", str(folder / "post.lua"), f"http://127.0.0.1:{port}"],
        env=os.environ | {"BODIES": str(listed), "KIND": kind},
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(ended.stdout[ended.stdout.rindex("{") :])
    return found


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and all below it that live."""
    parents, used = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                parents[int(folder.name)] = int(fields[1])
                used[int(folder.name)] = int(fields[11]) + int(fields[12])

    def is_below(found: int | None) -> bool:
        while found and found != pid:
            found = parents.get(found)
        return found == pid

    return sum(ticks for child, ticks in used.items() if is_below(child)) / _TICKS


def pipeline(model: str, bodies: Bodies, seconds: float) -> tuple[float, float, float]:
    """Return images a second and CPU milliseconds an image of vit-infer's pipeline.

    And images a second where each waits for the one before.
    """
    line = [sys.executable, "-c", PIPELINE, model, str(bodies.plain), str(seconds)]
    ended = subprocess.run(line, capture_output=True, text=True, check=True, timeout=120)
    rate, used, singly = map(float, ended.stdout.split())
    return rate, used, singly


def show(
    turns: dict[tuple[str, int], list[Turn]],
    ceiling: list[tuple[float, float, float]],
    arguments: argparse.Namespace,
) -> None:
    """Print medians, and what they are beside the pipeline."""
    best, used, singly = (statistics.median(found) for found in zip(*ceiling, strict=True))
    print(
        f"{cpu().name}, {usable_cores()} cores; {arguments.model}, {arguments.rounds} rounds of "
        f"{arguments.seconds:g} s; pipeline {best:.1f} images/s, {used:.2f} CPU ms each; "
        f"one image after another {singly:.1f} images/s\n"
    )
    print(
        "| server | clients | images/s | of the pipeline | p50 ms | p99 ms | CPU ms "
        "| health p99 ms | errors |\n| --- |" + " ---: |" * 8
    )
    for (name, clients), found in turns.items():

        def median(what: str, found: list[Turn] = found) -> float:
            return float(statistics.median(getattr(t, what) for t in found))

        print(
            f"| {name} | {clients} | {median('rate'):.1f} | {median('rate') / best:.0%} "
            f"| {median('p50'):.1f} | {median('p99'):.1f} | {median('cpu'):.2f} "
            f"| {median('health'):.1f} | {sum(t.errors for t in found)} |"
        )


if __name__ == "__main__":
    main()
