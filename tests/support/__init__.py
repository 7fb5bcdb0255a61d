"""What tests of several folders share."""

import contextlib
import csv
import json
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").iterdir())

Run = Callable[..., subprocess.CompletedProcess[str]]

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
}
"""A ViT small enough to make, export and run in a fraction of a second."""


def write_checkpoint(
    folder: Path,
    *,
    architecture: str = "ViTForImageClassification",
    seed: int = 0,
    spread: float = 0.5,
    embedding_spread: float | None = None,
    **config: Any,
) -> Path:
    """Write a random model as transformers does; `spread` is the weights' standard deviation.

    Above transformers' own 0.02, so that the logits differ from image to image. The embeddings may
    have another: where it is small, the first norm feels its epsilon.
    """
    import torch
    import transformers

    torch.manual_seed(seed)
    make = getattr(transformers, architecture)
    model = make(make.config_class(**(TINY | config)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if embedding_spread is not None and "embeddings." in name:
                inputs = parameter[0].numel() if parameter.dim() == 4 else 1
                parameter.normal_(0, embedding_spread / inputs**0.5)
            elif parameter.dim() > 1:
                parameter.normal_(0, spread / parameter.shape[-1] ** 0.5)
            else:
                scale = "lambda" in name or ("norm" in name and "weight" in name)
                parameter.normal_(1.0 if scale else 0.0, 0.1)
    model.save_pretrained(folder)
    size = getattr(model.config, "vision_config", model.config).image_size
    preprocessor = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": size, "width": size},
        "resample": 2,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.5, 0.3, 0.2],
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def slow_case(*values: Any) -> Any:
    """Parameters that guard a corner: the others of the test stay in the fast set."""
    return pytest.param(*values, marks=pytest.mark.slow)


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond a size, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def wait_until(so: Callable[[], bool]) -> None:
    """Wait for what takes milliseconds on an idle machine; after half a minute, fail."""
    end = time.monotonic() + 30
    while not so():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


def is_gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return "(zombie)" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def write_csv(path: Path, *rows: tuple[object, ...]) -> Path:
    """Write rows, and the folders that the file lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path
