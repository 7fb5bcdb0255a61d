"""The contenders with one model loaded, and what is asked of them, each in turn."""

import importlib
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comparison import accuracy, machine
from comparison.contenders import BASELINE, CEILINGS, Entry
from comparison.inputs import Arrays, Model, Photos
from comparison.job import Job
from comparison.plan import Setting
from comparison.round_robin import HERE, FailedError, Field, Process
from vit_export.checkpoints.weight_files import weight_files

PEERS = HERE.parent / ".venv-peers/bin/python"
CONVERT_S, LOAD_S, WARM_S, TURN_S = 1800.0, 900.0, 900.0, 300.0
"""Limits in seconds, beyond which a contender has hung; compiling may take minutes."""

UNRELATED = 0.5
"""Below this correlation with the baseline's logits an answer is wrong, not imprecise."""

HOPELESS = 2
"""Contenders this many times slower than the baseline are not timed: all the others would wait."""

FILES_BATCH, PREDICT_BATCH = 8, 8
"""Images in a batch from files to labels, and where only the answers count."""

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
        self.expected: dict[str, dict[int, float]] = {}  # seconds of a run by batch size
        self.pids: dict[str, int] = {}

    def __enter__(self) -> "Suite":
        return self

    def __exit__(self, *exception: object) -> None:
        self.field.close()

    @property
    def alive(self) -> list[str]:
        """Return who is still in the race."""
        return list(self.field.processes)

    def open(self, entries: Iterable[Entry], *, at_once: int = 1) -> None:
        """Convert side by side, then load and answer one image, `at_once` at a time.

        One at a time where the load time counts.
        """
        wanted = list(entries)
        for entry in wanted:
            self.rows.setdefault(entry.name, {}).update(status="ok", reason=None)
        converters = [e for e in wanted if hasattr(importlib.import_module(e.path), "convert")]
        self._each(self._convert, converters, self.setting.threads)
        able = [entry for entry in wanted if entry.name not in self.field.failures]
        self._each(self._load, able, at_once)
        order = {entry.name: i for i, entry in enumerate((*self.setting.entries, *CEILINGS))}
        self.field.processes = dict(
            sorted(self.field.processes.items(), key=lambda item: order[item[0]])
        )
        self.note_failures()

    def _each(self, step: Callable[[Entry], None], entries: list[Entry], at_once: int) -> None:
        def watched(entry: Entry) -> None:
            with self.field.watch(entry.name):
                step(entry)

        with ThreadPoolExecutor(at_once) as pool:
            try:
                list(pool.map(watched, entries))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.field.close()  # ends what the threads wait for
                raise

    def note_failures(self) -> None:
        """Write into the rows who has left, and why."""
        for name, why in self.field.failures.items():
            row = self.rows.setdefault(name, {})
            row.update(status=why.status, reason=str(why))

    def _convert(self, entry: Entry) -> None:
        job, python = self._job(entry), _python(entry, self.setting)
        self.setting.say(f"{entry.title}: converting")
        name = f"{entry.name} converter"
        try:
            self.field.add(name, lambda: Process(job, python)).ask({"verb": "convert"}, CONVERT_S)
        finally:
            self.field.leave(name)

    def _load(self, entry: Entry) -> None:
        job, python = self._job(entry), _python(entry, self.setting)
        self.setting.say(f"{entry.title}: loading")
        process = self.field.add(entry.name, lambda: Process(job, python))
        loaded = process.ask({"verb": "load"}, LOAD_S)
        row, about = self.rows[entry.name], loaded["about"]
        files = [Path(p) for p in about.pop("files", ())]
        row.setdefault("load_s", loaded["seconds"])
        row.update(about=about, file_bytes=sum(p.stat().st_size for p in files))
        self.pids[entry.name] = loaded["pid"]

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
        )

    def speed(self, batch: int) -> None:
        """Time every contender at one batch size, turn by turn."""
        plan, say = self.setting.plan, self.setting.say
        self.warm(batch)
        expected = self._expected(batch)
        rounds = plan.rounds_of(batch, expected)
        requests = {
            name: {"verb": "time", "batch": batch, "runs": plan.runs_of(batch, seconds)}
            for name, seconds in expected.items()
        }

        def each(i: int, name: str) -> None:
            say(f"batch {batch}, round {i + 1} of {rounds}: {name}")

        answers = self.field.take_turns(requests, rounds=rounds, limit=TURN_S, each=each)
        for name, turns in answers.items():
            row = self.rows[name]
            row.setdefault("rounds", {})[str(batch)] = [turn["seconds"] for turn in turns]
            memory = self.field.ask(name, {"verb": "memory"}, TURN_S)
            if memory:
                row["memory_bytes"] = max(memory["bytes"] or 0, row.get("memory_bytes") or 0)
            if self.setting.device == "cuda":
                row["gpu_bytes"] = machine.gpu_bytes(self.pids[name])
        self.note_failures()

    def warm(self, batch: int) -> None:
        """Run everyone untimed, compiling what compiles; who answers something else is out."""
        logits: dict[str, NDArray[np.float64]] = {}
        for name in self.alive:
            self.setting.say(f"batch {batch}: warming up {name}")
            request = {"verb": "warm", "batch": batch, "runs": 2 if batch <= 8 else 1}
            answer = self.field.ask(name, request, WARM_S)
            if answer:
                self.expected.setdefault(name, {})[batch] = answer["seconds"]
                logits[name] = np.array(answer["logits"][0])
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
        total, plan, one = 0.0, self.setting.plan, self._expected(1)
        for batch in batches:
            expected = {name: seconds * batch for name, seconds in one.items()}
            turns = sum(plan.runs_of(batch, s) * s for s in expected.values())
            total += plan.rounds_of(batch, expected) * turns + 2 * sum(expected.values())
            total += sum(self.rows[e.name]["load_s"] for e in self._alive_entries() if e.compiles)
        if files:
            able = [one[e.name] for e in self._alive_entries() if e.files]
            total += plan.files_rounds * plan.files_s * sum(able) / one[BASELINE]
        return total + images * sum(one.values())

    def _expected(self, batch: int) -> dict[str, float]:
        """Return the seconds of one run; a first run that compiled says too much."""
        return {name: self._seconds(name, batch) for name in self.alive}

    def _seconds(self, name: str, batch: int) -> float:
        return min(s * max(1, batch / b) for b, s in self.expected[name].items())

    def label_files(self, photos: Photos) -> Row:
        """Time files to labels, turn by turn."""
        batch = FILES_BATCH
        seconds = self._seconds(BASELINE, batch) / batch
        plan, found = self.setting.plan, len(photos.files)
        count = min(found, max(4 * batch, int(plan.files_s / seconds)))
        files = [str(p) for p in photos.files[:: found // count][:count]]
        request = {"verb": "label", "paths": files, "batch": batch}
        able = [entry.name for entry in self._alive_entries() if entry.files]

        def each(i: int, name: str) -> None:
            self.setting.say(f"files to labels, round {i + 1} of {plan.files_rounds}: {name}")

        answers = self.field.take_turns(
            dict.fromkeys(able, request), rounds=plan.files_rounds, limit=TURN_S, each=each
        )
        self.note_failures()
        expected = answers.get(BASELINE, [{}])[0].get("labels")
        rows = {
            name: {
                "rounds": [[turn["seconds"]] for turn in turns],
                "images": count,
                "same_labels": expected and _share(turns[0]["labels"], expected),
            }
            for name, turns in answers.items()
        }
        part = {"images": count, "batch": batch, "source": photos.source, "rows": rows}
        return part | {"excluded": self.excluded()}

    def accuracy(self, photos: Photos, arrays: Arrays) -> Row:
        """Hold every contender's answers against the true classes and the baseline's logits."""
        logits = {}
        for name in self.alive:
            self.setting.say(f"accuracy on {len(photos.files)} images: {name}")
            out = self.setting.scratch / f"{name}-logits.npy"
            files = {"uint8": str(arrays.uint8), "float32": str(arrays.float32), "out": str(out)}
            if self.field.ask(name, {"verb": "predict", "batch": PREDICT_BATCH, **files}, 3600):
                logits[name] = np.load(out)
        self.note_failures()
        expected = logits.get(BASELINE)
        rows = {
            name: accuracy.row(found, expected, photos, self.model.labels)
            for name, found in logits.items()
        }
        part = {"images": len(photos.files), "source": photos.source, "rows": rows}
        return part | {"excluded": self.excluded()}

    def _alive_entries(self) -> list[Entry]:
        return [entry for entry in self.setting.entries if entry.name in self.field.processes]

    def excluded(self) -> dict[str, tuple[str, str]]:
        """Return status and reason of who has left."""
        return {n: (why.status, str(why)) for n, why in self.field.failures.items()}


def _python(entry: Entry, setting: Setting) -> str:
    """Return the entry's interpreter, or say why it cannot run."""
    if setting.device not in entry.devices:
        here = {"cpu": "CPU", "cuda": "GPU"}[setting.device]
        raise FailedError("absent", f"not for a {here}")
    if entry.slow_start and not setting.plan.slow_starts:
        raise FailedError("absent", "compiles or quantises for minutes: left out of --quick")
    if not entry.peer:
        return sys.executable
    if not PEERS.exists():
        raise FailedError("absent", "the peers' environment is not there; make peers")
    return str(PEERS)


def _check_hope(seconds: float, baseline: float) -> None:
    if seconds > HOPELESS * baseline:
        times = seconds / baseline
        raise FailedError("absent", f"not timed: {times:.0f} times slower than the baseline")


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


def _share(found: list[int], expected: list[int]) -> float:
    return sum(a == b for a, b in zip(found, expected, strict=True)) / len(expected)
