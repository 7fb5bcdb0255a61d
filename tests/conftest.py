"""The fixtures that several test files share."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from support import ROOT, Run, write_checkpoint
from support.commands import RUNTIME, Forks

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # of the sessions that tests open by themselves

# Each of pytest's workers has a core of its own, and so has what it starts: one decoder each.
CORES = os.sched_getaffinity(0)
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    os.sched_setaffinity(0, {sorted(CORES)[int(worker.removeprefix("gw")) % len(CORES)]})

# A shell's job in the background ignores ^C, and with it would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in a line how many tests were skipped, what each lacked, and how to have them run."""
    reports = terminalreporter.stats.get("skipped", ())
    lacking = Counter(str(report.longrepr[-1]).removeprefix("Skipped: ") for report in reports)
    if lacking:
        told = "; ".join(f"{reason} ({count})" for reason, count in lacking.most_common())
        terminalreporter.write_line(
            f"{lacking.total()} did not run here: {told}. To have them run: timm and open_clip by "
            "`make test-timm`, ONNX Runtime's GPU build by `make test-gpu-build`, weights and "
            "photographs by VIT_TEST_DATA, other packages by pip or apt-get"
        )


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real weights and images; tests that want it skip where it is absent."""
    path = Path(os.environ.get("VIT_TEST_DATA", ROOT.parent / "shared/data"))
    if not (path / "deit-tiny-imagenet1k/model.safetensors").is_file():
        pytest.skip(f"no test data at {path} (set VIT_TEST_DATA)")
    return path


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny checkpoint on disk."""
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_artefact(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint as an FP32 artefact, not verified."""
    from vit_export.artefact import export
    from vit_export.checkpoints.checkpoint import load

    path = tmp_path_factory.mktemp("artefact") / "vit.onnx"
    export(load(str(tiny_folder)), path, precision="fp32", images=None)
    return path


@pytest.fixture
def all_cores() -> Iterator[None]:
    """Run on all cores, where it takes several decoders to see something."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, CORES)
    yield
    os.sched_setaffinity(0, own)


@pytest.fixture
def bounded() -> Iterator[None]:
    """Fail a test that hangs, after two minutes."""

    def late(number: int, frame: FrameType | None) -> None:
        pytest.fail("hangs")

    handler = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 120, 1)  # again, should it hang while it unwinds
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    with Forks(*RUNTIME.values()) as forks:
        yield forks


@pytest.fixture(scope="session")
def run_command(forks: Forks) -> Run:
    """Run one of the project's commands as a user would; 120 s at most.

    One that has options beside these two is a program that starts anew.
    """

    def run(name: str, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        line = [str(a) for a in arguments]
        if name in RUNTIME and options.keys() <= {"cwd", "input"}:
            return forks.run(name, RUNTIME[name], line, **options)
        program = Path(sys.executable).with_name(name)
        settings = {"capture_output": True, "text": True, "timeout": 120} | options
        return subprocess.run([str(program), *line], check=False, **settings)

    return run
