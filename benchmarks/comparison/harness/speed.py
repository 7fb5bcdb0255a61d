"""Speed at a batch size: everyone warmed up and checked, then timed turn by turn."""

import numpy as np
from numpy.typing import NDArray

from comparison import host
from comparison.contenders.entries import BASELINE, Entry
from comparison.harness.suite import SLOW, Suite
from comparison.harness.worker_process import FailedError

WARM_S = 900.0
"""Seconds beyond which a contender has hung; compiling may take minutes."""

UNRELATED = 0.5
"""Below this correlation with the baseline's logits an answer is wrong, not imprecise."""

HOPELESS = 4
"""Contenders this many times slower than the baseline are not timed: all the others would wait."""


def warm(suite: Suite, batch: int) -> None:
    """Run everyone untimed, compiling what compiles; who answers something else is out."""
    suite.setting.tell(f"batch {batch}: warming up")
    runs = 5 if batch == 1 else 2 if batch <= 8 else 1  # the fastest at 1 tells who is hopeless
    baseline: NDArray[np.float64] | None = None
    for entry in _timed(suite, batch):
        name, share = entry.name, SLOW if entry.compiles else 1
        with suite.watch(name):
            answer = suite.ask(name, "time", WARM_S, share=share, batch=batch, runs=runs)
            if answer is None:
                continue
            suite.expected.setdefault(name, {})[batch] = min(answer["seconds"])
            logits = np.array(answer["logits"])
            if name == BASELINE:
                baseline = logits
            elif baseline is not None:
                _check_related(logits, baseline)
                times = suite.expected[name][batch] / suite.expected[BASELINE][batch]
                if batch == 1 and times > HOPELESS:
                    words = f"not timed: {times:.0f} times slower than the baseline"
                    raise FailedError("skipped", words)
    suite.note_failures()


def time_batch(suite: Suite, batch: int) -> None:
    """Time every contender at one batch size, into the suite's rows."""
    plan = suite.setting.plan
    if any(batch not in suite.expected.get(entry.name, {}) for entry in _timed(suite, batch)):
        compiling = sum(suite.rows[e.name]["load_s"] for e in _timed(suite, batch) if e.compiles)
        turns = sum(plan.runs_of(batch, s) * s for s in _expected(suite, batch).values())
        suite.need(compiling + (1 + plan.rounds[0]) * turns)
        warm(suite, batch)
    expected = _expected(suite, batch)
    requests = {n: {"batch": batch, "runs": plan.runs_of(batch, s)} for n, s in expected.items()}
    round_s = sum(requests[name]["runs"] * s for name, s in expected.items())
    rounds = plan.rounds_of(batch, expected)
    suite.setting.tell(f"batch {batch}: {rounds} rounds of {round_s:.0f} s")
    for name, turns_ in suite.take_turns("time", requests, rounds, round_s).items():
        row = suite.rows[name]
        for what, kept in (("seconds", "rounds"), ("others", "others"), ("switches", "switches")):
            row.setdefault(kept, {})[str(batch)] = [turn[what] for turn in turns_]
        row["memory_bytes"] = max(turns_[-1]["memory_bytes"], row.get("memory_bytes", 0))
        if suite.setting.device == "cuda":
            row["gpu_bytes"] = host.gpu_bytes(suite.pids[name])


def _timed(suite: Suite, batch: int) -> list[Entry]:
    return [entry for entry in suite.alive if suite.setting.plan.takes(entry, batch)]


def _expected(suite: Suite, batch: int) -> dict[str, float]:
    return {entry.name: suite.seconds(entry, batch) for entry in _timed(suite, batch)}


def _check_related(found: NDArray[np.float64], expected: NDArray[np.float64]) -> None:
    if found.shape != expected.shape:
        raise FailedError("failed", f"{found.size} logits, the baseline has {expected.size}")
    correlation = float(np.corrcoef(found, expected)[0, 1]) if found.size > 2 else 1.0
    if not correlation > UNRELATED:
        words = f"its logits have a correlation of {correlation:.2f} with the baseline's"
        raise FailedError("failed", words)
