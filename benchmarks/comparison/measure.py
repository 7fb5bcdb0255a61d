"""One comparison: its stages in order, the result stored after each."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from comparison.contenders.entries import Entry
from comparison.harness import parts
from comparison.harness.plan import OutOfTimeError, Setting
from comparison.harness.suite import Suite
from comparison.inputs import images, models
from comparison.inputs.images import Photos
from comparison.inputs.models import DEMO, DEMO_OF_VECTORS, Model
from comparison.report.rows import Result
from comparison.report.sections import at_batch
from comparison.stored_result import store

PARTS = ("speed", "files", "accuracy", "kernels", "ceilings")


@dataclass
class Comparison:
    """The stages of `parts` that `result` lacks; what a batch size brings is printed at once."""

    setting: Setting
    model: Model
    data: Path | None
    result: Result
    path: Path
    parts: tuple[str, ...] = PARTS

    def run(self) -> int:
        """Run every stage that is not done; returns 130 or 143 where interrupted, else 0.

        The stages that were finished are in the stored result in any case. `OutOfTimeError` where
        there is none.
        """
        started = time.monotonic()
        code = 0
        try:
            self._all()
        except KeyboardInterrupt:
            code = 130
        except SystemExit as e:
            code = int(e.code or 0)
        self.result["interrupted"] = bool(code)
        self.result["no_time_for"] = [] if code else self._missing()
        self.result["seconds"] = round(self.result.get("seconds", 0) + time.monotonic() - started)
        if not (code or self.result["done"]):
            raise OutOfTimeError("nothing was measured: the budget is too short for this machine")
        store(self.result, self.path)
        return code

    def _missing(self) -> list[str]:
        profile = ["kernels"] if self.setting.device == "cuda" else []
        speed = [f"speed {batch}" for batch in self.setting.plan.batches]
        stages = [*speed, "files", "accuracy", *profile, "ceilings"]
        done = self.result["done"]
        return [s for s in stages if s not in done and s.split()[0] in self.parts]

    def _all(self) -> None:
        missing, other = self._missing(), self._judged is not self.model
        elsewhere = {"ceilings", "accuracy"} if other else {"ceilings"}
        if timed := [stage for stage in missing if stage not in elsewhere]:
            self._timed_model(timed)
        if other and "accuracy" in missing:
            self._stage("accuracy", self._other_model)
        if "ceilings" in missing:
            given = images.noise(self.model, 1, self.setting.scratch)
            with Suite(self.setting, self.model, given, given) as suite:
                self._stage("ceilings", lambda: {"ceilings": parts.ceilings(suite)})

    def _stage(self, stage: str, measured: Callable[[], dict[str, Any]]) -> None:
        """Store what a stage has found, unless the budget has no time for it."""
        try:
            self.result |= measured()
        except OutOfTimeError as e:
            self.setting.tell(f"{stage}: left out, {e}")
            return
        self.result["done"].append(stage)
        store(self.result, self.path)
        if stage.startswith("speed"):
            print(at_batch(self.result, int(stage.split()[1])).text() + "\n", flush=True)

    def _timed_model(self, stages: list[str]) -> None:
        setting, rows = self.setting, self.result["speed"]["rows"]
        given = images.noise(self.model, max(64, *setting.plan.batches), setting.scratch)
        photos, calibration = self._photos(self.model), given
        if self._judged is self.model:
            calibration = images.arrays_from_photos(photos, self.model, setting.scratch)
        for row in rows.values():
            if row["status"] == "skipped":  # in a former sitting; it may have the time now
                row["status"] = "ok"
        with Suite(setting, self.model, given, calibration, rows) as suite:
            suite.open(entry for entry in self._able() if not entry.files_only)
            parts.warm(suite, 1)
            suite.need_baseline()
            setting.tell("all is converted and loaded")
            few = setting.plan.few_batches or setting.plan.batches
            measured: dict[str, Callable[[], dict[str, Any]]] = {
                "files": partial(self._files, suite, photos),
                "accuracy": lambda: {"accuracy": parts.accuracy(suite, photos, calibration)},
                "kernels": lambda: {"kernels": parts.kernels(suite, few)},
            }
            for batch in setting.plan.batches:
                measured[f"speed {batch}"] = partial(parts.time_batch, suite, batch)
            for stage in stages:
                self._stage(stage, measured[stage])

    def _files(self, suite: Suite, photos: Photos) -> dict[str, Any]:
        """Measure with those who take part in nothing else, and are in no other part's rows."""
        apart = [entry for entry in self._able() if entry.files_only]
        suite.open(apart)
        try:
            return {"files": parts.label_files(suite, photos)}
        finally:
            for entry in apart:
                suite.rows.pop(entry.name, None)
                suite.leave(entry.name)

    def _other_model(self) -> dict[str, Any]:
        model, setting = self._judged, self.setting
        setting.need(sum(r.get("load_s", 0) for r in self.result["speed"]["rows"].values()))
        setting.tell(f"accuracy: {model.name}")
        photos = self._photos(model)
        given = images.arrays_from_photos(photos, model, setting.scratch)
        # where compiling again would cost minutes, without who compiles
        spared = bool(setting.plan.few_batches)
        with Suite(setting, model, given, given) as suite:
            able = (entry for entry in self._able() if not entry.files_only)
            suite.open(entry for entry in able if not (spared and entry.compiles))
            suite.need_baseline()
            return {"accuracy": parts.accuracy(suite, photos, given)}

    def _able(self) -> list[Entry]:
        """Return whom a former stage has not thrown out."""
        rows = self.result["speed"]["rows"]
        out = {name for name, row in rows.items() if row["status"] != "ok"}
        return [entry for entry in self.setting.entries if entry.name not in out]

    @cached_property
    def _judged(self) -> Model:
        """The model whose labels are held against true classes, or vectors against PyTorch's."""
        vectors = bool(self.model.pooling)
        if self.data or self.model.name == DEMO or (vectors and not self.model.random):
            return self.model
        return models.model_from_name(DEMO_OF_VECTORS if vectors else DEMO, vectors=vectors)

    def _photos(self, model: Model) -> Photos:
        if self.data:
            return images.photos_from_folder(self.data, model.labels)
        count, folder = self.setting.plan.held_out, self.setting.scratch / "drawn"
        return images.drawn_photos(count, folder)
