"""What an export asks of the library whose model a checkpoint is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vit_engine.artefact.contract import Preprocessing
from vit_export.families.family import Config, Family
from vit_export.families.model_config import ModelConfig
from vit_export.files.other_kinds import PICKLE, SAFETENSORS
from vit_export.packages.texts.text_model import TextModel

CONFIG = "config.json"

Model = Callable[[Any], Any]
"""From pixels, a float32 tensor (N, 3, H, W), to logits (N, labels) or vectors (N, size)."""

Processor = Callable[[list[Image.Image]], Any]
"""From RGB images to the tensor (N, 3, H, W) that the model takes."""


@dataclass(frozen=True)
class Package:
    """A library whose checkpoints are exported, and whose own model is the reference.

    All that it reads is its config and what lies beside it; CheckpointError for what it cannot be.
    """

    name: str  # as pip has it
    owns: Callable[[Config], bool]
    family: Callable[[Config], Family]
    vector_family: Callable[[Config], Family]  # that gives vectors in place of logits
    labels: Callable[[Config], tuple[str, ...]]  # of each logit, in order
    preprocessing: Callable[[Path, Family, ModelConfig, int | None], tuple[Preprocessing, float]]
    """Of a folder's images; for a size in pixels that is asked for, also the factor that the
    checkpoint's own sizes were multiplied by, else 0."""
    resized_configs: Callable[[Path, Family, int, float], dict[str, Any]]
    """By file name, a folder's configs as they are for images of that size and factor."""
    model: Callable[[Path, Family, int | None], Model]
    """In fp32, eager, on the CPU, as the library loads it; maybe told a size of images."""
    processor: Callable[[Path, Preprocessing, float], Processor]
    """The library's own preprocessing, its sizes multiplied by that factor unless it is 0."""
    config: str = CONFIG
    """The file that tells what a folder is."""
    weights: tuple[str, ...] = (SAFETENSORS, PICKLE)
    """The files that may hold the weights, the first that is there."""
    text_model: Callable[[Path, int], TextModel] | None = None
    """A folder's own tokenizer and model of texts and of images of that size; None: has none."""
    library: Callable[[], object] | None = None
    """Imports it, where not every exporter has it; MachineError where that goes wrong."""
