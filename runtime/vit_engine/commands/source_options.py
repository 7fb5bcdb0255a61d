"""The images of a run: the options that name them, and that none of them is written over."""

import argparse
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path

from vit_engine.artefact.contract import Preprocessing
from vit_engine.artefact.metadata import DEMO, path_from_name
from vit_engine.cli.parser import seconds, whole_number
from vit_engine.errors import UsageError, printable
from vit_engine.images.decoder_process import TIME_LIMIT, DecodeOptions
from vit_engine.machine.output_file import OutputFile, check_apart
from vit_engine.sources import folders, signatures
from vit_engine.sources.find import DEFAULT_COLUMN, check_present, is_local, samples_from_sources
from vit_engine.sources.sample import MAX_PIXELS, Limits, Sample

LONGEST = 1_000_000
"""Seconds that --timeout takes at most: poll(2) counts milliseconds in 32 bits."""


def add_source_options(group: argparse._ArgumentGroup) -> None:
    """Add SOURCE and the options of how images are found and decoded."""
    add = group.add_argument
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
    add("--follow-links", action="store_true", help="also search linked folders, each of them once")
    add(
        "--allow-private-redirects",
        action="store_true",
        help="follow redirects to addresses that are not public, such as 10.0.0.1",
    )
    add(
        "--fast-decode",
        action="store_true",
        help="decode large JPEGs at a reduced size: faster, and a few labels may differ",
    )
    add(
        "--max-pixels",
        type=whole_number("a whole number of pixels", minimum=1),
        metavar="N",
        help=f"the most pixels that an image may have (default {MAX_PIXELS:,})",
    )
    add(
        "--timeout",
        type=seconds(LONGEST),
        default=TIME_LIMIT,
        metavar="S",
        help="the most seconds to decode one image (default %(default)g)",
    )


def finder_of(
    arguments: argparse.Namespace,
    skipped: Counter[str] | None = None,
    done: Collection[str] = (),
) -> Callable[[Sequence[str]], Iterator[Sample]]:
    """Return what turns sources into images; it counts in `skipped` what is none.

    Of a `shard` they are its share, of rows that are `done` the others.
    """
    find = partial(
        samples_from_sources,
        all_files=arguments.all_files,
        follow_links=arguments.follow_links,
        null=arguments.null,
        column=arguments.column,
        skipped=skipped,
    )
    index, count = getattr(arguments, "shard", None) or (1, 1)
    if count == 1 and not done:
        return find

    def found(sources: Sequence[str]) -> Iterator[Sample]:
        for sample in islice(find(sources), index - 1, None, count):
            if sample.path not in done:
                yield sample
            elif skipped is not None:
                skipped["labelled before"] += 1

    return found


def task_of(arguments: argparse.Namespace, preprocessing: Preprocessing) -> DecodeOptions:
    """Return by which rules images are decoded."""
    return DecodeOptions(
        preprocessing,
        limits=Limits(max_pixels=arguments.max_pixels or MAX_PIXELS),
        time_limit=arguments.timeout,
        fast=arguments.fast_decode,
        private_redirects=arguments.allow_private_redirects,
    )


def check_sources(sources: Sequence[str]) -> None:
    """Raise UsageError for a file or folder that is not there, and for a model among images."""
    for source in sources:
        is_model = source.endswith(".onnx") and not Path(source).is_dir()
        if is_model or (source == DEMO and not Path(source).exists()):
            name = printable(source)
            raise UsageError(f"{name} is a model, and no image; name it with -m {name}")
    check_present(sources)


def check_inputs(
    outputs: Sequence[OutputFile], read: Mapping[str, str], sources: Sequence[str]
) -> None:
    """Raise UsageError if an output is an input, an image, or another output.

    `read` are the files that are read besides the sources, and what each is: "the model".
    """
    check_apart(outputs, _inputs(read, sources))
    for output in outputs:
        head = b""
        with suppress(OSError), output.path.open("rb") as file:
            head = file.read(signatures.HEAD)
        if signatures.is_image(head) or signatures.unread_format(head):
            raise UsageError(
                f"{output.option} {printable(str(output.path))} would write over an image; name "
                "another file"
            )


def _inputs(read: Mapping[str, str], sources: Sequence[str]) -> Iterator[tuple[str | Path, str]]:
    for file, what in read.items():
        yield path_from_name(file), what
    for source in sources:
        if source == "-":
            yield "/dev/stdin", "the list on stdin"
        elif is_local(source) and folders.is_pattern(source):
            yield from ((path, "a source") for path, _ in folders.globbed(source))
        elif is_local(source):
            yield source, "a source"
