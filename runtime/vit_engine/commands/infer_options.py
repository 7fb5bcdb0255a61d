"""The options of vit-infer."""

import argparse
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from vit_engine.cli.parser import Parser, local_path, number, whole_number
from vit_engine.cli.progress import number_of_images
from vit_engine.commands.engine_options import add_model_options
from vit_engine.commands.source_options import add_source_options
from vit_engine.errors import FailedImagesError
from vit_engine.outputs.scores import DEFAULT_TOP_K
from vit_engine.rows.formats import FORMATS
from vit_engine.rows.output import Output
from vit_engine.rows.vectors import VectorType
from vit_engine.sources.object_stores import is_store

LEAST = 100
"""Rows before a percentage is looked at while a run goes on: of fewer it says little."""


@dataclass(frozen=True)
class ErrorLimit:
    """A number of images, or a percentage of them; `text` is how the user wrote it."""

    text: str
    maximum: float
    is_percentage: bool

    @classmethod
    def parse(cls, text: str) -> "ErrorLimit":
        """Return the limit that "20" or "1.5%" stands for; argparse's error for anything else."""
        is_percentage = text.endswith("%")
        try:
            maximum = float(text[:-1]) if is_percentage else int(text)
        except ValueError:
            maximum = math.nan
        if not 0 <= maximum <= (100 if is_percentage else math.inf):
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a number of images such as 20, or a percentage such as 5%"
            )
        return cls(text, maximum, is_percentage)

    def check(self, output: Output, *, at_end: bool = False) -> None:
        """Raise FailedImagesError if too many of the images so far have failed."""
        maximum = self.maximum
        if self.is_percentage:
            maximum = (
                output.done * self.maximum / 100 if at_end or output.done >= LEAST else math.inf
            )
        if output.failed > maximum:
            raise FailedImagesError(
                f"stopped after {number_of_images(output.done)}: {output.failed:,} failed, "
                f"--max-errors is {self.text}{output.resume_hint}"
            )


def command_line() -> Parser:
    """Return the parser of vit-infer's command line."""
    parser = Parser(
        "vit-infer",
        description="Label images with a model that vit-export wrote, or give each a vector.",
        epilog="exit codes: 0 done, 1 unforeseen, 2 bad usage or artefact, 3 some images "
        "failed, or more than --max-errors, 4 provider or disk not available, 130/143 interrupted",
    )
    group = parser.add_argument_group("images")
    add_source_options(group)
    group.add_argument(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="label only every Nth image, from the Ith on; N jobs with 1/N to N/N label all",
    )
    group.add_argument(
        "--skip-done",
        type=local_path,
        action="append",
        default=[],
        metavar="FILE",
        help="leave out images that have a result in these rows of an earlier run; may be repeated",
    )
    group = parser.add_argument_group("model")
    add = group.add_argument
    add_model_options(group)
    add(
        "--build-only",
        action="store_true",
        help="build what the provider needs for the model, such as TensorRT's engine, and stop",
    )
    add(
        "--describe",
        nargs="?",
        const="text",
        metavar="text|json",
        help="print what the artefact is, as text or json, and stop; an artefact that is damaged "
        "or was altered is refused",
    )
    add = parser.add_argument_group("rows").add_argument
    add(
        "-k",
        "--top-k",
        type=whole_number("a whole number of labels", minimum=1),
        metavar="K",
        help=f"the K best labels of each image (default {DEFAULT_TOP_K}; all with --threshold)",
    )
    add(
        "--threshold",
        type=number("a finite number", accepts=math.isfinite),
        metavar="S",
        help="only labels with a score of S or more; an image may then have none",
    )
    add(
        "--format",
        choices=FORMATS,
        help="format of the rows (default: by the extension of -o FILE; without -o, table on a "
        "terminal, else jsonl); npy is for vectors, and their rows are in FILE.npy.parquet",
    )
    add(
        "--vectors",
        choices=get_args(VectorType),
        help="type of the numbers of vectors in Parquet and npy (default float32)",
    )
    add(
        "-o",
        "--output",
        type=_output_path,
        metavar="FILE",
        help="write the rows to this file, not to stdout",
    )
    add("--resume", action="store_true", help="continue the -o FILE of an interrupted run")
    add(
        "--overwrite",
        action="store_true",
        help="replace FILE of -o or --html, whatever it is, and the rows of an interrupted run "
        "(default: replace only what vit-infer wrote, and only if an image gets a label)",
    )
    add(
        "--max-errors",
        type=ErrorLimit.parse,
        metavar="N|P%",
        help="stop with exit code 3 once more than N images have failed, or more than P percent "
        "of 100 or more",
    )
    add(
        "--html",
        type=local_path,
        metavar="FILE",
        help="also write a page of thumbnails with their labels; of vectors, each image with the "
        "images nearest to it",
    )
    add("-q", "--quiet", action="store_true", help="no progress and no summary")
    for option in ("--truth", "--against", "--report"):
        add(option, action=_Moved, nargs="?", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    add = parser.add_argument_group(
        "past one machine",
        "With --ray, SOURCE may also be a Parquet manifest, and -o names a folder; both may be in "
        "an object store, s3:// or gs://.",
    ).add_argument
    add(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="run on the Ray cluster at ADDRESS (default $RAY_ADDRESS, else start Ray on this "
        "machine for the run)",
    )
    add(
        "--ray-actors",
        type=whole_number("a whole number of models", minimum=1),
        metavar="N",
        help="most models (default: one for each GPU; without GPUs, one for each node)",
    )
    add(
        "--ray-gpus",
        type=number(
            "a number of GPUs: 0, a share of one such as 0.5, or a whole number",
            accepts=lambda gpus: 0 <= gpus <= 1 or (gpus > 1 and gpus.is_integer()),
        ),
        metavar="X",
        help="GPUs of each model, such as 1 or 0.5",
    )
    return parser


def _output_path(text: str) -> Path | str:
    """Return a path on this machine, or the text of an object store's or a folder's."""
    return text if is_store(text) or text.endswith("/") else local_path(text)


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no shard; expected 1/N to N/N, such as 1/8")
    return int(found[1]), int(found[2])


class _Moved(argparse.Action):
    """Refuses an option of vit-eval."""

    def __call__(self, parser: argparse.ArgumentParser, *found: Any) -> None:
        option = found[-1]
        parser.error(
            f"{option} is an option of vit-eval: vit-eval SOURCE... -m MODEL {option} "
            f"{'MODEL' if option == '--against' else 'FILE'}"
        )
