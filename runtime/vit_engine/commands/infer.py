"""vit-infer: labels images with an exported model."""

import argparse
import hashlib
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from vit_engine.artefact import metadata
from vit_engine.artefact.description import description_of
from vit_engine.classifier import Classifier, LabelledBatch
from vit_engine.commands import ending
from vit_engine.commands.interrupt import Interrupt, interrupts
from vit_engine.commands.progress import Progress
from vit_engine.errors import ImageError, UsageError, VitError
from vit_engine.images.decoder_process import TIME_LIMIT, Task
from vit_engine.providers.table import CHOICES, DEFAULT_PROVIDER
from vit_engine.rows.contact_sheet import ContactSheet
from vit_engine.rows.formats import FORMATS, format_from_name
from vit_engine.rows.outputs import FileOutput, StreamOutput, output_to
from vit_engine.scores import DEFAULT_TOP_K
from vit_engine.sources.find import items_from_sources
from vit_engine.sources.item import Item
from vit_engine.sources.stores import is_store

DEFAULT_MODEL = "vit.onnx"
LINGER = 0.1
"""Seconds that a row on stdout may wait for its batch to fill, where stdin gives the images."""

_SHARE_OF = 100  # rows, before --max-errors P% is looked at


def main() -> int:
    """Run vit-infer; returns the exit code."""
    arguments = _parser().parse_args()
    return ending.run("vit-infer", lambda: _infer(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vit-infer",
        description="Label images with a model that vit-export wrote.",
        epilog="exit codes: 0 done, 1 too many errors, 2 bad usage or artefact, 3 done but some "
        "images failed, 4 provider or disk not there, 130/143 interrupted",
    )
    add = parser.add_argument_group("images").add_argument
    add(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="file, folder, 'glob', http(s) URL, .tar[.gz] of images, .csv or .parquet with a "
        "column of paths, or - for a list on stdin",
    )
    add("-0", "--null", action="store_true", help="the list on stdin is NUL-separated")
    add("--column", default="path", help="of paths, in .csv and .parquet (default %(default)s)")
    add("--all-files", action="store_true", help="find images by content, not by extension")
    add("--follow-links", action="store_true", help="search linked folders too, each once")
    add("--fast-decode", action="store_true", help="decode large JPEGs reduced")
    add(
        "--timeout",
        type=_seconds,
        default=TIME_LIMIT,
        metavar="S",
        help="seconds to decode one image (default %(default)g)",
    )
    add = parser.add_argument_group("model").add_argument
    add(
        "-m",
        "--model",
        default=DEFAULT_MODEL,
        help="artefact, or 'demo' for the bundled one (default %(default)s)",
    )
    add(
        "--provider",
        choices=CHOICES,
        default=DEFAULT_PROVIDER,
        help="where to run (%(default)s: CUDA where it opens, else the CPU)",
    )
    add("--device", type=int, default=0, metavar="N", help="which GPU (default %(default)s)")
    add("--no-cuda-graphs", action="store_true", help="launch CUDA's kernels one by one")
    add(
        "--build-only",
        action="store_true",
        help="open the model, building what the provider needs, such as TensorRT's engine; stop",
    )
    add("-b", "--batch", type=int, help="images at once (default: what keeps the provider busy)")
    add("--threads", type=int, help="compute threads (default: the cores this process may use)")
    add(
        "--describe",
        nargs="?",
        const="text",
        choices=("text", "json"),
        help="print what the artefact says of itself, as text or json, and stop",
    )
    add = parser.add_argument_group("rows").add_argument
    add("-k", "--top-k", type=int, default=DEFAULT_TOP_K, help="labels an image (%(default)s)")
    add(
        "--format",
        choices=FORMATS,
        help="of the rows; by default that of -o's suffix, else table on a terminal and jsonl",
    )
    add("-o", "--output", type=_output_path, help="write rows to this file rather than stdout")
    add("--resume", action="store_true", help="go on with the -o of a run that was broken off")
    add(
        "--max-errors",
        type=_limit_on_errors,
        metavar="N|P%",
        help="stop with exit 1 once more than N images failed, or P percent of 100 or more",
    )
    add("--html", type=Path, metavar="FILE", help="write a contact sheet to look at as well")
    add("-q", "--quiet", action="store_true", help="no progress and no summary")
    add = parser.add_argument_group(
        "past one machine", "SOURCE, a Parquet manifest and -o, then a folder, may be s3://, gs://"
    ).add_argument
    add(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="run on a Ray cluster (default $RAY_ADDRESS, or a Ray of this machine alone)",
    )
    add("--ray-actors", type=int, metavar="N", help="models at most (default: one a GPU, or node)")
    add("--ray-gpus", type=float, metavar="X", help="GPUs of each model, such as 1 or 0.5")
    return parser


def _infer(arguments: argparse.Namespace) -> int:
    if arguments.describe:
        contract = metadata.read_contract(metadata.path_from_name(arguments.model))
        sys.stdout.write(description_of(contract, arguments.describe))
        return 0
    if arguments.build_only:
        with _loaded(arguments) as vit:
            sys.stderr.write(f"ready on {vit.engine.provider}\n")
        return 0
    if arguments.ray is not None:
        return _infer_on_ray(arguments)
    if isinstance(arguments.output, str):
        raise UsageError(f"{arguments.output}: is in an object store; add --ray")
    if arguments.html and not arguments.html.parent.is_dir():
        raise UsageError(f"--html {arguments.html}: there is no folder {arguments.html.parent}")
    find = partial(
        items_from_sources,
        all_files=arguments.all_files,
        follow_links=arguments.follow_links,
        null=arguments.null,
        column=arguments.column,
    )
    items = find(arguments.sources)
    with interrupts() as interrupt, _output(arguments) as output:
        items = output.remaining(items)
        with _loaded(arguments) as vit:
            progress = Progress(done=output.done, failed=output.failed)
            watched = sys.stderr.isatty() and not arguments.quiet
            if watched:
                progress.count(lambda: find([s for s in arguments.sources if s != "-"] or ["."]))
            sheet = ContactSheet(vit.contract, before=output.done) if arguments.html else None
            for labelled in _stream(vit, items, arguments, interrupt):
                if watched and arguments.output is None:
                    progress.clear(sys.stderr)  # the rows may go to the same terminal
                output.write(labelled.predictions)
                if sheet:
                    sheet.add(labelled)
                progress.done, progress.failed = output.done, output.failed
                if watched:
                    progress.show(sys.stderr)
                _check_errors(output, arguments.max_errors)
            identity, provider = vit.contract.identity, vit.engine.provider
        if not interrupt():
            output.finish()
            _check_errors(output, arguments.max_errors, least=0)
    if sheet:
        sheet.write(arguments.html)
    if not arguments.quiet:
        clear = "\r\x1b[K" if watched else ""
        sys.stderr.write(
            f"{clear}{progress.line()}, {identity.model} {identity.precision} on {provider}\n"
        )
    if interrupt():
        sys.stderr.write(
            f"vit-infer: interrupted after {output.done} images{output.how_to_go_on}\n"
        )
        return interrupt.exit_code
    return ImageError.exit_code if output.failed else 0


def _loaded(arguments: argparse.Namespace) -> Classifier:
    return Classifier.load(
        arguments.model,
        provider=arguments.provider,
        device=arguments.device,
        threads=arguments.threads,
        max_batch=arguments.batch,
        cuda_graphs=not arguments.no_cuda_graphs,
    )


def _infer_on_ray(arguments: argparse.Namespace) -> int:
    if arguments.ray and not arguments.sources:
        raise UsageError(f"--ray took {arguments.ray} for its address; name SOURCE before --ray")
    if arguments.output is None:
        raise UsageError("--ray writes Parquet files into a folder; add -o DIR")
    for option in ("format", "html", "max_errors"):
        if getattr(arguments, option) is not None:
            raise UsageError(f"--{option.replace('_', '-')} is not there with --ray")
    from vit_engine.cluster import run
    from vit_engine.cluster.connection import Workers

    tally = run.label(
        arguments.sources,
        str(arguments.output),
        address=arguments.ray or None,
        model=arguments.model,
        top_k=arguments.top_k,
        workers=Workers(
            provider=arguments.provider,
            actors=arguments.ray_actors,
            gpus=arguments.ray_gpus,
            threads=arguments.threads,
            max_batch=arguments.batch,
        ),
        resume=arguments.resume,
        timeout=arguments.timeout,
        fast=arguments.fast_decode,
        find=partial(
            items_from_sources,
            all_files=arguments.all_files,
            follow_links=arguments.follow_links,
            null=arguments.null,
            column=arguments.column,
        ),
    )
    if not arguments.quiet:
        resumed = f", {tally.resumed} of them before" if tally.resumed else ""
        sys.stderr.write(f"{tally.rows} images, {tally.failed} failed{resumed}\n")
    return ImageError.exit_code if tally.failed else 0


def _output_path(text: str) -> Path | str:
    return text if is_store(text) else Path(text)


def _stream(
    vit: Classifier, items: Iterable[Item], arguments: argparse.Namespace, interrupt: Interrupt
) -> Iterator[LabelledBatch]:
    live = "-" in arguments.sources and arguments.output is None
    return vit.stream(
        items,
        top_k=arguments.top_k,
        task=Task(
            vit.contract.preprocessing, time_limit=arguments.timeout, fast=arguments.fast_decode
        ),
        linger=LINGER if live else None,
        stopped=interrupt,
    )


def _output(arguments: argparse.Namespace) -> StreamOutput | FileOutput:
    """Open the output before the model: a folder that cannot be written to is told at once."""
    contract = metadata.read_contract(metadata.path_from_name(arguments.model))
    name = _format(arguments)
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    fixed = ("sources", "top_k", "batch", "provider", "column", "all_files", "follow_links")
    run = {option: getattr(arguments, option) for option in (*fixed, "fast_decode", "timeout")}
    run |= {"format": name, "model": hashlib.sha256(contract.dumps().encode()).hexdigest()}
    return output_to(
        arguments.output, format_from_name(name, colour=colour), run=run, resume=arguments.resume
    )


def _format(arguments: argparse.Namespace) -> str:
    if arguments.format:
        return str(arguments.format)
    if arguments.output is None or not arguments.output.suffix:
        return "table" if arguments.output is None and sys.stdout.isatty() else "jsonl"
    suffix = arguments.output.suffix.removeprefix(".")
    if suffix in FORMATS:
        return str(suffix)
    raise UsageError(f"{arguments.output}: add --format {'|'.join(FORMATS)}, the suffix is none")


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise ValueError
    return number


def _limit_on_errors(text: str) -> tuple[str, Callable[[int, int], bool]]:
    """Parse N or P%: the text itself, and what tells from (done, failed) whether it is passed."""
    number = float(text.removesuffix("%"))
    if not 0 <= number < math.inf:
        raise ValueError
    if text.endswith("%"):
        return text, lambda done, failed: failed > done * number / 100
    return text, lambda _, failed: failed > number


def _check_errors(
    output: StreamOutput | FileOutput,
    limit: tuple[str, Callable[[int, int], bool]] | None,
    *,
    least: int = _SHARE_OF,
) -> None:
    if limit is None:
        return
    text, is_passed = limit
    if (output.done >= least or not text.endswith("%")) and is_passed(output.done, output.failed):
        raise VitError(
            f"stopped after {output.done} images: {output.failed} failed, "
            f"--max-errors is {text}{output.how_to_go_on}"
        )


if __name__ == "__main__":
    sys.exit(main())
