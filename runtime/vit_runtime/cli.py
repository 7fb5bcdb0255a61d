"""vit-infer: labels images with an exported model."""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from vit_runtime import artefact, command
from vit_runtime.classifier import DEFAULT_TOP_K, Classifier
from vit_runtime.contract import Contract
from vit_runtime.engine import DEFAULT_MAX_BATCH
from vit_runtime.errors import ImageError, ProviderError, UsageError
from vit_runtime.providers import CHOICES, DEFAULT_PROVIDER
from vit_runtime.rows import FORMATS
from vit_runtime.sources import items_from_sources

DEFAULT_MODEL = "vit.onnx"


def main() -> int:
    """Run vit-infer; returns the exit code."""
    arguments = _parser().parse_args()
    return command.run("vit-infer", lambda: _infer(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vit-infer",
        description="Label images with a model that vit-export wrote.",
        epilog="exit codes: 0 done, 2 bad usage or artefact, 3 done but some images failed, "
        "4 provider not there, 130/143 interrupted",
    )
    add = parser.add_argument
    add("sources", nargs="*", metavar="SOURCE", help="file, folder, glob, http(s) URL, - for stdin")
    add(
        "-m",
        "--model",
        default=DEFAULT_MODEL,
        help="artefact, or 'demo' for the bundled one (default %(default)s)",
    )
    add("-k", "--top-k", type=int, default=DEFAULT_TOP_K, help="labels an image (%(default)s)")
    add("-b", "--batch", type=int, default=DEFAULT_MAX_BATCH, help="images at once (%(default)s)")
    add(
        "--provider",
        choices=CHOICES,
        default=DEFAULT_PROVIDER,
        help="where to run (%(default)s: CUDA where it opens, else the CPU)",
    )
    add("--threads", type=int, help="compute threads (default: the cores this process may use)")
    add(
        "--format",
        choices=FORMATS,
        help="of the rows; by default that of -o's suffix, else table on a terminal and jsonl",
    )
    add("-o", "--output", type=Path, help="write rows to this file rather than stdout")
    add(
        "--describe",
        nargs="?",
        const="text",
        choices=("text", "json"),
        help="print what the artefact says of itself, as text or json, and stop",
    )
    return parser


def _infer(arguments: argparse.Namespace) -> int:
    if arguments.describe:
        contract = artefact.read_contract(artefact.path_from_name(arguments.model))
        sys.stdout.write(_description(contract, arguments.describe))
        return 0
    header, line = FORMATS[_format(arguments)]
    items = items_from_sources(arguments.sources)
    with (
        Classifier.load(
            arguments.model, provider=arguments.provider, threads=arguments.threads
        ) as vit,
        _output(arguments.output) as output,
    ):
        output.write(header)
        done = failed = 0
        start = time.monotonic()
        for prediction in vit.classify(items, top_k=arguments.top_k, batch=arguments.batch):
            output.write(line(prediction))
            done += 1
            failed += prediction.error is not None
            _progress(done, failed, start)
        output.flush()
        seconds = time.monotonic() - start
        clear = "\r\x1b[K" if sys.stderr.isatty() else ""
        sys.stderr.write(
            f"{clear}{done} images, {failed} failed, {done / seconds:.1f} images/s, "
            f"{vit.contract.identity.model} {vit.contract.identity.precision} "
            f"on {vit.engine.provider}\n"
        )
    return ImageError.exit_code if failed else 0


def _format(arguments: argparse.Namespace) -> str:
    if arguments.format:
        return str(arguments.format)
    if arguments.output is None:
        return "table" if sys.stdout.isatty() else "jsonl"
    suffix = arguments.output.suffix.removeprefix(".")
    if suffix in FORMATS:
        return str(suffix)
    raise UsageError(f"{arguments.output}: add --format {'|'.join(FORMATS)}, the suffix is none")


@contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", errors="surrogateescape") as file:
            yield file
        temporary.replace(path)
    except OSError as e:
        raise ProviderError(f"{path}: cannot be written ({e.strerror})") from e
    finally:
        temporary.unlink(missing_ok=True)


def _progress(done: int, failed: int, start: float) -> None:
    if sys.stderr.isatty():
        rate = done / max(time.monotonic() - start, 1e-9)
        sys.stderr.write(f"\r\x1b[K{done} images, {failed} failed, {rate:.1f} images/s")
        sys.stderr.flush()


def _description(contract: Contract, form: str) -> str:
    if form == "json":
        return json.dumps(asdict(contract), indent=2, ensure_ascii=False) + "\n"
    identity, given, pre = contract.identity, contract.input, contract.preprocessing
    resize = f"to {pre.resize}" if pre.resize else f"shortest edge to {pre.shortest_edge}"
    crop = f", centre crop {pre.crop}" if pre.crop else ""
    labels = contract.output.labels
    parity = contract.parity
    lines = {
        "model": identity.model + (f" @ {identity.revision}" if identity.revision else ""),
        "weights": f"sha256 {identity.weights_sha256}",
        "precision": identity.precision,
        "exporter": identity.exporter,
        "input": f"{given.name}: {given.dtype} {given.layout}, {given.height}x{given.width}",
        "preprocessing": f"resize {resize}, {pre.filter}{crop}, mean {pre.mean}, std {pre.std}",
        "output": f"{contract.output.name}: float32, {len(labels)} labels "
        f"({', '.join(labels[:3])}{', ...' if len(labels) > 3 else ''})",
        "parity": "not verified"
        if parity is None
        else f"top-1 {parity.top1_agreement:.1%} of {parity.images} images, "
        f"max |logit difference| {parity.max_abs_diff:.2g} "
        f"in a range of {parity.logit_range:.3g}, against {parity.reference}",
    }
    return "".join(f"{name:<14} {text}\n" for name, text in lines.items())


if __name__ == "__main__":
    sys.exit(main())
