"""The options of vit-infer."""

import math
from pathlib import Path

from vit_engine.artefact.metadata import DEFAULT_MODEL
from vit_engine.cli.parser import Parser, local_path, number, whole_number
from vit_engine.commands.engine_options import add_engine_options
from vit_engine.commands.error_limit import ErrorLimit
from vit_engine.images.decoder_process import TIME_LIMIT
from vit_engine.outputs.scores import DEFAULT_TOP_K
from vit_engine.rows.formats import FORMATS
from vit_engine.sources.find import DEFAULT_COLUMN
from vit_engine.sources.stores import is_store

LONGEST = 1_000_000
"""Seconds that --timeout takes at most: poll(2) counts milliseconds in 32 bits."""


def command_line() -> Parser:
    """Return the parser of vit-infer's command line."""
    parser = Parser(
        "vit-infer",
        description="Label images with a model that vit-export wrote.",
        epilog="exit codes: 0 done, 1 too many errors, 2 bad usage or artefact, 3 done but some "
        "images failed, 4 provider or disk not available, 130/143 interrupted",
    )
    add = parser.add_argument_group("images").add_argument
    add(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="file, folder, 'glob', http(s) URL, .tar[.gz] or .zip of images, .csv or .parquet "
        "with a column of paths, or - for a list on stdin",
    )
    add("-0", "--null", action="store_true", help="the list on stdin is NUL-separated")
    add(
        "--column",
        default=DEFAULT_COLUMN,
        help="the column of a .csv or .parquet that has the paths (default %(default)s)",
    )
    add("--all-files", action="store_true", help="find images by content, not by extension")
    add("--follow-links", action="store_true", help="search linked folders too, each once")
    add(
        "--allow-private-redirects",
        action="store_true",
        help="follow redirects of URLs to addresses that are not public, such as 10.0.0.1",
    )
    add(
        "--fast-decode",
        action="store_true",
        help="decode large JPEGs at a reduced size: faster, and a few labels may differ",
    )
    add(
        "--timeout",
        type=number(
            f"a number of seconds above 0, {LONGEST:,} at most", accepts=lambda s: 0 < s <= LONGEST
        ),
        default=TIME_LIMIT,
        metavar="S",
        help="seconds to decode one image (default %(default)g)",
    )
    group = parser.add_argument_group("model")
    add = group.add_argument
    add(
        "-m",
        "--model",
        default=DEFAULT_MODEL,
        help="artefact, or 'demo' for the bundled one (default %(default)s)",
    )
    add_engine_options(group)
    add(
        "--build-only",
        action="store_true",
        help="open the model, building what the provider needs, such as TensorRT's engine; stop",
    )
    add(
        "--describe",
        nargs="?",
        const="text",
        choices=("text", "json"),
        help="print what the artefact says of itself, as text or json, and stop",
    )
    add(
        "--verify",
        action="store_true",
        help="with --describe: read the whole artefact, and say whether it is as it was exported",
    )
    add = parser.add_argument_group("rows").add_argument
    add(
        "-k",
        "--top-k",
        type=whole_number("a whole number of labels", least=1),
        metavar="K",
        help=f"labels of each image at most, best first (default {DEFAULT_TOP_K}; with --threshold "
        "all)",
    )
    add(
        "--threshold",
        type=number("a finite number", accepts=math.isfinite),
        metavar="S",
        help="only labels with this score or more; an image may then have none",
    )
    add(
        "--format",
        choices=FORMATS,
        help="format of the rows (default: by the extension of -o FILE; without one jsonl, and "
        "table on a terminal)",
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
        help="replace what FILE of -o or --html holds, whatever it is (default: only what "
        "vit-infer wrote, and only if an image gets a label)",
    )
    add(
        "--max-errors",
        type=ErrorLimit.parse,
        metavar="N|P%",
        help="stop with exit code 1 once more than N images have failed, or more than P percent "
        "of 100 or more",
    )
    add("--html", type=local_path, metavar="FILE", help="write a contact sheet to look at as well")
    add(
        "--truth",
        metavar="FILE|folders",
        help="hold the labels against the true ones: a CSV with the columns path, and label or "
        "index; or 'folders', where each image's folder is its class",
    )
    add(
        "--against",
        metavar="MODEL",
        help="run another artefact, or pytorch:CHECKPOINT, on the same pixels, and tell how far "
        "the two agree",
    )
    add(
        "--report",
        type=local_path,
        metavar="FILE",
        help="write what --truth and --against found as JSON",
    )
    add("-q", "--quiet", action="store_true", help="no progress and no summary")
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
        help="run on the Ray cluster there (default $RAY_ADDRESS, else a Ray that is started on "
        "this machine for the run)",
    )
    add(
        "--ray-actors",
        type=whole_number("a whole number of models", least=1),
        metavar="N",
        help="models at most (default: one for each GPU; without GPUs one for each node)",
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
    return text if is_store(text) else local_path(text)
