"""The reference: the library's own model and preprocessing, in fp32, eager, on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit_engine.errors import CheckpointError, VitError, format_limit, one_line
from vit_engine.outputs.scores import Scores
from vit_export.checkpoints.checkpoint import Checkpoint
from vit_export.files.utf8_path import in_utf8
from vit_export.packages.optional import causes, import_cure
from vit_export.packages.package import Model, Processor
from vit_export.packages.texts.text_model import TextModel, prompts

BATCH = 8
"""Images in PyTorch's memory at once."""

TEXT_CURE = "texts need its tokenizer and its text tower beside config.json"


def eager_outputs(checkpoint: Checkpoint, images: list[Image.Image]) -> NDArray[np.float32]:
    """Return the outputs (N, ...) of RGB images; CheckpointError where the library fails."""
    import torch

    model, processor = eager_model(checkpoint), eager_processor(checkpoint)
    with torch.inference_mode(), told(checkpoint, "run"):
        found = [
            model(processor(images[i : i + BATCH])).numpy() for i in range(0, len(images), BATCH)
        ]
    return np.concatenate(found)


def eager_model(checkpoint: Checkpoint) -> Model:
    """Return the library's own model; CheckpointError where it does not load.

    The logits of zero-shot labels are its own; those of several templates are made of its vectors
    of images, for it has no mean of texts.
    """
    import torch

    zero_shot, labels = checkpoint.zero_shot, checkpoint.tensors.get("labels.weight")
    if zero_shot and len(zero_shot.templates) == 1:
        assert isinstance(checkpoint.output, Scores)
        texts = prompts(checkpoint.output.labels, *zero_shot.templates)
        return eager_text_model(checkpoint).logits_beside(texts)
    with told(checkpoint, "load"), in_utf8(checkpoint.folder) as folder:
        size = checkpoint.model_config.image_size if checkpoint.preprocessor_scale else None
        model = checkpoint.package.model(folder, checkpoint.family, size)
    if not checkpoint.model_config.normalized:
        return model

    def units(pixels: Any) -> Any:
        return torch.nn.functional.normalize(model(pixels), dim=-1)

    if labels is None:
        return units
    weight, bias = (torch.tensor(checkpoint.tensors[f"labels.{n}"]) for n in ("weight", "bias"))
    return lambda pixels: units(pixels) @ weight.T + bias


def eager_text_model(checkpoint: Checkpoint) -> TextModel:
    """Return the library's own tokenizer and text tower; CheckpointError where it has none."""
    make = checkpoint.package.text_model
    if make is None:
        raise CheckpointError(
            f"{checkpoint.model}: it has no text tower: it is {checkpoint.package.name}'s, a model "
            "of images only"
        )
    with told(checkpoint, "load", cure=TEXT_CURE), in_utf8(checkpoint.folder) as folder:
        return make(folder, checkpoint.model_config.image_size)


def eager_processor(checkpoint: Checkpoint) -> Processor:
    """Return the library's own preprocessing; CheckpointError where it does not load."""
    with told(checkpoint, "load"), in_utf8(checkpoint.folder) as folder:
        return checkpoint.package.processor(
            folder, checkpoint.preprocessing, checkpoint.preprocessor_scale
        )


def eager_pixels(checkpoint: Checkpoint, images: list[Image.Image]) -> list[NDArray[np.float32]]:
    """Return what the reference makes of images of any mode: each (3, H, W), normalised."""
    processor = eager_processor(checkpoint)
    with told(checkpoint, "preprocess for"):
        from transformers.image_utils import load_image

        return [processor([load_image(image)])[0].numpy() for image in images]


@contextmanager
def told(
    checkpoint: Checkpoint, verb: str, *, cure: str = "--no-verify exports it without a comparison"
) -> Iterator[None]:
    """Tell in one line what the library raises, of its own or of another that it calls."""
    package = checkpoint.package.name
    try:
        yield
    except CheckpointError as e:
        raise CheckpointError(f"{checkpoint.model}: {e}") from e
    except VitError:
        raise
    except Exception as e:  # the errors have no common base
        if format_limit(e):
            raise
        cured = import_cure(e)
        raise CheckpointError(
            f"{checkpoint.model}: {package} cannot {verb} it "
            f"({type(e).__name__}: {one_line([*causes(e)][-1] if cured else e)}); {cured or cure}"
        ) from e


def eager_versions(package: str) -> str:
    """Say what the reference is made of, for the record."""
    return f"{package} {version(package)}, torch {version('torch')}, eager fp32 on the CPU"
