"""The options of how a model is opened, which vit-infer and vit-serve share."""

import argparse
from typing import get_args

from vit_engine.artefact.metadata import DEFAULT_MODEL
from vit_engine.cli.parser import whole_number
from vit_engine.machine import nvidia
from vit_engine.options import CHOICES, DEFAULT_PROVIDER, Compute, EngineOptions


def add_model_options(group: argparse._ArgumentGroup) -> None:
    """Add the model, and the options that `engine_settings` reads."""
    group.add_argument(
        "-m",
        "--model",
        default=DEFAULT_MODEL,
        help="artefact, or 'demo' for the bundled one (default %(default)s)",
    )
    add_engine_options(group)


def add_engine_options(group: argparse._ArgumentGroup) -> None:
    """Add the options that `engine_settings` reads."""
    add = group.add_argument
    add(
        "--provider",
        choices=CHOICES,
        default=DEFAULT_PROVIDER,
        help="where to run the model (default %(default)s: CUDA if it works, else the CPU)",
    )
    add(
        "--device",
        type=_devices,
        default=0,
        metavar="N",
        help="which GPU (default %(default)s); several, as in 0,1,2 or 'all', share the images",
    )
    add(
        "--compute",
        choices=get_args(Compute),
        help="arithmetic of --provider openvino: f32 (default), or bf16, which is about 1.5 to 2 "
        "times as fast on a CPU that has it; about one label in some hundred differs",
    )
    add("--no-cuda-graphs", action="store_true", help="launch CUDA's kernels one by one")
    add(
        "-b",
        "--batch",
        type=whole_number("a whole number of images", minimum=1),
        metavar="N",
        help="images in a batch (default: enough to keep the provider busy)",
    )
    add(
        "--threads",
        type=whole_number("a whole number of threads", minimum=1),
        metavar="N",
        help="compute threads (default: the cores that this process may use)",
    )


def _devices(text: str) -> int | tuple[int, ...]:
    """Return the number of a GPU, or those of several; of "all" where there is none, of the first.

    What keeps that one from being used is told as it is opened.
    """
    if text == "all":
        driver = nvidia.driver()
        return tuple(range(len(driver.gpus) if driver else 0)) or (0,)
    number = whole_number("the number of a GPU", minimum=0)
    return tuple(map(number, text.split(","))) if "," in text else number(text)


def engine_settings(arguments: argparse.Namespace) -> EngineOptions:
    """Return what the options say; UsageError for GPUs that make no sense with them."""
    device = arguments.device
    return EngineOptions(
        provider=arguments.provider,
        **({"device": device} if isinstance(device, int) else {"devices": device}),
        threads=arguments.threads,
        max_batch=arguments.batch,
        compute=arguments.compute,
        cuda_graphs=not arguments.no_cuda_graphs,
    )
