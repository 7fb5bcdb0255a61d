"""vit-infer: labels images with an exported model."""

import argparse
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from shutil import get_terminal_size

from vit_engine.artefact import metadata
from vit_engine.artefact.contract import Contract, Identity
from vit_engine.artefact.description import description_of
from vit_engine.artefact.integrity import check_integrity
from vit_engine.classifier import Classifier, LabelledBatch
from vit_engine.cli import ending
from vit_engine.cli.interrupt import Interrupt, interrupts
from vit_engine.commands import infer_options
from vit_engine.commands.engine_options import engine_settings
from vit_engine.commands.error_limit import ErrorLimit
from vit_engine.commands.inputs import apart, check_apart
from vit_engine.commands.progress import Progress, number_of_images, passed_over_in_words
from vit_engine.errors import ArtefactError, ImageError, UsageError, VitError, printable
from vit_engine.evaluation.findings import Findings, findings_of, is_report
from vit_engine.images.decoder_process import Task
from vit_engine.images.preprocess import narrowed_in_words
from vit_engine.machine import processor
from vit_engine.machine.atomic import remove_empty
from vit_engine.outputs.kinds import OutputKind, output_from_contract
from vit_engine.outputs.scores import ScoreOptions, Selection
from vit_engine.rows.contact_sheet import ContactSheet, Section, is_sheet
from vit_engine.rows.formats import FORMATS, are_rows, format_from_name
from vit_engine.rows.output import Output, output_to
from vit_engine.rows.partial_state import Run
from vit_engine.rows.target import Target, target_from_path
from vit_engine.sources.find import check_present, items_from_sources
from vit_engine.sources.item import Item

LINGER = 0.1
"""Seconds that a row on stdout may wait for its batch to fill, where stdin gives the images."""


def main() -> int:
    """Run vit-infer; returns the exit code."""
    arguments = infer_options.command_line().parse()
    return ending.run("vit-infer", lambda: _infer(arguments))


def _infer(arguments: argparse.Namespace) -> int:
    if arguments.describe:
        return _describe(arguments)
    if arguments.verify:
        raise UsageError("--verify only makes sense together with --describe")
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
        raise UsageError(f"{name} is in an object store; writing there needs --ray")
    if arguments.report and not (arguments.truth or arguments.against):
        raise UsageError("--report writes what --truth or --against finds; add one of them")
    check_present(arguments.sources)
    form = _format(arguments)
    # What cannot be written is told at once, before the model, which takes seconds.
    with _targets(arguments) as (rows, page, report):
        if arguments.resume and (arguments.truth or arguments.against):
            raise UsageError(
                "--truth and --against need all images of a run; leave out --resume, or the rows "
                "that are there"
            )
        if rows and rows.is_finished and arguments.resume and not arguments.overwrite:
            sys.stderr.write(
                f"{printable(str(rows.path))} is whole, there is nothing to resume; leave out "
                "--resume to label the images again\n"
            )
            return 0
        return _label(arguments, form, rows=rows, page=page, report=report)


def _label(
    arguments: argparse.Namespace,
    form: str,
    *,
    rows: Target | None,
    page: Target | None,
    report: Target | None,
) -> int:
    """Label the images, write rows and contact sheet, and tell how it went."""
    targets = [target for target in (rows, page, report) if target]
    find, passed_over = _finder(arguments), Counter[str]()
    read = {arguments.model: "the model"}
    if arguments.against:
        read[arguments.against] = "the other model"
    if arguments.truth:
        read[arguments.truth] = "the truth"
    check_apart(targets, read, arguments.sources, find)
    items = apart(_finder(arguments, passed_over)(arguments.sources), targets)
    # Before the model is opened, which takes seconds: whether a score can reach the threshold.
    contract = metadata.read_contract(metadata.path_from_name(arguments.model))
    kind = output_from_contract(contract.output)
    selection = kind.selection(ScoreOptions(arguments.top_k, arguments.threshold))
    with interrupts() as interrupt, _output(arguments, form, kind, rows) as output:
        with _loaded(arguments) as vit, _findings(arguments, vit.contract) as findings:
            items = output.begin(items, lambda: _run(arguments, form, vit, selection))
            progress = Progress(done=output.done, failed=output.failed)
            watched = sys.stderr.isatty() and not arguments.quiet
            if watched and "-" not in arguments.sources:  # stdin can be read only once
                progress.count(lambda: find(arguments.sources))
            sheet = ContactSheet(vit.contract, before=output.done) if page else None
            narrowed = 0
            for labelled in _stream(vit, items, arguments, interrupt):
                if watched and arguments.output is None:
                    progress.clear(sys.stderr)  # the rows may go to the same terminal
                output.write(labelled.predictions)
                if sheet:
                    sheet.add(labelled)
                findings.add(labelled)
                narrowed += labelled.narrowed
                progress.done, progress.failed = output.done, output.failed
                if watched:
                    progress.show(sys.stderr)
                _check_errors(output, arguments.max_errors)
            identity, provider = vit.contract.identity, vit.engine.provider
        told = []
        if not interrupt():
            told.append(output.finish())
            _check_errors(output, arguments.max_errors, at_end=True)
    if page and sheet:
        told.append(_write_sheet(sheet, page, findings.sections()))
    if report and not interrupt():
        told.append(_write_report(findings, report, identity))
    if not arguments.quiet:
        clear = "\r\x1b[K" if watched else ""
        sys.stderr.write(
            f"{clear}{progress.line()}, {identity.model} {identity.precision} on {provider}"
            f"{passed_over_in_words(passed_over)}\n"
        )
        for line in findings.lines():
            sys.stderr.write(f"{line}\n")
        if narrowed:
            sys.stderr.write(f"vit-infer: warning: {narrowed_in_words(narrowed)}\n")
    set_aside = [words for words in told if words]
    for words in set_aside:
        sys.stderr.write(f"vit-infer: {words}\n")
    if interrupt():
        done = number_of_images(output.done)
        sys.stderr.write(f"vit-infer: interrupted after {done}{output.how_to_resume}\n")
        return interrupt.exit_code
    return ImageError.exit_code if output.failed or set_aside else 0


def _describe(arguments: argparse.Namespace) -> int:
    path = metadata.path_from_name(arguments.model)
    contract = metadata.read_contract(path)
    if arguments.verify:
        if contract.content_sha256 is None:
            raise ArtefactError(
                f"{printable(str(path))}: has no sha256 of its content to be held against; export "
                "the model again"
            )
        check_integrity(path, contract)
    width = get_terminal_size().columns if sys.stdout.isatty() else None
    sys.stdout.write(description_of(contract, arguments.describe, width))
    if arguments.verify:
        stream = sys.stdout if arguments.describe == "text" else sys.stderr  # JSON stays JSON
        stream.write(f"{'content':<14} whole, as it was exported\n")
    return 0


def _infer_on_ray(arguments: argparse.Namespace) -> int:
    if arguments.ray and not arguments.sources:
        raise UsageError(
            f"--ray took {arguments.ray} for the cluster's address; put SOURCE before --ray"
        )
    if arguments.output is None:
        raise UsageError("--ray writes Parquet files into a folder; name it with -o")
    for option in (
        *("format", "html", "max_errors", "device", "no_cuda_graphs", "overwrite", "compute"),
        *("truth", "against", "report"),
    ):
        if getattr(arguments, option):
            raise UsageError(f"{_flag(option)} does not work with --ray")
    if isinstance(arguments.output, Path) and arguments.output.is_file():
        name = printable(str(arguments.output))
        raise UsageError(f"{name} is a file; with --ray -o names a folder")
    check_present(arguments.sources)
    passed_over = Counter[str]()
    from vit_engine.cluster import run
    from vit_engine.cluster.connection import Workers

    tally = run.label(
        arguments.sources,
        str(arguments.output),
        address=arguments.ray or None,
        model=arguments.model,
        top_k=arguments.top_k,
        threshold=arguments.threshold,
        workers=Workers(
            engine_settings(arguments), actors=arguments.ray_actors, gpus=arguments.ray_gpus
        ),
        resume=arguments.resume,
        timeout=arguments.timeout,
        fast=arguments.fast_decode,
        private_redirects=arguments.allow_private_redirects,
        find=_finder(arguments, passed_over),
    )
    if not arguments.quiet:
        resumed = f", {tally.resumed} of them before this run" if tally.resumed else ""
        if resumed and tally.resumed == tally.rows:
            resumed += ", so there was nothing to resume"
        sys.stderr.write(
            f"{tally.rows} images, {tally.failed} failed{resumed}"
            f"{passed_over_in_words(passed_over)}\n"
        )
    return ImageError.exit_code if tally.failed else 0


def _finder(
    arguments: argparse.Namespace, passed_over: Counter[str] | None = None
) -> Callable[[Sequence[str]], Iterator[Item]]:
    """Return what turns sources into images, by the options of the command line."""
    return partial(
        items_from_sources,
        all_files=arguments.all_files,
        follow_links=arguments.follow_links,
        null=arguments.null,
        column=arguments.column,
        passed_over=passed_over,
    )


def _loaded(arguments: argparse.Namespace) -> Classifier:
    return Classifier.load(arguments.model, engine_settings(arguments))


def _stream(
    vit: Classifier, items: Iterable[Item], arguments: argparse.Namespace, interrupt: Interrupt
) -> Iterator[LabelledBatch]:
    live = "-" in arguments.sources and arguments.output is None
    return vit.stream(
        items,
        top_k=arguments.top_k,
        threshold=arguments.threshold,
        task=Task(
            vit.contract.preprocessing,
            time_limit=arguments.timeout,
            fast=arguments.fast_decode,
            private_redirects=arguments.allow_private_redirects,
        ),
        linger=LINGER if live else None,
        stopped=interrupt,
    )


@contextmanager
def _targets(
    arguments: argparse.Namespace,
) -> Iterator[tuple[Target | None, Target | None, Target | None]]:
    """Give the files of -o, --html and --report, None where they name none.

    Folders made in vain go again.
    """
    rows = page = report = None
    try:
        if arguments.output is not None:
            rows = target_from_path(arguments.output, "-o", are_rows, overwrite=arguments.overwrite)
        if arguments.html is not None:
            page = target_from_path(
                arguments.html, "--html", is_sheet, overwrite=arguments.overwrite
            )
            if page is None:
                raise UsageError(f"--html {printable(str(arguments.html))}: is no regular file")
        if arguments.report is not None:
            report = target_from_path(
                arguments.report, "--report", is_report, overwrite=arguments.overwrite
            )
            if report is None:
                raise UsageError(f"--report {printable(str(arguments.report))}: is no regular file")
        if arguments.overwrite and not (rows or page or report):
            raise UsageError("--overwrite needs a file; name it with -o, --html or --report")
        yield rows, page, report
    finally:
        for target in (rows, page, report):
            remove_empty(target.made if target else ())


def _output(
    arguments: argparse.Namespace, form: str, kind: OutputKind, rows: Target | None
) -> Output:
    """Open what rows go to; a terminal has a width, and colours unless NO_COLOR is set."""
    shown = arguments.output is None and sys.stdout.isatty()
    form_of_rows = format_from_name(
        form,
        kind,
        width=get_terminal_size().columns if shown else None,
        colour=shown and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb",
    )
    return output_to(rows or arguments.output, form_of_rows, resume=arguments.resume)


def _write_sheet(sheet: ContactSheet, page: Target, sections: Sequence[Section]) -> str:
    """Write the contact sheet; return what is to be told of where it is."""
    page.check()  # it may have come there since
    place = page.place(labelled=sheet.is_labelled)
    sheet.write(place, sections)
    return page.told(place)


def _findings(
    arguments: argparse.Namespace, contract: Contract
) -> AbstractContextManager[Findings]:
    return findings_of(
        contract,
        truth=arguments.truth,
        other=arguments.against,
        thumbnails=arguments.html is not None,
        options=engine_settings(arguments),
    )


def _write_report(findings: Findings, report: Target, identity: Identity) -> str:
    """Write what --truth and --against found; return what is to be told of where it is."""
    report.check()  # it may have come there since
    place = report.place(labelled=True)
    findings.write(place, f"{identity.model} {identity.precision}")
    return report.told(place)


def _run(arguments: argparse.Namespace, form: str, vit: Classifier, selection: Selection) -> Run:
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
            "--allow-private-redirects": arguments.allow_private_redirects,
            "--timeout": arguments.timeout,
            "a model of sha256": digest,
            "--provider": vit.engine.provider,
            "--compute": arguments.compute,
            "--batch": vit.engine.max_batch,
            "--top-k": selection.top_k,
            "--threshold": selection.threshold,
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
        f"cannot tell the format of the rows from the name {printable(str(arguments.output))}; "
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
