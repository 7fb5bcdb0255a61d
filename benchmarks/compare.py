"""Speed and accuracy of vit-engine beside eager PyTorch and the peers one would pick instead.

    python benchmarks/compare.py --quick
    python benchmarks/compare.py --model FOLDER --data IMAGES
    python benchmarks/compare.py --device cuda --budget 480

--task embed compares vectors. A zero-shot model needs no task of its own: it is a classifier, its
labels a fixed head behind the same vectors. Without arguments: ViT-B/16 with seeded random weights
for speed (weights do not change it), a demo checkpoint for accuracy. Writes JSON, Markdown and one
HTML page.
"""

import argparse
import importlib.util
import json
import math
import os
import re
import signal
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from comparison import host, stored_result
from comparison.contenders.entries import BASELINE, CONTENDERS, Entry
from comparison.harness.plan import FULL, GPU, QUICK, Setting
from comparison.inputs import models
from comparison.inputs.models import SIZES, Model
from comparison.measure import PARTS, Comparison
from comparison.report.page import markdown, page, words_around
from comparison.report.rows import Result
from comparison.report.sections import sections
from vit_engine.cli.parser import number, whole_number
from vit_engine.errors import UsageError, VitError
from vit_engine.machine.atomic import write_whole
from vit_engine.machine.installation import pip_install

OUTPUT = Path(__file__).resolve().parent / "out"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "vit-engine/compare")
IMAGES = whole_number("a whole number of images", minimum=1)
THREADS = whole_number("a whole number of threads", minimum=1)
TASKS = ("classify", "embed")
SECONDS = number("a number of seconds above 0", accepts=lambda seconds: seconds > 0)
QUICK_S = 95.0
"""The budget of --quick where none is given; the report has the rest of 2 minutes."""


def main() -> int:
    """Run the comparison; returns the exit code.

    0 done, 1 nothing measured, 2 bad usage, 130/143 interrupted.
    """
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        if not importlib.util.find_spec("matplotlib"):
            raise UsageError(f"the page needs matplotlib: {pip_install('bench')}")
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
    add("--task", choices=TASKS, default=TASKS[0], help="embed: vectors in place of labels")
    add("--random", choices=SIZES, help="seeded random weights, in place of --model")
    add("--data", type=Path, help="folder with labels.csv (path, label or index) or class folders")
    add("--quick", action="store_true", help="2 minutes at most: a model of 4 layers, few turns")
    add("--batches", type=IMAGES, nargs="+", metavar="N", help="batch sizes")
    add("--contenders", nargs="+", metavar="NAME", help=", ".join(e.name for e in CONTENDERS))
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: cuda if any")
    add("--threads", type=THREADS, help="for everyone (default: the cores this process may use)")
    add("--cache", type=Path, default=CACHE, help="converted models (default %(default)s)")
    add("-o", "--output", type=Path, default=OUTPUT, help="folder (default %(default)s)")
    add("--budget", type=SECONDS, metavar="S", help="leave out what does not fit into S seconds")
    add("--resume", action="store_true", help="measure only what the stored JSON lacks")
    add("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure (default: all)")
    add("--add", nargs="+", metavar="NAME", help="measure these and add them to the stored JSON")
    add("--render", type=Path, metavar="JSON", help="write Markdown and HTML of a stored result")
    return parser


def _compare(arguments: argparse.Namespace) -> int:
    if arguments.random and arguments.model:
        raise UsageError("--random and --model name a model each; give one of them")
    if arguments.data and not arguments.model:
        raise UsageError("--data needs --model: random weights know no classes")
    partly = arguments.contenders or arguments.resume or arguments.only != PARTS
    if arguments.add and (partly or arguments.budget):
        raise UsageError("--add goes with neither --contenders, --resume, --only nor --budget")
    device, vectors = arguments.device, arguments.task == "embed"
    if device == "auto":
        device = "cuda" if host.gpu() else "cpu"
    usual = QUICK_S if arguments.quick and not arguments.add else math.inf
    plan = QUICK if arguments.quick else GPU if device == "cuda" else FULL
    if arguments.batches:
        plan = replace(plan, batches=tuple(sorted(set(arguments.batches))), few_batches=None)
    cache = arguments.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=cache) as scratch:
        setting = Setting(
            entries=_entries(arguments.add or arguments.contenders, device, arguments.task),
            device=device,
            threads=arguments.threads or len(os.sched_getaffinity(0)),
            cache=cache,
            scratch=Path(scratch),
            plan=plan,
            tell=tell,
            end=host.start_of_process() + (arguments.budget or usual),
        )
        if arguments.model:
            model = models.model_from_name(arguments.model, vectors=vectors)
        else:
            tell("no --model: random weights, made once")
            usual_size = "ViT-Ti/16-4" if arguments.quick else "ViT-B/16"
            model = models.random_model(arguments.random or usual_size, cache, vectors=vectors)
        return _run(arguments, setting, model)


def _entries(names: list[str] | None, device: str, task: str) -> tuple[Entry, ...]:
    """Return the baseline and the contenders named, or all for the device, that do the task."""
    able = [entry for entry in CONTENDERS if task in entry.tasks]
    if not names:
        return tuple(entry for entry in able if device in entry.devices)
    known = {entry.name for entry in able}
    if unknown := set(names) - known:
        raise UsageError(
            f"no contender {min(unknown)!r} for {task}; there are {', '.join(sorted(known))}"
        )
    return tuple(entry for entry in able if entry.name in {*names, BASELINE})


def _run(arguments: argparse.Namespace, setting: Setting, model: Model) -> int:
    """Measure into the stored result; what --add does is in it only if nothing interrupts."""
    result = stored_result.begun(setting, model)
    path, parts = arguments.output / f"{_file_name(result)}.json", tuple(arguments.only)
    tell(f"{model.name} on {setting.device}; what is not cached is converted first, for minutes")
    if arguments.add:
        target, aside = stored_result.read(path, model), setting.scratch / "added.json"
        plan = replace(setting.plan, batches=tuple(target["plan"]["batches"]))
        setting = replace(setting, plan=plan)
        parts = tuple({stage.split()[0] for stage in target["done"]})
        code = Comparison(setting, model, arguments.data, result, aside, parts).run()
        if code:
            tell("interrupted: nothing is added")
            result = target
        else:
            result = stored_result.merged(target, result)
            stored_result.store(result, path)
    else:
        if arguments.resume and path.exists():
            result = stored_result.read(path, model) | {"plan": asdict(setting.plan)}
        code = Comparison(setting, model, arguments.data, result, path, parts).run()
    print(f"\n{words_around(result)['title'][0]}")
    for table in sections(result):
        print(f"\n{table.title}. {table.note}\n{table.text()}")
    tell(f"\nwritten: {', '.join(map(str, write(result, path)))}")
    return code


def _file_name(result: Result) -> str:
    model = re.sub(r"[^a-z0-9]+", "-", result["speed"]["model"]["name"].lower()).strip("-")
    quick = "-quick" if result["plan"]["name"] == QUICK.name else ""
    task = "-embed" if "pooling" in result["speed"]["model"] else ""
    return f"{model}{task}-on-{host.name(result['machine'])}{quick}"


def write(result: Result, path: Path) -> list[Path]:
    """Write Markdown and HTML beside the JSON; returns all three."""
    written = {".md": markdown(result), ".html": page(result)}
    for suffix, text in written.items():
        write_whole(path.with_suffix(suffix), text.encode())
    return [path, *map(path.with_suffix, written)]


def tell(text: str) -> None:
    """Tell the user something, on stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
