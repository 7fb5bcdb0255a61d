"""A ViT classifier as it was published, from a hub or a folder, checked and ready to export."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vit_engine.artefact.contract import Preprocessing
from vit_engine.errors import CheckpointError, UsageError
from vit_export.checkpoints import hub
from vit_export.checkpoints.preprocessor import preprocessing_from_config
from vit_export.checkpoints.weights import (
    Tensor,
    read_json,
    sha256_of,
    tensors_from_files,
    weight_files,
)

DEFAULT_MODEL = "AI-ModelScope/vit-base-patch16-224"
DEMO = Path(__file__).parents[1] / "demo"

ARCHITECTURE = "ViTForImageClassification"
Shapes = Iterator[tuple[str, tuple[int, ...]]]

# gelu_pytorch_tanh is gelu_new's formula in PyTorch's own kernel.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "quick_gelu": "quick_gelu",
}


@dataclass(frozen=True)
class Architecture:
    """The resolved numbers of a ViT. Images and patches are square, sizes in pixels."""

    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    image_size: int
    patch_size: int
    hidden_act: str  # a value of ACTIVATIONS
    layer_norm_eps: float
    qkv_bias: bool


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A ViT classifier in memory. `tensors` holds float32 or float64 by classic on-disk name."""

    model: str  # what the user named: an id, or a folder's name
    revision: str | None
    folder: Path  # where the files lie
    weights_sha256: str  # over the weight files, in sorted order
    architecture: Architecture
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    tensors: Mapping[str, Tensor]


def load(model: str, *, revision: str | None = None, offline: bool = False) -> Checkpoint:
    """Read `"demo"`, a folder, `hf:owner/name` or a ModelScope id `owner/name`, in that order.

    So a folder that exists wins over an id of the same name. No code of a checkpoint is ever run.
    `CheckpointError` says what was found and what is supported.
    """
    is_folder = model != "" and Path(model).is_dir()  # Path("") is the current folder
    if model == "demo" or is_folder:
        if revision is not None:
            raise UsageError(f"{model} lies on this machine and has no revision {revision!r}")
        folder = DEMO if model == "demo" else Path(model)
        name = model if model == "demo" else folder.resolve().name
    else:
        folder, revision = hub.download(model, revision=revision, offline=offline)
        name = model
    try:
        return _read(folder, name, revision)
    except CheckpointError as e:
        raise CheckpointError(f"{model}: {e}") from e


def _read(folder: Path, name: str, revision: str | None) -> Checkpoint:
    config = read_json(folder / "config.json")
    architecture = _architecture(config)
    preprocessing = preprocessing_from_config(
        read_json(folder / "preprocessor_config.json"), architecture.image_size
    )
    labels = _labels(config)
    files = weight_files(folder)
    tensors = tensors_from_files(files)
    return Checkpoint(
        model=name,
        revision=revision,
        folder=folder,
        weights_sha256=sha256_of(files),
        architecture=architecture,
        preprocessing=preprocessing,
        labels=labels,
        tensors=_checked(tensors, architecture, len(labels)),
    )


def _architecture(config: dict[str, Any]) -> Architecture:
    """Read config.json; absent keys have the values that transformers' ViTConfig gives them."""
    found = config.get("architectures") or [ARCHITECTURE]
    if config.get("model_type") != "vit" or found != [ARCHITECTURE]:
        raise CheckpointError(
            f"config.json describes model_type {config.get('model_type')!r}, architectures "
            f"{found}; supported is model_type 'vit' with {ARCHITECTURE}"
        )
    if config.get("problem_type") not in (None, "single_label_classification"):
        raise CheckpointError(
            f"problem_type is {config['problem_type']!r}; supported is one label to an image"
        )
    if (channels := config.get("num_channels", 3)) != 3:
        raise CheckpointError(f"num_channels is {channels!r}; supported is 3 (RGB)")
    activation = config.get("hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise CheckpointError(
            f"hidden_act is {activation!r}; supported are {', '.join(ACTIVATIONS)}"
        )
    epsilon = config.get("layer_norm_eps", 1e-12)
    if type(epsilon) not in (int, float) or not 0 < epsilon < math.inf:
        raise CheckpointError(f"layer_norm_eps is {epsilon!r}, expected a number above 0")
    qkv_bias = config.get("qkv_bias", True)
    if not isinstance(qkv_bias, bool):
        raise CheckpointError(f"qkv_bias is {qkv_bias!r}, expected true or false")
    architecture = Architecture(
        hidden_size=_count(config, "hidden_size", 768),
        layers=_count(config, "num_hidden_layers", 12),
        heads=_count(config, "num_attention_heads", 12),
        intermediate_size=_count(config, "intermediate_size", 3072),
        image_size=_side(config, "image_size", 224),
        patch_size=_side(config, "patch_size", 16),
        hidden_act=ACTIVATIONS[activation],
        layer_norm_eps=float(epsilon),
        qkv_bias=qkv_bias,
    )
    if architecture.image_size % architecture.patch_size:
        raise CheckpointError(
            f"image_size {architecture.image_size} is not a multiple of patch_size "
            f"{architecture.patch_size}"
        )
    if architecture.hidden_size % architecture.heads:
        raise CheckpointError(
            f"hidden_size {architecture.hidden_size} is not a multiple of num_attention_heads "
            f"{architecture.heads}"
        )
    return architecture


def _count(config: dict[str, Any], key: str, default: int) -> int:
    value = config.get(key, default)
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{key} is {value!r}, expected a whole number above 0")
    return value


def _side(config: dict[str, Any], key: str, default: int) -> int:
    value = config.get(key, default)
    if isinstance(value, list) and len(value) == 2:
        if value[0] != value[1]:
            raise CheckpointError(f"{key} is {value}; supported are squares")
        return _count({key: value[0]}, key, default)
    return _count(config, key, default)


def _labels(config: dict[str, Any]) -> tuple[str, ...]:
    named = config.get("id2label")
    if named is None:  # transformers names nameless labels so, and takes two where nothing is said
        return tuple(f"LABEL_{i}" for i in range(_count(config, "num_labels", 2)))
    if (
        not isinstance(named, dict)
        or set(named) != {str(i) for i in range(len(named))}
        or not all(isinstance(label, str) for label in named.values())
        or not named
    ):
        raise CheckpointError('id2label is not a table {"0": label, "1": label, ...} without gaps')
    return tuple(named[str(i)] for i in range(len(named)))


def _checked(
    tensors: dict[str, Tensor], architecture: Architecture, labels: int
) -> dict[str, Tensor]:
    """Return the tensors that the architecture needs, each there, of its shape, and finite."""
    head = tensors.get("classifier.weight")
    if head is not None and head.shape[:1] != (labels,):
        raise CheckpointError(
            f"classifier.weight has shape {head.shape}, config.json names {labels} labels"
        )
    checked = {}
    for name, shape in _shapes(architecture, labels):
        tensor = tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"tensor {name} {shape} is missing from the weights")
        if tensor.shape != shape:
            raise CheckpointError(f"tensor {name} has shape {tensor.shape}, expected {shape}")
        if not np.isfinite(tensor).all():
            raise CheckpointError(f"tensor {name} holds NaN or Inf")
        checked[name] = tensor
    # The pooler belongs to ViTModel; a classifier never reads it.
    strange = [n for n in tensors if n not in checked and not n.startswith("vit.pooler.")]
    if strange:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise CheckpointError(f"unexpected tensor {strange[0]}{more}; a {ARCHITECTURE} has none")
    return checked


def _shapes(architecture: Architecture, labels: int) -> Shapes:
    hidden, patch = architecture.hidden_size, architecture.patch_size
    patches = (architecture.image_size // patch) ** 2

    def linear(name: str, rows: int, columns: int, *, bias: bool = True) -> Shapes:
        yield f"{name}.weight", (rows, columns)
        if bias:
            yield f"{name}.bias", (rows,)

    def norm(name: str) -> Shapes:
        yield f"{name}.weight", (hidden,)
        yield f"{name}.bias", (hidden,)

    yield "vit.embeddings.cls_token", (1, 1, hidden)
    yield "vit.embeddings.position_embeddings", (1, 1 + patches, hidden)
    yield "vit.embeddings.patch_embeddings.projection.weight", (hidden, 3, patch, patch)
    yield "vit.embeddings.patch_embeddings.projection.bias", (hidden,)
    for i in range(architecture.layers):
        block = f"vit.encoder.layer.{i}"
        yield from norm(f"{block}.layernorm_before")
        for part in ("query", "key", "value"):
            name = f"{block}.attention.attention.{part}"
            yield from linear(name, hidden, hidden, bias=architecture.qkv_bias)
        yield from linear(f"{block}.attention.output.dense", hidden, hidden)
        yield from norm(f"{block}.layernorm_after")
        yield from linear(f"{block}.intermediate.dense", architecture.intermediate_size, hidden)
        yield from linear(f"{block}.output.dense", hidden, architecture.intermediate_size)
    yield from norm("vit.layernorm")
    yield from linear("classifier", labels, hidden)
