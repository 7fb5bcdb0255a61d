"""Speed and accuracy of vit-engine beside eager PyTorch and the peers one would pick instead.

    python benchmarks/compare.py --quick
    python benchmarks/compare.py --model FOLDER --data IMAGES
    python benchmarks/compare.py --device cuda --budget 480

Without arguments: ViT-B/16 with seeded random weights for speed (weights do not change it), the
demo checkpoint for accuracy. Writes JSON, Markdown and one HTML page.
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
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType

from comparison import host, stored_result
from comparison.contenders.entries import BASELINE, CONTENDERS, Entry
from comparison.harness.plan import FULL, GPU, QUICK, Plan, Setting
from comparison.inputs import models
from comparison.inputs.models import Model
from comparison.inputs.random_vit import SIZES
from comparison.measure import PARTS, Comparison
from comparison.report import html_page, report_text, result_tables
from comparison.report.result_rows import Result, rows_from_result
from vit_engine.cli.parser import number, whole_number
from vit_engine.errors import UsageError, VitError
from vit_engine.machine.atomic import write_whole
from vit_engine.machine.installation import pip_install

HERE = Path(__file__).resolve().parent
IMAGES = whole_number("a whole number of images", least=1)
THREADS = whole_number("a whole number of threads", least=1)
QUICK_S = 120.0
"""The budget of --quick where none is given: on a busy machine something is left out."""
SECONDS = number("a number of seconds above 0", accepts=lambda seconds: seconds > 0)


def main() -> int:
    """Run the comparison; returns the exit code (0 done, 2 bad usage, 130/143 interrupted)."""
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, _terminated)
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
    add("--random", choices=SIZES, help="seeded random weights, in place of --model")
    add("--data", type=Path, help="folder with labels.csv (file, index) or class folders")
    add("--quick", action="store_true", help="2 minutes at most: a small model, few turns")
    add("--batches", type=IMAGES, nargs="+", metavar="N", help="batch sizes")
    add("--contenders", nargs="+", metavar="NAME", help=", ".join(e.name for e in CONTENDERS))
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: cuda if any")
    add("--threads", type=THREADS, help="for everyone (default: the cores this process may use)")
    add("--cache", type=Path, default=_cache(), help="converted models (default %(default)s)")
    add("-o", "--output", type=Path, default=HERE / "out", help="folder (default %(default)s)")
    add("--budget", type=SECONDS, metavar="S", help="leave out what does not fit into S seconds")
    add("--resume", action="store_true", help="measure only what the stored JSON lacks")
    add("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure (default: all)")
    add("--add", nargs="+", metavar="NAME", help="measure these and add them to the stored JSON")
    add("--render", type=Path, metavar="JSON", help="write Markdown and HTML of a stored result")
    return parser


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home, "vit-engine", "compare")


def _compare(arguments: argparse.Namespace) -> int:
    begun = time.monotonic()
    if arguments.random and arguments.model:
        raise UsageError("--random and --model name a model each; give one of them")
    if arguments.data and not arguments.model:
        raise UsageError("--data needs --model: random weights know no classes")
    partly = arguments.contenders or arguments.resume or arguments.only != PARTS
    if arguments.add and (partly or arguments.budget):
        raise UsageError("--add goes with neither --contenders, --resume, --only nor --budget")
    device = arguments.device
    if device == "auto":
        device = "cuda" if host.gpu() else "cpu"
    usual = QUICK_S if arguments.quick and not arguments.add else math.inf
    cache = arguments.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=cache) as scratch:
        setting = Setting(
            entries=_entries(arguments.add or arguments.contenders, device),
            device=device,
            threads=arguments.threads or len(os.sched_getaffinity(0)),
            cache=cache,
            scratch=Path(scratch),
            plan=_plan(arguments, device),
            say=progress,
            tell=tell,
            end=begun + (arguments.budget or usual),
        )
        return _run(arguments, setting, _model(arguments, cache))


def _plan(arguments: argparse.Namespace, device: str) -> Plan:
    plan = QUICK if arguments.quick else GPU if device == "cuda" else FULL
    if not arguments.batches:
        return plan
    return replace(plan, batches=tuple(sorted(set(arguments.batches))), few_batches=None)


def _model(arguments: argparse.Namespace, cache: Path) -> Model:
    if arguments.model:
        return models.model_from_name(arguments.model)
    tell("no --model: random weights, made once")
    usual = "ViT-Ti/16" if arguments.quick else "ViT-B/16"
    return models.random_model(arguments.random or usual, cache)


def _run(arguments: argparse.Namespace, setting: Setting, model: Model) -> int:
    result = stored_result.begun(setting, model)
    path = arguments.output / f"{_file_name(result, setting)}.json"
    tell(f"{model.name} on {setting.device}; first all is converted, for minutes where not cached")
    begun = time.monotonic()
    if arguments.add:
        code, result = _add(setting, model, arguments.data, path, result)
    else:
        if arguments.resume and path.exists():
            result = stored_result.read(path, model) | {"plan": asdict(setting.plan)}
        code = Comparison(
            setting, model, arguments.data, result, path=path, parts=arguments.only, show=show
        ).run()
    for name, note, table in report_text.sections(result):
        print(f"\n{name}. {note}\n{table.text()}")
    tell(f"\n{time.monotonic() - begun:.0f} s; {', '.join(map(str, write(result, path)))}")
    return code


def _add(
    setting: Setting, model: Model, data: Path | None, path: Path, result: Result
) -> tuple[int, Result]:
    """Measure the chosen beside the baseline; into the stored result if nothing interrupts."""
    target = stored_result.read(path, model)
    plan = replace(setting.plan, batches=tuple(target["plan"]["batches"]))
    setting = replace(setting, plan=plan)
    aside = setting.scratch / "added.json"
    parts = tuple({stage.split()[0] for stage in target["done"]})
    code = Comparison(setting, model, data, result, path=aside, parts=parts, show=show).run()
    if code:
        tell("interrupted: nothing is added")
        return code, target
    merged = stored_result.merged(target, result)
    stored_result.store(merged, path)
    return 0, merged


def _file_name(result: Result, setting: Setting) -> str:
    model = re.sub(r"[^a-z0-9]+", "-", result["speed"]["model"]["name"].lower()).strip("-")
    quick = "-quick" if setting.plan.name == QUICK.name else ""
    return f"{model}-on-{host.name(result['machine'])}{quick}"


def _entries(names: list[str] | None, device: str) -> tuple[Entry, ...]:
    """Return the baseline and the contenders named, or all that are for the device."""
    if not names:
        return tuple(entry for entry in CONTENDERS if device in entry.devices)
    known = {entry.name for entry in CONTENDERS}
    unknown = set(names) - known
    if unknown:
        raise UsageError(f"no contender {min(unknown)!r}; there are {', '.join(sorted(known))}")
    return tuple(entry for entry in CONTENDERS if entry.name in {*names, BASELINE})


def show(result: Result, batch: int) -> None:
    """Print what a batch size has brought, as soon as it is timed."""
    progress("")
    print(result_tables.at_batch(rows_from_result(result), batch).text() + "\n", flush=True)


def write(result: Result, path: Path) -> list[Path]:
    """Write Markdown and HTML beside the JSON; returns all three."""
    markdown, page = path.with_suffix(".md"), path.with_suffix(".html")
    write_whole(markdown, report_text.markdown(result).encode())
    write_whole(page, html_page.page(result).encode())
    return [path, markdown, page]


def progress(text: str) -> None:
    """Show what is going on: over the same line of a terminal, else nothing but changes of kind."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text[:120]}")
        sys.stderr.flush()
    elif text and "round" not in text:
        tell(text)


def tell(text: str) -> None:
    """Tell the user something that stays, on stderr."""
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""
    sys.stderr.write(f"{clear}{text}\n")  # in one write: threads tell as well
    sys.stderr.flush()


def _terminated(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
