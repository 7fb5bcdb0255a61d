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
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

from comparison import html, inputs, machine, report, stages, tables
from comparison.contenders import BASELINE, CONTENDERS, Entry
from comparison.inputs import Model
from comparison.plan import FULL, QUICK, Setting
from comparison.rows import Result, rows_from_result
from comparison.stages import Comparison
from vit_engine.errors import UsageError, VitError

HERE = Path(__file__).resolve().parent


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
    add(
        "--only",
        nargs="+",
        choices=stages.PARTS,
        default=stages.PARTS,
        help="parts to measure (default: all)",
    )
    add("--add", nargs="+", metavar="NAME", help="measure these and add them to the stored JSON")
    add("--render", type=Path, metavar="JSON", help="write Markdown and HTML of a stored result")
    return parser


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home, "vit-engine", "compare")


def _compare(arguments: argparse.Namespace) -> int:
    if arguments.data and not arguments.model:
        raise UsageError("--data needs --model: random weights know no classes")
    partly = arguments.contenders or arguments.resume or arguments.only != stages.PARTS
    if arguments.add and partly:
        raise UsageError("--add goes with neither --contenders, --resume nor --only")
    plan = QUICK if arguments.quick else FULL
    if arguments.batches:
        if min(arguments.batches) < 1:
            raise UsageError(f"--batches {min(arguments.batches)}: at least 1")
        plan = replace(plan, batches=tuple(sorted(set(arguments.batches))))
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
            tell=tell,
        )
        return _run(arguments, setting, _model(arguments, cache))


def _model(arguments: argparse.Namespace, cache: Path) -> Model:
    if arguments.model:
        return inputs.model_from_name(arguments.model)
    tell("no --model: random weights, made once")
    return inputs.random_model("ViT-Ti/16" if arguments.quick else "ViT-B/16", cache)


def _run(arguments: argparse.Namespace, setting: Setting, model: Model) -> int:
    result = stages.started(setting, model)
    path = arguments.output / f"{_file_name(result, setting)}.json"
    tell(f"{model.name} on {setting.device}; first all is converted, for minutes where not cached")
    begun = time.monotonic()
    if arguments.add:
        code, result = _add(setting, model, arguments.data, path, result)
    else:
        if arguments.resume and path.exists():
            result = stages.resumed(path, setting, model)
        code = Comparison(
            setting, model, arguments.data, result, path=path, parts=arguments.only, show=show
        ).run()
    for name, note, table in report.sections(result):
        print(f"\n{name}. {note}\n{table.text()}")
    tell(f"\n{time.monotonic() - begun:.0f} s; {', '.join(map(str, write(result, path)))}")
    return code


def _add(
    setting: Setting, model: Model, data: Path | None, path: Path, result: Result
) -> tuple[int, Result]:
    """Measure the chosen beside the baseline; into the stored result if nothing interrupts."""
    target = stages.stored(path, model)
    plan = replace(setting.plan, batches=tuple(target["plan"]["batches"]))
    setting = replace(setting, plan=plan)
    aside = setting.scratch / "added.json"
    code = Comparison(setting, model, data, result, path=aside, show=show).run()
    if code:
        tell("interrupted: nothing is added")
        return code, target
    merged = stages.merged(target, result)
    stages.store(merged, path)
    return 0, merged


def _file_name(result: Result, setting: Setting) -> str:
    model = re.sub(r"[^a-z0-9]+", "-", result["speed"]["model"]["name"].lower()).strip("-")
    quick = "-quick" if setting.plan.name == QUICK.name else ""
    return f"{model}-on-{machine.name(result['machine'])}{quick}"


def _entries(names: list[str] | None) -> tuple[Entry, ...]:
    known = {entry.name for entry in CONTENDERS}
    unknown = set(names or ()) - known
    if unknown:
        raise UsageError(f"no contender {min(unknown)!r}; there are {', '.join(sorted(known))}")
    return tuple(e for e in CONTENDERS if not names or e.name in {*names, BASELINE})


def show(result: Result, batch: int) -> None:
    """Print what a batch size has brought, as soon as it is timed."""
    progress("")
    print(tables.at_batch(rows_from_result(result), batch).text() + "\n", flush=True)


def write(result: Result, path: Path) -> list[Path]:
    """Write Markdown and HTML beside the JSON; returns all three."""
    renderers: dict[str, Callable[[Result], str]] = {
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
    """Tell the user something that stays, on stderr."""
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""
    sys.stderr.write(f"{clear}{text}\n")  # in one write: threads tell as well
    sys.stderr.flush()


def _terminated(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
