"""A ViT classifier as it was published, from a hub or a folder, checked and ready to export."""

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vit_engine.artefact.contract import Pooling, Preprocessing, ZeroShot
from vit_engine.errors import CheckpointError, UsageError, printable
from vit_engine.outputs.embeddings import Embeddings
from vit_engine.outputs.kinds import OutputKind
from vit_engine.outputs.scores import Scores
from vit_export.checkpoints import hub
from vit_export.checkpoints.canonical import canonical
from vit_export.checkpoints.folding import folded
from vit_export.checkpoints.made_folder import with_files
from vit_export.checkpoints.resampling import resampled
from vit_export.families.family import Family
from vit_export.families.model_config import ModelConfig
from vit_export.families.pooling import chosen_pooling, pooled_by
from vit_export.files.json_file import read_json
from vit_export.files.other_kinds import describe_file, refuse_broken_link, refuse_other_kinds
from vit_export.files.weight_files import Tensor, sha256_of, tensors_from_files, weight_files
from vit_export.packages.labels import score_from_config
from vit_export.packages.open_clip import OPEN_CLIP
from vit_export.packages.package import CONFIG, Package
from vit_export.packages.preprocessor import PREPROCESSOR, PROCESSOR, default_config
from vit_export.packages.timm import TIMM
from vit_export.packages.transformers import TRANSFORMERS

PACKAGES = (TIMM, TRANSFORMERS, OPEN_CLIP)
"""A checkpoint is the first one's that owns its config.json."""

DEFAULT_MODEL = "AI-ModelScope/vit-base-patch16-224"
DEMOS = {
    "demo": Path(__file__).parents[1] / "demo",
    "demo-clip": Path(__file__).parents[1] / "demo_clip",
}
"""The folders of the bundled checkpoints, by name."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A ViT classifier in memory."""

    model: str  # what the user named: an id, or a folder's name
    revision: str | None
    folder: Path  # where the files lie
    weights_sha256: str  # over the weight files, in sorted order
    package: Package
    family: Family
    model_config: ModelConfig
    preprocessing: Preprocessing
    preprocessor_scale: float  # what the preprocessor's sizes are multiplied by; 0: it has its own
    output: OutputKind  # labels and how logits become their scores, or vectors
    tensors: Mapping[
        str, Tensor
    ]  # float32 or float64, by canonical name, all that `model_config` has
    remarks: tuple[str, ...] = ()  # what its user should be told of
    zero_shot: ZeroShot | None = None  # what labels were made of that are no part of the weights


@dataclass(frozen=True)
class VectorOptions:
    """How a checkpoint's vectors are made: pooled as asked, by default as its library does it."""

    pooling: Pooling | None = None
    normalized: bool = True


def load(
    model: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    image_size: int | None = None,
    vectors: VectorOptions | None = None,
    preprocessor: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Read a demo by its name, a folder, `hf:owner/name` or a ModelScope id, in that order.

    So a folder that exists wins over an id of the same name. No code of a checkpoint is ever run.
    With an `image_size` in pixels, other than the checkpoint's own, the position tables and the
    sizes of the preprocessor are fitted to it. With `vectors` it gives those in place of logits.
    `preprocessor` is a preprocessor_config.json in place of the checkpoint's.
    CheckpointError says what was found and what is supported; UsageError that a folder has no
    revisions.
    """
    if os.path.islink(model):  # noqa: PTH114 - takes any text
        refuse_broken_link(Path(model))
    if folder := folder_on_this_machine(model):
        if revision is not None:
            raise UsageError(
                f"{printable(model)} is on this machine; --revision is for models on a hub"
            )
        name = model if model in DEMOS else printable(folder.resolve().name)
    elif os.path.isfile(model):  # noqa: PTH113 - takes any text
        raise CheckpointError(f"{printable(model)} {describe_file(Path(model))}")
    else:
        folder, revision = hub.download(model, revision=revision, offline=offline)
        name = model
    try:
        return _read(
            folder,
            name,
            revision,
            image_size=image_size,
            vectors=vectors,
            preprocessor=preprocessor,
        )
    except CheckpointError as e:
        raise CheckpointError(f"{printable(model)}: {e}") from e


def folder_on_this_machine(model: str) -> Path | None:
    """Return the folder of a demo, or the folder that `model` is; None for a model on a hub."""
    if model in DEMOS:
        return DEMOS[model]
    return Path(model) if os.path.isdir(model) else None  # noqa: PTH112 - takes any text


def _read(
    folder: Path,
    name: str,
    revision: str | None,
    *,
    image_size: int | None,
    vectors: VectorOptions | None,
    preprocessor: Mapping[str, Any] | None,
) -> Checkpoint:
    refuse_other_kinds(path.name for path in folder.iterdir())
    told_by = next((p.config for p in PACKAGES if (folder / p.config).exists()), CONFIG)
    if newest := None if (folder / told_by).exists() else newest_checkpoint(folder):
        raise CheckpointError(
            "it is a Trainer's output folder; export its newest checkpoint, "
            f"{printable(str(newest))}"
        )
    config = read_json(folder / told_by)
    if quantised := config.get("quantization_config"):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise CheckpointError(
            f"{CONFIG} has a quantization_config ({method}): the weights are quantised already; "
            "export the model that they were made from"
        )
    if config.get("return_dict") is False:
        raise CheckpointError(
            f"{CONFIG} has return_dict false, with which transformers' pipeline finds no logits; "
            "remove it"
        )
    package = next(p for p in PACKAGES if p.config == told_by and p.owns(config))
    family = package.vector_family(config) if vectors else package.family(config)
    files = weight_files(folder, package.weights)
    stored = functools.cache(lambda: tensors_from_files(files, family.reads))

    def shapes() -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in stored().items()}

    model_config = family.model_config(config, shapes)
    pooling = None
    if vectors and family.poolings:
        pooling = chosen_pooling(vectors.pooling, family.poolings(config, shapes))
        model_config = pooled_by(model_config, pooling, normalized=vectors.normalized)
        family = replace(family, pooling=pooling)
    labels = () if pooling else package.labels(config)
    folder, remarks = _preprocessed(folder, package, family, model_config, preprocessor)
    if image_size and image_size != model_config.image_size:
        _check_size(image_size, model_config.patch_size)
    preprocessing, scale = package.preprocessing(folder, family, model_config, image_size)
    model_config = model_config.at(preprocessing.shape[0])
    read = {name: tensor for name, tensor in stored().items() if family.reads(name)}
    tensors = canonical(read, family, model_config, len(labels) or model_config.vector_size)
    for change in (resampled, folded):
        model_config, tensors = change(model_config, tensors)
    weights_sha256 = sha256_of(files)
    output: OutputKind
    if pooling is None:
        output = Scores(labels, score_from_config(config, len(labels)))
    else:
        space = space_of(weights_sha256, pooling, model_config, preprocessing)
        output = Embeddings(model_config.vector_size, pooling, model_config.normalized, space)
    return Checkpoint(
        model=name,
        revision=revision,
        folder=folder,
        weights_sha256=weights_sha256,
        package=package,
        family=family,
        model_config=model_config,
        preprocessing=preprocessing,
        preprocessor_scale=scale,
        output=output,
        tensors=tensors,
        remarks=remarks,
    )


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the last checkpoint-N in a folder, as transformers' Trainer writes them."""
    steps = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdecimal()]
    return max(steps, key=lambda path: int(path.name[11:]), default=None)


def _check_size(image_size: int, patch: int) -> None:
    if image_size % patch:
        below, above = image_size // patch * patch, (image_size // patch + 1) * patch
        near = f"{below} or {above}" if below else above
        raise UsageError(f"--image-size {image_size} is no multiple of its patch, {patch}: {near}")


def _preprocessed(
    folder: Path,
    package: Package,
    family: Family,
    model_config: ModelConfig,
    given: Mapping[str, Any] | None,
) -> tuple[Path, tuple[str, ...]]:
    """Return the folder with a preprocessor's config: the given one, its own, or the default."""
    if package is not TRANSFORMERS:
        if given is not None:
            raise UsageError(f"--preprocessor is for transformers' models, it is {package.name}'s")
        return folder, ()
    if given is not None:
        return with_files(folder, {PROCESSOR: None, PREPROCESSOR: given}), ()
    if any((folder / n).exists() or (folder / n).is_symlink() for n in (PROCESSOR, PREPROCESSOR)):
        return folder, ()
    name = family.image_processor
    config = default_config(name, model_config.image_size)
    remark = (
        f"it has no {PREPROCESSOR}: images are prepared as a {name} does, unless told otherwise"
    )
    return with_files(folder, {PREPROCESSOR: config}), (f"{remark} by --preprocessor FILE",)


def space_of(
    weights_sha256: str, pooling: Pooling, model_config: ModelConfig, preprocessing: Preprocessing
) -> str:
    """Return the SHA-256 of all that vectors must share to be compared, besides their precision."""
    parts = [weights_sha256, pooling, model_config.projection, asdict(preprocessing)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
