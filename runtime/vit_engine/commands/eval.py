"""vit-eval: how right a model is on images whose truth is known, or how far two models agree."""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from vit_engine.artefact import metadata
from vit_engine.artefact.contract import Output
from vit_engine.artefact.integrity import copy_with_contract
from vit_engine.cli import exit_codes
from vit_engine.cli.parser import Parser, local_path, number
from vit_engine.cli.progress import Progress, number_of_images
from vit_engine.cli.signals import interrupts
from vit_engine.commands.engine_options import add_model_options, engine_settings
from vit_engine.commands.source_options import (
    add_source_options,
    check_inputs,
    check_sources,
    finder_of,
    task_of,
)
from vit_engine.errors import ImageError, UsageError, printable
from vit_engine.evaluation.against import ModelComparison, opened
from vit_engine.evaluation.evaluation import Evaluation, is_report, write_report
from vit_engine.evaluation.temperature import TemperatureScaling
from vit_engine.evaluation.truth import FOLDERS, folder_of, truth_from_name
from vit_engine.image_model import ImageModel
from vit_engine.machine.output_file import OutputFile, output_file
from vit_engine.outputs.kinds import output_from_contract
from vit_engine.outputs.scores import DEFAULT_THRESHOLD, Scores
from vit_engine.rows.contact_sheet import ContactSheet, is_sheet


def command_line() -> Parser:
    """Return the parser of vit-eval's command line."""
    parser = Parser(
        "vit-eval",
        description="Measure how right a model's results are, or how far two models agree.",
        epilog="exit codes: 0 done, 2 bad usage or artefact, or no image could be judged, 3 done "
        "but some images failed, 4 provider, library or disk not available, 130/143 interrupted",
    )
    add_source_options(parser.add_argument_group("images"))
    add_model_options(parser.add_argument_group("model"))
    add = parser.add_argument_group("evaluation").add_argument
    add(
        "--truth",
        metavar="FILE|folders",
        help="compare the results with the truth: a CSV with the columns path, and label, index or "
        "value; or 'folders', where each image's folder is its label",
    )
    add(
        "--against",
        metavar="MODEL",
        help="run another artefact, or pytorch:CHECKPOINT, on the same pixels",
    )
    add(
        "--threshold",
        type=number("a number from 0 to 1", accepts=lambda t: 0 <= t <= 1),
        metavar="S",
        help="score from which on a label is given, where labels do not exclude each other "
        f"(default {DEFAULT_THRESHOLD:g})",
    )
    add(
        "--calibrate",
        type=local_path,
        metavar="OUT.onnx",
        help="write a copy of the model whose scores are calibrated by the truth (temperature "
        "scaling); its labels stay the same",
    )
    add("--report", type=local_path, metavar="FILE", help="write all that was found as JSON")
    add("--html", type=local_path, metavar="FILE", help="write a page with the worst mistakes")
    add(
        "--overwrite",
        action="store_true",
        help="replace what FILE of --report or --html holds, whatever it is (default: only what an "
        "earlier run wrote)",
    )
    add("-q", "--quiet", action="store_true", help="no progress and no summary on stderr")
    return parser


def main() -> int:
    """Run vit-eval; returns the exit code."""
    arguments = command_line().parse()
    if not (arguments.truth or arguments.against):
        raise UsageError("there is nothing to judge by; add --truth or --against")
    check_sources(arguments.sources)
    overwrite = arguments.overwrite

    def named(option: str, path: Path | None, is_ours: Callable[[Path], bool]) -> OutputFile | None:
        return output_file(path, option, is_ours, overwrite=overwrite) if path else None

    report = named("--report", arguments.report, is_report)
    page = named("--html", arguments.html, is_sheet)
    copy = named("--calibrate", arguments.calibrate, metadata.is_artefact)
    if overwrite and not (report or page or copy):
        raise UsageError("--overwrite needs a file; name it with --report or --html")
    if copy and not arguments.truth:
        raise UsageError("--calibrate needs images whose labels are known; add --truth")
    read = {arguments.model: "the model", arguments.against: "the other model"}
    read |= {arguments.truth: "the truth"}
    read.pop(None, None)
    check_inputs([file for file in (report, page, copy) if file], read, arguments.sources)
    return _evaluate(arguments, report, page, copy)


def _evaluate(
    arguments: argparse.Namespace,
    report: OutputFile | None,
    page: OutputFile | None,
    copy: OutputFile | None,
) -> int:
    parts: dict[str, Evaluation | ModelComparison] = {}
    scaling = None
    thumbnails = page is not None
    contract = metadata.read_contract(metadata.path_from_name(arguments.model))
    output = output_from_contract(contract.output)
    threshold = DEFAULT_THRESHOLD if arguments.threshold is None else arguments.threshold
    if arguments.threshold is not None and not (
        isinstance(output, Scores) and output.function == "sigmoid"
    ):
        raise UsageError(
            f"--threshold is for labels that do not exclude each other, and {arguments.model} has "
            "none; leave it out"
        )
    if arguments.truth:  # read before the model is opened, which takes seconds
        if not isinstance(output, Scores):
            raise UsageError(
                f"{arguments.model} gives vectors, and --truth is for labels; compare its vectors "
                "with another model's by --against"
            )
        folders: Iterable[str] = ()
        if arguments.truth == FOLDERS and "-" not in arguments.sources:
            folders = (folder_of(s.path) for s in finder_of(arguments)(arguments.sources))
        truth = truth_from_name(arguments.truth, output, folders)
        if copy and output.function == "none":
            raise UsageError(f"{arguments.model} gives values, and --calibrate is for scores")
        scaling = TemperatureScaling(output) if copy else None
        parts["truth"] = Evaluation(
            truth, output, threshold=threshold, thumbnails=thumbnails, scaling=scaling
        )
    skipped = Counter[str]()
    progress = Progress(skipped, quiet=arguments.quiet)
    with interrupts() as interrupt, ExitStack() as models:
        options = engine_settings(arguments)
        vit = models.enter_context(ImageModel.load(arguments.model, options))
        if arguments.against:
            parts["against"] = models.enter_context(
                opened(
                    arguments.against,
                    vit,
                    lambda name: ImageModel.load(name, options),
                    threshold=threshold,
                    thumbnails=thumbnails,
                )
            )
        if progress.watched and "-" not in arguments.sources:  # stdin can be read only once
            progress.count(lambda: finder_of(arguments)(arguments.sources))
        sheet = ContactSheet(contract)
        for labelled in vit.stream(
            finder_of(arguments, skipped)(arguments.sources),
            decode_options=task_of(arguments, contract.preprocessing),
            stopped=interrupt,
        ):
            for part in parts.values():
                part.add(labelled)
            if page:
                sheet.add(labelled)
            progress.add(labelled)
        identity, provider = contract.identity, vit.engine.provider
    progress.clear()
    for part in parts.values():
        sys.stdout.writelines(f"{line}\n" for line in part.lines())
    progress.summarize("vit-eval", contract, provider)
    if interrupt():
        done = number_of_images(progress.done)
        sys.stderr.write(f"vit-eval: interrupted after {done}; no file is written\n")
        return interrupt.exit_code
    if report:
        report.check()  # it may have come there since
        found = {name: part.report() for name, part in parts.items()}
        write_report(report.path, f"{identity.model} {identity.precision}", found)
    if page:
        page.check()
        sheet.write(page.path, [section for part in parts.values() for section in part.sections()])
    for name, part in parts.items():
        if not part.images + part.failed:
            raise UsageError(f"--{name}: no image could be judged")
    if copy and scaling and isinstance(contract.output, Output):
        copy.check()
        temperature = scaling.fitted()
        scaled = replace(contract.output, temperature=temperature)
        path = metadata.path_from_name(arguments.model)
        copy_with_contract(path, replace(contract, output=scaled), copy.path)
        name, line = printable(str(copy.path)), scaling.line(temperature)
        sys.stdout.write(f"{line}; written to {name}\n")
    has_failed = progress.failed or any(part.failed for part in parts.values())
    return ImageError.exit_code if has_failed else 0


if __name__ == "__main__":
    sys.exit(exit_codes.start("vit-eval", "vit_engine.commands.eval"))
