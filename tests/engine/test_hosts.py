"""The Python API inside somebody else's program: forks, other processes, ends of every kind.

What forks or exits does so in a process of its own, which is ended with all its children when it
takes too long.
"""

import contextlib
import gc
import importlib.util
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support import EXAMPLES, ROOT, slow_case, wait_until
from vit_engine.classifier import Classifier
from vit_engine.errors import UsageError
from vit_engine.images.decode_pool import DecodePool
from vit_engine.sources.sample import Sample

in_process = pytest.mark.usefixtures("bounded")


PRELUDE = f"""
import contextlib, os, signal, sys, threading, time
from pathlib import Path
from vit_engine.classifier import Classifier

EXAMPLES = sorted(Path({str(ROOT)!r}, "examples").iterdir())

def labels(vit, images=EXAMPLES, **options):
    return [p.label for p in vit.classify(images, **options)]

def fail():
    raise RuntimeError("the child's own")

ENDS = {{7: lambda: sys.exit(7), 8: lambda: os._exit(8), 1: fail}}

def forked(work, end=lambda: os._exit(0)):
    '''Return the exit code of a child that works and ends; one that hangs gets SIGALRM.'''
    sys.stdout.flush()
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.alarm(30)
    work()
    end()
"""


def hosted(script: str, *options: str, timeout: float = 110) -> str:
    """Run a script after PRELUDE; return what it wrote to stdout."""
    line = [sys.executable, *options, "-c", PRELUDE + script]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with subprocess.Popen(line, stdout=out, stderr=err, start_new_session=True) as host:
            end = time.monotonic() + timeout
            # Not waited for, so that its number is no other group's when that is killed.
            while os.waitid(os.P_PID, host.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                if time.monotonic() > end:
                    break
                time.sleep(0.01)
            os.killpg(host.pid, signal.SIGKILL)
        out.seek(0)
        err.seek(0)
        assert host.returncode == 0, f"{host.returncode}: {err.read()[-3000:]}"
        return out.read()


# Programs that are no Python, and machines that lack what Linux has


@pytest.mark.parametrize(
    ("host", "labelled"),
    [
        ("sys.executable = app; sys.exec_prefix = '/none'", False),
        ("sys.executable = app", True),
        *(
            slow_case(host, False)
            for host in (
                "sys.frozen = True",
                "sys.executable = None; sys.exec_prefix = '/none'",
                "sys.executable = named; os.environ['VIT_ENGINE_CHILD'] = '1'",
            )
        ),
    ],
)
def test_a_program_that_embeds_python_is_not_started_again(
    host: str, labelled: bool, tmp_path: Path
) -> None:
    """Labels, or one error in words: each start of the program leaves a file."""
    for name in ("app", "python3"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/$$.started\nsleep 1\n")
        (tmp_path / name).chmod(0o755)
    found = hosted(f"""
app, named = {str(tmp_path / "app")!r}, {str(tmp_path / "python3")!r}
vit = Classifier.load("demo", provider="cpu")
want = labels(vit)
{host}
try:
    print(labels(vit, isolated=True) == want)
except Exception as e:
    print(type(e).__name__, e)
""")
    if labelled:
        assert found == "True\n"
    else:
        assert found.startswith("MachineError cannot start a process to decode images in: ")
        assert "is not a Python that can be started again" in found
    assert not list(tmp_path.glob("*.started"))


def test_standard_descriptors_that_are_closed() -> None:
    found = hosted("""
import fcntl
shown = fcntl.fcntl(1, fcntl.F_DUPFD, 100)
vit = Classifier.load("demo", provider="cpu")
want = labels(vit)
for closed in ((0,), (1, 2), (0, 1, 2)):
    for descriptor in closed:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    same = labels(vit, isolated=True) == want
    os.write(shown, f"{same}\\n".encode())
""")
    assert found == "True\n" * 3


def test_a_machine_without_what_linux_has() -> None:
    """As macOS: neither memfd_create nor sched_getaffinity, /proc, control groups, MAP_*."""
    found = hosted("""
import builtins, importlib, io, mmap, pkgutil
for module, names in (
    (os, ["memfd_create", "sched_getaffinity", "sched_setaffinity"]),
    (mmap, [name for name in dir(mmap) if name.startswith("MAP_")]),
):
    for name in names:
        delattr(module, name)
opened = io.open

def elsewhere(file, *options, **more):
    if str(file).startswith(("/proc", "/sys")):
        raise FileNotFoundError(2, "No such file", str(file))
    return opened(file, *options, **more)

builtins.open = io.open = elsewhere
for name in [name for name in sys.modules if name.startswith("vit_engine")]:
    del sys.modules[name]
import vit_engine
for found in pkgutil.walk_packages(vit_engine.__path__, "vit_engine."):
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module(found.name)
from vit_engine.classifier import Classifier
from vit_engine.machine.processor import cpu
with Classifier.load("demo", provider="cpu") as vit:
    want = labels(vit)
    assert labels(vit, isolated=True) == want and all(want)
assert cpu().affinity == os.cpu_count() and cpu().quota is None and cpu().memory_limit is None
print("all")
""")
    assert found == "all\n"


@pytest.mark.parametrize(
    "start",
    [
        "from vit_engine.commands import start_infer as start; sys.exit(start())",
        "import vit_engine\ntry: vit_engine.Classifier\n"
        "except vit_engine.MachineError as e: sys.stderr.write(f'{e}\\n'); sys.exit(e.exit_code)",
    ],
)
def test_windows_is_told_in_one_line(start: str) -> None:
    lacking = "sys.platform = 'win32'; sys.modules.update(fcntl=None, resource=None)"
    line = [sys.executable, "-c", f"import sys; {lacking}\n{start}"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert "does not run on Windows itself; run it in WSL" in done.stderr


# Forks


def test_a_child_has_a_session_of_its_own_and_ends_as_it_pleases() -> None:
    """Whether the parent has used its own before or not."""
    hosted("""
import itertools

def right():
    assert labels(vit, EXAMPLES[:4]) == want

def close():
    vit.close()

def use_and_close():
    right()
    vit.close()

def fork_again():
    assert forked(right, lambda: sys.exit(5)) == 5

vit = Classifier.load("demo", provider="cpu")
with Classifier.load("demo", provider="cpu") as other:
    want = labels(other, EXAMPLES[:4])
ends = itertools.cycle(ENDS.items())
for _ in ("unused", "used"):
    for work in (int, right, close, use_and_close, fork_again):
        code, end = next(ends)
        assert forked(work, end) == code
    right()
""")


def test_an_iteration_of_the_parent_is_refused_in_the_child() -> None:
    found = hosted("""
from vit_engine.errors import UsageError
from vit_engine.sources.sample import Sample

vit = Classifier.load("demo", provider="cpu")
want = labels(vit)
classified = vit.classify(EXAMPLES * 3, batch=4)
streamed = vit.stream([Sample(str(path)) for path in EXAMPLES], batch=4)
next(classified)
next(streamed)

def go_on():
    for iteration in (classified, streamed):
        start = time.monotonic()
        try:
            next(iteration)
        except UsageError as e:
            print(e, flush=True)
        assert time.monotonic() - start < 5
        assert list(iteration) == []
    assert labels(vit) == want

works = (
    go_on,
    lambda: None,  # with the iterations as they are
    lambda: (classified.close(), streamed.close()),
)
for work, (code, end) in zip(works, ENDS.items()):
    assert forked(work, end) == code
assert len(list(classified)) == 3 * len(EXAMPLES) - 1
assert len([p for labelled in streamed for p in labelled.predictions]) == len(EXAMPLES) - 4
""")
    assert len(found.splitlines()) == 2
    assert all("fork" in line for line in found.splitlines())


@pytest.mark.slow
@pytest.mark.usefixtures("all_cores")
def test_forks_while_other_threads_are_in_the_engine() -> None:
    """In the middle of runs, with locks held, and while models are opened and closed."""
    hosted("""
vit = Classifier.load("demo", provider="cpu")
want = labels(vit)
done = threading.Event()

def hold():
    with vit.engine._lock:
        done.wait()

def use():
    while not done.is_set():
        with Classifier.load("demo", provider="cpu", threads=1) as other:
            labels(other, EXAMPLES[:2])

threads = [threading.Thread(target=target) for target in (hold, use, use)]
for thread in threads:
    thread.start()

def work():
    assert labels(vit) == want

for code, end in ENDS.items():
    assert forked(work, end) == code
done.set()
for thread in threads:
    thread.join()
assert labels(vit) == want
""")


def test_a_gpu_is_refused_at_once_in_a_child() -> None:
    """The CPU's provider under the name of one that does not survive a fork."""
    found = hosted("""
from dataclasses import replace
from vit_engine import engine
from vit_engine.errors import ProviderError
from vit_engine.providers.cpu import CPU

engine.candidates = lambda *request: (replace(CPU, name="cuda"),)
vit = Classifier.load("demo")
want = labels(vit)

def work():
    for call in (
        lambda: vit.classify(EXAMPLES),
        lambda: vit.stream([]),
        lambda: vit.engine.run(pixels),
        lambda: vit.engine.submit(pixels),
    ):
        start = time.monotonic()
        try:
            call()
        except ProviderError as e:
            print(e, flush=True)
        assert time.monotonic() - start < 1

pixels = vit.pixels(EXAMPLES[0])[None]
for code, end in ENDS.items():
    assert forked(work, end) == code
assert labels(vit) == want
""").splitlines()
    assert len(found) == 12
    assert all("forked" in line and "open the model in the child" in line for line in found)


def test_a_child_opens_the_same_file_or_none(tmp_path: Path) -> None:
    """By a relative name too, from another folder; never another model than the parent's."""
    hosted(f"""
import shutil
from vit_engine.artefact.metadata import path_from_name
from vit_engine.errors import ArtefactError

os.chdir({str(tmp_path)!r})
shutil.copy(path_from_name("demo"), "vit.onnx")
vit = Classifier.load("vit.onnx", provider="cpu")
want = labels(vit)

def elsewhere():
    os.chdir("/")
    assert labels(vit) == want

def refused():
    try:
        labels(vit)
    except ArtefactError as e:
        assert "another file" in str(e)
    else:
        os._exit(3)

assert forked(elsewhere) == 0
shutil.copy(path_from_name("demo"), "new.onnx")
os.replace("new.onnx", "vit.onnx")
assert forked(refused) == 0
os.remove("vit.onnx")
assert forked(refused) == 0
assert labels(vit) == want
""")


PROCESSES = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from vit_engine.classifier import Classifier

EXAMPLES = sorted(Path(sys.argv[2], "examples").iterdir())[:3]
vit = Classifier.load("demo", provider="cpu")  # in a child that is forked, the parent's

def label(path):
    return [p.label for p in vit.classify(path)]

if __name__ == "__main__":
    want = [label(path) for path in EXAMPLES]
    context = multiprocessing.get_context(sys.argv[1])
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        assert list(pool.map(label, EXAMPLES)) == want
    assert [label(path) for path in EXAMPLES] == want
"""


@pytest.mark.parametrize("method", ["fork", "spawn", slow_case("forkserver")])
def test_multiprocessing(tmp_path: Path, method: str) -> None:
    script = tmp_path / "host.py"
    script.write_text(PROCESSES)
    hosted(f"""
import runpy
sys.argv = [{str(script)!r}, {method!r}, {str(ROOT)!r}]
runpy.run_path(sys.argv[0], run_name="__main__")
""")


def test_an_open_model_is_not_pickled(vit: Classifier) -> None:
    for what in (vit, vit.engine):
        with pytest.raises(TypeError, match=r"cannot be pickled: open it where it is used"):
            pickle.dumps(what)


APP = f"""
import json, os
from pathlib import Path
from vit_engine.classifier import Classifier

EXAMPLES = sorted(Path({str(ROOT)!r}, "examples").iterdir())
vit = Classifier.load("demo", provider="cpu")

def labels():
    return [p.label for p in vit.classify(EXAMPLES)]

WANT = labels()

def app(environ, start):
    start("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([os.getpid(), labels() == WANT]).encode()]
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("gunicorn") is None, reason="gunicorn is not there")
def test_gunicorn_with_preload(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    log = tmp_path / "log"
    line = [sys.executable, "-m", "gunicorn", "app:app", "--preload", "--workers", "2"]
    line += ["--bind", "127.0.0.1:0", "--timeout", "20"]
    with log.open("w") as words:
        server = subprocess.Popen(
            line,
            cwd=tmp_path,
            env={**os.environ, "HOME": str(tmp_path)},  # it has a socket there
            stderr=words,
            start_new_session=True,
        )
    try:
        wait_until(lambda: log.read_text().count("Booting worker") == 2)
        address = log.read_text().partition("Listening at: ")[2].split()[0]
        for _ in range(4):
            with urllib.request.urlopen(address, timeout=30) as answer:
                worker, right = json.load(answer)
            assert worker != server.pid
            assert right
        server.terminate()
        assert server.wait(20) == 0
        words_of_the_end = log.read_text()
        assert "SIGKILL" not in words_of_the_end
        assert "SIGABRT" not in words_of_the_end
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait(20)


# Ends


class Held(NamedTuple):
    """What this process holds: a pool has a buffer and threads."""

    pools: int
    threads: int
    files: int
    shared: int
    children: int

    @classmethod
    def now(cls) -> "Held":
        maps = Path("/proc/self/maps").read_text()
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
        return cls(
            sum(type(o) is DecodePool for o in gc.get_objects()),
            threading.active_count(),
            len(list(Path("/proc/self/fd").iterdir())),
            maps.count("memfd:"),
            len(children.split()),
        )


def no_more_than(before: Held) -> bool:
    return all(now <= then for now, then in zip(Held.now(), before, strict=True))


class BrokenError(Exception):
    """What a host's own code raises."""


def close_classifier(vit: Classifier, iteration: Iterator[Any]) -> None:
    vit.close()
    with pytest.raises(UsageError, match="closed"):
        list(iteration)


def drop_iteration(vit: Classifier, iteration: Iterator[Any]) -> None:
    del iteration


def drop_all(vit: Classifier, iteration: Iterator[Any]) -> None:
    del vit, iteration


def raise_in_consumer(vit: Classifier, iteration: Iterator[Any]) -> None:
    def consume() -> None:
        for _ in iteration:
            raise BrokenError

    with pytest.raises(BrokenError):
        consume()


def lose_in_a_circle(vit: Classifier, iteration: Iterator[Any]) -> None:
    circle: list[Any] = [iteration]
    circle.append(circle)


@in_process
@pytest.mark.parametrize(
    ("call", "end"),
    [
        ("classify", close_classifier),
        ("classify", raise_in_consumer),
        ("stream", drop_all),
        *(
            slow_case(*other)
            for other in [
                *(("classify", end) for end in (drop_iteration, drop_all, lose_in_a_circle)),
                ("stream", close_classifier),
            ]
        ),
    ],
)
def test_what_ends_in_the_middle_leaves_nothing(
    call: str, end: Callable[[Classifier, Iterator[Any]], None]
) -> None:
    def used() -> None:
        vit = Classifier.load("demo", provider="cpu")
        images = [Sample(str(path)) for path in EXAMPLES * 4]
        iteration = vit.classify(images) if call == "classify" else vit.stream(images)
        next(iteration)
        end(vit, iteration)

    gc.collect()
    gc.disable()  # nothing of ours needs it
    try:
        before = Held.now()
        used()
        if end is lose_in_a_circle:
            gc.collect()
        wait_until(lambda: no_more_than(before))
    finally:
        gc.enable()


@in_process
@pytest.mark.parametrize("count", [3, *(slow_case(n) for n in (0, 40))])
def test_a_generator_that_raises_does_so_after_its_images(count: int) -> None:
    def images() -> Iterator[Path]:
        yield from (EXAMPLES * 2)[:count]
        raise BrokenError("the host's own")

    found: list[str | None] = []
    before = Held.now()
    with Classifier.load("demo", provider="cpu") as vit:
        with pytest.raises(BrokenError, match="the host's own"):
            found.extend(prediction.path for prediction in vit.classify(images()))
        assert found == [str(path) for path in (EXAMPLES * 2)[:count]]
        assert len(list(vit.classify(EXAMPLES))) == len(EXAMPLES)
    wait_until(lambda: no_more_than(before))


@in_process
def test_a_generator_that_waits_for_ever_holds_nobody_up() -> None:
    before, enough = set(threading.enumerate()), threading.Event()

    def images() -> Iterator[Path]:
        yield from EXAMPLES[:4]
        enough.wait()

    with Classifier.load("demo", provider="cpu") as vit:
        iteration = vit.classify(images(), batch=4)
        next(iteration)
        start = time.monotonic()
        iteration.close()
        assert time.monotonic() - start < 10
    enough.set()
    wait_until(lambda: set(threading.enumerate()) <= before)


def test_where_no_thread_can_be_started() -> None:
    """Stacks of 64 TiB: for the first thread, for those after it, for the engine's."""
    hosted("""
from vit_engine.errors import MachineError
from vit_engine.machine import threads
from vit_engine.machine.processor import usable_cores

vit = Classifier.load("demo", provider="cpu")
started = threads.start
pixels = vit.pixels(EXAMPLES[0])[None]

def refused(call, words):
    before = threading.active_count()
    try:
        call()
    except MachineError as e:
        assert words in str(e) and "can't start new thread" in str(e), e
    else:
        sys.exit("no error")
    end = time.monotonic() + 20
    while threading.active_count() > before:
        assert time.monotonic() < end, threading.enumerate()
        time.sleep(0.01)

def limited(*work):
    global left
    left -= 1
    threading.stack_size(0 if left >= 0 else 2**46)
    return started(*work)

threads.start = limited
for left in range(usable_cores() + 2):
    refused(lambda: labels(vit), "cannot start a thread to decode images")
refused(lambda: vit.engine.submit(pixels), "cannot start a thread to run a batch")
threading.stack_size(0)
threads.start = started
assert labels(vit)
""")


@in_process
def test_a_closed_classifier_says_so_at_the_call() -> None:
    vit = Classifier.load("demo", provider="cpu")
    vit.close()
    vit.close()
    for call in (vit.classify, vit.stream):
        with pytest.raises(UsageError, match="closed"):
            call(EXAMPLES)


@in_process
def test_closing_while_other_threads_are_in_the_middle() -> None:
    before = Held.now()
    ends: list[object] = []

    def consume(vit: Classifier) -> None:
        try:
            for _ in vit.classify(EXAMPLES * 1000):
                running.set()
        except UsageError as e:
            ends.append(str(e))

    for _ in range(2):
        vit, running = Classifier.load("demo", provider="cpu"), threading.Event()
        threads = [threading.Thread(target=consume, args=(vit,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        running.wait(30)
        vit.close()
        for thread in threads:
            thread.join(30)
    assert len(ends) == 6
    assert all("the engine is closed" in str(end) for end in ends)
    wait_until(lambda: no_more_than(before))


def test_an_interrupt_passes_and_leaves_the_classifier_as_it_was() -> None:
    hosted("""
vit = Classifier.load("demo", provider="cpu")
want = labels(vit)
for delay in (0.0, 0.05, 0.2, 0.5):
    interrupt = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
    try:
        interrupt.start()
        for _ in vit.classify(EXAMPLES * 1000):
            pass
        sys.exit("not interrupted")
    except KeyboardInterrupt:
        pass
    interrupt.join()
    assert labels(vit) == want
vit.close()
end = time.monotonic() + 20
while threading.active_count() > 1:
    assert time.monotonic() < end, threading.enumerate()
    time.sleep(0.01)
""")


@pytest.mark.parametrize("call", ["classify", "stream"])
def test_a_program_that_ends_in_the_middle_ends(call: str) -> None:
    hosted(f"""
from vit_engine.sources.sample import Sample
vit = Classifier.load("demo", provider="cpu")
iteration = vit.{call}([Sample(str(path)) for path in EXAMPLES * 100])
next(iteration)
""")


OPENED = """
def held():
    threads = len(os.listdir("/proc/self/task"))
    files = len(os.listdir("/proc/self/fd"))
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return threads, files, pages * os.sysconf("SC_PAGESIZE") / 2**20

def opened(times):
    for _ in range(times):
        with Classifier.load("demo", provider="cpu") as vit:
            labels(vit, EXAMPLES[:2])

opened(WARM)
before = held()
opened(TIMES)
end = time.monotonic() + 20
while any(now > then for now, then in zip(held()[:2], before[:2])):
    assert time.monotonic() < end, (before, held())
    time.sleep(0.01)
grown = held()[2] - before[2]
assert grown < MIB, f"{grown:.1f} MiB more"
"""


@pytest.mark.parametrize(("warm", "times"), [(5, 15), slow_case(50, 300)])
def test_classifiers_opened_and_closed_often(warm: int, times: int) -> None:
    hosted(f"WARM, TIMES, MIB = {warm}, {times}, 15\n{OPENED}", timeout=900)
