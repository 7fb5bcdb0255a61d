"""What the machine can do at most, by precision: the same large matrix product for all."""

from comparison.contenders import CEILINGS
from comparison.inputs import Arrays, Model
from comparison.plan import Setting
from comparison.suite import TURN_S, Row, Suite


def ceilings(setting: Setting, model: Model, arrays: Arrays) -> dict[str, Row]:
    """Measure how many operations a second the machine has at most, by precision."""
    with Suite(setting, model, arrays, arrays) as suite:
        suite.open(CEILINGS)
        request = {"verb": "time", "batch": 1, "runs": 1}
        setting.say("the machine's ceilings")
        answers = suite.field.take_turns(
            dict.fromkeys(suite.alive, request), rounds=setting.plan.ceiling_rounds, limit=TURN_S
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
