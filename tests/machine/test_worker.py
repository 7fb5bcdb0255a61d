"""A child process answers in time, or how it ended is told; none is left behind."""

import os
import tempfile
import threading
from pathlib import Path

import pytest

from support import children
from vit_engine.errors import MachineError
from vit_engine.machine import worker
from vit_engine.machine.worker import EndedError, Worker


@pytest.fixture
def echo():
    with Worker(children.echo, purpose="echo", memory=2**30) as child:
        child.wait_until_ready()
        yield child


def test_messages_of_any_size_come_back(echo):
    for message in (b"", b"a", bytes(range(256)) * 2**14):
        echo.ask(message)
        assert echo.answer(30) == message
    echo.ask(b"2 GiB")
    assert echo.answer(30) == b"MemoryError"


@pytest.mark.parametrize(("request_", "ended"), [(b"abort", "SIGABRT"), (b"exit", "exit code 7")])
def test_how_it_ended_is_told(echo, request_, ended):
    echo.ask(request_)
    with pytest.raises(EndedError, match=ended):
        echo.answer(30)
    assert not echo.is_alive()
    echo.ask(bytes(2**20))
    with pytest.raises(EndedError, match=ended):
        echo.answer(30)


def test_an_answer_is_awaited_so_long_and_a_kill_ends_the_wait(echo):
    echo.ask(b"hang")
    with pytest.raises(TimeoutError):
        echo.answer(0.1)
    threading.Timer(0.2, echo.kill).start()
    with pytest.raises(EndedError, match="SIGKILL"):
        echo.answer(30)


def test_nothing_is_left_behind():
    before = len(list(Path("/proc/self/fd").iterdir()))
    with Worker(children.hang, purpose="hang") as child:
        pid = child._child.pid
        assert Path(f"/proc/{pid}").exists() and os.getpgid(pid) != os.getpgid(0)
    child.close()
    assert not Path(f"/proc/{pid}").exists()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_child_that_does_not_start_is_an_error_of_the_machine(monkeypatch):
    with pytest.raises(MachineError, match=r"a process to think did not start \(exit code 1\)"):
        Worker(lambda channel: None, purpose="think").wait_until_ready()
    monkeypatch.setattr(worker.sys, "executable", "/no/such/python")
    with pytest.raises(MachineError, match="cannot start a process to think: No such file"):
        Worker(children.hang, purpose="think")


def test_files_are_handed_on_and_stderr_is_kept():
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as given:
        with Worker(
            children.echo, purpose="echo", pass_fds=[given.fileno()], stderr=errors
        ) as child:
            child.wait_until_ready()
            assert Path(f"/proc/{child._child.pid}/fd/{given.fileno()}").exists()
            child.ask(b"fail")
            with pytest.raises(EndedError, match="exit code 1"):
                child.answer(30)
        errors.seek(0)
        assert errors.read().endswith(b"ValueError: what went wrong\n")
