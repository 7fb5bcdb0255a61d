"""vit-export: turns a checkpoint into one verified artefact."""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from vit_export.checkpoint import DEFAULT_MODEL, Checkpoint, load
from vit_runtime import command
from vit_runtime.contract import Parity
from vit_runtime.errors import UsageError

HF_FILES = {"fp16": "model_fp16.onnx", "fp32": "model.onnx"}
"""By precision, the file names that Optimum and transformers.js look for; the first is default."""
PRECISIONS = tuple(HF_FILES)


def main() -> int:
    """Run vit-export; returns the exit code."""
    arguments = _parser().parse_args()

    def body() -> int:
        with _stdout_on_stderr():
            return _export(arguments)

    return command.run("vit-export", body)


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
    for name in PRECISIONS:
        precision.add_argument(
            f"--{name}",
            dest="precision",
            action="store_const",
            const=name,
            default=PRECISIONS[0],
            help=f"{name} weights{' (default)' if name == PRECISIONS[0] else ''}",
        )
    add(
        "--io",
        choices=("uint8", "hf"),
        default="uint8",
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
    path = output / "onnx" / HF_FILES[arguments.precision] if hf else output
    checkpoint = load(arguments.model, revision=arguments.revision, offline=arguments.offline)
    say(f"read {checkpoint.model}: {_summary(checkpoint)}")
    # Here, since they import torch's world, which takes seconds: a mistake in the command line or
    # the checkpoint is told at once.
    from vit_export.artefact import export
    from vit_export.verify import verification_images

    start = time.monotonic()
    contract = export(
        checkpoint,
        path,
        precision=arguments.precision,
        io=arguments.io,
        images=None if arguments.no_verify else verification_images(arguments.verify_images),
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


def _summary(checkpoint: Checkpoint) -> str:
    a = checkpoint.architecture
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
