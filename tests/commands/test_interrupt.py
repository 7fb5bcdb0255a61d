"""Signals that come twice within milliseconds are one ^C; a later one ends at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from support import EXAMPLES, ROOT, wait_until
from vit_engine.cli import exit_codes, signals
from vit_engine.cli.signals import interrupts
from vit_engine.commands import infer
from vit_engine.rows.resumable_output import ResumableOutput

pytestmark = pytest.mark.alone  # what comes within milliseconds

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@pytest.mark.parametrize(("number", "group"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_signal_to_child_and_group_ends_a_run_in_order(
    number: int, group: bool, tmp_path: Path
) -> None:
    """As timeout(1) sends it: the rows are kept and can be resumed, and no process is cut off."""
    program = Path(sys.executable).with_name("vit-infer")
    out = tmp_path / "r.jsonl"
    line = [str(program), "-m", "demo", "--provider", "cpu", "-b", "1", "-", "-o", str(out)]
    names = []
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        assert run.stdin and run.stderr
        partial = tmp_path / "r.jsonl.partial"

        def is_synced() -> bool:  # which rows are once they are old enough, with a later one
            names.append(f"{ROOT / 'examples/arrow-01.jpg'}\n")
            run.stdin.write(names[-1])
            run.stdin.flush()
            time.sleep(0.1)
            return partial.exists() and partial.stat().st_size > 0

        wait_until(is_synced)
        for _ in range(2):
            os.kill(run.pid, number)
            if group:
                os.killpg(run.pid, number)
            time.sleep(0.005)
        assert run.wait(15) == 128 + number
        told = run.stderr.read()
    assert "interrupted after " in told and "continue with --resume" in told
    assert "Traceback" not in told
    subprocess.run([*line, "--resume"], input="".join(names), text=True, check=True)
    assert len(out.read_bytes().splitlines()) == len(names)


def test_a_second_press_ends_at_once() -> None:
    script = """
import os, signal, time
from vit_engine.cli.signals import ONE_PRESS, interrupts
with interrupts() as interrupt:
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    assert interrupt()
    print("one", flush=True)
    time.sleep(ONE_PRESS + 0.1)
    os.kill(os.getpid(), signal.SIGINT)
    print("never")
"""
    line = [sys.executable, "-c", script]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "one\n")


@BOTH
def test_cleaning_up_is_not_interrupted_by_the_same_press(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(signals, "_last_signal", [float("-inf")])
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    cleaned = []

    def main() -> int:
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), number)
            cleaned.append(True)
        return 0

    monkeypatch.setitem(sys.modules, "a_command", SimpleNamespace(main=main))
    monkeypatch.setattr(sys, "stderr", sys.stderr)  # which the command wraps
    try:
        assert exit_codes.start("vit-export", "a_command") == 128 + number
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
    assert cleaned == [True]
    words = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
    assert capsys.readouterr().err == f"vit-export: {words[number]}\n"


def test_the_flag_is_the_first_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_last_signal", [float("-inf")])
    with interrupts() as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.exit_code == 143


@BOTH
@pytest.mark.parametrize("resumed", [False, True])
def test_a_signal_while_the_file_gets_its_name_finds_a_run_that_is_done(
    number: int, resumed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows are there: it says nothing of an interruption, after which one would resume."""
    out = tmp_path / "r.parquet"
    whole = ResumableOutput.finish

    def finish(output: ResumableOutput) -> str:
        os.kill(os.getpid(), number)
        return whole(output)

    monkeypatch.setattr(ResumableOutput, "finish", finish)
    line = ["vit-infer", "-m", "demo", "--provider", "cpu", str(ROOT / "examples"), "-o", str(out)]
    monkeypatch.setattr(sys, "argv", line + ["--resume"] * resumed)
    assert infer.main() == 0
    assert pq.read_table(out).num_rows == len(EXAMPLES)
