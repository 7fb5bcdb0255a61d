"""The reference: the library's own model and preprocessing, in fp32, eager, on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit_engine.errors import CheckpointError, limit_in_words, one_line
from vit_export.checkpoints.checkpoint import Checkpoint
from vit_export.checkpoints.configs.preprocessor import SIZES, scaled
from vit_export.eager_timm import timm_model, timm_processor
from vit_export.families.family import Package
from vit_export.utf8_path import in_utf8

BATCH = 8
"""Images in PyTorch's memory at once."""


def eager_logits(checkpoint: Checkpoint, images: list[Image.Image]) -> NDArray[np.float32]:
    """Return the logits (N, labels) of RGB images; CheckpointError where the library fails."""
    import torch

    model, processor = eager_model(checkpoint)
    options = {"interpolate_pos_encoding": True} if checkpoint.asks_to_interpolate else {}
    logits = []
    with torch.inference_mode(), _told(checkpoint, "run"):
        for i in range(0, len(images), BATCH):
            batch = processor(images=images[i : i + BATCH], return_tensors="pt")
            logits.append(model(**batch, **options).logits.numpy())
    return np.concatenate(logits)


def eager_model(checkpoint: Checkpoint) -> tuple[Any, Any]:
    """Return the model, of the class that the family names, and its PIL image processor.

    CheckpointError where the library does not load them.
    """
    if checkpoint.family.package == "timm":
        with _told(checkpoint, "load"), in_utf8(checkpoint.folder) as folder:
            return timm_model(checkpoint, folder), timm_processor(checkpoint, folder)
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    with _told(checkpoint, "load"), in_utf8(checkpoint.folder) as folder:
        model = getattr(transformers, checkpoint.family.architecture).from_pretrained(
            folder,
            local_files_only=True,
            dtype=torch.float32,
            attn_implementation="eager",
        )
    model.eval()
    return model, eager_processor(checkpoint)


def eager_processor(checkpoint: Checkpoint) -> Any:
    """Return the library's own preprocessing on PIL images; CheckpointError where it does not load.

    One that resizes an edge and is not told whether to crop is told to, as the export is.
    """
    if checkpoint.family.package == "timm":
        with _told(checkpoint, "load"), in_utf8(checkpoint.folder) as folder:
            return timm_processor(checkpoint, folder)
    import transformers

    pil = {"use_fast": False} if transformers.__version__.startswith("4.") else {"backend": "pil"}
    with _told(checkpoint, "load"), in_utf8(checkpoint.folder) as folder:
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, **pil
        )
    if checkpoint.preprocessor_scale != 1:
        for key in SIZES:
            if size := getattr(processor, key, None):
                setattr(
                    processor, key, type(size)(**scaled(dict(size), checkpoint.preprocessor_scale))
                )
    crop = checkpoint.preprocessing.crop
    if crop and not processor.do_pad and getattr(processor, "do_center_crop", None) is None:
        processor.do_center_crop = True
        processor.crop_size = processor.size.__class__(height=crop[0], width=crop[1])
    return processor


def eager_pixels(checkpoint: Checkpoint, images: list[Image.Image]) -> list[NDArray[np.float32]]:
    """Return what the reference makes of images of any mode: each (3, H, W), normalised."""
    from transformers.image_utils import load_image

    processor = eager_processor(checkpoint)
    with _told(checkpoint, "preprocess for"):
        return [
            np.asarray(processor(images=load_image(i), return_tensors="np")["pixel_values"][0])
            for i in images
        ]


@contextmanager
def _told(checkpoint: Checkpoint, verb: str) -> Iterator[None]:
    """Tell in one line what the library raises, of its own or of another that it calls."""
    package = checkpoint.family.package
    try:
        yield
    except CheckpointError as e:
        raise CheckpointError(f"{checkpoint.model}: {e}") from e
    except Exception as e:  # the errors have no common base
        if limit_in_words(e):
            raise
        raise CheckpointError(
            f"{checkpoint.model}: {package} cannot {verb} it "
            f"({type(e).__name__}: {one_line(e)}); --no-verify exports it without a comparison"
        ) from e


def eager_versions(package: Package) -> str:
    """Say what the reference is made of, for the record."""
    return f"{package} {version(package)}, torch {version('torch')}, eager fp32 on the CPU"
