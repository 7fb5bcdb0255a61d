"""The reference: transformers' own model and image processor, in fp32, eager, on the CPU."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vit_engine.errors import CheckpointError, one_line
from vit_export.checkpoints.checkpoint import Checkpoint

BATCH = 8
"""Images in PyTorch's memory at once."""


def eager_logits(checkpoint: Checkpoint, images: list[Image.Image]) -> NDArray[np.float32]:
    """Return the logits (N, labels) of RGB images."""
    import torch

    model, processor = eager_model(checkpoint)
    logits = []
    with torch.inference_mode():
        for i in range(0, len(images), BATCH):
            batch = processor(images=images[i : i + BATCH], return_tensors="pt")
            logits.append(model(**batch).logits.numpy())
    return np.concatenate(logits)


def eager_model(checkpoint: Checkpoint) -> tuple[Any, Any]:
    """Return the model, of the class that the family names, and its PIL image processor.

    CheckpointError with what transformers says where it does not load them.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        model, processor = _loaded(checkpoint)
    except MemoryError:
        raise
    except Exception as e:  # of any kind: transformers' own checks, and those of what it calls
        raise CheckpointError(
            f"{checkpoint.model}: transformers cannot load it ({type(e).__name__}: {one_line(e)})"
        ) from e
    model.eval()
    return model, processor


def _loaded(checkpoint: Checkpoint) -> tuple[Any, Any]:
    import torch
    import transformers

    pil = {"use_fast": False} if transformers.__version__.startswith("4.") else {"backend": "pil"}
    processor = transformers.AutoImageProcessor.from_pretrained(
        checkpoint.folder, local_files_only=True, **pil
    )
    model = getattr(transformers, checkpoint.family.architecture).from_pretrained(
        checkpoint.folder,
        local_files_only=True,
        dtype=torch.float32,
        attn_implementation="eager",
    )
    return model, processor


def eager_versions() -> str:
    """Say what the reference is made of, for the record."""
    import torch
    import transformers

    return (
        f"transformers {transformers.__version__}, torch {torch.__version__}, eager fp32 on the CPU"
    )
