"""One comparison: its stages in order, the result stored after each."""

import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from comparison.contenders.entries import BASELINE
from comparison.harness.files_to_labels import label_files
from comparison.harness.hardware import ceilings, kernels
from comparison.harness.label_accuracy import accuracy
from comparison.harness.plan import Setting
from comparison.harness.suite import Suite
from comparison.inputs import arrays, labelled_images, models
from comparison.inputs.arrays import Arrays
from comparison.inputs.labelled_images import Photos
from comparison.inputs.models import DEMO, Model
from comparison.report.result_rows import Result
from comparison.stored_result import store
from vit_engine.errors import VitError

PARTS = ("speed", "files", "accuracy", "kernels", "ceilings")

CEILINGS_S, KERNELS_S = 60.0, 20.0
"""What they take, in the announcement and of a budget [2 cores: 20 to 60 s; a GPU: est]."""


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
            self._all()
        except KeyboardInterrupt:
            code = 130
        except SystemExit as e:
            code = int(e.code or 0)
        self.setting.say("")
        self.result["interrupted"] = bool(code)
        self.result["no_time_for"] = [] if code else self._missing(self._stages())
        self.result["seconds"] = round(self.result.get("seconds", 0) + time.monotonic() - started)
        store(self.result, self.path)
        return code

    def _stages(self) -> list[str]:
        profile = ["kernels"] if self.setting.device == "cuda" else []
        speed = [f"speed {batch}" for batch in self.setting.plan.batches]
        return [*speed, "files", "accuracy", *profile, "ceilings"]

    def _missing(self, stages: list[str]) -> list[str]:
        done = self.result["done"]
        return [s for s in stages if s not in done and s.split()[0] in self.parts]

    def _all(self) -> None:
        other = self._judged is not self.model
        elsewhere = {"ceilings", "accuracy"} if other else {"ceilings"}
        missing = self._missing(self._stages())
        if timed := [stage for stage in missing if stage not in elsewhere]:
            self._timed_model(timed)
        loads = sum(row.get("load_s", 0) for row in self.result["speed"]["rows"].values())
        if other and "accuracy" in missing and self._fits("accuracy", loads):
            self._other_model()
        if "ceilings" in missing and self._fits("ceilings", CEILINGS_S):
            given = arrays.noise(self.model, 1, self.setting.scratch)
            with Suite(self.setting, self.model, given, given) as suite:
                self._done("ceilings", ceilings=ceilings(suite))

    def _timed_model(self, stages: list[str]) -> None:
        setting, rows = self.setting, self.result["speed"]["rows"]
        given = arrays.noise(self.model, max(64, *setting.plan.batches), setting.scratch)
        photos, calibration = self._photos(self.model), given
        if self._judged is self.model:
            calibration = arrays.arrays_from_photos(photos, self.model, setting.scratch)
        with Suite(setting, self.model, given, calibration, rows) as suite:
            out = {name for name, row in rows.items() if row["status"] != "ok"}
            wanted = [e for e in setting.entries if e.name not in out]
            suite.open(e for e in wanted if not e.files_only)
            suite.warm(1)
            self._need_baseline(suite)
            expected = {stage: self._seconds(suite, stage, len(photos.files)) for stage in stages}
            self._announce(sum(expected.values()))
            for stage in stages:
                if not self._fits(stage, expected[stage]):
                    continue
                if stage.startswith("speed"):
                    batch = int(stage.split()[1])
                    suite.speed(batch)
                    self._need_baseline(suite)
                    self._done(stage)
                    self.show(self.result, batch)
                elif stage == "files":
                    suite.open(e for e in wanted if e.files_only)
                    found = label_files(suite, photos)
                    for entry in (e for e in wanted if e.files_only):
                        rows.pop(entry.name, None)
                        suite.field.leave(entry.name)
                    self._done(stage, files=found)
                elif stage == "kernels":
                    batches = setting.plan.few_batches or setting.plan.batches
                    self._done(stage, kernels=kernels(suite, batches))
                else:
                    self._accuracy(suite, photos, calibration)

    def _seconds(self, suite: Suite, stage: str, images: int) -> float:
        """Return what a stage is expected to take, from the warm-up at batch 1."""
        if stage == "kernels":
            return KERNELS_S
        batches = [int(stage.split()[1])] if stage.startswith("speed") else []
        return suite.estimate(
            batches, files=stage == "files", images=images if stage == "accuracy" else 0
        )

    def _announce(self, seconds: float) -> None:
        if self._missing(["ceilings"]):
            seconds += CEILINGS_S
        self.result.setdefault("announced", round(seconds))
        self.setting.tell(f"all is converted and loaded; about {seconds / 60:.0f} minutes to go")

    def _fits(self, stage: str, seconds: float) -> bool:
        """Return whether what is left of the budget is enough for a stage."""
        left = self.setting.left()
        if left < seconds:
            self.setting.tell(
                f"{stage}: left out, {seconds:.0f} s in the {left:.0f} s that are left"
            )
        return left >= seconds

    def _other_model(self) -> None:
        model, setting = self._judged, self.setting
        setting.tell(f"accuracy: {model.name}")
        photos = self._photos(model)
        given = arrays.arrays_from_photos(photos, model, setting.scratch)
        rows = self.result["speed"]["rows"]
        out = {name for name, row in rows.items() if row["status"] != "ok"}
        wanted = [e for e in setting.entries if not e.files_only and e.name not in out]
        if setting.plan.few_batches:  # where compiling again would cost minutes
            wanted = [e for e in wanted if not e.compiles]
        with Suite(setting, model, given, given) as suite:
            suite.open(wanted, at_once=setting.threads)
            self._need_baseline(suite)
            self._accuracy(suite, photos, given)

    def _accuracy(self, suite: Suite, photos: Photos, given: Arrays) -> None:
        found = accuracy(suite, photos, given)
        self._done("accuracy", accuracy={**found, "model": suite.model.card()})

    @cached_property
    def _judged(self) -> Model:
        """The model whose labels are held against true classes."""
        if self.data or self.model.name == DEMO:
            return self.model
        return models.model_from_name(DEMO)

    def _photos(self, model: Model) -> Photos:
        if self.data:
            return labelled_images.photos_from_folder(self.data, model.labels)
        count, folder = self.setting.plan.held_out, self.setting.scratch / "drawn"
        return labelled_images.drawn_photos(count, folder)

    def _need_baseline(self, suite: Suite) -> None:
        if BASELINE not in suite.field.processes:
            raise VitError(f"the baseline cannot run: {suite.rows[BASELINE]['reason']}")

    def _done(self, stage: str, **parts: Any) -> None:
        self.result.update(parts)
        self.result["done"].append(stage)
        store(self.result, self.path)
