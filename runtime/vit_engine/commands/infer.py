"""vit-infer: labels images with an exported model."""

import argparse
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from vit_engine import ending
from vit_engine.artefact import metadata
from vit_engine.artefact.description import description_of
from vit_engine.classifier import Classifier, LabelledBatch
from vit_engine.commands import infer_options
from vit_engine.commands.error_limit import ErrorLimit
from vit_engine.commands.interrupt import Interrupt, interrupts
from vit_engine.commands.progress import Progress, number_of_images
from vit_engine.errors import ImageError, UsageError, VitError
from vit_engine.images.decoder_process import Task
from vit_engine.machine import processor
from vit_engine.rows.contact_sheet import ContactSheet
from vit_engine.rows.formats import FORMATS, format_from_name
from vit_engine.rows.output import Output, output_to
from vit_engine.rows.partial_state import Run
from vit_engine.sources.find import items_from_sources
from vit_engine.sources.item import Item

LINGER = 0.1
"""Seconds that a row on stdout may wait for its batch to fill, where stdin gives the images."""


def main() -> int:
    """Run vit-infer; returns the exit code."""
    arguments = infer_options.command_line().parse()
    return ending.run("vit-infer", lambda: _infer(arguments))


def _infer(arguments: argparse.Namespace) -> int:
    if arguments.describe:
        contract = metadata.read_contract(metadata.path_from_name(arguments.model))
        sys.stdout.write(description_of(contract, arguments.describe))
        return 0
    if arguments.build_only:
        with _loaded(arguments) as vit:
            sys.stderr.write(f"{arguments.model} is ready to run on {vit.engine.provider}\n")
        return 0
    if arguments.ray is not None:
        return _infer_on_ray(arguments)
    for option in ("ray_actors", "ray_gpus"):
        if getattr(arguments, option) is not None:
            raise UsageError(f"{_flag(option)} only makes sense together with --ray")
    if isinstance(arguments.output, str):
        raise UsageError(f"{arguments.output} is in an object store; writing there needs --ray")
    if arguments.html and not arguments.html.parent.is_dir():
        raise UsageError(f"--html {arguments.html}: there is no folder {arguments.html.parent}")
    find = _finder(arguments)
    items = find(arguments.sources)
    form = _format(arguments)
    # The output before the model, which takes seconds: what cannot be written is told at once.
    with interrupts() as interrupt, _output(arguments, form) as output:
        with _loaded(arguments) as vit:
            items = output.begin(items, lambda: _run(arguments, form, vit))
            progress = Progress(done=output.done, failed=output.failed)
            watched = sys.stderr.isatty() and not arguments.quiet
            if watched and "-" not in arguments.sources:  # stdin can be read only once
                progress.count(lambda: find(arguments.sources))
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
            _check_errors(output, arguments.max_errors, at_end=True)
    if sheet:
        sheet.write(arguments.html)
    if not arguments.quiet:
        clear = "\r\x1b[K" if watched else ""
        sys.stderr.write(
            f"{clear}{progress.line()}, {identity.model} {identity.precision} on {provider}\n"
        )
    if interrupt():
        done = number_of_images(output.done)
        sys.stderr.write(f"vit-infer: interrupted after {done}{output.how_to_resume}\n")
        return interrupt.exit_code
    return ImageError.exit_code if output.failed else 0


def _infer_on_ray(arguments: argparse.Namespace) -> int:
    if arguments.ray and not arguments.sources:
        raise UsageError(
            f"--ray took {arguments.ray} for the cluster's address; put SOURCE before --ray"
        )
    if arguments.output is None:
        raise UsageError("--ray writes Parquet files into a folder; name it with -o")
    for option in ("format", "html", "max_errors", "device", "no_cuda_graphs"):
        if getattr(arguments, option):
            raise UsageError(f"{_flag(option)} does not work with --ray")
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
        find=_finder(arguments),
    )
    if not arguments.quiet:
        resumed = f", {tally.resumed} of them before this run" if tally.resumed else ""
        sys.stderr.write(f"{tally.rows} images, {tally.failed} failed{resumed}\n")
    return ImageError.exit_code if tally.failed else 0


def _finder(arguments: argparse.Namespace) -> Callable[[Sequence[str]], Iterator[Item]]:
    """Return what turns sources into images, by the options of the command line."""
    return partial(
        items_from_sources,
        all_files=arguments.all_files,
        follow_links=arguments.follow_links,
        null=arguments.null,
        column=arguments.column,
    )


def _loaded(arguments: argparse.Namespace) -> Classifier:
    return Classifier.load(
        arguments.model,
        provider=arguments.provider,
        device=arguments.device,
        threads=arguments.threads,
        max_batch=arguments.batch,
        cuda_graphs=not arguments.no_cuda_graphs,
    )


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


def _output(arguments: argparse.Namespace, form: str) -> Output:
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return output_to(
        arguments.output, format_from_name(form, colour=colour), resume=arguments.resume
    )


def _run(arguments: argparse.Namespace, form: str, vit: Classifier) -> Run:
    """Return what the rows of this run depend on: what was resolved, where options leave it open.

    Scores move by rounding with the provider and the batch, and not with the number of threads:
    ONNX Runtime shares out the columns and rows of a product, and sums each element in one piece.
    """
    with metadata.path_from_name(arguments.model).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Run(
        settings={
            "SOURCE": arguments.sources,
            "--column": arguments.column,
            "--all-files": arguments.all_files,
            "--follow-links": arguments.follow_links,
            "--fast-decode": arguments.fast_decode,
            "--timeout": arguments.timeout,
            "a model of sha256": digest,
            "--provider": vit.engine.provider,
            "--batch": vit.engine.max_batch,
            "--top-k": min(arguments.top_k, len(vit.contract.output.labels)),
            "--format": form,
        },
        notes={"--threads": arguments.threads or processor.usable_cores()},
    )


def _format(arguments: argparse.Namespace) -> str:
    if arguments.format:
        return str(arguments.format)
    if arguments.output is None or not arguments.output.suffix:
        return "table" if arguments.output is None and sys.stdout.isatty() else "jsonl"
    extension = arguments.output.suffix.removeprefix(".").lower()
    if extension in FORMATS:
        return str(extension)
    raise UsageError(
        f"cannot tell the format of the rows from the name {arguments.output}; "
        f"add --format {'|'.join(FORMATS)}"
    )


def _check_errors(output: Output, limit: ErrorLimit | None, *, at_end: bool = False) -> None:
    if limit is not None and limit.is_passed(output.done, output.failed, at_end=at_end):
        raise VitError(
            f"stopped after {number_of_images(output.done)}: {output.failed:,} failed, "
            f"--max-errors is {limit.text}{output.how_to_resume}"
        )


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


if __name__ == "__main__":
    sys.exit(main())
