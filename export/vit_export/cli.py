"""vit-export: turns a checkpoint into one verified artefact."""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from vit_engine.artefact.contract import Parity, Precision
from vit_engine.commands import ending
from vit_engine.errors import UsageError
from vit_engine.parity import BOUNDS
from vit_export.checkpoints.checkpoint import DEFAULT_MODEL, Checkpoint, load
from vit_export.graph.choices import DEFAULT_IO, DEFAULT_PRECISION, Io

if TYPE_CHECKING:
    from PIL.Image import Image

    from vit_export.quantization.recipe import Quantized

HF_FILES: dict[Precision, str] = {
    "fp16": "model_fp16.onnx",
    "fp32": "model.onnx",
    "int8": "model_int8.onnx",
}
"""The file names that Optimum and transformers.js look for."""
PRECISIONS: dict[Precision, str] = {  # and what they are for
    "fp16": "half precision: for GPUs, and half the size (default)",
    "fp32": "full precision: the same numbers as PyTorch",
    "int8": "for CPUs: several times faster, labels nearly the same",
}


def main() -> int:
    """Run vit-export; returns the exit code."""
    arguments = _parser().parse_args()

    def body() -> int:
        with _stdout_on_stderr():
            return _export(arguments)

    return ending.run("vit-export", body)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vit-export",
        description="Turn a ViT classifier into one verified, self-describing ONNX file.",
        epilog="exit codes: 0 done, 2 bad usage or checkpoint, 4 output cannot be written, "
        "5 parity not met, 130/143 interrupted",
    )
    add = parser.add_argument
    add(
        "model",
        nargs="?",
        default=DEFAULT_MODEL,
        metavar="MODEL",
        help="ModelScope id, hf:owner/name, folder, or 'demo' (default %(default)s)",
    )
    precision = parser.add_mutually_exclusive_group()
    for name, words in PRECISIONS.items():
        precision.add_argument(
            f"--{name}",
            dest="precision",
            action="store_const",
            const=name,
            default=DEFAULT_PRECISION,
            help=words,
        )
    add(
        "--io",
        choices=get_args(Io),
        default=DEFAULT_IO,
        help="input: raw RGB bytes NHWC (default), or Hugging Face's normalised pixel_values; "
        "hf writes a folder in the onnx/model_fp16.onnx layout",
    )
    add("-o", "--output", type=Path, help="file, or with --io hf folder (default vit.onnx, vit)")
    add("--revision", help="of the model on its hub")
    add("--offline", action="store_true", help="use what has been downloaded before")
    add(
        "--triton",
        type=Path,
        metavar="DIR",
        help="write the model repository of a Triton server as well",
    )
    add(
        "--triton-tensorrt",
        action="store_true",
        help="let Triton build a TensorRT engine of it, on a GPU",
    )
    verify = parser.add_mutually_exclusive_group()
    verify.add_argument(
        "--verify-images",
        metavar="SOURCE",
        action="append",
        help="hold the artefact against PyTorch on these images (default: drawn ones)",
    )
    verify.add_argument("--no-verify", action="store_true", help="the artefact will say so")
    add(
        "--calibrate",
        metavar="DIR",
        help="with --int8: images like those to come, 100 or so; a part calibrates, others judge "
        "(default: drawn ones)",
    )
    add(
        "--min-agreement",
        type=float,
        metavar="SHARE",
        help="with --int8: of images labelled as PyTorch does, else exit 5 "
        f"(default {BOUNDS['int8'].min_agreement})",
    )
    return parser


def _export(arguments: argparse.Namespace) -> int:
    hf = arguments.io == "hf"
    output = arguments.output or Path("vit" if hf else "vit.onnx")
    if not hf and output.is_dir():
        raise UsageError(f"{output} is a folder; -o takes a file, such as {output / 'vit.onnx'}")
    if hf and output.is_file():
        raise UsageError(f"{output} is a file; with --io hf -o takes a folder")
    if arguments.triton_tensorrt and not arguments.triton:
        raise UsageError("--triton-tensorrt is of a repository; add --triton DIR")
    if arguments.precision != "int8":
        for option in ("calibrate", "min_agreement"):
            if getattr(arguments, option) is not None:
                raise UsageError(f"--{option.replace('_', '-')} is for int8; add --int8")
    if arguments.min_agreement is not None and not 0 <= arguments.min_agreement <= 1:
        raise UsageError(f"--min-agreement is {arguments.min_agreement}, a share from 0 to 1")
    path = output / "onnx" / HF_FILES[arguments.precision] if hf else output
    checkpoint = load(arguments.model, revision=arguments.revision, offline=arguments.offline)
    say(f"read {checkpoint.model}: {_summary(checkpoint)}")
    # Here, since they import torch's world, which takes seconds: a mistake in the command line or
    # the checkpoint is told at once.
    from vit_export.artefact import export
    from vit_export.verify import verification_images

    start = time.monotonic()
    bounds, rounded, images = BOUNDS[arguments.precision], None, None
    if arguments.precision == "int8":
        rounded, images = _rounded(checkpoint, arguments.calibrate)
        if arguments.min_agreement is not None:
            bounds = replace(bounds, min_agreement=arguments.min_agreement)
    if arguments.verify_images or images is None:
        images = verification_images(arguments.verify_images)
    contract = export(
        checkpoint,
        path,
        precision=arguments.precision,
        io=arguments.io,
        images=None if arguments.no_verify else images,
        bounds=bounds,
        rounded=rounded,
    )
    if hf:
        for name in ("config.json", "preprocessor_config.json"):
            shutil.copyfile(checkpoint.folder / name, output / name)
    say(_verdict(contract.parity))
    size, seconds = path.stat().st_size / 1e6, time.monotonic() - start
    say(f"wrote {path} ({size:.1f} MB, {arguments.precision}, {seconds:.1f} s)")
    if arguments.triton:
        from vit_export import triton

        model = triton.write(path, arguments.triton, with_tensorrt=arguments.triton_tensorrt)
        say(f"wrote {model}, for tritonserver --model-repository {arguments.triton}")
    return 0


def _rounded(checkpoint: Checkpoint, source: str | None) -> "tuple[Quantized, Iterator[Image]]":
    """Round the checkpoint to int8; return it and the images to judge it on."""
    from vit_export.quantization import calibration
    from vit_export.quantization.recipe import quantized

    if source is None:
        say(
            "warning: calibrating on drawn images; --calibrate DIR, with a hundred images like "
            "those to come, keeps more of the accuracy"
        )
    images, judged = calibration.split(source)
    rounded = quantized(checkpoint, calibration.pixels_of(images, checkpoint.preprocessing))
    in_float = rounded.sensitivity.keys() - rounded.products.keys()
    say(
        f"calibrated on {len(images)} images: {len(rounded.products)} products in int8, "
        f"{len(in_float)} of the most sensitive in float"
    )
    return rounded, judged


def _summary(checkpoint: Checkpoint) -> str:
    a = checkpoint.form
    return (
        f"ViT with {a.layers} layers of {a.hidden_size}, {a.heads} heads, patch {a.patch_size}, "
        f"{a.image_size}x{a.image_size}, {len(checkpoint.labels)} labels"
    )


def _verdict(parity: Parity | None) -> str:
    if parity is None:
        return "not verified against PyTorch (--no-verify)"
    return (
        f"verified on {parity.images} images against eager PyTorch: "
        f"top-1 agreement {parity.top1_agreement:.1%}, max |logit difference| "
        f"{parity.max_abs_diff:.2g} in a range of {parity.logit_range:.3g}"
    )


def say(text: str) -> None:
    """Tell the user something, on stderr."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _stdout_on_stderr() -> Iterator[None]:
    """Send to stderr what the libraries print, from Python or from C++."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


if __name__ == "__main__":
    sys.exit(main())
