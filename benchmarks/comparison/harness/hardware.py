"""What the machine itself sets: where a run's time goes on a GPU, and the ceilings."""

from collections.abc import Iterable
from typing import Any

from comparison.contenders.entries import CEILINGS, PROFILED
from comparison.harness.suite import TURN_S, Row, Suite


def kernels(suite: Suite, batches: Iterable[int]) -> dict[str, Any]:
    """Return where one contender's runs spend their time, by batch size.

    The last that it is asked: a profiler that cannot work here does not cost it its row.
    """
    found = {}
    for batch in batches:
        suite.setting.say(f"batch {batch}: kernels of {PROFILED}")
        request = {"verb": "kernels", "batch": batch, "runs": 10}
        if answer := suite.field.ask(PROFILED, request, TURN_S):
            found[str(batch)] = answer["kernels"]
    return {"contender": PROFILED, "batches": found, "excluded": suite.excluded()}


def ceilings(suite: Suite) -> dict[str, Row]:
    """Measure how many operations a second the machine has at most, by precision."""
    suite.open(CEILINGS)
    requests = {entry.name: {"verb": "time", "batch": 1, "runs": 1} for entry in suite.alive}
    rounds = suite.setting.plan.ceiling_rounds
    answers = suite.take_turns("the machine's ceilings", requests, rounds)
    for name, row in suite.rows.items():
        entry = suite.entries[name]
        row.update(title=entry.title, precision=entry.options["precision"])
        if name in answers:
            fastest = min(min(turn["seconds"]) for turn in answers[name])
            row["gflops"] = row["about"].pop("operations") / fastest / 1e9
    return suite.rows
