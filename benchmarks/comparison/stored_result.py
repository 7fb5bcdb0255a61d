"""A comparison's result as a JSON file: begun, gone on with, added to, whole at any time."""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from comparison import host
from comparison.contenders.entries import BASELINE
from comparison.harness.plan import QUICK, Setting
from comparison.inputs.models import Model
from comparison.report.rows import Result
from vit_engine.errors import UsageError
from vit_engine.machine.atomic import write_whole

SCHEMA = 1


def begun(setting: Setting, model: Model) -> Result:
    """Return a result with nothing measured yet."""
    random = (
        f"Speed is that of {model.name}: the weights do not change it, and need no network. "
        "Accuracy is another model's; see its table."
    )
    quick = "A quick run: few rounds, wide spreads. Nothing to publish."
    told = {random: model.random, quick: setting.plan.name == QUICK.name}
    return {
        "schema": SCHEMA,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(sys.argv[1:]),
        "machine": host.card(setting.threads),
        "plan": asdict(setting.plan),
        "device": setting.device,
        "notes": [note for note, holds in told.items() if holds],
        "done": [],
        "speed": {"model": model.card(), "rows": {}},
    }


def command(arguments: Sequence[str]) -> str:
    """Return the line that measures it again, from this folder: where that lies is nobody's."""
    parts = (argument.rpartition("=") for argument in arguments)
    shown = (n + sign + (os.path.relpath(v) if v.startswith("/") else v) for n, sign, v in parts)
    return shlex.join(["python", "benchmarks/compare.py", *shown])


def read(path: Path, model: Model) -> Result:
    """Return a stored result of the model; UsageError if there is none or it is of another."""
    if not path.exists():
        raise UsageError(f"no {path} to go on with; leave out --resume or --add")
    result: Result = json.loads(path.read_text())
    if result["schema"] != SCHEMA or result["speed"]["model"] != model.card():
        raise UsageError(f"{path} is of another model or version; choose another -o")
    return result


def store(result: Result, path: Path) -> None:
    """Write the result as JSON; the file is whole at any time."""
    write_whole(path, (json.dumps(result, ensure_ascii=False, indent=1) + "\n").encode())


def merged(result: Result, added: Result) -> Result:
    """Return the stored result with the rows of a later sitting, each with its own baseline.

    That sitting has the parts that are stored.
    """
    for part in {"speed", "files", "accuracy"} & result.keys():
        rows = added[part]["rows"]
        against = {"against": rows[BASELINE]["rounds"]} if part != "accuracy" else {}
        result[part]["rows"] |= {n: row | against for n, row in rows.items() if n != BASELINE}
        if part != "speed":
            kept = result[part]["excluded"].items()
            others = {name: why for name, why in kept if name not in added["speed"]["rows"]}
            result[part]["excluded"] = others | added[part]["excluded"]
    names = sorted(added["speed"]["rows"].keys() - {BASELINE})
    result["notes"].append(
        f"{', '.join(names)}: measured later ({added['made'][:16]}, commit "
        f"{added['machine']['commit']}), with turns of the baseline in that sitting to compare to."
    )
    return result
