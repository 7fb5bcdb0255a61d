"""vit-export: turns a checkpoint into one verified artefact."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vit_engine.artefact.contract import Precision
from vit_engine.artefact.description import SATURATION, parity_in_words
from vit_engine.artefact.metadata import DEFAULT_MODEL as DEFAULT_OUTPUT
from vit_engine.artefact.metadata import is_artefact
from vit_engine.cli import exit_codes
from vit_engine.errors import MachineError, UsageError, one_line
from vit_engine.machine.installation import pip_install
from vit_engine.machine.output_file import OutputFile, check_apart, output_file
from vit_engine.outputs.embeddings import Embeddings
from vit_engine.outputs.kinds import OutputKind
from vit_engine.outputs.parity import BOUNDS
from vit_engine.outputs.scores import Scores
from vit_engine.sources.sample import Sample
from vit_export.checkpoints.checkpoint import (
    Checkpoint,
    VectorOptions,
    folder_on_this_machine,
    load,
)
from vit_export.checkpoints.made_folder import folder_from_state_dict
from vit_export.export_options import DEFAULT_TEXT_OUTPUT, check_options, command_line
from vit_export.files.json_file import read_json
from vit_export.hf_folder import CONFIGS, write_configs
from vit_export.packages.labels import remark_on
from vit_export.quantization.calibration import calibration_items
from vit_export.samples.images import items_for
from vit_export.zero_shot import TEMPLATE, labelled, labels_from_file, templates_from

if TYPE_CHECKING:
    from PIL.Image import Image

    from vit_export.quantization.pipeline import Quantized

HF_FILES: dict[Precision, str] = {
    "fp16": "model_fp16.onnx",
    "fp32": "model.onnx",
    "int8": "model_int8.onnx",
}
"""The file names that Optimum and transformers.js look for."""
CHECKPOINT_FILES = {".json", ".safetensors", ".bin"}
"""How the names of a checkpoint's files end."""


def main() -> int:
    """Run vit-export; returns the exit code."""
    arguments = command_line().parse()
    check_options(arguments)
    # Read as PyTorch is loaded: its threads would spin at barriers, for cores that others want.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with _stdout_on_stderr():
            return _export(arguments)
    except ImportError as e:
        absent = isinstance(e, ModuleNotFoundError)
        how = "is not installed" if absent else f"cannot be imported ({one_line(e)})"
        raise MachineError(
            f"vit-export needs {e.name}, which {how}: {pip_install('export')}"
        ) from e


def _export(arguments: argparse.Namespace) -> int:
    hf = arguments.io == "hf"
    default = DEFAULT_TEXT_OUTPUT if arguments.text else "vit" if hf else DEFAULT_OUTPUT
    output = arguments.output or Path(default)
    if hf and output.is_file():
        raise UsageError(f"{output} is a file; with --io hf -o takes a folder")
    outputs = _output_files(output, arguments)
    path = outputs[0].path
    if folder := folder_on_this_machine(arguments.model):
        check_apart(outputs, _files_of_checkpoint(folder))
    # Before the checkpoint, which may have to come from a hub.
    labels = labels_from_file(arguments.labels, of=arguments.weights) if arguments.labels else ()
    preprocessor = read_json(arguments.preprocessor) if arguments.preprocessor else None
    templates = templates_from(arguments.template or [TEMPLATE])
    given, shown = arguments.calibrate, arguments.verify_images
    calibrating = None if given is None else calibration_items(given)
    verifying = None if shown is None else items_for("--verify-images", shown)
    model = arguments.model
    if arguments.arch:  # whose labels are those of its outputs
        model = str(folder_from_state_dict(arguments.weights, arguments.arch, labels, say))
        labels = ()
    checkpoint = load(
        model,
        revision=arguments.revision,
        offline=arguments.offline,
        image_size=arguments.image_size,
        vectors=VectorOptions(arguments.pool, arguments.normalize)
        if arguments.embed or arguments.text or labels
        else None,
        preprocessor=preprocessor,
    )
    check_apart(outputs, _files_of_checkpoint(checkpoint.folder))
    if checkpoint.package.library and not arguments.no_verify:
        checkpoint.package.library()  # what it is compared with, before the work that comes first
    if arguments.text:
        return _export_text(checkpoint, path, arguments)
    if labels:
        checkpoint = labelled(checkpoint, labels, templates, progress)
    say(f"read {checkpoint.model}: {_summary(checkpoint)}")
    remarks = checkpoint.remarks
    if isinstance(checkpoint.output, Scores) and (remark := remark_on(checkpoint.output.labels)):
        remarks += (remark,)
    for remark in remarks:
        say(f"warning: {remark}")
    # Not at the top: these import PyTorch, which takes seconds, and a mistake in the command line
    # or the checkpoint is reported before.
    from vit_export.artefact import export
    from vit_export.verify import verification_images

    start = time.monotonic()
    detail = say if arguments.verbose else unsaid
    bounds, quantized, images = BOUNDS[arguments.precision], None, None
    if arguments.precision == "int8":
        quantized, images = _rounded(checkpoint, calibrating, detail)
        if arguments.min_agreement is not None:
            bounds = replace(bounds, min_agreement=arguments.min_agreement)
    if verifying or images is None:
        images = verification_images(verifying)
    contract = export(
        checkpoint,
        path,
        precision=arguments.precision,
        io=arguments.io,
        images=None if arguments.no_verify else images,
        bounds=bounds,
        quantized=quantized,
        report=say,
        detail=detail,
    )
    if hf:
        write_configs(checkpoint, output, image_size=arguments.image_size)
    say(f"{'verified: ' if contract.parity else ''}{parity_in_words(contract.parity)}")
    size, seconds = path.stat().st_size / 1e6, time.monotonic() - start
    say(f"wrote {path} ({size:.1f} MB, {arguments.precision}, {seconds:.1f} s)")
    if arguments.precision == "int8":
        say(SATURATION)
    if arguments.triton:
        from vit_export import triton

        model = triton.write(path, arguments.triton, with_tensorrt=arguments.triton_tensorrt)
        say(f"wrote {model}; serve it with tritonserver --model-repository {arguments.triton}")
    return 0


def _export_text(checkpoint: Checkpoint, path: Path, arguments: argparse.Namespace) -> int:
    from vit_export.text_artefact import export_text

    contract = export_text(
        checkpoint, path, precision=arguments.precision, verified=not arguments.no_verify
    )
    if parity := contract.parity:
        say(
            f"verified: smallest cosine {parity.min_cosine:.6f}, on {parity.texts} texts, against "
            f"{parity.reference}"
        )
    size = path.stat().st_size / 1e6
    say(f"wrote {path} ({size:.1f} MB, {arguments.precision}, texts of {contract.length} tokens)")
    return 0


def _output_files(output: Path, arguments: argparse.Namespace) -> list[OutputFile]:
    """Return the files to be written, the artefact first; UsageError if one there must stay.

    Configs beside the artefact's folder are an earlier export's where it has left an artefact.
    """
    artefact, configs = output, []
    if arguments.io == "hf":
        artefact = output / "onnx" / HF_FILES[arguments.precision]
        exported = any(is_artefact(artefact.with_name(name)) for name in HF_FILES.values())
        configs = [(output / name, lambda _: exported) for name in CONFIGS]
    return [
        output_file(path, "-o", is_ours, overwrite=arguments.overwrite)
        for path, is_ours in [(artefact, is_artefact), *configs]
    ]


def _files_of_checkpoint(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in folder.iterdir():
        if path.suffix in CHECKPOINT_FILES:
            yield path, "a file of the checkpoint itself"


def _rounded(
    checkpoint: Checkpoint, items: list[Sample] | None, detail: Callable[[str], None]
) -> "tuple[Quantized, Iterator[Image]]":
    """Round the checkpoint to int8; return it and the images to compare it with PyTorch on."""
    from vit_export.quantization import calibration
    from vit_export.quantization.pipeline import quantize

    if items is None:
        say(
            "warning: calibrating on drawn images; --calibrate SOURCE, with about 100 images "
            "like those to be labelled later, keeps more of the accuracy"
        )
    else:
        detail(calibration.sharing(items))
    images, judged = calibration.split(items)
    views = calibration.view_count(len(images))
    samples = [view for image in images for view in calibration.views_of(image, views)]
    pixels = calibration.pixels_of(samples, checkpoint.preprocessing)
    quantized = quantize(checkpoint, pixels, progress, views=views)
    progress("")
    in_float = quantized.in_float
    found = "" if in_float.divergence is None else f", divergence {in_float.divergence:.1e} on them"
    detail(
        f"calibrated on {len(images)} images: {len(quantized.matmuls)} matrix products in int8, "
        f"{len(in_float.matmuls)} of the most sensitive in float ({in_float.share:.0%} of the "
        f"multiply-adds{found})"
    )
    return quantized, judged


def _summary(checkpoint: Checkpoint) -> str:
    a = checkpoint.model_config
    return (
        f"ViT with {a.layers} layers of {a.hidden_size}, {a.heads} heads, patch {a.patch_size}, "
        f"{a.image_size}x{a.image_size}, {_gives(checkpoint.output)}"
    )


def _gives(output: OutputKind) -> str:
    if isinstance(output, Embeddings):
        length = "of length 1" if output.normalized else "not normalised"
        return f"vectors of {output.size}, pooled by {output.pooling}, {length}"
    return f"{len(output.labels)} labels, scores by {output.function}"


def say(text: str) -> None:
    """Print a line on stderr."""
    print(text, file=sys.stderr, flush=True)


def unsaid(_text: str) -> None:
    """Keep to oneself what only --verbose asks for."""


def progress(text: str) -> None:
    """Show what is going on, on a terminal alone; the next text takes its place."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


@contextmanager
def _stdout_on_stderr() -> Iterator[None]:
    """Send to stderr what libraries print to stdout, from Python or from C++."""
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
    sys.exit(exit_codes.start("vit-export", "vit_export.cli"))
