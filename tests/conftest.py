"""What several test files share."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # of the sessions that tests open by themselves

# A shell's job in the background ignores ^C, and with it would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

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


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real weights and images; tests that want it skip where it is absent."""
    path = Path(os.environ.get("VIT_TEST_DATA", ROOT.parent / "shared/data"))
    if not (path / "deit-tiny-imagenet1k/model.safetensors").is_file():
        pytest.skip(f"no test data at {path} (set VIT_TEST_DATA)")
    return path


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


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny checkpoint on disk."""
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_artefact(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint as an FP32 artefact, not verified."""
    from vit_export.artefact import export
    from vit_export.checkpoints.checkpoint import load

    path = tmp_path_factory.mktemp("artefact") / "vit.onnx"
    export(load(str(tiny_folder)), path, precision="fp32", images=None)
    return path


@pytest.fixture
def bounded() -> Iterator[None]:
    """Fail a test that hangs, after two minutes."""

    def late(number: int, frame: FrameType | None) -> None:
        pytest.fail("hangs")

    handler = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 120, 1)  # again, should it hang while it unwinds
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def wait_until(so: Callable[[], bool]) -> None:
    """Wait for what takes milliseconds on an idle machine; after half a minute, fail."""
    end = time.monotonic() + 30
    while not so():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run_command() -> Run:
    """Run one of the project's commands as a user would; 120 s at most."""

    def run(name: str, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable).with_name(name)
        line = [str(program), *(str(a) for a in arguments)]
        settings = {"capture_output": True, "text": True, "timeout": 120} | options
        return subprocess.run(line, check=False, **settings)

    return run
