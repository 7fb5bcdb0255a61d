"""Speed and accuracy of vit-engine beside eager PyTorch and the peers one would pick instead.

    python benchmarks/compare.py --quick
    python benchmarks/compare.py --model FOLDER --data IMAGES

Without arguments: ViT-B/16 with seeded random weights for speed (weights do not change it), the
demo checkpoint for accuracy. Writes JSON, Markdown and one HTML page.
"""

import argparse
import json
import os
import re
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from comparison import html, inputs, machine, measure, report
from comparison.contenders import BASELINE, CONTENDERS, Entry
from comparison.inputs import DEMO, Model, Photos
from comparison.measure import FULL, QUICK, Setting, Suite
from vit_runtime.errors import UsageError, VitError

HERE = Path(__file__).resolve().parent
SCHEMA = 1
PARTS = ("speed", "files", "accuracy", "ceilings")


def main() -> int:
    """Run the comparison; returns the exit code (0 done, 2 bad usage, 130/143 interrupted)."""
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, _terminated)
    try:
        if arguments.render:
            write(json.loads(arguments.render.read_text()), arguments.render)
            return 0
        return _compare(arguments)
    except VitError as e:
        tell(f"compare.py: {e}")
        return e.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="compare.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--model", help="all that vit-export takes: id, hf:owner/name, folder, demo")
    add("--data", type=Path, help="folder with labels.csv (file, index) or class folders")
    add("--quick", action="store_true", help="under 2 minutes on 2 cores: a small model, few turns")
    add("--batches", type=int, nargs="+", metavar="N", help="batch sizes")
    add("--contenders", nargs="+", metavar="NAME", help=", ".join(e.name for e in CONTENDERS))
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: cuda if any")
    add("--threads", type=int, help="for everyone (default: the cores this process may use)")
    add("--cache", type=Path, default=_cache(), help="converted models (default %(default)s)")
    add("-o", "--output", type=Path, default=HERE / "out", help="folder (default %(default)s)")
    add("--resume", action="store_true", help="measure only what the stored JSON lacks")
    add("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure (default: all)")
    add("--add", nargs="+", metavar="NAME", help="measure these and add them to the stored JSON")
    add(
        "--lock",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="hold these files' exclusive flock while timing, on a machine shared with others",
    )
    add("--render", type=Path, metavar="JSON", help="write Markdown and HTML of a stored result")
    return parser


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home, "vit-engine", "compare")


def _compare(arguments: argparse.Namespace) -> int:
    if arguments.data and not arguments.model:
        raise UsageError("--data needs --model: random weights know no classes")
    plan = QUICK if arguments.quick else FULL
    if arguments.batches:
        if min(arguments.batches) < 1:
            raise UsageError(f"--batches {min(arguments.batches)}: at least 1")
        plan = replace(plan, batches=tuple(sorted(set(arguments.batches))))
    if arguments.add and (arguments.contenders or arguments.resume or arguments.only != PARTS):
        raise UsageError("--add goes with neither --contenders, --resume nor --only")
    device = arguments.device
    if device == "auto":
        device = "cuda" if machine.gpu() else "cpu"
    cache = arguments.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=cache) as scratch:
        setting = Setting(
            entries=_entries(arguments.add or arguments.contenders),
            device=device,
            threads=arguments.threads or len(os.sched_getaffinity(0)),
            cache=cache,
            scratch=Path(scratch),
            plan=plan,
            say=progress,
            locks=tuple(arguments.lock),
        )
        comparison = Comparison(setting, arguments)
        return comparison.add() if arguments.add else comparison.run()


def _entries(names: list[str] | None) -> tuple[Entry, ...]:
    known = {entry.name for entry in CONTENDERS}
    unknown = set(names or ()) - known
    if unknown:
        raise UsageError(f"no contender {min(unknown)!r}; there are {', '.join(sorted(known))}")
    return tuple(e for e in CONTENDERS if not names or e.name in {*names, BASELINE})


class Comparison:
    """One run: its stages in order, the result stored after each."""

    def __init__(self, setting: Setting, arguments: argparse.Namespace) -> None:
        self.setting, self.data, self.parts = setting, arguments.data, arguments.only
        if arguments.model:
            self.model = inputs.model_from_name(arguments.model)
        else:
            tell("no --model: random weights, made once")
            self.model = inputs.random_model(
                "ViT-Ti/16" if arguments.quick else "ViT-B/16", setting.cache
            )
        slug = re.sub(r"[^a-z0-9]+", "-", self.model.name.lower()).strip("-")
        quick = "-quick" if arguments.quick else ""
        self.path = arguments.output / f"{slug}-{setting.device}{quick}.json"
        self.result = self._started(arguments)

    def _started(self, arguments: argparse.Namespace) -> report.Result:
        model = measure.described(self.model)
        if arguments.resume and self.path.exists():
            stored: report.Result = json.loads(self.path.read_text())
            if stored["schema"] != SCHEMA or stored["speed"]["model"] != model:
                raise UsageError(f"{self.path} is of another model or version; leave out --resume")
            stored["plan"] = asdict(self.setting.plan)
            return stored
        notes = []
        if self.model.random:
            notes.append(
                f"Speed is that of {self.model.name}: the weights do not change it, and need no "
                "network. Accuracy is another model's; see its table."
            )
        if arguments.quick:
            notes.append("A quick run: few rounds, wide spreads. Nothing to publish.")
        return {
            "schema": SCHEMA,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join(["python", "benchmarks/compare.py", *sys.argv[1:]]),
            "machine": machine.card(self.setting.threads),
            "plan": asdict(self.setting.plan),
            "device": self.setting.device,
            "notes": notes,
            "done": [],
            "speed": {"model": model, "rows": {}},
        }

    def run(self) -> int:
        """Run every stage that is not done; Ctrl-C leaves what is."""
        length = (
            "under 2 minutes" if self.setting.plan is QUICK else "about 20 minutes for ViT-B/16"
        )
        tell(f"{self.model.name} on {self.setting.device}; {length} on 2 cores, and conversions")
        started = time.monotonic()
        code = 0
        try:
            self._stages()
        except KeyboardInterrupt:
            code = 130
        except SystemExit as e:
            code = int(e.code or 0)
        progress("")
        self.result["interrupted"] = bool(code)
        self._save()
        for name, note, table in report.sections(self.result):
            print(f"\n{name}. {note}\n{table.text()}")
        written = ", ".join(str(path) for path in write(self.result, self.path))
        tell(f"\n{time.monotonic() - started:.0f} s; {written}")
        return code

    def add(self) -> int:
        """Run in full for the contenders to add and the baseline, then put them in the result."""
        if not self.path.exists():
            raise UsageError(f"--add: no {self.path} to add to; leave it out")
        stored, target = json.loads(self.path.read_text()), self.path
        if stored["speed"]["model"] != measure.described(self.model):
            raise UsageError(f"{target} is of another model; leave out --add")
        plan = replace(self.setting.plan, batches=tuple(stored["plan"]["batches"]))
        self.setting = replace(self.setting, plan=plan)
        self.path = self.setting.scratch / "added.json"
        code = self.run()
        if code == 0:
            self.result, self.path = measure.merged(stored, self.result), target
            self._save()
            tell(", ".join(str(path) for path in write(self.result, self.path)))
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
            with machine.alone(self.setting.locks):
                found = measure.ceilings(self.setting, self.model, arrays)
            self._done("ceilings", {"ceilings": found})

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
        speed = self.result["speed"]
        with Suite(setting, self.model, arrays, calibration, speed["rows"]) as suite:
            out = {n for n, row in suite.rows.items() if row["status"] != "ok"}
            wanted = [e for e in setting.entries if e.name not in out]
            with machine.alone(setting.locks):
                suite.open(e for e in wanted if not e.files_only)
                suite.warm(1)
            self._need_baseline(suite)
            if "announced" not in self.result:
                self.result["announced"] = round(suite.estimate())
                tell(f"about {self.result['announced'] / 60:.1f} minutes of turns")
            for stage in missing:
                if stage.startswith("speed"):
                    batch = int(stage.split()[1])
                    with machine.alone(setting.locks):
                        suite.speed(batch)
                    self._need_baseline(suite)
                    self._done(stage, {})
                    self._show(batch)
                elif stage == "files":
                    with machine.alone(setting.locks):
                        suite.warm(8)
                        suite.open(e for e in wanted if e.files_only)
                        found = suite.label_files(photos)
                    for entry in setting.entries:
                        if entry.files_only:
                            speed["rows"].pop(entry.name, None)
                            suite.field.leave(entry.name)
                    self._done(stage, {"files": found})
                else:
                    self._accuracy(suite, photos, calibration)

    def _other_model(self) -> None:
        model, setting = self._accuracy_model(), self.setting
        tell(f"accuracy: {model.name}")
        photos = self._photos(model)
        arrays = inputs.arrays_from_photos(photos, model, setting.scratch)
        with Suite(setting, model, arrays, arrays) as suite:
            suite.open((e for e in setting.entries if not e.files_only), at_once=setting.threads)
            self._need_baseline(suite)
            self._accuracy(suite, photos, arrays)

    def _accuracy(self, suite: Suite, photos: Photos, arrays: inputs.Arrays) -> None:
        found = suite.accuracy(photos, arrays)
        found["model"] = measure.described(suite.model)
        self._done("accuracy", {"accuracy": found})

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

    def _done(self, stage: str, parts: dict[str, Any]) -> None:
        self.result.update(parts)
        self.result["done"].append(stage)
        self._save()

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".json.partial")
        partial.write_text(json.dumps(self.result, ensure_ascii=False, indent=1) + "\n")
        partial.replace(self.path)

    def _show(self, batch: int) -> None:
        progress("")
        rows = [r for r in report.rows_from_result(self.result) if batch in r.throughput]
        body = [
            (r.title, report.rate(r.throughput[batch]), report.ratio(r.speedup.get(batch)))
            for r in rows
        ]
        head = (f"batch {batch}", "img/s", "times the baseline")
        print(report.Table(head, tuple(body)).text() + "\n", flush=True)


def write(result: report.Result, path: Path) -> list[Path]:
    """Write Markdown and HTML beside the JSON; returns all three."""
    renderers: dict[str, Callable[[report.Result], str]] = {
        ".md": report.markdown,
        ".html": html.page,
    }
    for suffix, render in renderers.items():
        path.with_suffix(suffix).write_text(render(result), encoding="utf-8")
    return [path, *(path.with_suffix(suffix) for suffix in renderers)]


def progress(text: str) -> None:
    """Show what is going on: over the same line of a terminal, else nothing but changes of kind."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text[:120]}")
        sys.stderr.flush()
    elif text and "round" not in text:
        tell(text)


def tell(text: str) -> None:
    """Tell the user something, on stderr."""
    print(text, file=sys.stderr, flush=True)


def _terminated(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
