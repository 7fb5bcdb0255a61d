"""One comparison: its stages in order, the result stored after each."""

import json
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from comparison import inputs, machine
from comparison.ceilings import ceilings
from comparison.contenders import BASELINE
from comparison.inputs import DEMO, Model, Photos
from comparison.plan import QUICK, Setting
from comparison.rows import Result
from comparison.suite import Suite
from vit_engine.errors import UsageError, VitError

SCHEMA = 1
PARTS = ("speed", "files", "accuracy", "ceilings")

CEILINGS_S = 60.0
"""What the ceilings take, in the announcement [2 cores: 20 to 60 s]."""


class Comparison:
    """The stages of `parts` that `result` lacks; `show` gets each batch size once it is timed."""

    def __init__(
        self,
        setting: Setting,
        model: Model,
        data: Path | None,
        result: Result,
        *,
        path: Path,
        parts: tuple[str, ...] = PARTS,
        show: Callable[[Result, int], None],
    ) -> None:
        self.setting, self.model, self.data = setting, model, data
        self.result, self.path, self.parts, self.show = result, path, parts, show

    def run(self) -> int:
        """Run every stage that is not done; returns 130 or 143 where interrupted, else 0.

        The stages that were finished are in the stored result in any case.
        """
        started = time.monotonic()
        code = 0
        try:
            self._stages()
        except KeyboardInterrupt:
            code = 130
        except SystemExit as e:
            code = int(e.code or 0)
        self.setting.say("")
        self.result["interrupted"] = bool(code)
        self.result["seconds"] = round(self.result.get("seconds", 0) + time.monotonic() - started)
        store(self.result, self.path)
        return code

    def _stages(self) -> None:
        plan, own = self.setting.plan, self._accuracy_model() is self.model
        stages = [*(f"speed {b}" for b in plan.batches), "files", *(["accuracy"] if own else [])]
        if self._missing(stages):
            self._timed_model(stages)
        if not own and self._missing(["accuracy"]):
            self._other_model()
        if self._missing(["ceilings"]):
            arrays = inputs.noise(self.model, 1, self.setting.scratch)
            self._done("ceilings", ceilings=ceilings(self.setting, self.model, arrays))

    def _missing(self, stages: list[str]) -> list[str]:
        done = self.result["done"]
        return [s for s in stages if s not in done and s.split()[0] in self.parts]

    def _timed_model(self, stages: list[str]) -> None:
        setting, missing = self.setting, self._missing(stages)
        pool = max(64, *setting.plan.batches)
        arrays = inputs.noise(self.model, pool, setting.scratch)
        photos = self._photos(self.model)
        calibration = arrays
        if "accuracy" in stages:
            calibration = inputs.arrays_from_photos(photos, self.model, setting.scratch)
        rows = self.result["speed"]["rows"]
        with Suite(setting, self.model, arrays, calibration, rows) as suite:
            out = {name for name, row in suite.rows.items() if row["status"] != "ok"}
            wanted = [e for e in setting.entries if e.name not in out]
            suite.open(e for e in wanted if not e.files_only)
            suite.warm(1)
            self._need_baseline(suite)
            self._announce(suite, missing, len(photos.files))
            for stage in missing:
                if stage.startswith("speed"):
                    batch = int(stage.split()[1])
                    suite.speed(batch)
                    self._need_baseline(suite)
                    self._done(stage)
                    self.show(self.result, batch)
                elif stage == "files":
                    suite.open(e for e in wanted if e.files_only)
                    found = suite.label_files(photos)
                    for entry in setting.entries:
                        if entry.files_only:
                            rows.pop(entry.name, None)
                            suite.field.leave(entry.name)
                    self._done(stage, files=found)
                else:
                    self._accuracy(suite, photos, calibration)

    def _announce(self, suite: Suite, missing: list[str], images: int) -> None:
        batches = [int(stage.split()[1]) for stage in missing if stage.startswith("speed")]
        seconds = suite.estimate(
            batches, files="files" in missing, images=images if "accuracy" in missing else 0
        )
        if self._missing(["ceilings"]):
            seconds += CEILINGS_S
        self.result.setdefault("announced", round(seconds))
        self.setting.tell(f"all is converted and loaded; about {seconds / 60:.0f} minutes to go")

    def _other_model(self) -> None:
        model, setting = self._accuracy_model(), self.setting
        setting.tell(f"accuracy: {model.name}")
        photos = self._photos(model)
        arrays = inputs.arrays_from_photos(photos, model, setting.scratch)
        with Suite(setting, model, arrays, arrays) as suite:
            timed = self.result["speed"]["rows"]
            wanted = (
                e
                for e in setting.entries
                if not e.files_only and timed.get(e.name, {}).get("status", "ok") == "ok"
            )
            suite.open(wanted, at_once=setting.threads)
            self._need_baseline(suite)
            self._accuracy(suite, photos, arrays)

    def _accuracy(self, suite: Suite, photos: Photos, arrays: inputs.Arrays) -> None:
        found = suite.accuracy(photos, arrays)
        self._done("accuracy", accuracy={**found, "model": suite.model.card()})

    def _accuracy_model(self) -> Model:
        if self.data or self.model.name == DEMO:
            return self.model
        return inputs.model_from_name(DEMO)

    def _photos(self, model: Model) -> Photos:
        if self.data:
            return inputs.photos_from_folder(self.data, model.labels)
        return inputs.drawn_photos(self.setting.plan.held_out, self.setting.scratch / "drawn")

    def _need_baseline(self, suite: Suite) -> None:
        if BASELINE not in suite.alive:
            raise VitError(f"the baseline cannot run: {suite.rows[BASELINE]['reason']}")

    def _done(self, stage: str, **parts: Any) -> None:
        self.result.update(parts)
        self.result["done"].append(stage)
        store(self.result, self.path)


def started(setting: Setting, model: Model) -> Result:
    """Return a result with nothing measured yet."""
    notes = []
    if model.random:
        notes.append(
            f"Speed is that of {model.name}: the weights do not change it, and need no "
            "network. Accuracy is another model's; see its table."
        )
    if setting.plan.name == QUICK.name:
        notes.append("A quick run: few rounds, wide spreads. Nothing to publish.")
    return {
        "schema": SCHEMA,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "benchmarks/compare.py", *sys.argv[1:]]),
        "machine": machine.card(setting.threads),
        "plan": asdict(setting.plan),
        "device": setting.device,
        "notes": notes,
        "done": [],
        "speed": {"model": model.card(), "rows": {}},
    }


def resumed(path: Path, setting: Setting, model: Model) -> Result:
    """Return the stored result, to measure what it lacks; UsageError if of something else."""
    result = stored(path, model)
    result["plan"] = asdict(setting.plan)
    return result


def stored(path: Path, model: Model) -> Result:
    """Return a stored result of the model; UsageError if there is none or it is of another."""
    if not path.exists():
        raise UsageError(f"no {path} to go on with; leave out --resume or --add")
    result: Result = json.loads(path.read_text())
    if result["schema"] != SCHEMA or result["speed"]["model"] != model.card():
        raise UsageError(f"{path} is of another model or version; choose another -o")
    return result


def store(result: Result, path: Path) -> None:
    """Write the result as JSON; the file is whole at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    partial.replace(path)


def merged(result: Result, added: Result) -> Result:
    """Return the stored result with the rows of a later sitting, each with its own baseline."""
    for part in ("speed", "files"):
        rows = added[part]["rows"]
        for name in rows.keys() - {BASELINE}:
            result[part]["rows"][name] = {**rows[name], "against": rows[BASELINE]["rounds"]}
    accuracy = {n: row for n, row in added["accuracy"]["rows"].items() if n != BASELINE}
    result["accuracy"]["rows"].update(accuracy)
    for part in ("files", "accuracy"):
        for name in added["speed"]["rows"]:
            result[part]["excluded"].pop(name, None)
        result[part]["excluded"].update(added[part]["excluded"])
    names = sorted(added["speed"]["rows"].keys() - {BASELINE})
    result["notes"].append(
        f"{', '.join(names)}: measured later ({added['made'][:16]}, commit "
        f"{added['machine']['commit']}), with turns of the baseline in that sitting to compare to."
    )
    return result
