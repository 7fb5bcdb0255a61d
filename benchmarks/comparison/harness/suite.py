"""The contenders with one model loaded, and what is asked of them, each in turn."""

import importlib
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comparison.contenders.entries import BASELINE, Entry
from comparison.harness.plan import OutOfTimeError, Setting
from comparison.harness.worker_process import ROOT, Answer, FailedError, Process
from comparison.inputs.images import Arrays
from comparison.inputs.models import Model
from comparison.job import Job
from vit_engine.errors import VitError
from vit_engine.machine import processor
from vit_export.files.weight_files import weight_files

CONVERT_S, LOAD_S, TURN_S = 1800.0, 900.0, 300.0
"""Limits in seconds, beyond which a contender has hung; compiling may take minutes."""

STARTING, SLOW = 0.6, 0.4
"""Shares of what is left of a budget: for starting everyone; for one that starts slowly."""

FEWEST_ROUNDS = 3
"""For which a budget's end does not cut a part short, but leaves it out; a plan may have fewer."""

Row = dict[str, Any]


@dataclass
class Suite:
    """The contenders with one model loaded; a context manager that ends them.

    What fails is out, and `failures` says why.
    """

    setting: Setting
    model: Model
    arrays: Arrays
    calibration: Arrays
    rows: dict[str, Row] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)  # that were opened
    processes: dict[str, Process] = field(default_factory=dict)  # of who is still in the race
    failures: dict[str, FailedError] = field(default_factory=dict)
    expected: dict[str, dict[int, float]] = field(default_factory=dict)  # s of a run by batch size
    pids: dict[str, int] = field(default_factory=dict)

    def __enter__(self) -> "Suite":
        return self

    def __exit__(self, *exception: object) -> None:
        for name in list(self.processes):
            self.leave(name)

    @property
    def alive(self) -> list[Entry]:
        """Return who is still in the race, in the order of the report."""
        return [entry for name, entry in self.entries.items() if name in self.processes]

    def open(self, entries: Iterable[Entry]) -> None:
        """Convert, load and answer one image, one by one; who starts slowly comes last.

        The plan says who comes before all others. The baseline has all the time that there is, the
        others a share of it.
        """
        wanted, first = list(entries), self.setting.plan.first
        self.entries |= {entry.name: entry for entry in wanted}
        until = time.monotonic() + STARTING * self.setting.left()
        for entry in sorted(wanted, key=lambda e: (e.name not in first, e.slow_start)):
            self.rows.setdefault(entry.name, {}).update(status="ok", reason=None)
            left = self.setting.left() if entry.name == BASELINE else until - time.monotonic()
            with self.watch(entry.name):
                slow = entry.slow_start and entry.name not in first
                self._open(entry, left * (SLOW if slow else 1))

    def _open(self, entry: Entry, left: float) -> None:
        python, job = _python(entry, self.setting), self._job(entry)
        self.setting.tell(f"{entry.title}: loading")
        until = time.monotonic() + left
        if hasattr(importlib.import_module(entry.path), "convert"):
            with closing(Process(job, python)) as process:
                process.ask("convert", CONVERT_S, left)
        process = self.processes[entry.name] = Process(job, python)
        loaded = process.ask("load", LOAD_S, until - time.monotonic())
        row, about = self.rows[entry.name], loaded["about"]
        row.setdefault("load_s", loaded["seconds"])
        size = sum(Path(p).stat().st_size for p in about.pop("files", ()))
        row.update(about=about, file_bytes=size)
        self.pids[entry.name] = loaded["pid"]

    def _job(self, entry: Entry) -> Job:
        return Job(
            contender=entry.name,
            module=entry.path,
            options=entry.options,
            model=str(self.model.folder),
            cache=str(self.setting.cache),
            threads=self.setting.threads,
            device=self.setting.device,
            max_batch=max(self.setting.plan.batches),
            uint8=str(self.arrays.uint8),
            float32=str(self.arrays.float32),
            weights=tuple(map(str, weight_files(self.model.folder))),
            calibration=str(self.calibration.float32),
            calibration_files=str(self.calibration.files or ""),
            pooling=self.model.pooling,
            vnni=processor.cpu().int8,
        )

    def leave(self, name: str) -> None:
        """End a contender's process, if it has one."""
        if process := self.processes.pop(name, None):
            process.close()

    @contextmanager
    def watch(self, name: str) -> Iterator[None]:
        """Turn a failure within the block into the contender's leaving, and its row's reason."""
        try:
            yield
        except FailedError as e:
            self.failures[name] = e
            self.rows.setdefault(name, {}).update(status=e.status, reason=str(e))
            self.leave(name)

    def excluded(self) -> dict[str, tuple[str, str]]:
        """Return status and reason of who has left."""
        return {name: (why.status, str(why)) for name, why in self.failures.items()}

    def need_baseline(self) -> None:
        """Raise a VitError if the baseline is out, or all others are for want of time."""
        if why := self.failures.get(BASELINE):
            error = OutOfTimeError if why.status == "skipped" else VitError
            raise error(f"the baseline cannot run: {why}")
        if len(self.alive) == 1 and (late := [why for why in self.failures.values() if why.late]):
            raise OutOfTimeError(f"there is nothing beside the baseline: {late[0]}")

    def ask(
        self, name: str, verb: str, limit: float = TURN_S, *, share: float = 1, **arguments: Any
    ) -> Answer | None:
        """Ask one contender; None if it is out or goes out by this."""
        if name in self.processes:
            left = self.setting.left() * share
            with self.watch(name):
                return self.processes[name].ask(verb, limit, left, **arguments)
        return None

    def take_turns(
        self, verb: str, requests: dict[str, dict[str, Any]], rounds: int, round_s: float = 0
    ) -> dict[str, list[Answer]]:
        """Ask the named contenders once a round, which is expected to take so long, in rotation.

        Only those that answered in every round are in the result: a contender that fails midway
        has no times at all.
        """
        answers: dict[str, list[Answer]] = {name: [] for name in requests}
        done, fewest = 0, min(FEWEST_ROUNDS, self.setting.plan.rounds[0])
        while done < rounds:
            if done < fewest:
                self.setting.need(round_s)
            elif self.setting.left() < round_s:
                break
            started = time.monotonic()
            able = [name for name in requests if name in self.processes]
            first = done % max(1, len(able))  # no one always follows the same
            for name in able[first:] + able[:first]:
                if answer := self.ask(name, verb, **requests[name]):
                    answers[name].append(answer)
            round_s = time.monotonic() - started
            done += 1
        return {name: found for name, found in answers.items() if len(found) == done}

    def seconds(self, entry: Entry, batch: int) -> float:
        """Return the seconds of one run, as warming up has told; 0 before.

        A first run that compiled says too much.
        """
        known = self.expected.get(entry.name, {})
        return min((s * max(1, batch / b) for b, s in known.items()), default=0.0)


def _python(entry: Entry, setting: Setting) -> str:
    """Return the entry's interpreter, or say why it cannot run."""
    if entry.absent:
        raise FailedError("absent", entry.absent)
    if setting.device not in entry.devices:
        here = {"cpu": "CPU", "cuda": "GPU"}[setting.device]
        raise FailedError("absent", f"not for a {here}")
    if entry.slow_start and not (setting.plan.slow_starts or entry.name in setting.plan.first):
        raise FailedError("skipped", "compiles, optimises or quantises: left out of --quick")
    if not entry.environment:
        return sys.executable
    installed = ROOT.parent / f".venv-{entry.environment}/.installed"
    if not installed.exists():
        words = f"{installed.parent.name} is not there, or not whole; make peers"
        raise FailedError("absent", words)
    return str(installed.with_name("bin") / "python")
