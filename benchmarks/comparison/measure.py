"""The measurements: loading, turns over batch sizes, ceilings, files to labels, accuracy."""

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comparison import machine
from comparison.contenders import BASELINE, CEILINGS, Entry
from comparison.inputs import Arrays, Model, Photos
from comparison.job import Job
from comparison.round_robin import HERE, FailedError, Field, Process

PEERS = HERE.parent / ".venv-peers/bin/python"
CONVERT_S, LOAD_S, WARM_S, TURN_S = 1800.0, 900.0, 900.0, 300.0
"""Limits in seconds, beyond which a contender has hung; compiling may take minutes."""

UNRELATED = 0.5
"""Below this correlation with the baseline's logits an answer is wrong, not imprecise."""

HOPELESS = 2
"""Contenders this many times slower than the baseline are not timed: all the others would wait."""

Row = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    batches: tuple[int, ...]
    rounds: tuple[int, int]  # fewest and most turns of each contender at each batch size
    budget_s: float  # for one batch size, within those bounds
    latency_rounds: int  # at batch 1
    latency_runs: int  # at batch 1, in each turn
    turn_s: float  # a turn goes on for this long, or one run
    files_s: float  # a turn from files to labels
    files_rounds: int
    held_out: int  # drawn images for accuracy
    slow_starts: bool


FULL = Plan((1, 2, 4, 8, 16, 32), (5, 12), 90, 20, 5, 0.3, 8, 3, 320, True)
QUICK = Plan((1, 8), (3, 3), 0, 4, 3, 0.1, 1, 2, 96, False)


@dataclass(frozen=True)
class Setting:
    """What one run of the comparison is about."""

    entries: tuple[Entry, ...]
    device: str
    threads: int
    cache: Path
    scratch: Path
    plan: Plan
    say: Say
    locks: tuple[Path, ...] = ()  # held while timing


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
        """Convert, load and answer one image; alone on the machine where the load time counts."""

        def opened(entry: Entry) -> None:
            with self.field.watch(entry.name):
                self._open(entry)

        if at_once == 1:
            for entry in entries:
                opened(entry)
        else:
            with ThreadPoolExecutor(at_once) as pool:
                try:
                    list(pool.map(opened, entries))
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    self.field.close()  # ends what the threads wait for
                    raise
        order = {entry.name: i for i, entry in enumerate((*self.setting.entries, *CEILINGS))}
        self.field.processes = dict(
            sorted(self.field.processes.items(), key=lambda item: order[item[0]])
        )
        self.note_failures()

    def note_failures(self) -> None:
        """Write into the rows who has left, and why."""
        for name, why in self.field.failures.items():
            row = self.rows.setdefault(name, {})
            row.update(status=why.status, reason=str(why))

    def _open(self, entry: Entry) -> None:
        setting, row = self.setting, self.rows.setdefault(entry.name, {})
        row.update(status="ok", reason=None)
        python = _python(entry, setting)
        job = self._job(entry)
        setting.say(f"{entry.title}: converting")
        converter = self.field.add(f"{entry.name} converter", lambda: Process(job, python))
        assert converter
        try:
            converted = converter.ask({"verb": "convert"}, CONVERT_S)
        finally:
            self.field.leave(f"{entry.name} converter")
        setting.say(f"{entry.title}: loading")
        process = self.field.add(entry.name, lambda: Process(job, python))
        assert process
        loaded = process.ask({"verb": "load"}, LOAD_S)
        about = loaded["about"]
        files = [Path(p) for p in about.pop("files", ())]
        row.setdefault("load_s", loaded["seconds"])
        row.setdefault("convert_s", converted["seconds"])
        row.update(about=about, file_bytes=sum(p.stat().st_size for p in files))
        self.pids[entry.name] = loaded["pid"]

    def _job(self, entry: Entry) -> Job:
        setting = self.setting
        return Job(
            contender=entry.name,
            module=f"comparison.contenders.{entry.module}",
            options=entry.options,
            model=str(self.model.folder),
            cache=str(setting.cache),
            threads=setting.threads,
            device=setting.device,
            max_batch=max(setting.plan.batches),
            uint8=str(self.arrays.uint8),
            float32=str(self.arrays.float32),
            calibration=str(self.calibration.float32),
            calibration_files=str(self.calibration.files or ""),
        )

    def speed(self, batch: int) -> None:
        """Time every contender at one batch size, turn by turn."""
        plan, say = self.setting.plan, self.setting.say
        self.warm(batch)
        expected = self._expected(batch)
        requests, rounds = {}, _rounds(expected, plan, batch)
        for name, seconds in expected.items():
            fewest = plan.latency_runs if batch == 1 else 1
            runs = min(max(fewest, math.ceil(plan.turn_s / seconds)), 50)
            requests[name] = {"verb": "time", "batch": batch, "runs": runs}

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

    def estimate(self) -> float:
        """Return the seconds that all turns will take, from the warm-up at batch 1."""
        total, plan = 0.0, self.setting.plan
        for batch in plan.batches:
            expected = {name: s * batch for name, s in self._expected(1).items()}
            fewest = plan.latency_runs if batch == 1 else 1
            turns = sum(max(plan.turn_s, fewest * s) for s in expected.values())
            total += _rounds(expected, plan, batch) * turns + 2 * sum(expected.values())
        return total

    def _expected(self, batch: int) -> dict[str, float]:
        """Return the seconds of one run; a first run that compiled says too much."""
        return {
            name: min(s * max(1, batch / b) for b, s in self.expected[name].items())
            for name in self.alive
        }

    def label_files(self, photos: Photos, batch: int = 8) -> Row:
        """Time files to labels, turn by turn."""
        seconds = self.expected[BASELINE][batch] / batch
        plan, found = self.setting.plan, len(photos.files)
        count = min(found, max(4 * batch, int(plan.files_s / seconds)))
        files = [str(p) for p in photos.files[:: found // count][:count]]
        request = {"verb": "label", "paths": files, "batch": batch}
        able = [e.name for e in self.setting.entries if e.files and e.name in self.alive]

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
            if self.field.ask(name, {"verb": "predict", "batch": 8, **files}, 3600):
                logits[name] = np.load(out)
        self.note_failures()
        expected = logits.get(BASELINE)
        rows = {
            name: accuracy_row(found, expected, photos, self.model.labels)
            for name, found in logits.items()
        }
        part = {"images": len(photos.files), "source": photos.source, "rows": rows}
        return part | {"excluded": self.excluded()}

    def excluded(self) -> dict[str, tuple[str, str]]:
        """Return status and reason of who has left."""
        return {n: (why.status, str(why)) for n, why in self.field.failures.items()}


def ceilings(setting: Setting, model: Model, arrays: Arrays, rounds: int = 5) -> dict[str, Row]:
    """Measure how many operations a second the machine has at most, by precision."""
    with Suite(setting, model, arrays, arrays) as suite:
        suite.open(CEILINGS)
        request = {"verb": "time", "batch": 1, "runs": 2}
        setting.say("the machine's ceilings")
        answers = suite.field.take_turns(
            dict.fromkeys(suite.alive, request), rounds=rounds, limit=TURN_S
        )
        suite.note_failures()
        entries = {entry.name: entry for entry in CEILINGS}
        for name, row in suite.rows.items():
            row.update(title=entries[name].title, precision=entries[name].options["precision"])
            if name in answers:
                operations = row["about"].pop("operations")
                fastest = min(min(turn["seconds"]) for turn in answers[name])
                row["gflops"] = operations / fastest / 1e9
        return suite.rows


def accuracy_row(
    found: NDArray[np.float32],
    expected: NDArray[np.float32] | None,
    photos: Photos,
    labels: tuple[str, ...],
) -> Row:
    """Return top-1, top-5, and the distance from the expected logits (images, labels)."""
    classes = np.array(photos.classes)
    order = np.argsort(-found, axis=1, kind="stable")
    row: Row = {
        "top1": float((order[:, 0] == classes).mean()),
        "top5": float((order[:, :5] == classes[:, None]).any(1).mean()),
    }
    if expected is not None:
        difference = np.abs(found - expected)
        theirs = expected.argmax(1)
        row |= {
            "agreement": float((order[:, 0] == theirs).mean()),
            "max_diff": float(difference.max()),
            "mean_diff": float(difference.mean()),
            "logit_range": float(np.ptp(expected)),
            "differs": [
                {
                    "file": photos.files[i].name,
                    "true": labels[classes[i]],
                    "baseline": labels[theirs[i]],
                    "here": labels[order[i, 0]],
                }
                for i in np.flatnonzero(order[:, 0] != theirs)
            ],
        }
    return row


def merged(stored: Row, added: Row) -> Row:
    """Return the stored result with the rows of a later sitting, each with its own baseline."""
    for part in ("speed", "files"):
        rows = added[part]["rows"]
        for name in rows.keys() - {BASELINE}:
            stored[part]["rows"][name] = {**rows[name], "against": rows[BASELINE]["rounds"]}
    accuracy = {n: row for n, row in added["accuracy"]["rows"].items() if n != BASELINE}
    stored["accuracy"]["rows"].update(accuracy)
    for part in ("files", "accuracy"):
        for name in added["speed"]["rows"]:
            stored[part]["excluded"].pop(name, None)
        stored[part]["excluded"].update(added[part]["excluded"])
    names = sorted(added["speed"]["rows"].keys() - {BASELINE})
    stored["notes"].append(
        f"{', '.join(names)}: measured later ({added['made'][:16]}, commit "
        f"{added['machine']['commit']}), with turns of the baseline in that sitting to compare to."
    )
    return stored


def described(model: Model) -> Row:
    """Return what the report says of a model."""
    return {
        "name": model.name,
        "weights_sha256": model.weights_sha256,
        "random": model.random,
        "gflop": model.gflop,
        "labels": len(model.labels),
        **asdict(model.architecture),
    }


def _python(entry: Entry, setting: Setting) -> str:
    """Return the entry's interpreter, or say why it cannot run."""
    import sys

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


def _rounds(expected: dict[str, float], plan: Plan, batch: int) -> int:
    if batch == 1:
        return plan.latency_rounds
    one = sum(max(seconds, plan.turn_s) for seconds in expected.values())
    fewest, most = plan.rounds
    return min(max(fewest, int(plan.budget_s / max(one, 1e-9))), most)


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
