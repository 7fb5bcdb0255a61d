"""The options of vit-export, and which of them go together."""

import argparse
from typing import get_args

from vit_engine.artefact.contract import Pooling, Precision
from vit_engine.artefact.metadata import DEFAULT_MODEL as DEFAULT_OUTPUT
from vit_engine.cli.parser import Parser, local_path, number, whole_number
from vit_engine.errors import UsageError
from vit_engine.outputs.parity import BOUNDS
from vit_export.checkpoints.checkpoint import DEFAULT_MODEL
from vit_export.graph.choices import DEFAULT_IO, DEFAULT_PRECISION, Io
from vit_export.zero_shot import TEMPLATE

DEFAULT_TEXT_OUTPUT = "text.onnx"
OF_IMAGES = ("embed", "labels", "triton", "verify_images")
"""Options that make no sense for texts."""
PRECISIONS: dict[Precision, str] = {
    "fp16": "half precision: half the size, fast on GPUs, PyTorch's labels (default)",
    "fp32": "full precision: PyTorch's numbers, except for rounding",
    "int8": "8-bit integers, for CPUs only: a quarter of the size, up to 2.4 times as fast on x86 "
    "with VNNI; about one label in a hundred differs",
}
"""What each is for."""


def command_line() -> Parser:
    """Return the parser of vit-export's command line."""
    parser = Parser(
        "vit-export",
        description="Turn a ViT into one verified, self-describing ONNX file that gives labels or "
        "vectors.",
        epilog="exit codes: 0 done, 1 unforeseen, 2 bad usage or checkpoint, 4 output cannot be "
        "written, or a package is missing, 5 differs from PyTorch by more than the precision "
        "allows, 130/143 interrupted",
    )
    add = parser.add_argument
    parser.add_model(
        default=DEFAULT_MODEL,
        message=f"ModelScope id, hf:owner/name, folder, or 'demo' (default {DEFAULT_MODEL})",
    )
    precision = parser.add_mutually_exclusive_group()
    for name, message in PRECISIONS.items():
        precision.add_argument(
            f"--{name}",
            dest="precision",
            action="store_const",
            const=name,
            default=DEFAULT_PRECISION,
            help=message,
        )
    add(
        "--io",
        choices=get_args(Io),
        default=DEFAULT_IO,
        help="the graph's input: uint8, RGB bytes in NHWC order (default), or hf, Hugging Face's "
        "normalised pixel_values; hf writes a folder with onnx/model_fp16.onnx in it",
    )
    add(
        "-o",
        "--output",
        type=local_path,
        metavar="PATH",
        help=f"file to write (default {DEFAULT_OUTPUT}), or with --io hf folder (default vit)",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace what is there, whatever it is (default: only what vit-export wrote)",
    )
    add(
        "--image-size",
        type=whole_number("a whole number of pixels", minimum=1),
        metavar="PIXELS",
        help="take images of this size, square, in place of the checkpoint's own; the position "
        "tables are interpolated as the reference does it",
    )
    add(
        "--embed",
        action="store_true",
        help="give the vector of an image in place of scores over labels: of CLIP, SigLIP, DINOv2 "
        "and others without a classifier's head, or of what a classifier's head reads",
    )
    add(
        "--pool",
        choices=get_args(Pooling),
        help="with --embed: how tokens become one vector (default: as its library does it)",
    )
    add(
        "--no-normalize",
        dest="normalize",
        action="store_false",
        help="with --embed: leave vectors at the length that the model gives them (default: 1)",
    )
    add(
        "--labels",
        type=local_path,
        metavar="FILE",
        help="make a zero-shot classifier of CLIP, MetaCLIP 2, SigLIP, open_clip: a text file with "
        "one label a line, whose texts are encoded now, once and for all; with --weights the names "
        "of its outputs, in order",
    )
    add(
        "--template",
        nargs="+",
        action="extend",
        metavar="TEMPLATE",
        help=f"with --labels: texts with {{}} in the label's place, or files of them, one a line; "
        f"several are averaged (default: {TEMPLATE!r})",
    )
    add(
        "--text",
        action="store_true",
        help="write the text tower of CLIP, MetaCLIP 2, SigLIP, open_clip, with its tokenizer; its "
        f"vectors are compared with those of --embed (-o: default {DEFAULT_TEXT_OUTPUT})",
    )
    add("--arch", metavar="NAME", help="with --weights: the name of its model in timm")
    add(
        "--weights",
        type=local_path,
        metavar="FILE",
        help="export a state dict (.pth, .pt, .ckpt, .safetensors) of timm's --arch in place of a "
        "MODEL; --labels names its outputs",
    )
    add(
        "--preprocessor",
        type=local_path,
        metavar="FILE",
        help="a preprocessor_config.json in place of the checkpoint's",
    )
    add("--revision", help="branch, tag or commit of the model on its hub")
    add("--offline", action="store_true", help="use only what has been downloaded before")
    add(
        "--triton",
        type=local_path,
        metavar="DIR",
        help="also write a model repository for NVIDIA's Triton server",
    )
    add(
        "--triton-tensorrt",
        action="store_true",
        help="with --triton: have the server run the model on TensorRT, which needs a GPU",
    )
    verify = parser.add_mutually_exclusive_group()
    verify.add_argument(
        "--verify-images",
        metavar="SOURCE",
        action="append",
        help="compare the artefact with PyTorch on these images too, not only on shapes that are "
        "drawn for it; may be given more than once",
    )
    verify.add_argument(
        "--no-verify",
        action="store_true",
        help="do not compare it with PyTorch; the artefact records that",
    )
    add(
        "--calibrate",
        metavar="SOURCE",
        help="with --int8: about 100 images like those to be labelled later; up to 40 set the "
        "rounding, up to 160 others measure what it costs (default: shapes drawn for it)",
    )
    add(
        "--verbose",
        action="store_true",
        help="with --int8: also tell which images did what, how much stays in float, and how the "
        "share of labels that is kept was estimated, on each provider",
    )
    add(
        "--min-agreement",
        type=number("a share from 0 to 1", accepts=lambda share: 0 <= share <= 1),
        metavar="SHARE",
        help="with --int8: the share of labels that must be kept, or nothing is written and the "
        f"exit code is 5 (default {BOUNDS['int8'].min_agreement}); estimated from margins",
    )
    return parser


def check_options(arguments: argparse.Namespace) -> None:
    """Raise UsageError for options that make no sense together."""
    if arguments.triton_tensorrt and not arguments.triton:
        raise UsageError("--triton-tensorrt only makes sense together with --triton DIR")
    if not arguments.embed and (arguments.pool or not arguments.normalize):
        raise UsageError("--pool and --no-normalize are for vectors; add --embed")
    if arguments.embed and arguments.min_agreement is not None:
        raise UsageError("--min-agreement is for labels, and --embed gives vectors; leave it out")
    if bool(arguments.arch) != bool(arguments.weights):
        raise UsageError("--arch NAME and --weights FILE go together")
    if arguments.arch and (arguments.model != DEFAULT_MODEL or arguments.text):
        raise UsageError("--arch is for a state dict of images; leave out MODEL and --text")
    if arguments.template and arguments.arch:
        raise UsageError("--template is for zero-shot labels; leave it out with --arch")
    if arguments.labels and arguments.embed:
        raise UsageError("--labels gives scores, --embed vectors; choose one")
    if arguments.template and not arguments.labels:
        raise UsageError("--template is for zero-shot labels; add --labels FILE")
    if arguments.precision != "int8":
        for option in ("calibrate", "min_agreement"):
            if getattr(arguments, option) is not None:
                raise UsageError(f"--{option.replace('_', '-')} is for int8; add --int8")
    if arguments.text:
        for option in (name for name in OF_IMAGES if getattr(arguments, name)):
            raise UsageError(
                f"--{option.replace('_', '-')} is for models of images, --text writes the text "
                "tower; run vit-export twice"
            )
        if arguments.io == "hf" or arguments.precision == "int8":
            raise UsageError("--text writes one file in --fp16 or --fp32; leave out the rest")
