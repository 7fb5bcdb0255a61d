"""vit-search: finds the images whose vectors are nearest to an image's or a text's."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from vit_engine.cli import exit_codes
from vit_engine.cli.parser import Parser, local_path, whole_number
from vit_engine.commands.source_options import check_inputs
from vit_engine.embedder import Embedder
from vit_engine.errors import UsageError, did_you_mean, printable
from vit_engine.machine.output_file import OutputFile, output_file
from vit_engine.outputs.embeddings import Vectors
from vit_engine.rows.contact_sheet import ContactSheet, Section, is_sheet, thumbnail
from vit_engine.rows.vector_reader import Neighbour, VectorFile
from vit_engine.sources.sample import Sample
from vit_engine.sources.signatures import EXTENSIONS
from vit_engine.sources.urls import is_url
from vit_engine.text_embedder import TextEmbedder


def command_line() -> Parser:
    """Return the parser of vit-search's command line."""
    parser = Parser(
        "vit-search",
        description="Find the images whose vectors are nearest to those of images or texts. Every "
        "vector is compared; for some hundred million of them, open the same file in FAISS.",
        epilog="exit codes: 0 done, 1 unforeseen, 2 bad usage, files or models, 4 provider or "
        "library not available, 130/143 interrupted",
    )
    add = parser.add_argument
    add("vectors", type=Path, metavar="VECTORS", help="what vit-infer wrote, or Ray's folder of it")
    add("queries", nargs="+", metavar="QUERY", help="an image's file or URL, or with --text words")
    add("-m", "--model", metavar="MODEL", help="the model of the vectors, for images as queries")
    add("--text", metavar="MODEL", help="the same checkpoint's texts, from vit-export --text")
    add(
        "-k",
        "--top-k",
        type=whole_number("a whole number of images", minimum=1),
        default=10,
        metavar="N",
        help="images for each query (default %(default)s)",
    )
    add("--format", choices=("table", "jsonl"), help="default: table on a terminal, else jsonl")
    add("--html", type=local_path, metavar="FILE", help="also write a page to look at; needs -m")
    add("--overwrite", action="store_true", help="replace what FILE of --html holds")
    return parser


def main() -> int:
    """Run vit-search; returns the exit code."""
    arguments = command_line().parse()
    index = VectorFile(arguments.vectors)
    images = [query for query in arguments.queries if _is_image(query, arguments)]
    words = [query for query in arguments.queries if query not in images]
    page = _page(arguments, index)
    with ExitStack() as models:
        vectors: dict[str, Vectors] = {}
        if arguments.text:
            texts = models.enter_context(TextEmbedder.load(arguments.text))
            _check_space(index, arguments.text, texts.space)
            vectors |= zip(words, texts.embed(words), strict=True) if words else ()
        if arguments.model:
            embedder = models.enter_context(Embedder.load(arguments.model))
            _check_space(index, arguments.model, embedder.output.space)
            vectors |= zip(images, embedder.embed(images, urls=True), strict=True)
        queries = np.stack([vectors[query] for query in arguments.queries])
        found = index.nearest(queries, arguments.top_k)
        form = arguments.format or ("table" if sys.stdout.isatty() else "jsonl")
        for query, near in zip(arguments.queries, found, strict=True):
            sys.stdout.writelines(_lines(query, near, form))
        if page:
            sections = _sections(embedder, arguments.queries, found)
            page.check()
            ContactSheet(embedder.contract).write(page.path, sections)
    return 0


def _is_image(query: str, arguments: argparse.Namespace) -> bool:
    """Tell whether a query names an image, and is no text; UsageError without the model for it."""
    if is_url(query) or os.path.exists(query):  # noqa: PTH110 - takes any text
        if not arguments.model:
            raise UsageError(f"{printable(query)} is an image; name the vectors' model with -m")
        return True
    if Path(query).suffix.lower() in EXTENSIONS:
        raise UsageError(f"{printable(query)}: no such file{did_you_mean(query)}")
    if not arguments.text:
        raise UsageError(
            f"there is no file {printable(query)}; for words as a query name the text model with "
            "--text"
        )
    return False


def _page(arguments: argparse.Namespace, index: VectorFile) -> OutputFile | None:
    """Return the file of --html, which is none of those that are read; None without it."""
    if not arguments.html:
        if arguments.overwrite:
            raise UsageError("--overwrite needs a file; name it with --html")
        return None
    if not arguments.model:
        raise UsageError("--html shows images as the model sees them; name it with -m")
    page = output_file(arguments.html, "--html", is_sheet, overwrite=arguments.overwrite)
    read = {model: "a model" for model in (arguments.model, arguments.text) if model}
    here = [query for query in arguments.queries if os.path.exists(query)]  # noqa: PTH110
    check_inputs([page], read, [*map(str, index.files), *here])
    return page


def _check_space(index: VectorFile, model: str, space: str) -> None:
    if space != index.space:
        raise UsageError(
            f"{printable(model)} gives vectors of the space {space[:12]}, the file has those of "
            f"{index.space[:12]}, from {printable(index.model)}: the two cannot be compared; use "
            "the checkpoint, size and pooling that the vectors were made with"
        )


def _lines(query: str, near: Sequence[Neighbour], form: str) -> Iterator[str]:
    if form == "table":
        yield f"{printable(query)}\n"
        yield from (f"  {n.cosine:7.4f}  {printable(n.path)}\n" for n in near)
        return
    results = [{"path": n.path, "score": n.cosine} for n in near]
    yield json.dumps({"query": query, "results": results}) + "\n"


def _sections(
    embedder: Embedder, queries: Sequence[str], found: Sequence[Sequence[Neighbour]]
) -> list[Section]:
    """Return a part of the page for each query, with the images that still lie at their paths."""
    paths = list(dict.fromkeys(n.path for near in found for n in near))
    thumbnails: dict[str, str] = {}
    for batch in embedder.stream([Sample(path) for path in paths]):
        for result, pixels in zip(batch.predictions, batch.pixels, strict=True):
            if pixels is not None and result.path is not None:
                thumbnails[result.path] = thumbnail(pixels)
    return [_section(query, near, thumbnails) for query, near in zip(queries, found, strict=True)]


def _section(query: str, near: Sequence[Neighbour], thumbnails: dict[str, str]) -> Section:
    images: list[dict[str, Any]] = [
        {
            "path": printable(n.path),
            "topk": [["cosine", round(n.cosine, 4)]],
            "image": thumbnails[n.path],
        }
        for n in near
        if n.path in thumbnails
    ]
    gone = len(near) - len(images)
    lines = [f"{gone} of the {len(near)} nearest cannot be read any more"] if gone else []
    return Section(printable(query), lines, images)


if __name__ == "__main__":
    sys.exit(exit_codes.start("vit-search", "vit_engine.commands.search"))
