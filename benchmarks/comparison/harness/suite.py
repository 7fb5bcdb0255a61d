"""The contenders with one model loaded, and what is asked of them, each in turn."""

import importlib
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comparison import host
from comparison.contenders.entries import BASELINE, Entry
from comparison.harness.plan import Setting
from comparison.harness.round_robin import Field
from comparison.harness.worker_process import ROOT, FailedError, LateError, Process, Request
from comparison.inputs.arrays import Arrays
from comparison.inputs.models import Model
from comparison.job import Job
from vit_engine.machine import processor
from vit_export.files.weight_files import weight_files

CONVERT_S, LOAD_S, WARM_S, TURN_S = 1800.0, 900.0, 900.0, 300.0
"""Limits in seconds, beyond which a contender has hung; compiling may take minutes."""

SLOW_SHARE = 0.4
"""Of what is left of a budget, for one slow start."""

UNRELATED = 0.5
"""Below this correlation with the baseline's logits an answer is wrong, not imprecise."""

HOPELESS = 4
"""Contenders this many times slower than the baseline are not timed: all the others would wait."""

Row = dict[str, Any]


class Suite:
    """The contenders with one model loaded; a context manager that ends them."""

    def __init__(
        self,
        setting: Setting,
        model: Model,
        arrays: Arrays,
        calibration: Arrays,
        rows: dict[str, Row] | None = None,
    ) -> None:
        self.setting, self.model, self.arrays = setting, model, arrays
        self.calibration = calibration
        self.field = Field()
        self.rows = {} if rows is None else rows
        self.entries: dict[str, Entry] = {}  # that were opened
        self.expected: dict[str, dict[int, float]] = {}  # seconds of a run by batch size
        self.pids: dict[str, int] = {}

    def __enter__(self) -> "Suite":
        return self

    def __exit__(self, *exception: object) -> None:
        self.field.close()

    @property
    def alive(self) -> list[Entry]:
        """Return who is still in the race, in the order of the report."""
        return [entry for name, entry in self.entries.items() if name in self.field.processes]

    def open(self, entries: Iterable[Entry], *, at_once: int = 1) -> None:
        """Convert side by side, then load and answer one image, `at_once` at a time.

        One at a time where the load time counts; who starts slowly comes last.
        """
        wanted = list(entries)
        self.entries |= {entry.name: entry for entry in wanted}
        for entry in wanted:
            self.rows.setdefault(entry.name, {}).update(status="ok", reason=None)
        makers: dict[Any, list[Entry]] = {}  # entries of one maker may share a file: one by one
        for entry in wanted:
            if convert := getattr(importlib.import_module(entry.path), "convert", None):
                makers.setdefault(convert, []).append(entry)
        self._each(self._convert, list(makers.values()), self.setting.threads)
        able = [entry for entry in wanted if entry.name not in self.field.failures]
        able.sort(key=lambda entry: entry.slow_start)
        self._each(self._load, [[entry] for entry in able], at_once)
        self.note_failures()

    def _each(self, step: Callable[[Entry], None], groups: list[list[Entry]], at_once: int) -> None:
        def watched(group: list[Entry]) -> None:
            for entry in group:
                with self.field.watch(entry.name):
                    step(entry)

        with ThreadPoolExecutor(at_once) as pool:
            try:
                list(pool.map(watched, groups))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.field.close()  # ends what the threads wait for
                raise

    def note_failures(self) -> None:
        """Write into the rows who has left, and why."""
        for name, why in self.field.failures.items():
            self.rows.setdefault(name, {}).update(status=why.status, reason=str(why))

    def _convert(self, entry: Entry) -> None:
        name = f"{entry.name} converter"
        python = _python(entry, self.setting)
        self.setting.say(f"{entry.title}: converting")
        try:
            process = self.field.add(name, lambda: Process(self._job(entry), python))
            self._ask(process, {"verb": "convert"}, CONVERT_S)
        finally:
            self.field.leave(name)

    def _load(self, entry: Entry) -> None:
        python = _python(entry, self.setting)
        self.setting.say(f"{entry.title}: loading")
        process = self.field.add(entry.name, lambda: Process(self._job(entry), python))
        loaded = self._ask(process, {"verb": "load"}, LOAD_S, slow=entry.slow_start)
        row, about = self.rows[entry.name], loaded["about"]
        files = [Path(p) for p in about.pop("files", ())]
        row.setdefault("load_s", loaded["seconds"])
        row.update(about=about, file_bytes=sum(p.stat().st_size for p in files))
        self.pids[entry.name] = loaded["pid"]

    def _ask(
        self, process: Process, request: Request, limit: float, *, slow: bool = False
    ) -> dict[str, Any]:
        """Return the answer; who needs longer than a budget allows has not failed by it."""
        left = self.setting.left() * (SLOW_SHARE if slow else 1)
        try:
            return process.ask(request, min(limit, left))
        except LateError as e:
            if left >= limit:
                raise
            words = f"not done with {request['verb']!r} in the {left:.0f} s that the budget left"
            raise FailedError("skipped", words) from e

    def _job(self, entry: Entry) -> Job:
        setting = self.setting
        return Job(
            contender=entry.name,
            module=entry.path,
            options=entry.options,
            model=str(self.model.folder),
            cache=str(setting.cache),
            threads=setting.threads,
            device=setting.device,
            max_batch=max(setting.plan.batches),
            uint8=str(self.arrays.uint8),
            float32=str(self.arrays.float32),
            weights=tuple(map(str, weight_files(self.model.folder))),
            calibration=str(self.calibration.float32),
            calibration_files=str(self.calibration.files or ""),
            vnni=processor.cpu().int8,
        )

    def speed(self, batch: int) -> None:
        """Time every contender at one batch size, turn by turn."""
        plan = self.setting.plan
        timed = [entry for entry in self.alive if plan.takes(entry, batch)]
        if any(batch not in self.expected.get(entry.name, {}) for entry in timed):
            self.warm(batch)
        expected = {e.name: self.seconds(e, batch) for e in self.alive if plan.takes(e, batch)}
        rounds = plan.rounds_of(batch, expected)
        requests = {
            name: {"verb": "time", "batch": batch, "runs": plan.runs_of(batch, seconds)}
            for name, seconds in expected.items()
        }
        answers = self.take_turns(f"batch {batch}", requests, rounds)
        for name, turns in answers.items():
            row = self.rows[name]
            row.setdefault("rounds", {})[str(batch)] = [turn["seconds"] for turn in turns]
            for what in ("others", "switches"):
                row.setdefault(what, {})[str(batch)] = [turn[what] for turn in turns]
            memory = self.field.ask(name, {"verb": "memory"}, TURN_S)
            if memory:
                row["memory_bytes"] = max(memory["bytes"] or 0, row.get("memory_bytes") or 0)
            if self.setting.device == "cuda":
                row["gpu_bytes"] = host.gpu_bytes(self.pids[name])
        self.note_failures()

    def warm(self, batch: int) -> None:
        """Run everyone untimed, compiling what compiles; who answers something else is out."""
        logits: dict[str, NDArray[np.float64]] = {}
        runs = 5 if batch == 1 else 2 if batch <= 8 else 1  # the fastest at 1 tells who is hopeless
        for entry in self.alive:
            if not self.setting.plan.takes(entry, batch):
                continue
            self.setting.say(f"batch {batch}: warming up {entry.name}")
            request = {"verb": "warm", "batch": batch, "runs": runs}
            with self.field.watch(entry.name):
                process = self.field.processes[entry.name]
                answer = self._ask(process, request, WARM_S, slow=entry.compiles)
                self.expected.setdefault(entry.name, {})[batch] = answer["seconds"]
                logits[entry.name] = np.array(answer["logits"][0])
        for name, found in logits.items():
            with self.field.watch(name):
                _check_related(found, logits.get(BASELINE))
                if batch == 1 and BASELINE in logits:
                    _check_hope(self.expected[name][1], self.expected[BASELINE][1])
        self.note_failures()

    def estimate(self, batches: Iterable[int], *, files: bool, images: int) -> float:
        """Return the seconds to come, from the warm-up at batch 1.

        Those of warming up and turns at the batch sizes, of files to labels if they are to be
        timed, and of the answers to `images` labelled images. What compiles does so again for each
        batch size.
        """
        plan = self.setting.plan
        one = {entry.name: self.seconds(entry, 1) for entry in self.alive}
        total = images * sum(one.values())
        for batch in batches:
            timed = [entry for entry in self.alive if plan.takes(entry, batch)]
            expected = {entry.name: one[entry.name] * batch for entry in timed}
            turns = sum(plan.runs_of(batch, s) * s for s in expected.values())
            total += plan.rounds_of(batch, expected) * turns + 2 * sum(expected.values())
            total += sum(self.rows[e.name]["load_s"] for e in timed if e.compiles)
        if files:
            able = [one[entry.name] for entry in self.alive if entry.files]
            total += 2 * plan.files_rounds * plan.files_s * sum(able) / one[BASELINE]
        return total

    def seconds(self, entry: Entry, batch: int) -> float:
        """Return the seconds of one run; a first run that compiled says too much."""
        return min(s * max(1, batch / b) for b, s in self.expected[entry.name].items())

    def take_turns(
        self, words: str, requests: dict[str, Request], rounds: int
    ) -> dict[str, list[dict[str, Any]]]:
        """Ask contenders once a round; who failed in one is left out."""
        answers = self.field.take_turns(
            requests,
            rounds=rounds,
            limit=TURN_S,
            each=lambda i, name: self.setting.say(f"{words}, round {i + 1} of {rounds}: {name}"),
        )
        self.note_failures()
        return answers

    def excluded(self) -> dict[str, tuple[str, str]]:
        """Return status and reason of who has left."""
        return {n: (why.status, str(why)) for n, why in self.field.failures.items()}


def _python(entry: Entry, setting: Setting) -> str:
    """Return the entry's interpreter, or say why it cannot run."""
    if setting.device not in entry.devices:
        here = {"cpu": "CPU", "cuda": "GPU"}[setting.device]
        raise FailedError("absent", f"not for a {here}")
    if entry.slow_start and not setting.plan.slow_starts:
        raise FailedError("skipped", "compiles, optimises or quantises: left out of --quick")
    if not entry.environment:
        return sys.executable
    installed = ROOT.parent / f".venv-{entry.environment}/.installed"
    if not installed.exists():
        raise FailedError(
            "absent", f"{installed.parent.name} is not there, or not whole; make peers"
        )
    return str(installed.with_name("bin") / "python")


def _check_hope(seconds: float, baseline: float) -> None:
    if seconds > HOPELESS * baseline:
        times = seconds / baseline
        raise FailedError("skipped", f"not timed: {times:.0f} times slower than the baseline")


def _check_related(found: NDArray[np.float64], expected: NDArray[np.float64] | None) -> None:
    if expected is None or expected.size < 3:
        return
    if found.shape != expected.shape:
        raise FailedError("failed", f"{found.size} logits, the baseline has {expected.size}")
    correlation = float(np.corrcoef(found, expected)[0, 1])
    if not correlation > UNRELATED:
        raise FailedError(
            "failed", f"its logits have a correlation of {correlation:.2f} with the baseline's"
        )
