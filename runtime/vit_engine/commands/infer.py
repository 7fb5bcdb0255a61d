"""vit-infer: labels images with an exported model."""

import argparse
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from shutil import get_terminal_size

from vit_engine.artefact import metadata
from vit_engine.artefact.contract import Contract
from vit_engine.artefact.description import description_of
from vit_engine.artefact.integrity import check_integrity
from vit_engine.cli import exit_codes
from vit_engine.cli.progress import Progress, format_skipped, number_of_images
from vit_engine.cli.signals import Interrupt, interrupts
from vit_engine.commands import infer_options
from vit_engine.commands.engine_options import engine_settings
from vit_engine.commands.source_options import check_inputs, check_sources, finder_of, task_of
from vit_engine.errors import ImageError, UsageError, printable
from vit_engine.image_model import ImageModel, LabelledBatch
from vit_engine.machine.output_file import OutputFile, is_stream, output_file
from vit_engine.outputs.kinds import output_from_contract
from vit_engine.outputs.scores import ScoreOptions, Selection
from vit_engine.rows.contact_sheet import ContactSheet, is_sheet
from vit_engine.rows.done import done_paths
from vit_engine.rows.formats import Format, are_rows, format_from_name, format_name
from vit_engine.rows.output import output_to
from vit_engine.rows.resume_state import Settings
from vit_engine.rows.vectors import ROWS_BESIDE
from vit_engine.sources.object_stores import is_store
from vit_engine.sources.sample import Sample

BATCH_TIMEOUT = 0.1
"""Seconds that a row on stdout may wait for its batch to fill, where stdin gives the images."""

_NOT_WITH_RAY = [
    "format", "html", "max_errors", "device", "no_cuda_graphs", "overwrite", "compute",
    "max_pixels", "shard", "skip_done",
]  # fmt: skip


def main() -> int:
    """Run vit-infer; returns the exit code."""
    arguments = infer_options.command_line().parse()
    if arguments.describe not in (None, "text", "json"):  # --describe FILE
        arguments.sources.append(arguments.describe)
        arguments.describe = "text"
    if (arguments.describe or arguments.build_only) and arguments.sources:
        if len(arguments.sources) > 1 or arguments.model != metadata.DEFAULT_MODEL:
            option = "--describe" if arguments.describe else "--build-only"
            raise UsageError(f"{option} takes a model and no images; leave out SOURCE")
        (arguments.model,) = arguments.sources
    if arguments.describe:
        return _describe(arguments)
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
        name = printable(arguments.output)
        if not is_store(name):
            raise UsageError(f"-o {name}: is a folder; name a file in it: {name}labels.csv")
        raise UsageError(f"{name} is in an object store; writing there needs --ray")
    check_sources(arguments.sources)
    row_format = arguments.format or _default_format(arguments.output)
    # What cannot be written is told at once, before the model, which takes seconds.
    rows, page = _output_files(arguments)
    files = [f for f in (rows, page) if f]
    if rows and row_format == "npy":
        beside = rows.beside(ROWS_BESIDE)
        files.append(output_file(beside, "-o", are_rows, overwrite=arguments.overwrite))
    read = {arguments.model: "the model"} | dict.fromkeys(
        map(str, arguments.skip_done), "done rows"
    )
    check_inputs(files, read, arguments.sources)
    return _label(arguments, row_format, rows, page)


def _label(
    arguments: argparse.Namespace, row_format: str, rows: OutputFile | None, page: OutputFile | None
) -> int:
    """Label the images, write rows and contact sheet, and tell how it went."""
    limit, skipped = arguments.max_errors, Counter[str]()
    before_this = done_paths(arguments.skip_done)
    samples = finder_of(arguments, skipped, before_this)(arguments.sources)
    # Before the model is opened, which takes seconds: whether a score can reach the threshold.
    contract = metadata.read_contract(metadata.path_from_name(arguments.model))
    kind = output_from_contract(contract.output)
    selection = kind.selection(ScoreOptions(arguments.top_k, arguments.threshold))
    form_of_rows = _format(arguments, row_format, contract)
    with (
        interrupts() as interrupt,
        output_to(rows or arguments.output, form_of_rows, resume=arguments.resume) as output,
    ):
        with _loaded(arguments) as vit:
            samples = output.begin(
                samples, lambda: _settings(arguments, row_format, vit, selection)
            )
            before = {"done": output.done, "failed": output.failed}
            progress = Progress(skipped, quiet=arguments.quiet, **before)
            if progress.watched and "-" not in arguments.sources:  # stdin can be read only once
                progress.count(lambda: finder_of(arguments, None, before_this)(arguments.sources))
            sheet = ContactSheet(vit.contract, before=output.done) if page else None
            for labelled in _stream(vit, samples, arguments, interrupt):
                if arguments.output is None:
                    progress.clear()  # the rows may go to the same terminal
                output.write(labelled.predictions)
                if sheet:
                    sheet.add(labelled)
                progress.add(labelled)
                if limit:
                    limit.check(output)
            provider = vit.engine.provider
        stays, stopped = [], interrupt()
        if not stopped:  # a signal from here on finds a run that is done
            stays.append(output.finish())
            if limit:
                limit.check(output, at_end=True)
    if page and sheet:
        stays.append(_write_sheet(sheet, page))
    progress.summarize("vit-infer", contract, provider)
    if rows and arguments.resume and 0 < output.done == before["done"]:
        sys.stderr.write(
            f"{printable(str(rows.path))} is whole, there was nothing to resume; leave out "
            "--resume to label the images again\n"
        )
    for reason in filter(None, stays):
        sys.stderr.write(f"vit-infer: {reason}\n")
    if stopped:
        done = number_of_images(output.done)
        sys.stderr.write(f"vit-infer: interrupted after {done}{output.resume_hint}\n")
        return interrupt.exit_code
    return ImageError.exit_code if output.failed or any(stays) else 0


def _describe(arguments: argparse.Namespace) -> int:
    path = metadata.path_from_name(arguments.model)
    contract = metadata.read_contract(path)
    check_integrity(path, contract)
    sys.stdout.write(description_of(contract, arguments.describe))
    return 0


def _infer_on_ray(arguments: argparse.Namespace) -> int:
    if arguments.ray and not arguments.sources:
        raise UsageError(
            f"--ray took {arguments.ray} for the cluster's address; put SOURCE before --ray"
        )
    if arguments.output is None:
        raise UsageError("--ray writes Parquet files into a folder; name it with -o")
    for option in _NOT_WITH_RAY:
        if getattr(arguments, option):
            raise UsageError(f"{_flag(option)} does not work with --ray")
    if isinstance(arguments.output, Path) and arguments.output.is_file():
        name = printable(str(arguments.output))
        raise UsageError(f"{name} is a file; with --ray -o names a folder")
    check_sources(arguments.sources)
    skipped = Counter[str]()
    from vit_engine.cluster import run
    from vit_engine.cluster.connection import Workers

    tally = run.label(
        arguments.sources,
        str(arguments.output),
        address=arguments.ray or None,
        model=arguments.model,
        top_k=arguments.top_k,
        threshold=arguments.threshold,
        vectors=arguments.vectors,
        workers=Workers(
            engine_settings(arguments), actors=arguments.ray_actors, gpus=arguments.ray_gpus
        ),
        resume=arguments.resume,
        timeout=arguments.timeout,
        fast=arguments.fast_decode,
        private_redirects=arguments.allow_private_redirects,
        find=finder_of(arguments, skipped),
    )
    if not arguments.quiet:
        resumed = f", {tally.resumed} of them before this run" if tally.resumed else ""
        if resumed and tally.resumed == tally.rows:
            resumed += ", so there was nothing to resume"
        sys.stderr.write(
            f"{tally.rows} images, {tally.failed} failed{resumed}{format_skipped(skipped)}\n"
        )
    return ImageError.exit_code if tally.failed else 0


def _loaded(arguments: argparse.Namespace) -> ImageModel:
    return ImageModel.load(arguments.model, engine_settings(arguments))


def _stream(
    vit: ImageModel, samples: Iterable[Sample], arguments: argparse.Namespace, interrupt: Interrupt
) -> Iterator[LabelledBatch]:
    live = "-" in arguments.sources and arguments.output is None
    return vit.stream(
        samples,
        top_k=arguments.top_k,
        threshold=arguments.threshold,
        decode_options=task_of(arguments, vit.contract.preprocessing),
        batch_timeout=BATCH_TIMEOUT if live else None,
        stopped=interrupt,
    )


def _output_files(arguments: argparse.Namespace) -> tuple[OutputFile | None, OutputFile | None]:
    """Return the files of -o and --html, None where they name none."""
    rows, page, overwrite = arguments.output, arguments.html, arguments.overwrite
    if rows is not None:
        rows = None if is_stream(rows) else output_file(rows, "-o", are_rows, overwrite=overwrite)
    if page is not None:
        page = output_file(page, "--html", is_sheet, overwrite=overwrite)
    if arguments.overwrite and not (rows or page):
        raise UsageError("--overwrite needs a file; name it with -o or --html")
    return rows, page


def _format(arguments: argparse.Namespace, row_format: str, contract: Contract) -> Format:
    """Return how rows are written; a terminal has a width, and colours unless NO_COLOR is set."""
    shown = arguments.output is None and sys.stdout.isatty()
    return format_from_name(
        row_format,
        output_from_contract(contract.output),
        width=get_terminal_size().columns if shown else None,
        colour=shown and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb",
        dtype=arguments.vectors,
        model=contract.identity.model,
    )


def _write_sheet(sheet: ContactSheet, page: OutputFile) -> str:
    """Write the contact sheet; return why it is not there, mostly ""."""
    page.check()  # it may have come there since
    if reason := page.reason_to_stay(labelled=sheet.is_labelled):
        return reason
    sheet.write(page.path)
    return ""


def _settings(
    arguments: argparse.Namespace, row_format: str, vit: ImageModel, selection: Selection
) -> Settings:
    """Return what the rows of this run depend on: what was resolved, where options leave it open.

    Scores move by rounding with the provider and the batch, and not with the number of threads:
    ONNX Runtime shares out the columns and rows of a product, and sums each element in one piece.
    """
    with metadata.path_from_name(arguments.model).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "SOURCE": arguments.sources,
        "--column": arguments.column,
        "--shard": arguments.shard,
        "--skip-done": [str(path) for path in arguments.skip_done],
        "--all-files": arguments.all_files,
        "--follow-links": arguments.follow_links,
        "--fast-decode": arguments.fast_decode,
        "--allow-private-redirects": arguments.allow_private_redirects,
        "--max-pixels": arguments.max_pixels,
        "--timeout": arguments.timeout,
        "a model of sha256": digest,
        "--provider": vit.engine.provider,
        "--compute": arguments.compute,
        "--batch": vit.engine.max_batch,
        "--top-k": selection.top_k,
        "--threshold": selection.threshold,
        "--format": row_format,
    }


def _default_format(output: Path | None) -> str:
    if output is None:
        return "table" if sys.stdout.isatty() else "jsonl"
    return format_name(output)


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


if __name__ == "__main__":
    sys.exit(exit_codes.start("vit-infer", "vit_engine.commands.infer"))
